"""Readings that jumped are believed only if they are read twice."""

from __future__ import annotations

from petqc_drivers.device import Quality, Reading
from petqc_drivers.plausible import SWITCH, jumped, read_again

VOLTS = ("bias_voltage", "hv")


def reading(value: float | None, name: str = "bias_voltage", unit: str = "V", *, measured: bool = True) -> Reading:
    return Reading(name, "hv", value, unit, measured, Quality.GOOD, 0.0)


def named(*readings: Reading) -> dict[tuple[str, str], Reading]:
    return {(one.name, one.node): one for one in readings}


def test_what_is_near_what_it_was_is_no_jump() -> None:
    assert jumped(named(reading(54.0)), [reading(54.15)]) == frozenset()
    assert jumped(named(reading(54.0)), [reading(53.7)]) == {VOLTS}


def test_what_was_not_known_or_is_not_measured_is_no_jump() -> None:
    assert jumped({}, [reading(54.0)]) == frozenset()
    assert jumped(named(reading(None)), [reading(54.0)]) == frozenset()
    assert jumped(named(reading(54.0)), [reading(None)]) == frozenset()
    assert jumped(named(reading(54.0)), [reading(20.0, measured=False)]) == frozenset()
    assert jumped(named(reading(5.0, unit="ps")), [reading(500.0, unit="ps")]) == frozenset()


def test_where_an_output_was_switched_everything_may_jump() -> None:
    on, off = reading(1.0, SWITCH, ""), reading(0.0, SWITCH, "")
    assert jumped(named(reading(54.0), on), [reading(0.0), off]) == frozenset()
    assert jumped(named(reading(54.0), on), [reading(0.0), on]) == {VOLTS}


def test_read_twice_it_is_so() -> None:
    (found,) = read_again([reading(50.0)], [reading(50.01)], {VOLTS})
    assert (found.value, found.quality) == (50.01, Quality.GOOD)


def test_two_that_disagree_are_uncertain_and_say_why() -> None:
    warm = reading(31.0, "temperature_sipm", "degC")
    found = read_again([reading(50.0), warm], [reading(54.0), warm], {VOLTS})
    assert [one.quality for one in found] == [Quality.UNCERTAIN, Quality.GOOD]
    assert (found[0].value, found[0].reason) == (54.0, "50 V a moment before")
