"""The encoder guard and the bias codec: no bytes above a hard limit, whatever is asked for."""

from __future__ import annotations

import copy
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import petqc_drivers
from petqc_drivers.errors import LimitError, LocalProtocolError
from petqc_drivers.limits import (
    HardLimit,
    SetOutput,
    UntoldOutputs,
    Volts,
    guard,
    guard_enable,
    guard_harmless,
    guard_lowest,
    guard_trim,
)
from petqc_drivers.petsys.bias import (
    BiasChannel,
    BiasCurve,
    converter_name,
    converter_volts,
    encode_bias,
    encode_converter,
    encode_supply_on,
)
from petqc_drivers.petsys.link import refuse_unsealed
from petqc_drivers.petsys.mezzanines import BIAS_16P, BIAS_32P, BIAS_32P_AG, BIAS_32P_LTC2439, BIAS_64P
from petqc_drivers.petsys.registers import register
from petqc_drivers.petsys.spi import (
    AD5535_WRITE,
    SpiRequest,
    max111xx_transfer,
    module_adc,
    parse_ad5535,
    parse_ltc2668,
    parse_max5136,
)
from petqc_drivers.petsys.wire import Function, MemoryWrite

CHANNEL = BiasChannel(0, 0, 0, 17)
# Not a straight line, and not quite nominal, as real tables are.
CURVE = BiasCurve(((0x0400, 0.95), (0x3000, 11.31), (0x8000, 30.4), (0xC000, 45.4), (0xFFFF, 60.9)))
STEP_V = max(CURVE.step_v(code) for code in (0x0400, 0x3000, 0x8000, 0xC000, 0xFFFF))


def limit(v_min: float = 1.0, v_max: float = 35.0, channel: BiasChannel = CHANNEL) -> HardLimit:
    return HardLimit(channel=str(channel), v_min=Volts(v_min), v_max=Volts(v_max), max_step_v=1.0, slew_v_per_s=10.0)


LOW_CHANNEL = BiasChannel(0, 0, 0, 5)


def told(output: SetOutput) -> int:
    """The code that the DAC will take, read from the bytes alone."""
    request = SpiRequest.from_bytes(output.payloads[0])
    return parse_ad5535(request).code if request.timing == AD5535_WRITE else parse_ltc2668(request).code


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


