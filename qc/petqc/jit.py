"""The one place that talks to numba's decorator, typed so that kernels stay typed."""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_MARK = b"from petqc.jit import"
_one_at_a_time = threading.Lock()


def kernel(function: F) -> F:
    """Compile a function for numbers: cached on disk, without the interpreter lock, without fast-math.

    The plain Python function stays reachable as `function.py_func`.
    """
    return _compiled(function)


def kernel_of_given_arrays(function: F) -> F:
    """The same for one that makes no array, and calls none that does: it counts no references to those it is given.

    Where small kernels call each other for every event, counting takes a seventh of the time.
    """
    return _compiled(function, _nrt=False)


def kernel_inlined(function: F) -> F:
    """The same for a small one that other kernels call for every event: its code becomes part of theirs.

    Arrays are then not handed over number by number at each call.
    """
    return _compiled(function, _nrt=False, forceinline=True)


def instruction(function: Callable[..., Any]) -> Any:
    """What a processor can do and Python cannot say: the function gives a call's signature and what writes its code.

    Only kernels can call it.
    """
    from numba.extending import intrinsic

    return intrinsic(function)


@functools.cache
def _without_blas() -> None:
    """Let numba not look for BLAS: it loads all of scipy.linalg to see that it is there, a third of a start.

    Only kernels that compute covariances or convolutions would miss it, and they would say so.
    """
    from numba.np import linalg

    def not_asked() -> None:
        raise ImportError("numba is not asked for BLAS here")

    with _one_at_a_time:  # checks are imported by several threads
        found = getattr(linalg, "ensure_blas", None)
        if found is None or "numba.np.arraymath" in sys.modules:
            return
        linalg.ensure_blas = not_asked
        try:
            importlib.import_module("numba.np.arraymath")
        finally:
            linalg.ensure_blas = found


def _compiled(function: F, **options: Any) -> F:
    import numba

    _without_blas()
    decorate: Callable[[F], F] = cast("Any", numba.njit(cache=True, nogil=True, error_model="numpy", **options))
    compiled = decorate(function)
    # numba looks at the kernel's own file only. A kernel that calls one of another file would keep that one's old code
    # for ever, so the cache is stamped with the content of every file that holds kernels.
    cache = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if cache is not None and hasattr(cache, "_source_stamp"):
        cache._source_stamp = (kernels_stamp("petqc"), kernels_stamp(function.__module__.partition(".")[0]))  # noqa: SLF001
    return compiled


@functools.cache
def kernels_stamp(package: str) -> str:
    """Hash of all files of an imported package that hold kernels; empty if the package has no files of its own."""
    module = sys.modules.get(package)
    paths = [Path(p) for p in getattr(module, "__path__", ())]
    digest = hashlib.sha256()
    for path in sorted(p for folder in paths for p in folder.rglob("*.py")):
        content = path.read_bytes()
        if _MARK in content:
            digest.update(content)
    return digest.hexdigest() if paths else ""
