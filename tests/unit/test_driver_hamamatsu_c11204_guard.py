"""No bytes exist that tell a C11204 more than its hard limit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.errors import LimitError, LocalProtocolError
from petqc_drivers.hamamatsu_c11204 import guard, wire
from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.hamamatsu_c11204.wire import Compensation, Function
from petqc_drivers.limits import HardLimit, Volts

MODEL = wire.MODELS["C11204-02"]


def limit(v_max: float = 57.0, v_min: float = 40.5) -> HardLimit:
    return HardLimit(channel="hv", v_min=Volts(v_min), v_max=Volts(v_max), max_step_v=1.0, slew_v_per_s=5.0)


def told_v(sealed: guard.SetOutput) -> float:
    return wire.volts(int(wire.parse_frame(sealed.payloads[0])[1], 16))


def test_every_code_against_a_limit() -> None:
    """All 65 536 codes: what is sealed is inside the limit and means what was asked, everything else is refused."""
    given_limit, accepted = limit(), 0
    for code in range(1 << 16):
        wanted_v = wire.volts(code)
        is_inside = given_limit.v_min.value <= wanted_v <= given_limit.v_max.value
        try:
            sealed = guard.set_voltage(Volts(wanted_v), given_limit, channel="hv", added=None)
        except LimitError:
            assert not is_inside, code
            continue
        assert is_inside, code
        assert told_v(sealed) == wanted_v == sealed.commanded.value
        accepted += 1
    assert accepted == math.floor(57.0 / wire.V_PER_CODE) - math.ceil(40.5 / wire.V_PER_CODE) + 1


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(41.0, 90.0),
    st.integers(-0x8000, 0x7FFF),
    st.integers(-0x8000, 0x7FFF),
)
def test_any_request_with_any_compensation(wanted_v: float, v_max: float, quadratic: int, linear: int) -> None:
    added = Compensation(
        quadratic_above=quadratic,
        quadratic_below=-quadratic if quadratic > -0x8000 else 0,
        linear_above=linear,
        linear_below=linear,
        voltage=MODEL.lowest_code,
        temperature=wire.code_of_degc(25.0),
    )
    for set_of in (None, added):
        try:
            sealed = guard.set_voltage(Volts(wanted_v), limit(v_max), channel="hv", added=set_of)
        except LimitError:
            continue
        most_v = told_v(sealed) + (
            max(added.added_v(t) for t in (-20.0, -5.3, 0.0, 12.0, 25.0, 31.0, 60.0)) if set_of else 0.0
        )
        assert most_v <= v_max + 1e-6


def test_compensation_that_could_exceed_the_limit_is_refused() -> None:
    steep = Compensation.of(voltage=Volts(55.0), at_degc=25.0, mv_per_k=54.0)
    assert steep.added_v(35.0) == pytest.approx(0.54, abs=0.005)
    assert steep.added_v(15.0) == pytest.approx(-0.54, abs=0.005)
    assert steep.most_added_v() == pytest.approx(35 * 0.054, abs=0.02)
    with pytest.raises(LimitError, match="compensation can make"):
        guard.set_voltage(Volts(56.0), limit(), channel="hv", added=steep)
    with pytest.raises(LimitError, match="compensation can make"):
        guard.store_compensation(
            Compensation.of(voltage=Volts(56.0), at_degc=25.0, mv_per_k=54.0), limit(), channel="hv"
        )
    assert guard.store_compensation(steep, limit(), channel="hv").role == "voltage"
    humped = Compensation.of(voltage=Volts(50.0), at_degc=0.0, mv_per_k=500.0, mv_per_k2=-10.0)
    assert humped.most_added_v() == pytest.approx(6.25, abs=0.05)  # highest at 25 K above, not at an end


def test_nothing_without_a_limit_and_nothing_of_another_channel() -> None:
    for bad in (None, HardLimit(channel="other", v_min=Volts(41), v_max=Volts(57), max_step_v=1, slew_v_per_s=1)):
        with pytest.raises(LimitError):
            guard.set_voltage(Volts(50.0), bad, channel="hv", added=None)
        with pytest.raises(LimitError):
            guard.store_compensation(
                Compensation.of(voltage=Volts(50.0), at_degc=25.0, mv_per_k=0.0), bad, channel="hv"
            )


def test_the_lowest_needs_no_limit_and_on_needs_the_lowest() -> None:
    for model in wire.MODELS.values():
        lowest = guard.set_lowest(model, channel="hv")
        assert model.lowest_v <= told_v(lowest) < model.lowest_v + 2 * wire.V_PER_CODE
        assert guard.switch_on(lowest, channel="hv").payloads == (b"\x02HON\x03EA\r",)
    with pytest.raises(LimitError, match="not at its lowest"):
        guard.switch_on(guard.set_voltage(Volts(41.0), limit(), channel="hv", added=None), channel="hv")


def test_nothing_may_restore_itself() -> None:
    with pytest.raises(LimitError):
        guard.set_functions(Function.AUTO_RESTORE, channel="hv")
    assert guard.set_functions(Function.VOLTAGE_CONTROL, channel="hv").payloads == (b"\x02HSC0001\x03A4\r",)


def test_settings_refuse_what_cannot_be() -> None:
    def settings(**changed: object) -> HamamatsuC11204Settings:
        given = {"name": "hv", "address": "/dev/ttyUSB0", "model": "C11204-02", "serial": "1", "limit": limit()}
        return HamamatsuC11204Settings(**{**given, **changed})  # type: ignore[arg-type]

    settings()
    for changed in (
        {"model": "C11204"},
        {"serial": None},
        {"model": "C11204-01"},
        {"address": "tcp://there:1"},
        {"address": "socket://there"},
    ):
        with pytest.raises(LocalProtocolError):
            settings(**changed)
    with pytest.raises(LimitError):
        settings(name="other")
    with pytest.raises(LimitError, match="40 to 90 V"):
        settings(limit=limit(v_max=90.5))
    with pytest.raises(LimitError, match="50 to 90 V"):
        settings(model="C11204-01", serial=None, limit=limit(v_max=49.0))
