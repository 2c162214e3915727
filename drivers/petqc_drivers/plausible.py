"""Readings that jumped: what is read at once again before it is believed. Pure.

An additive checksum lets bytes that changed places through, and many instruments have none. So a value that is far from
what it was is asked for once more: if it is still there, it is so; else nobody knows, and the reading says that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from petqc_drivers.device import Quality, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    Name = tuple[str, str]

MOST_APART: Final = {"V": 0.2, "mA": 0.1, "degC": 2.0}
"""How far two readings may be apart without a second look, by unit; other units are not looked at."""
SWITCH: Final = "bias_on"
"""Where this changed, everything else may have."""


def jumped(before: Mapping[Name, Reading], now: Sequence[Reading]) -> frozenset[Name]:
    """Name and node of the measured readings that are far from what they were; none where an output was switched."""
    changed = [one for one in now if _is_apart(before.get((one.name, one.node)), one)]
    if any(one.name == SWITCH and _differs(before.get((one.name, one.node)), one) for one in now):
        return frozenset()
    return frozenset((one.name, one.node) for one in changed)


def read_again(first: Sequence[Reading], again: Sequence[Reading], doubtful: Collection[Name]) -> list[Reading]:
    """The second readings; those of the doubtful ones that are not what the first said are uncertain."""
    was = {(one.name, one.node): one for one in first}
    return [
        replace(one, quality=Quality.UNCERTAIN, reason=f"{was[name].value:.6g} {one.unit} a moment before")
        if (name := (one.name, one.node)) in doubtful and name in was and _is_apart(was[name], one)
        else one
        for one in again
    ]


def _is_apart(was: Reading | None, now: Reading) -> bool:
    most = MOST_APART.get(now.unit)
    if most is None or not now.measured or was is None or was.value is None or now.value is None:
        return False
    return abs(now.value - was.value) > most


def _differs(was: Reading | None, now: Reading) -> bool:
    return was is None or was.value != now.value
