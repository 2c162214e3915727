"""Alarms as a state machine, and what is kept of the first fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc_drivers.device import Quality, Reading
from petqcd.errors import ConfigError, NotFoundError, RefusedError
from petqcd.interlocks.alarms import FLOOD, Alarms, Change, Definition, Severity, State, flood, flood_id
from petqcd.interlocks.first_fault import AFTER_S, BEFORE_S, MOST_SAMPLES, Capture

ID = "link.hv"


def alarms(**wanted: Any) -> tuple[Alarms, list[Change]]:
    changes: list[Change] = []
    found = Alarms(changed=changes.append)
    values = {"severity": Severity.MINOR, "guidance": "look at the cable", **wanted}
    found.define([Definition(id=ID, device="hv", **values), flood("hv")])
    return found, changes


def say(found: Alarms, is_wrong: bool, at_s: float, **more: Any) -> State:  # noqa: FBT001 - a history of values
    found.condition(ID, is_wrong=is_wrong, now_s=at_s, unix_s=1e9 + at_s, **more)
    return next(one for one in found.all() if one.definition.id == ID).state


def test_the_order_of_clearing_and_acknowledging_does_not_matter() -> None:
    found, _ = alarms()
    assert say(found, True, 0.0) is State.ACTIVE_UNACK
    found.acknowledge(ID, "eve", 1.0)
    assert say(found, True, 1.0) is State.ACTIVE_ACK
    assert say(found, False, 2.0) is State.NORMAL
    assert say(found, True, 3.0) is State.ACTIVE_UNACK
    assert say(found, False, 4.0) is State.CLEARED_UNACK
    assert found.acknowledge(ID, "eve", 5.0).state is State.NORMAL
    with pytest.raises(RefusedError):
        found.acknowledge(ID, "eve", 6.0)
    with pytest.raises(NotFoundError):
        found.acknowledge("nothing", "eve", 6.0)


def test_the_highest_severity_stays_until_somebody_acknowledges() -> None:
    found, _ = alarms()
    say(found, True, 0.0)
    say(found, True, 1.0, severity=Severity.MAJOR)
    say(found, True, 2.0, severity=Severity.MINOR)
    assert found.all()[0].severity is Severity.MAJOR
    say(found, False, 3.0)
    say(found, True, 4.0, severity=Severity.MINOR)
    assert found.all()[0].severity is Severity.MAJOR
    found.acknowledge(ID, "eve", 5.0)
    assert say(found, True, 6.0, severity=Severity.MAJOR) is State.ACTIVE_ACK  # no worse than what was seen
    say(found, False, 7.0)
    assert say(found, True, 8.0) is State.ACTIVE_UNACK
    assert found.all()[0].severity is Severity.MINOR


def test_an_acknowledged_alarm_that_becomes_worse_wants_to_be_seen_again() -> None:
    found, _ = alarms()
    say(found, True, 0.0)
    found.acknowledge(ID, "eve", 1.0)
    assert say(found, True, 2.0, severity=Severity.MAJOR) is State.ACTIVE_UNACK


def test_delay_count_and_hysteresis() -> None:
    found, _ = alarms(delay_s=2.0, count=3, clear_after_s=5.0)
    assert say(found, True, 0.0) is State.NORMAL
    assert say(found, True, 1.0) is State.NORMAL
    assert say(found, False, 1.5) is State.NORMAL
    assert [say(found, True, at_s) for at_s in (2.0, 3.0, 3.9)] == [State.NORMAL] * 3
    assert say(found, True, 4.0) is State.ACTIVE_UNACK
    assert say(found, False, 5.0) is State.ACTIVE_UNACK
    assert say(found, True, 6.0) is State.ACTIVE_UNACK
    assert say(found, False, 7.0) is State.ACTIVE_UNACK
    assert say(found, False, 12.0) is State.CLEARED_UNACK


def test_shelved_and_out_of_service_are_seen_and_end() -> None:
    found, _ = alarms()
    for wrong in ({"seconds": 25 * 3600.0}, {"seconds": -1.0}, {"reason": ""}):
        with pytest.raises(RefusedError):
            found.shelve(ID, **{"seconds": 60.0, "reason": "known", "by": "eve", "unix_s": 1e9, **wrong})  # type: ignore[arg-type]
    found.shelve(ID, seconds=60.0, reason="known", by="eve", unix_s=1e9)
    assert say(found, True, 1.0) is State.ACTIVE_UNACK
    (shown,) = [one for one in found.documents() if one["id"] == ID]
    assert shown["shelved_because"] == "known"
    assert found.all()[0].is_silent
    say(found, True, 61.0)
    assert not found.all()[0].is_silent
    found.put_out_of_service(ID, reason="replaced next week", by="eve", unix_s=1e9)
    assert found.all()[0].is_silent
    found.put_out_of_service(ID, reason="", by="eve", unix_s=1e9)
    assert not found.all()[0].is_silent


def test_an_alarm_without_guidance_is_none() -> None:
    with pytest.raises(ConfigError, match="guidance"):
        alarms(guidance=" ")


def test_a_flood_is_one_alarm_and_the_rest_stay_in_the_list() -> None:
    changes: list[Change] = []
    found = Alarms(changed=changes.append)
    ids = [f"a{number}.hv" for number in range(FLOOD + 3)]
    found.define(
        [*(Definition(id=id_, device="hv", severity=Severity.MINOR, guidance="look") for id_ in ids), flood("hv")]
    )
    for number, id_ in enumerate(ids):
        found.condition(id_, is_wrong=True, now_s=0.1 * number, unix_s=1e9)
    said = [(change.alarm["id"], change.what) for change in changes]
    assert (flood_id("hv"), "active") in said
    assert [what for id_, what in said if id_ in ids].count("active") == FLOOD
    assert len([one for one in found.all() if one.state is State.ACTIVE_UNACK]) == FLOOD + 4
    found.calm("hv", 5.0, 1e9)
    parent = next(one for one in found.all() if one.definition.id == flood_id("hv"))
    assert parent.collapsed == 3
    assert parent.is_active
    found.calm("hv", 12.0, 1e9)
    assert parent.state is State.CLEARED_UNACK


def test_what_was_not_acknowledged_outlives_the_process() -> None:
    found, _ = alarms()
    say(found, True, 0.0, detail="no reply", severity=Severity.MAJOR)
    say(found, False, 1.0)
    later, _ = alarms()
    later.restore([*found.documents(), {"id": "of a device that is gone"}])
    alarm = later.all()[0]
    assert (alarm.state, alarm.severity, alarm.detail) == (State.CLEARED_UNACK, Severity.MAJOR, "no reply")


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["wrong", "worse", "right", "ack"]), max_size=40))
def test_no_alarm_goes_away_unseen(history: list[str]) -> None:
    """Whoever looks late still sees that something was wrong, unless it was acknowledged since."""
    found, _ = alarms()
    is_owed, is_wrong = False, False
    for at_s, what in enumerate(history):
        if what == "ack":
            if is_owed:
                found.acknowledge(ID, "eve", 0.0)
            is_owed = False
            continue
        was_wrong, is_wrong = is_wrong, what != "right"
        severity = Severity.MAJOR if what == "worse" else None
        before = next(one.severity for one in found.all() if one.definition.id == ID)
        state = say(found, is_wrong, float(at_s), severity=severity)
        is_owed |= is_wrong and (not was_wrong or (severity or Severity.MINOR) > before)
        assert (state in (State.ACTIVE_UNACK, State.CLEARED_UNACK)) == is_owed
        assert (state in (State.ACTIVE_UNACK, State.ACTIVE_ACK)) == is_wrong


def reading(at_s: float, value: float) -> Reading:
    return Reading("bias_voltage", "hv", value, "V", True, Quality.GOOD, at_s)


def test_the_first_fault_keeps_a_minute_before_and_half_a_minute_after() -> None:
    capture = Capture("hv")
    for step in range(1000):
        at_s = 0.25 * step
        capture.add([reading(at_s, at_s)] * 2, at_s)
        if at_s == 100.0:
            capture.fault("over-current", at_s, 1e9)
        if at_s == 101.0:
            capture.fault("output went off", at_s, 1e9 + 1)
        told = capture.finished(at_s)
        assert (told is not None) == (at_s == 100.0 + AFTER_S)
        if told is not None:
            times = [sample["t_s"] for sample in told["samples"]]
            assert (times[0], times[-1]) == (-BEFORE_S, AFTER_S)
            assert len(times) == 4 * (BEFORE_S + AFTER_S) + 1
            assert (told["cause"], told["later"]) == ("over-current", [{"cause": "output went off", "after_s": 1.0}])


def test_the_memory_of_a_capture_is_bounded() -> None:
    capture = Capture("hv")
    capture.add([reading(1e-3 * step, 0.0) for step in range(3 * MOST_SAMPLES)], 60.0)
    capture.fault("x", 60.0, 1e9)
    told = capture.cut_short()
    assert told is not None
    assert len(told["samples"]) <= MOST_SAMPLES
    assert capture.cut_short() is None
