"""Every kind of bias mezzanine: on, up, down and off, against a board of a few lines written from the reference."""

from __future__ import annotations

import asyncio
import itertools
import struct
from typing import Any

import pytest

from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import (
    DeviceFaultError,
    DriverError,
    LimitError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.bias_prom import identify_mezzanines
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.link import CommandGate
from petqc_drivers.petsys.mezzanines import KINDS
from petqc_drivers.petsys.settings import BiasSettings
from petqc_drivers.petsys.supply import BiasSupply

SHAPE = {"BIAS_64P": (64, 200.0, 14), "BIAS_16P": (16, 75.0, 16)}
"""Outputs, full scale and bits where they are not 32, 60 V and 16."""
MAGIC = {
    "BIAS_32P": bytes.fromhex("2743d49c284147e2bba2ff81d06012d3"),
    "BIAS_32P_AG": bytes.fromhex("3653774872365577685357496b764a50"),
    "BIAS_32P_LTC2439": bytes.fromhex("2b0c37c0a1a549e3ae22f37c7bae4519"),
    "BIAS_16P": b"PETSYS  \x01\x00\x00\x00\x00\x00\x00\x00",
}


def shape(name: str) -> tuple[int, float, int]:
    return SHAPE.get(name, (32, 60.0, 16))


def points(name: str, gain: float = 1.01) -> list[tuple[int, float]]:
    _, full, bits = shape(name)
    return [(code, gain * full * code / (1 << bits)) for code in (0, (1 << bits) // 3, (1 << bits) - 1)]


def prom(name: str, gain: float = 1.01) -> bytes:
    """4.9: magic; channels and points at 0x10, codes at 0x20, voltages behind them; 4 bytes later on kinds of 32."""
    n, _, _ = shape(name)
    table = points(name, gain)
    body = struct.pack("<QQ", n, len(table)) + struct.pack(f"<{len(table)}H", *(code for code, _ in table))
    body += struct.pack(f"<{len(table)}I", *(round(v / 100 * 2**32) for _, v in table)) * n
    return MAGIC[name].ljust(0x10 if name == "BIAS_16P" else 0x14, b"\0") + body


class Model(CommandGate):
    """Link and board in one: mezzanines in two slots, and what they did.

    An output of a BIAS_16P hears nothing without the supply and starts at `starts` V when it is switched on.
    """

    name = "board"
    last_good_s = None

    def __init__(self, *names: str, starts: float = 0.0) -> None:
        self.names, self.starts = names, starts
        self.memory = {"power": 1}
        self.codes: dict[tuple[int, int], int] = {}
        self.shift: dict[int, int] = {}
        self.prom = {slot: prom(name) for slot, name in enumerate(names) if name in MAGIC}
        self.converter: dict[tuple[int, int], int] = {}
        self.log: list[tuple[str, Any]] = []
        self.fail: Any = lambda *_: False
        self.deaf = False

    async def open_without_greeting(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def overtake(self) -> None:
        self._epoch += 1

    @property
    def is_on(self) -> bool:
        return bool(self.memory["power"] & 2)

    def volts(self, slot: int) -> list[float]:
        """What is at the outputs of a slot."""
        n, full, bits = shape(self.names[slot])
        return [1.01 * full * self.codes.get((slot, i), 0) / (1 << bits) if self.is_on else 0.0 for i in range(n)]

    async def _exchange(self, function: int, payload: bytes, what: str, *_: Any) -> bytes:
        await asyncio.sleep(0)
        if self.fail(function, payload):
            raise ReplyTimeoutError(f"{what}: no answer", device=self.name)
        if function == 0:
            return self._registers(payload)
        assert function == 2
        return self._spi(payload[1] << 8 | payload[2], payload)

    def _registers(self, payload: bytes) -> bytes:
        address = int.from_bytes(payload[3:5], "little")
        if address == 0x0030:
            nibbles = {"BIAS_64P": 0xF, "BIAS_16P": 0xE, "strange": 0x3}
            value = sum(nibbles.get(name, 0xD) << 4 * slot for slot, name in enumerate(self.names))
            return b"\0" + value.to_bytes(2, "little") + b"\0"
        assert address == 0x0213
        if payload[0] == 0:
            return bytes((0, self.memory["power"], 0))
        was_on = self.is_on
        self.memory["power"] = payload[5]
        self.log.append(("power", payload[5]))
        for slot, name in enumerate(self.names):
            if name == "BIAS_16P" and self.is_on and not was_on:
                self.codes |= {(slot, i): round(self.starts / 1.01 / 75 * 65536) for i in range(16)}
        return b"\0"

    def _spi(self, spi_id: int, payload: bytes) -> bytes:
        slot, low, mosi = spi_id >> 8 & 0xF, spi_id & 0xFF, payload[21:]
        n_back = (int.from_bytes(payload[19:21], "little") - int.from_bytes(payload[17:19], "little") + 7) // 8
        name = self.names[slot]
        if low == 0:
            address = mosi[3] << 8 | mosi[4]
            return b"\0" + self.prom.get(slot, b"").ljust(0x8000, b"\xff")[address : address + 2] + b"\0"
        if low == 0x14:
            assert name == "BIAS_32P_AG"
            assert payload[0] == 0xC1
            for output in range(2):
                if mosi[1] == 0x30 | 1 << output:
                    self.converter[slot, output] = mosi[2] << 8 | mosi[3]
                    self.log.append(("converter", mosi[2] << 8 | mosi[3]))
            return b"\0" + b"\xff" * n_back + b"\0"
        if name == "BIAS_64P":
            word = int.from_bytes(mosi[2:5], "big") >> 5
            self._set(slot, 32 * (low - 0x10) + (word >> 14), word & 0x3FFF)
            return b"\0" * (n_back + 2)
        if name == "BIAS_16P" and not self.is_on:
            return b"\0" + b"\xff" * n_back + b"\0"
        out = self.shift.get(spi_id, 0) >> 8
        self.shift[spi_id] = (self.shift.get(spi_id, 0) << 24 | int.from_bytes(mosi[2:5], "big")) & 0xFFFFFFFF
        if mosi[2] >> 4 == 3 and not self.deaf:
            self._set(slot, 16 * (low - 0x10) + (mosi[2] & 15), mosi[3] << 8 | mosi[4])
        return b"\0" + (0 if self.deaf else out).to_bytes(3, "big") + b"\0"

    def _set(self, slot: int, channel: int, code: int) -> None:
        self.codes[slot, channel] = code
        self.log.append(("dac", (slot, channel, code)))


def settings(names: tuple[str, ...], v_max: float = 55.0, gain: float = 1.01) -> dict[BiasChannel, BiasSettings]:
    found = {}
    for slot, name in enumerate(names):
        for i in range(shape(name)[0]):
            channel = BiasChannel(0, 0, slot, i)
            limit = HardLimit(
                channel=str(channel), v_min=Volts(0), v_max=Volts(v_max), max_step_v=9.0, slew_v_per_s=1e5
            )
            found[channel] = BiasSettings(limit, BiasCurve(tuple(points(name, gain))))
    return found


async def supply(model: Model, **how: Any) -> BiasSupply:
    given = how.pop("settings", None)
    found = BiasSupply(
        model,  # type: ignore[arg-type]
        lambda: model,  # type: ignore[arg-type,return-value]
        settings(model.names) if given is None else given,
        address=(0, 0),
        settle_s=0.0,
        **how,
    )
    board = Board(model)  # type: ignore[arg-type]
    found.identified(await identify_mezzanines(board, len(model.names)))
    await found.observe(board)
    found.modules_powered()
    return found


def targets(model: Model, volts: float) -> dict[BiasChannel, Volts]:
    return {
        BiasChannel(0, 0, slot, i): Volts(volts) for slot, name in enumerate(model.names) for i in range(shape(name)[0])
    }


@pytest.mark.parametrize("names", [*((name,) for name in KINDS), ("BIAS_32P", "BIAS_64P"), ("BIAS_32P_AG", "BIAS_16P")])
def test_every_kind_comes_up_from_its_lowest_and_goes_off(names):
    async def main() -> None:
        model = Model(*names, starts=0.7)
        bias = await supply(model, starts_with={slot: Volts(0.8) for slot in range(2)})
        await bias.turn_on(targets(model, 30.0))
        assert bias.state is OutputState.ON
        on_at = model.log.index(("power", 3))
        for slot, name in enumerate(names):
            n, full, bits = shape(name)
            lowest = KINDS[name].lowest_code
            assert 0 <= lowest * full / (1 << bits) - 1.0 < full / (1 << bits), "the first code of at least 1 V"
            sets = [(at, *what) for at, (kind, what) in enumerate(model.log) if kind == "dac" and what[0] == slot]
            for channel in range(n):
                mine = [(at, code) for at, _, number, code in sets if number == channel]
                steps = [code * full / (1 << bits) * 1.01 for _, code in mine]
                assert mine[0][1] == lowest
                assert (mine[0][0] < on_at) is (name != "BIAS_16P")
                assert all(b - a <= 9.001 for a, b in itertools.pairwise(steps))
            assert model.volts(slot) == pytest.approx([30.0] * n, abs=full / (1 << bits) * 1.02)
            assert all(volts <= 30.0 for volts in model.volts(slot))
        for reading in bias.readings():
            is_shown = names[int(reading.node.split(".")[2])] != "BIAS_64P" and "converter" not in reading.name
            assert reading.measured is False
            assert (reading.quality is Quality.GOOD) is is_shown
            assert is_shown or "does not show" in (reading.reason or "")
        report = await bias.turn_off()
        assert report.state is OutputState.OFF
        assert not report.failures
        assert report.set_points_lowered == sum(shape(name)[0] for name in names)
        assert {code for (slot, _), code in model.codes.items() if names[slot] != "BIAS_16P"} <= {1093, 82}
        assert all(reading.value is None for reading in bias.readings())

    asyncio.run(main())


def test_a_mezzanine_that_hears_nothing_before_needs_a_statement_of_how_it_starts():
    async def main() -> None:
        model = Model("BIAS_16P")
        for starts_with, words in (({}, "nothing says what they start with"), ({0: Volts(56)}, "start with up to 56")):
            bias = await supply(model, starts_with=starts_with)
            with pytest.raises(LimitError, match=words):
                await bias.turn_on(targets(model, 30.0))
            assert model.log == [], "nothing was sent"

    asyncio.run(main())


def test_such_a_mezzanine_is_lowered_right_after_on_and_before_off():
    async def main() -> None:
        model = Model("BIAS_16P", starts=20.0)
        bias = await supply(model, starts_with={0: Volts(21)})
        await bias.turn_on(targets(model, 30.0))
        on_at = model.log.index(("power", 3))
        assert {what[2] for _, what in model.log[on_at + 1 : on_at + 17]} <= {874}
        await bias.turn_off()
        off_at = len(model.log) - 1 - [kind for kind, _ in reversed(model.log)].index("power")
        assert model.log[off_at] == ("power", 1)
        assert [what[2] for _, what in model.log[off_at - 16 : off_at]] == [874] * 16

    asyncio.run(main())


def test_such_a_mezzanine_that_does_not_come_down_is_switched_off_again():
    async def main() -> None:
        model = Model("BIAS_16P", starts=20.0)
        model.deaf = True
        bias = await supply(model, starts_with={0: Volts(21)})
        with pytest.raises(VerifyError, match="the DAC shows"):
            await bias.turn_on(targets(model, 30.0))
        assert model.memory["power"] == 1
        assert bias.state is OutputState.OFF

        model.deaf = False
        bias = await supply(model, starts_with={0: Volts(21)})
        slow = model._exchange

        async def late(function: int, payload: bytes, *rest: Any) -> bytes:
            if function == 2 and payload[2] == 0x10:
                await asyncio.sleep(0.1)
            return await slow(function, payload, *rest)

        model._exchange = late  # type: ignore[method-assign]
        with pytest.raises(DeviceFaultError, match="s of switching on"):
            await bias.turn_on(targets(model, 30.0))
        assert model.memory["power"] == 1

    asyncio.run(main())


def test_off_removes_the_voltage_even_if_such_a_mezzanine_does_not_answer():
    async def main() -> None:
        model = Model("BIAS_16P")
        bias = await supply(model, starts_with={0: Volts(1)})
        await bias.turn_on(targets(model, 30.0))
        model.fail = lambda function, _: function == 2
        report = await bias.turn_off()
        assert report.state is OutputState.OFF
        assert model.memory["power"] == 1
        assert len(report.failures) == 1, "given up with the first"
        assert "before removing the voltage" in report.failures[0]

    asyncio.run(main())


def volts_of(code: int) -> float:
    """4.9, the other way round."""
    return 2.495 + 100000 * ((2.495 - code * 5 / 65536) / 27000 + 2.495 / 5431)


def test_a_converter_rises_before_its_outputs_and_falls_after_them():
    async def main() -> None:
        model = Model("BIAS_32P_AG")
        bias = await supply(model)
        await bias.turn_on(targets(model, 30.0))
        assert model.log[0][0] == model.log[1][0] == "converter", "before everything"
        assert volts_of(model.converter[0, 0]) == pytest.approx(39.5, abs=3e-4)

        for wanted, other in ((50.0, 30.0), (41.0, 41.0)):
            model.log.clear()
            one = BiasChannel(0, 0, 0, 3)
            await bias.turn_on({one: Volts(wanted)} | ({BiasChannel(0, 0, 0, 4): Volts(other)}))
            codes = [volts_of(what) for kind, what in model.log if kind == "converter"]
            assert codes == [pytest.approx(wanted + 2.0, abs=3e-4)] * 2, "both outputs of it"
            is_first = model.log[0][0] == "converter"
            assert is_first is (wanted == 50.0)
        assert model.converter[0, 0] == model.converter[0, 1]
        (reading,) = (r for r in bias.readings() if r.name == "bias_converter_commanded")
        assert reading.value == pytest.approx(43.0, abs=1e-3)

        await bias.turn_off()
        assert volts_of(model.converter[0, 1]) == pytest.approx(39.5, abs=3e-4)

    asyncio.run(main())


def test_what_a_converter_cannot_feed_is_refused_before_anything_is_sent():
    async def main() -> None:
        model = Model("BIAS_32P_AG")
        bias = await supply(model, settings=settings(model.names, v_max=58.0))
        with pytest.raises(LimitError, match=r"57\.5000 V refused: outside the hard limit 39\.5000 V to 57\.0000 V"):
            await bias.turn_on({BiasChannel(0, 0, 0, 1): Volts(55.5)})
        assert model.log == []

    asyncio.run(main())


@pytest.mark.parametrize("name", [name for name in KINDS if name != "BIAS_64P"])
def test_a_calibration_of_another_mezzanine_is_refused_with_channel_and_volts(name):
    async def main() -> None:
        model = Model(name)
        _, full, _ = shape(name)
        bias = await supply(model, settings=settings(model.names, gain=1.015), starts_with={0: Volts(1)})
        with pytest.raises(
            WrongIdentityError,
            match=rf"bias:0\.0\.0\.0: .* gives {int(1.015 * full - 0.1)}.*PROM {int(1.01 * full - 0.1)}",
        ):
            await bias.turn_on(targets(model, 30.0))
        assert model.log[0] == ("power", 1), "nothing before off"
        bias = await supply(
            model, settings=settings(model.names, gain=1.015), starts_with={0: Volts(1)}, prom_tolerance_v=0.5
        )
        await bias.turn_on(targets(model, 30.0))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:0x14] + struct.pack("<Q", 31) + data[0x1C:], "3 points of 31 channels cannot be"),
        (lambda data: data[:0x1C] + struct.pack("<Q", 10**6) + data[0x24:], "1000000 points of 32 channels"),
        (lambda data: data[:0x24] + b"\0\0\0\0" + data[0x28:], "does not ascend"),
    ],
)
def test_a_prom_that_holds_something_else_is_named(change, words):
    async def main() -> None:
        model = Model("BIAS_32P")
        model.prom[0] = change(prom("BIAS_32P"))
        bias = await supply(model)
        with pytest.raises(RemoteProtocolError, match=words):
            await bias.turn_on(targets(model, 30.0))
        assert not model.is_on

    asyncio.run(main())


