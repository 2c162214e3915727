"""The one place that talks to numba's decorator, typed so that kernels stay typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def kernel(function: F) -> F:
    """Compile a function for numbers: cached on disk, without the interpreter lock, without fast-math.

    The plain Python function stays reachable as `function.py_func`.
    """
    import numba

    decorate: Callable[[F], F] = cast("Any", numba.njit(cache=True, nogil=True, error_model="numpy"))
    return decorate(function)
