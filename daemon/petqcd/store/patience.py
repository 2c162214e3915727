"""Files of a run that a full or failing disk does not take yet: written once it does."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING

from petqcd import clock

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

AGAIN_S = 1.0
_PASSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors of a disk that may be well again."""


async def once_there_is_room(write: Callable[[], None], what: str, *, patience_s: float) -> None:
    """Write files, from a thread; again and again while the disk does not take them.

    Args:
        write: writes all of them anew each time.
        what: for people.
        patience_s: how long.

    Raises:
        OSError: the disk did not take them in all that time, or the error is none of a disk.
    """
    end_s = clock.monotonic_s() + patience_s
    is_told = False
    while True:
        try:
            await asyncio.to_thread(write)
        except OSError as error:
            if error.errno not in _PASSES or clock.monotonic_s() > end_s:
                raise
            if not is_told:
                log.warning("%s waits for the disk: %s", what, error)
            is_told = True
        else:
            return
        await asyncio.sleep(AGAIN_S)
