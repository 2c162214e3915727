"""Exponential, logarithm and products of whole rows, compiled for several bins at a time.

A call of the C library for one number at a time costs two to three times as much, and such calls were most of a fit.
Numbers of 64 bits are taken apart through a view of their bits: 1 of sign, 11 of exponent, 52 of fraction (IEEE 754).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError

from petqc.jit import instruction, kernel_inlined, kernel_of_given_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

_tuple: Any = types.UniTuple
_variable: Any = cgutils.alloca_once_value
_EIGHT = ir.VectorType(ir.DoubleType(), 8)
_FRACTION_BITS = np.uint64(52)
_FRACTION = np.uint64((1 << 52) - 1)
_BIAS = np.uint64(1023)
_PER_LN2 = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""In two parts, so that whole multiples of the first are exact."""
_WHOLE = 1.5 * 2.0**52
"""Added to a number it leaves the nearest whole one in the lowest bits."""
_SMALLEST = -708.0
"""Exponent of e from where on numbers are no normal ones any more; smaller ones count as this: 3e-308."""
_ROOT_HALF = np.uint64(0x3FE6A09E667F3BCD)
_UP_TO_ONE = np.uint64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
_TWO_TO_52 = np.uint64(0x4330000000000000)
_OFFSET = 2.0**52 + 1023.0


@kernel_of_given_arrays
def bells(
    z: NDArray[np.float64], f: NDArray[np.float64], whole: NDArray[np.float64], power: NDArray[np.float64]
) -> None:
    """exp(-z²/2), off by 3e-16 relative at most: 2 to a whole power, times a series around 0.

    Args:
        z: (n,) any numbers.
        f: (n,) result.
        whole: (n,) scratch.
        power: (n,) scratch.
    """
    bits, bits_of_power = whole.view(np.uint64), power.view(np.uint64)
    for k in range(z.size):
        whole[k] = max(-0.5 * z[k] * z[k], _SMALLEST) * _PER_LN2 + _WHOLE
    for k in range(z.size):
        bits_of_power[k] = (bits[k] + _BIAS) << _FRACTION_BITS
    for k in range(z.size):
        n = whole[k] - _WHOLE
        r = max(-0.5 * z[k] * z[k], _SMALLEST) - n * _LN2_HIGH - n * _LN2_LOW
        series = 1.0 / 6227020800.0
        series = series * r + 1.0 / 479001600.0
        series = series * r + 1.0 / 39916800.0
        series = series * r + 1.0 / 3628800.0
        series = series * r + 1.0 / 362880.0
        series = series * r + 1.0 / 40320.0
        series = series * r + 1.0 / 5040.0
        series = series * r + 1.0 / 720.0
        series = series * r + 1.0 / 120.0
        series = series * r + 1.0 / 24.0
        series = series * r + 1.0 / 6.0
        series = series * r + 0.5
        series = series * r + 1.0
        f[k] = (series * r + 1.0) * power[k]


@kernel_of_given_arrays
def logarithms(
    x: NDArray[np.float64], y: NDArray[np.float64], part: NDArray[np.float64], power: NDArray[np.float64]
) -> None:
    """Natural logarithm, off by 3e-16 relative at most, for normal numbers above 0; of others the result is any number.

    Args:
        x: (n,) numbers.
        y: (n,) result.
        part: (n,) scratch.
        power: (n,) scratch.

    Source: the series of e_log.c, Sun Microsystems' FDLIBM 5.3.
    """
    bits, bits_of_part, bits_of_power = x.view(np.uint64), part.view(np.uint64), power.view(np.uint64)
    for k in range(x.size):
        moved = bits[k] + _UP_TO_ONE
        bits_of_part[k] = (moved & _FRACTION) + _ROOT_HALF  # x over a power of 2, from √0.5 to √2
        bits_of_power[k] = (moved >> _FRACTION_BITS) | _TWO_TO_52
    for k in range(x.size):
        f = part[k] - 1.0
        s = f / (2.0 + f)
        square = s * s
        series = 1.479819860511658591e-01
        series = series * square + 1.531383769920937332e-01
        series = series * square + 1.818357216161805012e-01
        series = series * square + 2.222219843214978396e-01
        series = series * square + 2.857142874366239149e-01
        series = series * square + 3.999999999940941908e-01
        series = series * square + 6.666666666666735130e-01
        half = 0.5 * f * f
        n = power[k] - _OFFSET
        y[k] = n * _LN2_HIGH - ((half - (s * (half + series * square) + n * _LN2_LOW)) - f)


@instruction
def _products(_context: Any, x: Any, y: Any, _whole: Any) -> Any:
    """Sums of the products of every eighth pair, as numba does not put eight sums side by side into one register."""
    if not (x.is_c_contig and y.is_c_contig):  # what it reads lies side by side
        raise TypingError(f"products of rows that are not contiguous: {x}, {y}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = [
            context.make_array(kind)(context, builder, row).data
            for kind, row in zip(signature.args[:2], arguments[:2], strict=True)
        ]
        index = arguments[2].type
        sums = _variable(builder, _EIGHT([0.0] * 8))
        with cgutils.for_range_slice(builder, index(0), arguments[2], index(8)) as (k, _):
            x, y = (builder.load(builder.bitcast(builder.gep(row, [k]), _EIGHT.as_pointer()), align=8) for row in rows)
            builder.store(builder.fadd(builder.load(sums), builder.fmul(x, y)), sums)
        found = builder.load(sums)
        each = [builder.extract_element(found, ir.IntType(32)(k)) for k in range(8)]
        return context.make_tuple(builder, signature.return_type, each)

    return _tuple(types.float64, 8)(x, y, types.intp), code


@kernel_inlined
def dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Sum of products of two rows, in eight parts side by side: none waits for the one before it.

    Args:
        x: (n,) contiguous.
        y: (n,) contiguous.
    """
    whole = x.size - x.size % 8
    s0, s1, s2, s3, s4, s5, s6, s7 = _products(x, y, whole)
    for k in range(whole, x.size):
        s0 += x[k] * y[k]
    return float(((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)))


@kernel_of_given_arrays
def total(row: NDArray[np.float64]) -> float:
    """Sum of a row, in eight parts side by side."""
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = row.size - row.size % 8
    for k in range(0, whole, 8):
        s0 += row[k]
        s1 += row[k + 1]
        s2 += row[k + 2]
        s3 += row[k + 3]
        s4 += row[k + 4]
        s5 += row[k + 5]
        s6 += row[k + 6]
        s7 += row[k + 7]
    for k in range(whole, row.size):
        s0 += row[k]
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
