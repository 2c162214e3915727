"""The log: with times for a terminal or a file, with priorities for the journal, which has times of its own."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITY = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Level from which on, priority. Source: sd-daemon(3), syslog(3)."""
_DEBUG = 7


class JournalFormatter(logging.Formatter):
    """`<4>petqcd.runs: text`; every line of a message carries its priority, or the journal would lose it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        priority = next((number for level, number in _PRIORITY if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def goes_to_journal(descriptor: int) -> bool:
    """Whether a descriptor is the journal. Source: systemd.exec(5), $JOURNAL_STREAM is its device and inode."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        what = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(what.st_dev), str(what.st_ino))


def set_up(*, verbose: bool) -> None:
    """Log to stderr."""
    if goes_to_journal(2):
        formatter: logging.Formatter = JournalFormatter("%(name)s: %(message)s")
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])
    for name in ("numba", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
