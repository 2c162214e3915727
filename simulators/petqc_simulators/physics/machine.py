"""What a processor does in one instruction and numba has no word for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import types

from petqc.jit import instruction, kernel_inlined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WORD, _DOUBLE = ir.IntType(64), ir.IntType(128)


@instruction
def _congruence(_context: Any, words: Any, low_factor: Any, high_factor: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        places = [builder.gep(data, [_WORD(k)]) for k in range(4)]

        def joined(low: Any, high: Any) -> Any:
            return builder.or_(builder.zext(low, _DOUBLE), builder.shl(builder.zext(high, _DOUBLE), _DOUBLE(64)))

        state = joined(builder.load(places[0]), builder.load(places[1]))
        step = joined(builder.load(places[2]), builder.load(places[3]))
        state = builder.add(builder.mul(state, joined(*arguments[1:])), step)
        builder.store(builder.trunc(state, _WORD), places[0])
        builder.store(builder.trunc(builder.lshr(state, _DOUBLE(64)), _WORD), places[1])
        return context.get_dummy_value()

    return types.void(words, low_factor, high_factor), code


@kernel_inlined
def congruence(words: NDArray[np.uint64], low_factor: np.uint64, high_factor: np.uint64) -> None:
    """Words 0 and 1, times a factor, plus words 2 and 3, in 128 bits; of all three the lower half comes first."""
    _congruence(words, low_factor, high_factor)


@instruction
def _lowest_one(_context: Any, bits: Any) -> Any:
    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(bits), code


@kernel_inlined
def lowest_one(bits: np.uint64) -> int:
    """Place of the lowest bit that is one, of an unsigned number that is not 0."""
    return int(_lowest_one(bits))


@instruction
def _prefetch(_context: Any, table: Any, _place: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, address = ir.IntType(32), ir.IntType(8).as_pointer()
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        ask = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(builder.module, kind, "llvm.prefetch.p0")
        at = builder.bitcast(builder.gep(data, [arguments[1]]), address)
        builder.call(ask, [at, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(table, types.int64), code


@kernel_inlined
def ask_for(table: NDArray[Any], row: int) -> None:
    """Ask for the memory of a row before it is needed; table: (rows, columns) of 8 bytes each, contiguous.

    Rows of a table larger than the cache, in an order that cannot be guessed, are waited for otherwise.
    """
    columns = table.shape[1]
    for k in range(0, columns, 8):
        _prefetch(table, row * columns + k)
    _prefetch(table, row * columns + columns - 1)