@pytest.mark.parametrize("kind", [BIAS_32P, BIAS_16P, BIAS_64P], ids=lambda kind: kind.name)
def test_every_code_of_every_kind_comes_back_from_its_voltage(kind):
    """The kinds of 32 outputs are one codec."""
    for other in (BIAS_32P_AG, BIAS_32P_LTC2439):
        assert replace(other, name="", has_converter=False) == replace(BIAS_32P, name="")
    top, full = (1 << kind.bits) - 1, kind.full_scale_v
    # Not a straight line, within the few percent of real tables, and up to a little more than full scale.
    curve = BiasCurve(((0, 0.01), (top // 5, 0.19 * full), (top // 2, 0.507 * full), (top, 1.014 * full)))
    the_limit = limit(0.0, full)
    refused = []
    for code in range(top + 1):
        try:
            output = encode_bias(
                kind,
                CHANNEL if kind.n_channels > 17 else LOW_CHANNEL,
                Volts(curve.volts_for(code)),
                the_limit if kind.n_channels > 17 else limit(0.0, full, LOW_CHANNEL),
                curve,
            )
        except LimitError:
            refused.append(code)
            continue
        assert told(output) == code
    above = [code for code in range(9 * top // 10, top + 1) if curve.volts_for(code) > full]
    assert refused == [*range(kind.lowest_code), *above]


def test_every_code_of_the_converter_comes_back_and_none_is_outside_its_range():
    name, limits = converter_name(0, 0, 1), [limit(1.0, 55.0)]
    codes = [code for code in range(1 << 16) if 39.5 <= converter_volts(code) <= 57.0]
    accepted = []
    for code in range(1 << 16):
        try:
            output = encode_converter(name, 1, Volts(converter_volts(code)), limits)
        except LimitError:
            continue
        accepted.append(code)
        (first, second) = (SpiRequest.from_bytes(p) for p in output.payloads)
        assert (parse_max5136(first).code, parse_max5136(second).code) == (code, code)
    assert accepted == codes
    assert codes == list(range(codes[0], codes[-1] + 1))
    assert converter_volts(codes[0]) == pytest.approx(57.0, abs=3e-4)
    assert converter_volts(codes[-1]) == pytest.approx(39.5, abs=3e-4)


@pytest.mark.parametrize("volts", [39.5, 41.0, 48.25, 57.0])
def test_the_converter_is_told_what_the_makers_formula_says_and_never_more(volts):
    makers = int(65536 / 5 * (2.495 - 27000 * ((volts - 2.495) / 100000 - 2.495 / 5431)))
    output = encode_converter("c", 0, Volts(volts), [limit(1.0, 55.0)])
    code = parse_max5136(SpiRequest.from_bytes(output.payloads[0])).code
    assert code - makers in {0, 1}, "a higher code is a lower voltage"
    assert converter_volts(code) <= volts < converter_volts(code - 1)


@pytest.mark.parametrize(
    ("volts", "limits", "words"),
    [
        (57.01, [(1.0, 59.0)], "outside the hard limit 39.5000 V to 57.0000 V"),
        (39.4, [(1.0, 59.0)], "outside the hard limit 39.5000 V"),
        (45.1, [(1.0, 43.0), (1.0, 30.0)], "39.5000 V to 45.0000 V"),
        (40.0, [(1.0, 35.0)], "no output it feeds may go that high"),
        (40.0, [], "no output it feeds may go that high"),
    ],
)
def test_the_converter_gives_no_more_than_its_highest_output_may_need(volts, limits, words):
    with pytest.raises(LimitError, match=re.escape(words)):
        encode_converter("c", 0, Volts(volts), [limit(*one) for one in limits])
    assert encode_converter("c", 0, Volts(39.5), []).role == "lowest"


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
    assert encode_supply_on(32, lowest).payloads == (register("power").write(3).to_bytes(),)
    with pytest.raises(LimitError, match="31 of 32"):
        encode_supply_on(32, lowest[:-1])
    with pytest.raises(LimitError, match="32 of 32"):
        encode_supply_on(32, [*lowest[:-1], lowest[0]])
    up = encode_bias(BIAS_32P, CHANNEL, Volts(30), limit(), CURVE)
    with pytest.raises(LimitError, match="not at its lowest"):
        encode_supply_on(32, [*lowest[:17], up, *lowest[18:]])
    with pytest.raises(LimitError):
        guard_enable([up], n_outputs=1, channel="x", function=0, payload=b"")


@pytest.mark.parametrize(
    ("starts_with", "limits", "words"),
    [
        (None, [limit()], "nothing says what they start with"),
        (0.5, [limit()], "nothing says what they start with"),
        (Volts(0.5), [], "no output has a hard limit"),
        (Volts(35.1), [limit()], "outputs start with up to 35.1000 V, the hard limit of bias:0.0.0.17 is 35.0000 V"),
        (Volts(20), [limit(v_max=60), limit(v_max=19.9, channel=LOW_CHANNEL)], "the hard limit of bias:0.0.0.5"),
    ],
)
def test_outputs_that_hear_nothing_before_are_switched_on_only_over_a_known_start(starts_with, limits, words):
    untold = UntoldOutputs(name="slot 0", highest=starts_with, limits=limits)
    with pytest.raises(LimitError, match=re.escape(words)):
        encode_supply_on(0, [], [untold])
    right = UntoldOutputs(name="slot 0", highest=Volts(35), limits=[limit()])
    assert encode_supply_on(0, [], [right]).role == "enable"


def test_messages_that_only_look_or_trim_do_not_count_as_outputs_at_their_lowest():
    look = guard_harmless(b"", channel="a", function=3, is_harmless=lambda _: True)
    trim = guard_trim(
        -3,
        lowest=-3,
        highest=5,
        channel="b",
        function=3,
        encode=lambda c: (bytes((c & 0xFF,)),),
        decode_code=lambda p: p[0][0] - 256,
    )
    for output in (look, trim, encode_supply_on(0, [])):
        with pytest.raises(LimitError, match="not at its lowest"):
            encode_supply_on(1, [output])


@pytest.mark.parametrize("code", [-4, 6, 1.0, True, None])
def test_trims_outside_their_range_are_refused(code):
    with pytest.raises(LimitError, match="outside -3 to 5"):
        guard_trim(
            code, lowest=-3, highest=5, channel="b", function=3, encode=lambda _: (b"",), decode_code=lambda _: code
        )


def test_a_trim_that_comes_out_as_another_and_a_look_that_is_none_are_refused():
    with pytest.raises(LimitError, match="encoded it means 5"):
        guard_trim(4, lowest=-3, highest=5, channel="b", function=3, encode=lambda _: (b"",), decode_code=lambda _: 5)
    with pytest.raises(LimitError, match="would change an output"):
        guard_harmless(b"", channel="a", function=3, is_harmless=lambda _: False)


def test_channel_32_of_64_is_the_first_output_of_the_second_dac():
    for number, spi_id, output in ((0, 0x8110, 0), (31, 0x8110, 31), (32, 0x8111, 0), (63, 0x8111, 31)):
        request = SpiRequest.from_bytes(
            encode_bias(BIAS_64P, BiasChannel(0, 0, 1, number), None, None, None).payloads[0]
        )
        assert (request.spi_id, parse_ad5535(request).channel, parse_ad5535(request).code) == (spi_id, output, 82)


def test_only_one_module_makes_messages_for_bias_dacs():
    package = Path(petqc_drivers.__file__).parent
    users = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(
            r"2668_WRITE|5535_WRITE|5136_WRITE|bias_dac\(|_dac\(|\bguard\(|guard_lowest\(|guard_enable\(|seal=_SEAL",
            path.read_text(),
        )
    }
    supplies = {"hamamatsu_c11204/guard.py", "keithley_smu/guard.py", "caen_a7585d.py"}
    assert users == {"petsys/bias.py", "petsys/spi.py", "limits.py", *supplies}, "one file a device"
    source = (package / "petsys" / "bias.py").read_text()
    for timing in ("LTC2668_WRITE", "AD5535_WRITE", "MAX5136_WRITE"):
        assert source.count(f"{timing},") == 2, "the import and one use"
    assert source.count("bias_dac(") == source.count("bias_converter_dac(") == 1


def test_only_one_module_makes_messages_for_the_supplies_of_modules():
    package = Path(petqc_drivers.__file__).parent
    words = re.compile(r"guard_trim\(|guard_harmless\(|i2c_write\(|i2c_read_register\(|Function\.I2C")
    users = {path.name for path in package.joinpath("petsys").rglob("*.py") if words.search(path.read_text())}
    assert users == {"power_8k.py", "i2c.py", "link.py"}
    assert package.joinpath("petsys", "link.py").read_text().count("Function.I2C") == 1, "to refuse it"


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
