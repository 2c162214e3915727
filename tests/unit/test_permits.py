"""Permits, their table, and their bypass."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqcd import clock
from petqcd.errors import RefusedError
from petqcd.interlocks.bypass import LONGEST_S, Bypasses
from petqcd.interlocks.permit_sources import BACK_S, EARLIEST_UNIX_S, HostHealth, of_host
from petqcd.interlocks.permits import DOUBT_S, STANDARD, Permit, Permits, Quality, Rule

NOW_S = 1000.0
COOLING = "cooling"


def permits(permit: Permit | None, **rule: object) -> Permits:
    found = Permits([Rule(name=COOLING, **rule)])  # type: ignore[arg-type]
    if permit is not None:
        found.give(permit)
    return found


def permit(value: bool, quality: Quality, age_s: float = 0.0) -> Permit:  # noqa: FBT001 - a table of values
    return Permit(COOLING, value, quality, NOW_S - age_s, "chiller", max_age_s=3.0)


@pytest.mark.parametrize(
    ("what", "is_strict", "may_energise", "now", "after_doubt"),
    [
        (permit(True, Quality.GOOD), False, True, "stays", "stays"),
        (permit(False, Quality.GOOD), False, False, "trips", "trips"),
        (permit(True, Quality.UNCERTAIN), False, False, "doubts", "trips"),
        (permit(False, Quality.UNCERTAIN), True, False, "doubts", "trips"),
        (permit(True, Quality.GOOD, age_s=3.1), True, False, "doubts", "trips"),
        (permit(False, Quality.GOOD, age_s=3.1), False, False, "doubts", "trips"),
        (permit(True, Quality.GOOD, age_s=-1.0), False, False, "doubts", "trips"),
        (permit(True, Quality.BAD), False, False, "doubts", "trips"),
        (permit(True, Quality.BAD), True, False, "trips", "trips"),
        (None, False, False, "doubts", "trips"),
        (None, True, False, "trips", "trips"),
    ],
)
def test_the_table(what: Permit | None, *, is_strict: bool, may_energise: bool, now: str, after_doubt: str) -> None:
    found = permits(what, is_strict=is_strict)
    assert (found.against(NOW_S) == ()) == may_energise
    for at_s, expected in ((NOW_S, now), (NOW_S + DOUBT_S, after_doubt)):
        if what is not None and at_s > NOW_S:  # the device goes on saying the same
            found.give(
                Permit(COOLING, what.value, what.quality, what.at_monotonic_s + DOUBT_S, "chiller", max_age_s=3.0)
            )
        ruling = found.rule(at_s)
        said = "trips" if ruling.trips else "doubts" if ruling.doubts else "stays"
        assert said == expected, (at_s, ruling)


def test_doubt_counts_from_when_it_began_and_ends_with_a_good_value() -> None:
    found = permits(permit(True, Quality.UNCERTAIN))
    assert found.rule(NOW_S).doubts
    assert found.rule(NOW_S + 4.9).doubts
    found.give(Permit(COOLING, True, Quality.GOOD, NOW_S + 4.9, "chiller"))
    assert not found.rule(NOW_S + 4.9).doubts
    found.give(Permit(COOLING, True, Quality.UNCERTAIN, NOW_S + 5.0, "chiller"))
    assert found.rule(NOW_S + 5.0).doubts
    assert found.rule(NOW_S + 9.9).doubts
    assert found.rule(NOW_S + 10.0).trips


def test_what_is_needed_to_energise_only_never_trips_and_the_other_way_round() -> None:
    found = permits(permit(False, Quality.GOOD), to_stay=False)
    assert found.against(NOW_S)
    assert not found.rule(NOW_S).trips
    found = permits(permit(False, Quality.GOOD), to_energise=False)
    assert not found.against(NOW_S)
    assert found.rule(NOW_S).trips


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(Quality), st.floats(-10, 10)), max_size=7))
def test_energising_is_allowed_only_by_values_that_are_all_true_good_and_fresh(
    values: list[tuple[bool, Quality, float]],
) -> None:
    found = Permits(Rule(name=str(number)) for number in range(7))
    for number, (value, quality, age_s) in enumerate(values):
        found.give(Permit(str(number), value, quality, NOW_S - age_s, "test", max_age_s=5.0))
    allowed = len(values) == 7 and all(v and q is Quality.GOOD and 0 <= a <= 5.0 for v, q, a in values)
    assert (found.against(NOW_S) == ()) == allowed
    assert not allowed or found.rule(NOW_S).trips == ()


def test_a_bypass_is_of_one_permit_for_a_time_with_a_reason_and_not_of_what_has_none() -> None:
    rules = {rule.name: rule for rule in (*STANDARD, Rule(name=COOLING, can_be_bypassed=True))}
    bypasses = Bypasses()
    given_ = {"seconds": 60.0, "reason": "chiller is being serviced", "by": "eve", "now_s": NOW_S}
    for name in ("device-side limits", "hard limits configured", "no latched trip", "identity verified", "nonsense"):
        with pytest.raises(RefusedError):
            bypasses.grant("hv", rules, name, **given_)  # type: ignore[arg-type]
    for wrong in ({"seconds": LONGEST_S + 1}, {"seconds": 0.0}, {"seconds": float("nan")}, {"reason": "  "}):
        with pytest.raises(RefusedError):
            bypasses.grant("hv", rules, COOLING, **{**given_, **wrong})  # type: ignore[arg-type]
    bypasses.grant("hv", rules, COOLING, **given_)  # type: ignore[arg-type]
    assert bypasses.of("hv", NOW_S + 59.0) == {COOLING}
    assert bypasses.of("other", NOW_S) == set()
    assert bypasses.of("hv", NOW_S + 60.0) == set()
    assert [one.permit for one in bypasses.ended(NOW_S + 61.0)] == [COOLING]
    assert bypasses.ended(NOW_S + 61.0) == []
    found = permits(permit(False, Quality.GOOD), can_be_bypassed=True)
    assert not found.against(NOW_S, {COOLING})
    assert not found.rule(NOW_S, {COOLING}).trips
    found = permits(permit(False, Quality.GOOD))
    assert found.against(NOW_S, {COOLING})
    assert found.rule(NOW_S, {COOLING}).trips


def test_every_standard_permit_counts_for_something() -> None:
    assert all(rule.to_energise or rule.to_stay for rule in STANDARD)
    names = [rule.name for rule in STANDARD]
    assert len(names) == len(set(names))
    for rule, quality in product(STANDARD, (Quality.BAD, Quality.UNCERTAIN)):
        if rule.to_energise:
            found = Permits([rule])
            found.give(Permit(rule.name, True, quality, NOW_S, "test"))
            assert found.against(NOW_S)


def test_a_clock_that_leapt_back_is_not_believed_unless_something_keeps_it_right() -> None:
    now, newest = EARLIEST_UNIX_S + 1e6, EARLIEST_UNIX_S + 1e6 + 2 * BACK_S

    def is_sane(unix_s: float, *, is_synchronised: bool) -> bool:
        health = HostHealth(1 << 40, newest, can_write=True, is_synchronised=is_synchronised)
        (found,) = [one for one in of_host(health, now_s=NOW_S, unix_s=unix_s) if one.name == "clock sane"]
        return found.allows(NOW_S)

    assert is_sane(newest, is_synchronised=False)
    assert not is_sane(now, is_synchronised=False)
    assert is_sane(now, is_synchronised=True)
    assert not is_sane(EARLIEST_UNIX_S - 1, is_synchronised=True)
    assert clock.is_synchronised() in (True, False)
    five_years_s = 5 * 365.25 * 86_400.0
    clock.let_pass(-five_years_s)  # as a demonstration of years does: runs have dates of then, the machine has its own
    try:
        assert clock.machine_s() - clock.unix_s() == pytest.approx(five_years_s, abs=10.0)
        assert is_sane(clock.machine_s(), is_synchronised=True)
    finally:
        clock.let_pass(five_years_s)
