"""What notices that frames stop, or that one unit of several is gone: neither is an event.

Frames of the other units go on when one unit falls silent or loses the common clock, and nothing in them says so. So
every unit of a system is asked for its time while frames flow.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.3 and 4.2 (0x0203).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.errors import DriverError, LinkLostError, OvertakenError
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.frames import CLOCK_HZ
from petqc_drivers.petsys.link import ago
from petqc_drivers.petsys.registers import REGISTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from petqc_drivers.petsys.link import ReadoutLink

_LOG = logging.getLogger(__name__)

UNIT_CHECK_S: Final = 1.0
"""How often every unit of several is asked."""
IN_STEP_CLK: Final = CLOCK_HZ // 1000
"""How far a unit's time tag may be from that of the clock. They restart together; a unit that restarted by itself, or
lost its clock, is soon off by more."""
_WATCH_FRACTION: Final = 0.1
_TAG_MODULO: Final = 1 << REGISTERS["time_tag"].bits


async def watch(
    clock: ReadoutLink, units: Collection[ReadoutLink], limit_s: float, fail: Callable[[DriverError], None]
) -> None:
    """Watch an acquisition that was just started; returns once it has failed.

    Args:
        clock: The link that frames come by, to the unit whose time counts.
        units: The links to all units.
        limit_s: How long no frame may come.
        fail: Told what happened, once.
    """
    began_s = checked_s = monotonic_s()
    while True:
        now_s, last_s = monotonic_s(), clock.last_frame_s
        silent_s = now_s - (last_s or began_s)
        if silent_s >= limit_s:
            fail(
                LinkLostError(
                    f"no frame for {silent_s:.1f} s",
                    device=clock.name,
                    last_good=f"{ago(clock.last_good_s)}, last frame {ago(last_s)}",
                    do="check power and cable of the board, then connect again",
                )
            )
            return
        if len(units) > 1 and now_s - checked_s >= UNIT_CHECK_S:
            try:
                await check_in_step(clock, units)
            except OvertakenError:
                _LOG.debug("%s: a check of the units gave way to switching off", clock.name)
            except DriverError as error:
                fail(error)
                return
            checked_s = monotonic_s()
            continue
        await asyncio.sleep(min(_WATCH_FRACTION * limit_s, limit_s - silent_s))


async def check_in_step(clock: ReadoutLink, units: Collection[ReadoutLink]) -> None:
    """See that every unit answers and has the time of the clock.

    Raises:
        LinkLostError: If one has not.
        ReplyTimeoutError: If one does not answer.
    """
    for unit in units:
        if unit is clock:
            continue
        before, tag, after = [await _time_tag(link) for link in (clock, unit, clock)]
        if (tag - before + IN_STEP_CLK) % _TAG_MODULO > (after - before) % _TAG_MODULO + 2 * IN_STEP_CLK:
            raise LinkLostError(
                f"it is not on the common clock any more: its time is {tag / CLOCK_HZ:.6f} s instead of "
                f"{before / CLOCK_HZ:.6f} s",
                device=unit.name,
                do="check its power and its clock link, then connect and configure again",
            )


async def _time_tag(link: ReadoutLink) -> int:
    return await Board(link).read("time_tag")
