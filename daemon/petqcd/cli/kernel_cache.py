"""Where compiled kernels are kept for a user who can write neither beside the program nor in a home.

The compiler keeps them beside their source or in the user's cache, and ends the command where it can use neither: a
service account without a home, a container with read-only files.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE = "NUMBA_CACHE_DIR"
"""Read by numba when it is loaded; processes that are started inherit it."""
NAME = "petqc-kernels"


def provide(say: Callable[[str], None]) -> None:
    """Name a folder for them, and say so, where the compiler would find none. Costs three questions to the system."""
    if VARIABLE in os.environ or any(_can_write(place) for place in _usual(os.environ)):
        return
    folder = _own(os.environ)
    os.environ[VARIABLE] = str(folder)
    say(f"compiled kernels are kept in {folder}: no other folder can be written (set {VARIABLE} to choose one)")


def _usual(environment: Mapping[str, str]) -> list[Path]:
    """Where numba keeps them by itself: beside the source, then the user's cache."""
    cache = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    return [Path(__file__).parents[1], Path(cache) / "numba"]


def _can_write(folder: Path) -> bool:
    """Whether a file can be made there, or in a folder that can be made there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _own(environment: Mapping[str, str]) -> Path:
    """A folder of ours: in the state directory, where the environment names one, or among temporary files."""
    named = environment.get("PETQC_STATE_DIR") or environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if named and _can_write(Path(named)):
        return Path(named) / NAME
    folder = Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
    # Code is loaded from there: nobody else may have made it or may write there.
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if is_ours else Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