def test_an_old_prom_of_another_layout_is_named():
    async def main() -> None:
        model = Model("BIAS_16P")
        model.prom[0] = b"PETSYS  \x02" + prom("BIAS_16P")[9:]
        bias = await supply(model, starts_with={0: Volts(1)})
        with pytest.raises(RemoteProtocolError, match="no layout that is known"):
            await bias.turn_on(targets(model, 30.0))

    asyncio.run(main())


@pytest.mark.parametrize("name", ["BIAS_32P", "BIAS_16P"])
def test_a_prom_that_was_never_written_has_nothing_to_compare(name):
    async def main() -> None:
        model = Model(name)
        model.prom[0] = MAGIC[name] if name == "BIAS_32P" else b""
        bias = await supply(model, starts_with={0: Volts(1)})
        await bias.turn_on(targets(model, 30.0))
        assert bias.state is OutputState.ON

    asyncio.run(main())


def test_the_supply_stays_off_while_it_feeds_something_unknown():
    async def main() -> None:
        model = Model("BIAS_32P", "strange")
        bias = await supply(model, settings=settings(("BIAS_32P",)))
        with pytest.raises(StateError, match="also feeds bias slot 1"):
            await bias.turn_on({BiasChannel(0, 0, 0, 1): Volts(30)})
        assert model.log == []

    asyncio.run(main())


