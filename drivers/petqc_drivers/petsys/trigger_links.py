"""Links between a clock and trigger unit and the FEB/Ds: trained together, then checked one by one.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2 (0x0296, 0x02D0,
0x0450 to 0x0460) and 5.2 (step 10 with a CLK&TGR unit).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import DeviceFaultError
from petqc_drivers.petsys.link_counters import FEBD_LINKS, trigger_links
from petqc_drivers.petsys.registers import REGISTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.link import Address
    from petqc_drivers.petsys.link_counters import ClockLink

STAGES_UP: Final = (1, 3, 7)
STAGES_DOWN: Final = (3, 1)
TRAINING_S: Final = 0.01
"""Between the last stage upwards and the first downwards."""
HIGHEST_PORT: Final = 16
"""Highest trigger port that a board may say it is plugged to."""
_ALL_PORTS: Final = (1 << REGISTERS["trigger_ports"].bits) - 1
_SYNC, _, _TRIGGER_IN = FEBD_LINKS


async def calibrate_trigger_links(febds: Mapping[Address, Board], trigger: Board) -> dict[Address, int]:
    """Train the links of all units with the trigger unit, check each, and use only the ports that have a FEB/D.

    Args:
        febds: The FEB/Ds, by port and slave.
        trigger: The clock and trigger unit.

    Returns:
        The trigger port that each FEB/D is plugged to.

    Raises:
        DeviceFaultError: If a link is not up, shows another value than it must, or two boards show the same port.
    """
    units = [*febds.values(), trigger]
    await trigger.write("trigger_ports", _ALL_PORTS)
    for stage in STAGES_UP:
        for unit in units:
            await unit.write("trigger_link_calibration", stage)
    await asyncio.sleep(TRAINING_S)
    for stage in STAGES_DOWN:
        for unit in units:
            await unit.write("trigger_link_calibration", stage)
    ports: dict[Address, int] = {}
    for address, board in febds.items():
        await _check(board, _SYNC)
        port = await _check(board, _TRIGGER_IN)
        if port > HIGHEST_PORT:
            raise DeviceFaultError(
                f"the trigger input shows {port:#06x}, which is no trigger port",
                device=board.name,
                do="check the cable to the trigger unit",
            )
        if port in ports.values():
            other = next(a for a, p in ports.items() if p == port)
            raise DeviceFaultError(
                "it says that it is plugged to trigger port {}, as unit {}/{} does".format(port, *other),
                device=board.name,
                do="check the cables to the trigger unit",
            )
        for link in trigger_links([port]):
            await _check(trigger, link)
        ports[address] = port
    await trigger.write("trigger_ports", sum(1 << port for port in ports.values()))
    return ports


async def _check(unit: Board, link: ClockLink) -> int:
    """Value of a link that is up and shows what it must."""
    await unit.write("link_select", link.select)
    is_locked, value = await unit.read("link_locked"), await unit.read("link_value")
    if not is_locked:
        raise DeviceFaultError(
            f"the link {link.name} is not locked", device=unit.name, do="check the cable between FEB/D and trigger unit"
        )
    if link.expected is not None and value != link.expected:
        raise DeviceFaultError(
            f"the link {link.name} shows {value:#06x} instead of {link.expected:#06x}",
            device=unit.name,
            do="check the cable between FEB/D and trigger unit",
        )
    return value
