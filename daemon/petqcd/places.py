"""What programs beside the daemon need to know of the state directory: names in it, and who holds it.

Nothing heavy is imported here: `petqc-safe` must come up when everything else does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from petqcd.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

LOCK = "petqcd.lock"
"""Held by the daemon, or by what acts in its place."""
OUTPUTS = "outputs.json"
"""Which bias outputs there are, and what was last known of each."""
TRIPPED = "tripped.json"
"""Which devices are tripped whose outputs do not outlive the daemon, and why."""


def hold(state_dir: Path) -> int:
    """Take the state directory for this process; the kernel gives it back when the process dies, however it dies.

    Returns the descriptor: whoever closes it gives the directory back.

    Raises:
        StoreError: another process has it.
    """
    descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreError(f"{state_dir}: a daemon uses this state directory already (process {holder})") from error
    with contextlib.suppress(OSError):  # for people only: what counts is the lock, which a full disk gives
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
