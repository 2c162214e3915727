"""Versions of what makes a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_OTHERS = ("numpy", "numba", "scipy")


def software() -> dict[str, str]:
    """Name and version of petqc, of Python, and of the libraries that numbers depend on."""
    others = {name: version(name) for name in _OTHERS}
    try:
        own = version("petqcd")
    except PackageNotFoundError:  # used from its source alone
        own = "unknown"
    return {"petqc": own, "python": platform.python_version(), **others}
