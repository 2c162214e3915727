"""The encoder guard and the bias codec: no bytes above a hard limit, whatever is asked for."""

from __future__ import annotations

import copy
import math
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import petqc_drivers
from petqc_drivers.errors import LimitError, LocalProtocolError
from petqc_drivers.limits import HardLimit, SetOutput, Volts, guard, guard_enable, guard_lowest
from petqc_drivers.petsys.bias import (
    BIAS_32P,
    BiasChannel,
    BiasCurve,
    encode_bias,
    encode_supply_on,
)
from petqc_drivers.petsys.link import refuse_unsealed
from petqc_drivers.petsys.registers import register
from petqc_drivers.petsys.spi import SpiRequest, max111xx_transfer, module_adc, parse_ltc2668
from petqc_drivers.petsys.wire import Function, MemoryWrite

CHANNEL = BiasChannel(0, 0, 0, 17)
# Not a straight line, and not quite nominal, as real tables are.
CURVE = BiasCurve(((0x0400, 0.95), (0x3000, 11.31), (0x8000, 30.4), (0xC000, 45.4), (0xFFFF, 60.9)))
STEP_V = max(CURVE.step_v(code) for code in (0x0400, 0x3000, 0x8000, 0xC000, 0xFFFF))


def limit(v_min: float = 1.0, v_max: float = 35.0, channel: BiasChannel = CHANNEL) -> HardLimit:
    return HardLimit(channel=str(channel), v_min=Volts(v_min), v_max=Volts(v_max), max_step_v=1.0, slew_v_per_s=10.0)


def told(output: SetOutput) -> int:
    """The code that the DAC will take, read from the bytes alone."""
    return parse_ltc2668(SpiRequest.from_bytes(output.payloads[0])).code


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "30", None, 30 + 0j])
def test_volts_are_finite_numbers(value):
    with pytest.raises(LimitError):
        Volts(value)


@given(st.floats())
def test_any_float_comes_out_inside_the_limit_or_not_at_all(value):
    the_limit = limit()
    try:
        output = encode_bias(BIAS_32P, CHANNEL, Volts(value), the_limit, CURVE)
    except LimitError:
        assert not 1.0136 <= value <= 35.0
        return
    assert the_limit.v_min.value <= value <= the_limit.v_max.value
    meant = CURVE.volts_for(told(output))
    assert value - STEP_V - 1e-9 <= meant <= value + 1e-9
    assert output.commanded == Volts(meant)


@given(st.floats(0, 60), st.floats(0, 60), st.floats(-10, 80))
def test_any_limit_holds(one, other, value):
    low, high = min(one, other), max(one, other)
    if low == high:
        with pytest.raises(LimitError, match="empty"):
            limit(low, high)
        return
    try:
        output = encode_bias(BIAS_32P, CHANNEL, Volts(value), limit(low, high), CURVE)
    except LimitError:
        return
    assert low - STEP_V - 1e-9 <= CURVE.volts_for(told(output)) <= high + 1e-9
    assert low <= value <= high


def test_every_code_comes_back_from_its_voltage():
    the_limit = limit(0.0, 60.0)
    refused = 0
    for code in range(1 << 16):
        try:
            volts = Volts(CURVE.volts_for(code))
            output = encode_bias(BIAS_32P, CHANNEL, volts, the_limit, CURVE)
        except LimitError:
            refused += 1
            assert code < BIAS_32P.lowest_code or CURVE.volts_for(code) > 60.0
            continue
        assert told(output) == code
    below = BIAS_32P.lowest_code
    above = sum(1 for code in range(0xF000, 1 << 16) if CURVE.volts_for(code) > 60.0)
    assert refused == below + above


@given(st.floats(0.95, 60.9))
def test_the_curve_rounds_down_by_less_than_a_step(value):
    code = CURVE.code_for(Volts(value))
    assert CURVE.volts_for(code) <= value
    assert code == 0xFFFF or CURVE.volts_for(code + 1) > value


@pytest.mark.parametrize("value", [0.9499, 60.9001, -1.0, 1e9])
def test_the_curve_is_not_extrapolated(value):
    with pytest.raises(LimitError, match="outside the bias calibration"):
        CURVE.code_for(Volts(value))


