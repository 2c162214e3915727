"""The one place that reads the system's clocks: wall time for people and files, monotonic time for everything else."""

from __future__ import annotations

import ctypes
import time
from datetime import UTC, datetime
from pathlib import Path

from petqc_drivers import clock as drivers_clock

_ahead_s = 0.0


def let_pass(seconds: float) -> None:
    """Let the calendar of this process jump ahead, for demonstrations of years in minutes; never in a service."""
    global _ahead_s  # noqa: PLW0603 - there is one calendar
    _ahead_s += seconds


def monotonic_s() -> float:
    """Seconds of the monotonic clock: deadlines, ages, rates. It goes on while the host is suspended."""
    return drivers_clock.monotonic_s()


def awake_s() -> float:
    """Seconds that this host was awake: how late a task is, which is not to be blamed for a suspension."""
    return time.monotonic()


def unix_s() -> float:
    """Seconds since 1970, for files and metrics."""
    return time.time() + _ahead_s


def machine_s() -> float:
    """Seconds since 1970 by the machine's own clock, wherever the calendar is; whether it is right is asked of it."""
    return unix_s() - _ahead_s


def nanoseconds() -> tuple[int, int]:
    """Both clocks at one moment, in ns: monotonic, and since 1970; for logs of what happens within microseconds."""
    return round(1e9 * monotonic_s()), time.time_ns()


class _Timex(ctypes.Structure):
    """The beginning of `struct timex`, and room for the rest of it. Source: adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


_TIME_ERROR, _STA_UNSYNC = 5, 0x40


def is_synchronised() -> bool:
    """Whether the kernel says that something (NTP, PTP, GPS) keeps its clock right; False also where it cannot say."""
    told = _Timex()  # modes 0: reads only
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    except (OSError, AttributeError):
        return False
    return state not in (-1, _TIME_ERROR) and not told.status & _STA_UNSYNC


def utc_text(at_s: float | None = None) -> str:
    """ISO 8601 in UTC with milliseconds, for people and files."""
    return datetime.fromtimestamp(unix_s() if at_s is None else at_s, UTC).isoformat(timespec="milliseconds")


def compact_utc(at_s: float) -> str:
    """UTC to the second for names of files and runs: 20260302T060000Z."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%dT%H%M%SZ")


def boot_id() -> str:
    """Which boot of the host this is; monotonic times of two boots cannot be compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
