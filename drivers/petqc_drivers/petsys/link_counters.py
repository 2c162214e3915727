"""How the links of a board are: what was sent and received, what was bad, and since when.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.2. What an error is
that these counters count is not known; a count that rises is a link to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import Quality, Reading
from petqc_drivers.petsys.registers import REGISTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.registers import BoardKind

_BOARD_COUNTERS: Final[Mapping[str, str]] = {
    "uptime": "clocks",
    "pll_lock_time": "clocks",
    "upstream_tx": "words",
    "upstream_rx": "words",
    "upstream_rx_bad": "words",
    "upstream_uptime": "clocks",
    "upstream_errors": "errors",
    "downstream_tx": "words",
    "downstream_rx": "words",
    "downstream_rx_bad": "words",
    "downstream_uptime": "clocks",
    "downstream_errors": "errors",
}
"""Registers of the unit itself, and their units."""


_LAST_LANE: Final = (1 << REGISTERS["code_error_select"].bits) - 1


@dataclass(frozen=True, slots=True)
class ClockLink:
    """A clock or trigger link of a unit.

    Attributes:
        name: What it carries.
        select: What to write to the register `link_select` to look at it.
        expected: The value that a link at rest shows; None for whatever it is.
    """

    name: str
    select: int
    expected: int | None


FEBD_LINKS: Final = (ClockLink("sync", 0, 0x8000), ClockLink("gate", 1, 0x8001), ClockLink("trigger_in", 2, None))
"""The links of a FEB/D. The trigger input shows the port of the trigger unit that it is plugged to, 0..15."""
TRIGGER_LANES: Final = 4


def trigger_links(ports: Iterable[int]) -> tuple[ClockLink, ...]:
    """The lanes of a trigger unit to the boards at these of its ports."""
    return tuple(
        ClockLink(f"trigger_out_{port}_{lane}", TRIGGER_LANES * port + lane, 16 * port + lane)
        for port in ports
        for lane in range(TRIGGER_LANES)
    )


async def read_counters(board: Board, address: str, chips: Iterable[int]) -> list[Reading]:
    """Counters of a unit's own links, and of the data links of ASICs, lane by lane.

    Args:
        board: Where to read; any unit.
        address: Port and slave as they appear in the names of nodes, "0.0".
        chips: The chips whose links to read; none on a unit that has none.
    """
    readings: list[Reading] = []

    def add(name: str, place: str, value: int, unit: str) -> None:
        readings.append(Reading(name, place, float(value), unit, True, Quality.GOOD, monotonic_s()))

    for name, unit in _BOARD_COUNTERS.items():
        add(name, f"board:{address}", await board.read(name), unit)
    chips = list(chips)
    links = await board.read("asic_links") + 1 if chips else 0
    for chip in chips:
        await board.write("word_error_select", chip)
        add("asic_word_errors", f"asic:{address}.{chip}", await board.read("word_errors"), "words")
        for lane in range(links):
            node, number = f"lane:{address}.{chip}.{lane}", links * chip + lane
            if number > _LAST_LANE:
                reason, now_s = f"lane {number} is beyond what the board can select ({_LAST_LANE})", monotonic_s()
                absent = Quality.ABSENT
                readings.append(Reading("asic_code_errors", node, None, "codes", False, absent, now_s, reason))
                continue
            await board.write("code_error_select", number)
            add("asic_code_errors", node, await board.read("code_errors"), "codes")
    return readings


async def read_clock_links(board: Board, address: str, links: Iterable[ClockLink]) -> list[Reading]:
    """Lock, value and errors of clock and trigger links, one after the other.

    Args:
        board: Where to read; which link it shows is changed.
        address: Port and slave as they appear in the names of nodes, "0.0".
        links: The links, see `FEBD_LINKS` and `trigger_links`.
    """
    readings: list[Reading] = []
    for link in links:
        await board.write("link_select", link.select)
        locked, value = await board.read("link_locked"), await board.read("link_value")
        errors = await board.read("link_errors")
        reason = None
        if not locked:
            reason = "the link is not locked"
        elif link.expected is not None and value != link.expected:
            reason = f"the link shows {value:#06x} instead of {link.expected:#06x}"
        quality = Quality.BAD if reason else Quality.GOOD
        node, now_s = f"link:{address}.{link.name}", monotonic_s()
        readings += [
            Reading("link_locked", node, float(locked), "", True, Quality.GOOD, now_s),
            Reading("link_value", node, float(value), "", True, quality, now_s, reason),
            Reading("link_errors", node, float(errors), "errors", True, Quality.GOOD, now_s),
        ]
    return readings


async def read_power_good(board: Board, kind: BoardKind, address: str) -> list[Reading]:
    """Whether the two supplies of the modules are good; of boards that say so in a register.

    Args:
        board: Where to read.
        kind: What kind of board it is.
        address: Port and slave as they appear in the names of nodes, "0.0".
    """
    if kind.has_trimmed_supplies:
        return []
    found, now_s = await board.read("power_good"), monotonic_s()
    return [
        Reading("supply_good", f"supply:{address}.{name}", float(found >> bit & 1), "", True, Quality.GOOD, now_s)
        for name, bit in (("lower", 2), ("upper", 3))
    ]