def test_outputs_and_calibrations_that_do_not_belong_to_the_mezzanine_are_refused():
    async def main() -> None:
        model = Model("BIAS_16P")
        with pytest.raises(WrongIdentityError, match=r"no output bias:0\.0\.0\.16"):
            await supply(model, settings=settings(("BIAS_32P",)))
        with pytest.raises(LimitError, match="nominal for BIAS_64P"):
            await supply(Model("BIAS_64P"), settings=settings(("BIAS_32P",)))
        bias = await supply(model, settings=settings(model.names, v_max=80.0), starts_with={0: Volts(1)})
        with pytest.raises(LimitError, match=r"above the 75\.0 V that BIAS_16P is made for"):
            await bias.turn_on(targets(model, 30.0))
        assert model.log == []

    asyncio.run(main())


def test_a_second_slot_at_its_lowest_too_before_the_supply_even_if_only_one_is_used():
    async def main() -> None:
        model = Model("BIAS_32P", "BIAS_64P")
        bias = await supply(model, settings=settings(("BIAS_32P",)))
        model.fail = lambda _, payload: payload[1:3] == b"\x81\x11"
        with pytest.raises(DriverError, match="no answer"):
            await bias.turn_on({BiasChannel(0, 0, 0, 1): Volts(30)})
        assert ("power", 3) not in model.log
        model.fail = lambda *_: False
        await bias.turn_on({BiasChannel(0, 0, 0, 1): Volts(30)})
        assert set(model.volts(1)) == {82 * 200 / 16384 * 1.01}

    asyncio.run(main())