def test_a_refusal_names_limit_request_and_channel():
    with pytest.raises(LimitError) as refused:
        encode_bias(BIAS_32P, CHANNEL, Volts(35.01), limit(), CURVE)
    assert str(refused.value) == ("bias:0.0.0.17: 35.0100 V refused: outside the hard limit 1.0000 V to 35.0000 V")
    assert refused.value.code == "limit-refused"


@pytest.mark.parametrize(
    ("the_limit", "curve", "words"),
    [
        (None, CURVE, "no hard limit is configured"),
        (limit(channel=BiasChannel(0, 0, 0, 16)), CURVE, "hard limit given is that of bias:0.0.0.16"),
        (limit(), None, "no bias calibration"),
        (limit(v_max=60.5), CURVE, "above the 60.0 V that BIAS_32P is made for"),
        (limit(), BiasCurve(((0x0400, 0.5), (0xFFFF, 30.0))), "nominal for BIAS_32P"),
        (limit(), BiasCurve(((0x0400, 95.0), (0xFFFF, 6090.0))), "has other units"),
        (limit(), BiasCurve(((0x0400, 0.95), (0x1FFFF, 120.0))), "belongs to another mezzanine"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_refused(the_limit, curve, words):
    with pytest.raises(LimitError, match=re.escape(words)):
        encode_bias(BIAS_32P, CHANNEL, Volts(30), the_limit, curve)


@pytest.mark.parametrize(
    "points",
    [
        ((0x400, 1.0),),
        ((0x400, 1.0), (0x400, 2.0)),
        ((0x400, 1.0), (0x500, 1.0)),
        ((0x500, 1.0), (0x400, 2.0)),
        ((0x400, 1.0), (0x500, math.nan)),
        ((-1, 1.0), (0x500, 2.0)),
    ],
)
def test_calibrations_that_are_none_are_refused(points):
    with pytest.raises(LimitError):
        BiasCurve(points)


@pytest.mark.parametrize("field", ["max_step_v", "slew_v_per_s"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1"])
def test_steps_and_slew_are_finite_and_above_zero(field, value):
    wrong = {"max_step_v": 1.0, "slew_v_per_s": 1.0, field: value}
    with pytest.raises(LimitError, match=field):
        HardLimit(channel="x", v_min=Volts(0), v_max=Volts(1), **wrong)


def test_a_float_is_not_a_voltage():
    with pytest.raises(LimitError, match="not in Volts"):
        encode_bias(BIAS_32P, CHANNEL, 30.0, limit(), CURVE)
    with pytest.raises(LimitError, match="v_max"):
        HardLimit(channel="x", v_min=Volts(0), v_max=30.0, max_step_v=1, slew_v_per_s=1)


@pytest.mark.parametrize("number", [-1, 32, 100])
def test_channels_that_do_not_exist_are_refused(number):
    with pytest.raises(LimitError, match=r"channels 0\.\.31"):
        encode_bias(BIAS_32P, BiasChannel(0, 0, 0, number), None, None, None)


def wrong_encoders() -> dict[str, object]:
    """An encoder that errs in one of the usual ways, over a plain 0.1 V per count in two bytes."""

    def straight(volts: Volts) -> int:
        return math.floor(volts.value * 10)

    return {
        "scale": lambda v: straight(v) * 2,
        "rounds up": lambda v: straight(v) + 1,
        "rounds up two": lambda v: straight(v) + 2,
        "sign": lambda v: 0x10000 - straight(v),
        "overflow": lambda v: straight(v) + 0x8000,
        "millivolt": lambda v: straight(v) * 1000 & 0xFFFF,
        "nothing": lambda _: 0,
    }


@pytest.mark.parametrize("kind", wrong_encoders())
def test_the_guard_sees_its_own_bytes_and_refuses_a_wrong_encoder(kind):
    code = wrong_encoders()[kind]

    def encode(volts: Volts) -> tuple[bytes, ...]:
        return (code(volts).to_bytes(3, "big")[-2:],)

    def decode(payloads: tuple[bytes, ...]) -> tuple[Volts, float]:
        return Volts(int.from_bytes(payloads[0], "big") / 10), 0.1

    with pytest.raises(LimitError, match="encoded it means"):
        guard(Volts(30.04), limit(), channel=str(CHANNEL), function=2, encode=encode, decode=decode)


def test_the_lowest_is_checked_as_well():
    with pytest.raises(LimitError, match="came out as"):
        guard_lowest(
            channel="x", function=2, lowest_code=5, encode=lambda c: (bytes((c + 1,)),), decode_code=lambda p: p[0][0]
        )
    output = encode_bias(BIAS_32P, CHANNEL, None, None, None)
    assert told(output) == 0x0445
    assert output.commanded is None


def test_messages_are_sealed():
    output = encode_bias(BIAS_32P, CHANNEL, Volts(30), limit(), CURVE)
    with pytest.raises(AttributeError):
        output.payloads = ()
    with pytest.raises(AttributeError):
        output._payloads = ()
    with pytest.raises(AttributeError):
        del output._payloads
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copier(output)
    with pytest.raises(LocalProtocolError, match="encoder guard"):
        SetOutput(seal=object(), channel="x", function=2, payloads=(b"",), commanded=None)


def test_the_supply_is_switched_on_only_over_outputs_at_their_lowest():
    lowest = [encode_bias(BIAS_32P, BiasChannel(0, 0, 0, n), None, None, None) for n in range(32)]
    assert encode_supply_on(BIAS_32P, lowest).payloads == (register("power").write(3).to_bytes(),)
    with pytest.raises(LimitError, match="31 of 32"):
        encode_supply_on(BIAS_32P, lowest[:-1])
    with pytest.raises(LimitError, match="32 of 32"):
        encode_supply_on(BIAS_32P, [*lowest[:-1], lowest[0]])
    up = encode_bias(BIAS_32P, CHANNEL, Volts(30), limit(), CURVE)
    with pytest.raises(LimitError, match="not at its lowest"):
        encode_supply_on(BIAS_32P, [*lowest[:17], up, *lowest[18:]])
    with pytest.raises(LimitError):
        guard_enable([up], n_outputs=1, channel="x", function=0, payload=b"")


def test_only_one_module_makes_messages_for_bias_dacs():
    package = Path(petqc_drivers.__file__).parent
    users = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"LTC2668_WRITE|bias_dac\(|\bguard\(|guard_lowest\(|guard_enable\(|seal=_SEAL", path.read_text())
    }
    assert users == {"bias.py", "spi.py", "limits.py"}
    source = (package / "petsys" / "bias.py").read_text()
    assert source.count("LTC2668_WRITE,") == 2, "the import and one use"
    assert source.count("bias_dac(") == 1


OUTPUT = encode_bias(BIAS_32P, CHANNEL, Volts(30), limit(), CURVE)


@pytest.mark.parametrize(
    ("function", "payload"),
    [
        (Function.SPI, OUTPUT.payloads[0]),
        (Function.SPI, OUTPUT.payloads[1]),
        (Function.SPI, b"\x81\x80\x14" + bytes(20)),
        (Function.SPI, b"\x81\xff\xef" + bytes(20)),
        (Function.I2C, b"\x00\x00\x00"),
        (Function.REGISTERS, register("power").write(3).to_bytes()),
        (Function.REGISTERS, register("power").write(2).to_bytes()),
        (Function.REGISTERS, MemoryWrite(0x0210, 8, bytes((0, 0, 0, 2, 0, 0, 0, 0))).to_bytes()),
        (Function.REGISTERS, b"\x07\x00"),
    ],
)
def test_no_link_takes_these_unsealed(function, payload):
    with pytest.raises(LocalProtocolError):
        refuse_unsealed(function, payload, device="board")


@pytest.mark.parametrize(
    ("function", "payload"),
    [
        (Function.REGISTERS, register("power").write(0).to_bytes()),
        (Function.REGISTERS, register("power").write(1).to_bytes()),
        (Function.REGISTERS, register("power").read().to_bytes()),
        (Function.REGISTERS, MemoryWrite(0x0210, 8, bytes((2, 2, 2, 1, 2, 2, 2, 2))).to_bytes()),
        (Function.SPI, max111xx_transfer(module_adc(1), 0x8064).to_bytes()),
    ],
)
def test_every_link_takes_these(function, payload):
    refuse_unsealed(function, payload, device="board")
