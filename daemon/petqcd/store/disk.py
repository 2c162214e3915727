"""How full the disk of the state directory is, and what is still done at which level.

A reserve file is given back when the disk is nearly full, so that what is going on still becomes a record.
"""

from __future__ import annotations

import enum
import logging
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from petqcd.metrics import Metrics

log = logging.getLogger(__name__)

RESERVE = "reserve"
RESERVE_BYTES = 64 * 2**20
LOW_SHARE, LOW_BYTES = 0.20, 10 * 2**30
NO_NEW_SHARE, STOP_SHARE, RECORDS_SHARE = 0.05, 0.02, 0.01


class DiskLevel(enum.IntEnum):
    """What the disk still allows."""

    FINE = 0
    LOW = 1
    """Below 20 % or 10 GiB: somebody should make room."""
    NO_NEW_RUNS = 2
    """Below 5 %."""
    RUNS_STOP = 3
    """Below 2 %: a run that goes on ends as a record."""
    RECORDS_ONLY = 4
    """Below 1 %: the reserve is given back."""


def level_of(free: int, total: int) -> DiskLevel:
    """The level of a disk with so many bytes free."""
    share = free / total
    if share < RECORDS_SHARE:
        return DiskLevel.RECORDS_ONLY
    if share < STOP_SHARE:
        return DiskLevel.RUNS_STOP
    if share < NO_NEW_SHARE:
        return DiskLevel.NO_NEW_RUNS
    return DiskLevel.LOW if share < LOW_SHARE or free < LOW_BYTES else DiskLevel.FINE


class Disk:
    """The disk of one state directory.

    Args:
        state_dir: on it.
        metrics: where it is published.
        keeps_reserve: whether 64 MiB are set aside; nobody needs that for a simulated scanner.
        usage: total and free bytes; None: what the system says.
    """

    def __init__(
        self,
        state_dir: Path,
        metrics: Metrics,
        *,
        keeps_reserve: bool,
        usage: Callable[[Path], tuple[int, int]] | None = None,
    ) -> None:
        self._state_dir, self._metrics, self._usage = state_dir, metrics, usage or _usage
        self._reserve = state_dir / RESERVE
        self._keeps_reserve = keeps_reserve
        self.level = DiskLevel.FINE
        self.told = ""
        """What people are told; empty while the level is fine."""

    def look(self) -> DiskLevel:
        """Look again; may touch the reserve file, so from a thread."""
        total, free = self._usage(self._state_dir)
        level = level_of(free, total)
        self._metrics.set("petqc_state_free_bytes", free)
        self._metrics.set("petqc_state_free_ratio", free / total)
        self._metrics.set("petqc_state_disk_level", level)
        if level != self.level:
            log.warning("disk of %s: %s, %.1f %% free", self._state_dir, level.name, 100 * free / total)
        self.level = level
        self.told = f"the disk of {self._state_dir} has {100 * free / total:.1f} % free" if level else ""
        try:
            if level is DiskLevel.RECORDS_ONLY:
                self._reserve.unlink(missing_ok=True)
            elif self._keeps_reserve and level < DiskLevel.NO_NEW_RUNS and not self._reserve.exists():
                self._make_reserve()
        except OSError as error:
            log.warning("%s: %s", self._reserve, error)
        return level

    def why_no_run(self) -> str | None:
        """Why no run may begin now; None: the disk has room."""
        if self.level < DiskLevel.NO_NEW_RUNS:
            return None
        return f"{self.told}, a new run needs {NO_NEW_SHARE:.0%}: make room first (old recordings, [store] keep_…_days)"

    def _make_reserve(self) -> None:
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)


def _usage(path: Path) -> tuple[int, int]:
    found = shutil.disk_usage(path)
    return found.total, found.free
