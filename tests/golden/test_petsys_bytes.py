"""Our codec against bytes that were written down from the interface reference, encode and decode."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petqc_drivers.errors import LocalProtocolError
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys import (
    bias,
    bias_prom,
    counters,
    frames,
    hardware_trigger,
    i2c,
    link,
    mezzanines,
    module_eeprom,
    power_8k,
    registers,
    sensors,
    spi,
    test_pulse,
    tmp104,
    wire,
)
from petqc_drivers.petsys.asic import AsicConfiguration, AsicVersion, fields, version_of
from petqc_drivers.petsys.board import Board

GOLDEN: dict[str, Any] = tomllib.loads((Path(__file__).parent / "petsys.toml").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def vectors(name: str) -> Any:
    return pytest.mark.parametrize("v", GOLDEN[name], ids=lambda v: v["section"][:50])


def test_handshake():
    assert raw(GOLDEN["handshake"]["hex"]) == wire.HANDSHAKE


@vectors("command")
def test_command(v):
    command = wire.Command(v["serial"], v["function"], raw(v["payload"]))
    assert command.to_bytes() == raw(v["hex"])
    assert wire.Command.from_bytes(raw(v["hex"])) == command


@vectors("reply")
def test_reply(v):
    reply = wire.Reply(v["serial"], v["function"], raw(v["payload"]))
    assert reply.to_bytes() == raw(v["hex"])
    assert wire.Reply.from_bytes(raw(v["hex"])) == reply
    assert reply.short_serial == v["serial"]


@vectors("memory_read")
def test_memory_read(v):
    access = wire.MemoryRead(v["address"], v["count"])
    assert access.to_bytes() == raw(v["hex"])
    assert wire.parse_memory_access(raw(v["hex"]), word_bytes=4) == access


@vectors("memory_write")
def test_register_write(v):
    found = registers.register(v["register"])
    assert found.write(v["value"]).to_bytes() == raw(v["hex"])
    access = wire.parse_memory_access(raw(v["hex"]))
    assert isinstance(access, wire.MemoryWrite)
    assert (access.address, found.decode(access.data)) == (found.address, v["value"])
    wire.check_memory_write_reply(b"\x00")


@vectors("register_read")
def test_register_read(v):
    found = registers.register(v["register"])
    assert found.read().to_bytes() == raw(v["request"])
    data = wire.parse_memory_read_reply(raw(v["answer"]), found.n_bytes)
    assert found.decode(data) == v["value"]
    assert wire.memory_read_reply(data) == raw(v["answer"])


@vectors("asic")
def test_asic_command(v):
    address = wire.asic_address(v["chip"], v["asics_per_module"])
    value = int(v["value"], 16) if "value" in v else None
    command = wire.AsicCommand(address, v.get("channel"), value)
    assert command.to_bytes() == raw(v["hex"])
    assert wire.AsicCommand.from_bytes(raw(v["hex"])) == command


def test_asic_write_without_the_vendors_padding_is_read_too():
    for v in GOLDEN["asic"]:
        if "value" in v:
            whole = raw(v["hex"])
            bare = whole[: 4 + (whole[2] + 7) // 8]
            assert len(bare) < len(whole)
            assert wire.AsicCommand.from_bytes(bare) == wire.AsicCommand.from_bytes(whole)


@vectors("asic_reply")
def test_asic_reply(v):
    value = int(v["value"], 16) if "value" in v else None
    assert wire.parse_asic_reply(raw(v["hex"]), v["bits"]) == (v["status"], value)
    assert wire.asic_reply(v["status"], value=value, n_bits=v["bits"]) == raw(v["hex"])


@pytest.mark.parametrize("version", list(AsicVersion))
def test_power_on_strings_are_the_tables_reset_values(version):
    golden = GOLDEN["power_on"]
    value = int(golden[f"global_{version.value}"], 16)
    assert AsicConfiguration.power_on("global", version).value == value
    assert version_of(value) is version
    expected = golden["reset_global"] | golden[f"reset_global_{version.value}"]
    assert AsicConfiguration("global", version, value).as_dict() == expected
    channel = int(golden["channel"], 16) >> 3
    assert AsicConfiguration("channel", version, channel).as_dict() == golden["reset_channel"]
    assert AsicConfiguration.power_on("channel", version).value == channel


@pytest.mark.parametrize("version", list(AsicVersion))
def test_what_is_uploaded_differs_from_power_on_as_the_tables_say(version):
    column = 0 if version is AsicVersion.V2B else 1
    for block, key in (("global", "reset_global"), ("channel", "reset_channel")):
        expected = dict(GOLDEN["power_on"][key])
        if block == "global":
            expected |= GOLDEN["power_on"][f"reset_global_{version.value}"]
        expected |= {name: both[column] for name, both in GOLDEN["uploaded"][block].items()}
        assert AsicConfiguration.default(block, version).as_dict() == expected


@vectors("field_bits")
def test_field_bits(v):
    version = AsicVersion(v["version"])
    empty = AsicConfiguration(v["block"], version, 0)
    found = empty.replace({v["field"]: v["value"]})
    assert found.value == 1 << v["bit_weight"]
    assert found[v["field"]] == v["value"]


@pytest.mark.parametrize("version", list(AsicVersion))
@pytest.mark.parametrize("block", ["global", "channel"])
def test_no_bit_belongs_to_two_fields(block, version):
    bits = [bit for field in fields(block, version).values() for bit in field.bits]
    assert len(bits) == len(set(bits))
    free = set(range(184 if block == "global" else 125)) - set(bits)
    expected = {16, 17, 177} if block == "global" else {112, 113, 114}
    if version is AsicVersion.V2B and block == "global":
        expected |= {175, 176}
    if version is AsicVersion.V2C and block == "channel":
        expected -= {112}
    assert free == expected


@vectors("spi")
def test_spi(v):
    if v["device"] == "m95256":
        request = spi.m95256_read(v["spi_id"], v["address"])
    elif v["device"] == "max111xx":
        request = spi.max111xx_transfer(v["spi_id"], v["word"])
    else:
        request = spi.m95080_transfer(v["spi_id"], raw(v["command"]), v["back"])
    assert request.to_bytes() == raw(v["hex"])
    assert spi.SpiRequest.from_bytes(raw(v["hex"])) == request
    assert spi.parse_spi_reply(raw(v["answer"]), request.n_sampled) == v["value"]
    assert spi.spi_reply(v["value"], request.n_sampled) == raw(v["answer"])


@vectors("bias")
def test_bias(v):
    channel = bias.BiasChannel(0, 0, v["slot"], v["channel"])
    expected = (raw(v["hex"]), raw(v["echo"]))
    if v["code"] == mezzanines.BIAS_32P.lowest_code:
        assert bias.encode_bias(mezzanines.BIAS_32P, channel, None, None, None).payloads == expected
    else:
        # 60 V / 65536 per code exactly: every voltage of this table is a dyadic fraction of 60.
        curve = bias.BiasCurve(((0, 0.0), (0xFFFF, 0xFFFF * 60 / 65536)))
        limit = HardLimit(channel=str(channel), v_min=Volts(0), v_max=Volts(60), max_step_v=1, slew_v_per_s=1)
        volts = Volts(v["code"] * 60 / 65536)
        assert bias.encode_bias(mezzanines.BIAS_32P, channel, volts, limit, curve).payloads == expected
    word = spi.parse_ltc2668(spi.SpiRequest.from_bytes(raw(v["hex"])))
    assert (word.is_update, word.channel, word.code) == (True, v["channel"] % 16, v["code"])
    assert not spi.parse_ltc2668(spi.SpiRequest.from_bytes(raw(v["echo"]))).is_update


@vectors("bias_echo")
def test_bias_echo(v):
    channel = bias.BiasChannel(0, 0, 0, 16 + (v["command"] & 0x0F))
    curve = bias.BiasCurve(((0, 0.0), (0xFFFF, 0xFFFF * 60 / 65536)))
    limit = HardLimit(channel=str(channel), v_min=Volts(0), v_max=Volts(60), max_step_v=1, slew_v_per_s=1)
    output = bias.encode_bias(mezzanines.BIAS_32P, channel, Volts((v["code"] + 0.5) * 60 / 65536), limit, curve)
    replies = [spi.spi_reply(0, 24), spi.spi_reply(v["echo"], 24)]
    assert (bias.check_echo(output, replies) is bias.Shown.TAKEN) is v["matches"]


@vectors("prom")
def test_prom(v):
    assert mezzanines.mezzanine_name(0xD, raw(v["magic"])) == v["kind"]
    assert mezzanines.interface_nibble(0xFFFD, 0) == 0xD
    assert mezzanines.interface_nibble(0xFFFD, 1) == 0xF


@vectors("frame")
def test_frames(v):
    datagram = raw(v["hex"])
    words, scan = frames.parse_data_datagram(datagram)
    assert scan.reason is None
    assert scan.n_dropped == 0
    assert frames.frame_ids(words, scan.starts).tolist() == v["ids"]
    assert frames.frame_event_counts(words, scan.starts).tolist() == v["counts"]
    assert frames.frame_lost_mask(words, scan.starts).tolist() == v["lost"]
    packed = frames.pack_frames(
        np.array(v["ids"]),
        np.array(v["counts"]),
        np.array([int(e, 16) for e in v["events"]], dtype=np.uint64),
        np.array(v["lost"]),
    )
    assert frames.data_datagram(packed) == datagram


@vectors("event")
def test_event(v):
    word = np.array([int(v["word"], 16)], dtype=np.uint64)
    events = frames.unpack_events(word)
    for name in frames.Events._fields:
        assert getattr(events, name).tolist() == [v[name]], name
    assert frames.pack_events(events).tolist() == word.tolist()


def test_channel_number():
    assert frames.channel_number(0, 0, 4, 1) == 0x101
    assert frames.channel_number(31, 31, 63, 63) == 0x3FFFFF


@vectors("board")
def test_board(v):
    kind = registers.board_kind(v["base_pcb"], v["firmware_variant"])
    assert (kind.is_febd, kind.is_trigger) == (v["febd"], v["trigger"])
    assert (kind.modules, kind.asics_per_module) == (v["modules"], v["asics_per_module"])
    assert kind.bias_slots == v["bias_slots"]


@vectors("temperature")
def test_temperature(v):
    assert sensors.degc(v["sensor"], v["millivolt"]) == pytest.approx(v["degc"], abs=1e-6)


def test_adc_code():
    assert sensors.millivolt(4096) == pytest.approx(2500.0)
    assert spi.max111xx_code(0x5ABC, 5) == 0xABC
    assert spi.max111xx_channel_word(5) == 0x0AA6


@vectors("test_pulse")
def test_pulse_word(v):
    pulse = test_pulse.TestPulse(v["length_clk"], v["interval_clk"], v["phase_clk"], v["inverted"])
    assert registers.register("test_pulse").write(pulse.to_word()).to_bytes() == raw(v["hex"])
    assert test_pulse.TestPulse.from_word(pulse.to_word()) == pulse


class _Scripted:
    """A board that answers what the vector says and keeps what it was sent."""

    name, epoch, last_good_s = "scripted", 0, None

    def __init__(self, v: Any) -> None:
        self.v, self.sent = v, []

    async def exchange(self, function, payload, **_how):
        self.sent.append((int(function), payload))
        if function == wire.Function.REGISTERS:
            return b"\x00"
        middle = (self.v["tag"] << 24).to_bytes(4, "little") * 62
        return b"\x00" + raw(self.v["first"]) + middle + raw(self.v["last"]) + b"\x00"


@vectors("channel_counters")
def test_channel_counters(v):
    link = _Scripted(v)

    async def read() -> counters.CounterReading:
        board = Board(link)  # type: ignore[arg-type]
        await counters.tag_channel_counters(board, v["tag"])
        return await counters.collect_channel_counters(board, [v["chip"]], v["tag"])

    reading = asyncio.run(read())
    assert link.sent == [(0, raw(v["tag_write"])), (5, raw(v["request"]))]
    found = reading.counts[v["chip"]]
    assert (found[0], found[1], found[63], found.size) == (1, 0, 0xFFFFFF, 64)


def _straight(kind: mezzanines.BiasKind) -> bias.BiasCurve:
    top = (1 << kind.bits) - 1
    return bias.BiasCurve(((0, 0.0), (top, kind.nominal_volts(top))))


@vectors("bias_of_kind")
def test_bias_of_every_kind(v):
    kind, channel = mezzanines.KINDS[v["kind"]], bias.BiasChannel(0, 0, v["slot"], v["channel"])
    expected = tuple(raw(v[name]) for name in ("hex", "echo") if name in v)
    limit = HardLimit(
        channel=str(channel), v_min=Volts(0), v_max=Volts(kind.full_scale_v), max_step_v=1, slew_v_per_s=1
    )
    volts = Volts(kind.nominal_volts(v["code"]))
    assert bias.encode_bias(kind, channel, volts, limit, _straight(kind)).payloads == expected
    if v["code"] == kind.lowest_code:
        assert bias.encode_bias(kind, channel, None, None, None).payloads == expected
    request = spi.SpiRequest.from_bytes(expected[0])
    assert request.to_bytes() == expected[0]
    if v["kind"] == "BIAS_64P":
        assert spi.parse_ad5535(request) == spi.Ad5535Word(v["channel"] % 32, v["code"])
    else:
        word = spi.parse_ltc2668(request)
        assert (word.is_update, word.channel, word.code) == (True, v["channel"] % 16, v["code"])


@vectors("bias_converter")
def test_bias_converter(v):
    name = bias.converter_name(0, 0, v["slot"])
    limit = HardLimit(channel="x", v_min=Volts(0), v_max=Volts(55), max_step_v=1, slew_v_per_s=1)
    assert bias.converter_volts(v["code"]) == pytest.approx(v["volts"], abs=2e-6)
    for volts in (bias.converter_volts(v["code"]), v["volts"] + 1e-4):
        assert bias.encode_converter(name, v["slot"], Volts(volts), [limit]).payloads == tuple(raw(h) for h in v["hex"])
    for output, text in enumerate(v["hex"]):
        word = spi.parse_max5136(spi.SpiRequest.from_bytes(raw(text)))
        assert word == spi.Max5136Word(0x30 | 1 << output, v["code"])


@vectors("bias_prom")
def test_calibration_in_a_prom(v):
    channels, points = len(v["volts"]), len(v["codes"])
    data = raw(v["calibration"])
    assert data[:16] == channels.to_bytes(8, "little") + points.to_bytes(8, "little")
    assert mezzanines.KINDS[mezzanines.PROM_MAGIC[raw(v["magic"])]].prom_layout_at == v["calibration_at"] - 0x10
    assert bias_prom.parse_calibration(data[16:], channels, points) == {
        channel: list(zip(v["codes"], volts, strict=True)) for channel, volts in enumerate(v["volts"])
    }


class _Prom:
    """A link that answers PROM reads from some bytes."""

    name, epoch, last_good_s = "prom", 0, None

    def __init__(self, memory: bytes) -> None:
        self.memory = memory

    async def exchange(self, function, payload, **_how):
        assert function == wire.Function.SPI
        address = payload[24] << 8 | payload[25]
        return b"\x00" + self.memory[address : address + 2] + b"\x00"


@vectors("old_bias_prom")
def test_calibration_in_a_prom_of_the_older_layout(v):
    memory = raw(v["begin"]) + raw(v["counts"]) + raw(v["codes"]) + 16 * raw(v["volts"])
    link = _Prom(memory)
    found = asyncio.run(bias_prom.read_calibration(Board(link), 0, mezzanines.BIAS_16P))  # type: ignore[arg-type]
    assert found == {channel: bias.BiasCurve(((874, 25.0), (32768, 50.0))) for channel in range(16)}


@vectors("supply_good")
def test_supply_good(v):
    request = spi.supply_good_read()
    assert request.to_bytes() == raw(v["hex"])

    class Link:
        name, epoch, last_good_s = "board", 0, None

        async def exchange(self, function, payload, **_how):
            assert (function, payload) == (wire.Function.SPI, raw(v["hex"]))
            return raw(v["answer"])

    found = asyncio.run(power_8k.read_good(Board(Link())))  # type: ignore[arg-type]
    assert [list(found[bus]) for bus in (1, 2, 3, 4)] == v["good"]


@vectors("refused_spi")
def test_devices_that_nothing_is_sent_to(v):
    timing = spi.Timing(0x80, 48, (16, 32), (15, 33), (0, 48), (16, 32))
    payload = spi.SpiRequest(v["spi_id"], timing, bytes(6)).to_bytes()
    with pytest.raises(LocalProtocolError):
        link.refuse_unsealed(wire.Function.SPI, payload, device="board")


@vectors("i2c")
def test_i2c(v):
    if "read" in v:
        transfer = i2c.i2c_read_register(v["bus"], *v["read"])
    else:
        transfer = i2c.i2c_write(v["bus"], *v["bytes"], hold_first=v.get("hold_first", False))
        assert i2c.spoken(raw(v["hex"])) == (v["bus"], (tuple(v["bytes"]),))
    assert transfer.to_bytes() == raw(v["hex"])
    if "answer" in v:
        result = i2c.parse_i2c_reply(transfer, raw(v["answer"]))
        assert result == i2c.I2cResult(False, v["acknowledged"], v.get("value"))


@vectors("i2c_error")
def test_i2c_error(v):
    transfer = i2c.i2c_write(v["bus"], *v["bytes"], hold_first=v["hold_first"])
    assert i2c.parse_i2c_reply(transfer, raw(v["answer"])).is_bus_error


def test_trims():
    golden = GOLDEN["trims"]
    for variant, rails in power_8k.TRIMS.items():
        assert {name: [trim.lowest, trim.highest] for name, trim in rails.items()} == golden[variant]
    assert {rail.name: rail.target_v for rail in power_8k.RAILS} == golden["targets_v"]
    assert {rail.name: rail.step for rail in power_8k.RAILS} == golden["steps"]


@vectors("tmp104")
def test_tmp104(v):
    made = [tmp104.ENUMERATE, tmp104.SET_UP, tmp104.convert_command(2), tmp104.read_command(2)]
    assert raw(v["request"]) in made
    if "n" in v:
        assert tmp104.parse_enumeration(raw(v["reply"])) == v["n"]
    if "degc" in v:
        assert tmp104.parse_temperatures(raw(v["reply"]), len(v["degc"])) == v["degc"]


def _words(found: tuple[module_eeprom.Sensor, ...]) -> list[str]:
    return [f"{s.channel} {s.place} {s.number} {s.kind or '-'}" for s in found]


@vectors("module_eeprom")
def test_module_eeprom(v):
    fields = {name: raw(v[name]) for name in ("header", "type", "date", "serial", "checksum")}
    found = module_eeprom.parse_eeprom(fields | {"sensors": raw(v["sensors"]).ljust(96, b"\xff")})
    assert _words(found.sensors) == v["found"]
    assert (found.serial, found.programmed_on) == (int(v["serial"], 16), v["programmed_on"])


@vectors("sensors")
def test_sensor_sets(v):
    for module in v["modules"]:
        assert _words(sensors.sensors_of(module)) == v["found"]


@vectors("trigger_calibration")
def test_trigger_calibration(v):
    calibration = hardware_trigger.EnergyCalibration(*v["coefficients"])
    access = hardware_trigger.calibration_write(*v["place"], calibration)
    assert access.to_bytes() == raw(v["write"])
    assert wire.parse_memory_access(raw(v["write"]), word_bytes=5) == access
    assert any(m["function"] == 7 and raw(m["write"]) == raw(v["write"]) for m in GOLDEN["trigger_memory"])


@vectors("trigger_rows")
def test_trigger_rows(v):
    row = hardware_trigger.region_rows(v["regions"], v["pairs"])[v["region"]]
    assert hardware_trigger.region_write(v["region"], row).to_bytes() == raw(v["write"])


@vectors("trigger_settings")
def test_trigger_settings(v):
    settings = hardware_trigger.TriggerSettings()
    for which, made in (("febd", settings.febd_registers()), ("trigger", settings.trigger_unit_registers())):
        assert [registers.register(n).write(value).to_bytes() for n, value in made.items()] == [
            raw(h) for h in v[which]
        ]
    switch = registers.register("hardware_trigger")
    assert switch.write(hardware_trigger.ENABLE_FEBD).to_bytes() == raw(v["on_febd"])
    assert switch.write(hardware_trigger.ENABLE_TRIGGER_UNIT).to_bytes() == raw(v["on_trigger"])
