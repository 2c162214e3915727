"""The trimmed supplies of a FEB/D 8K against a model of its buses, line by line, written from the reference."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.device import Quality
from petqc_drivers.errors import DeviceFaultError, LimitError, LocalProtocolError, ReplyTimeoutError, VerifyError
from petqc_drivers.petsys import bring_up, i2c, power_8k
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.link import CommandGate
from petqc_drivers.petsys.power_8k import TRIMS, TrimmedSupplies, encode_look, encode_trim, read_supplies
from petqc_drivers.petsys.registers import board_kind
from petqc_drivers.petsys.settings import AsicSettings
from petqc_drivers.petsys.wire import Function, WireError

PRESETS = {
    "TI": {"vdd1": (-30, 31), "vdd2": (37, 127), "vdd3": (69, 127)},
    "Murata": {"vdd1": (2, 127), "vdd2": (-23, 127), "vdd3": (40, 127)},
}


class Chip:
    """A device on a bus: what it is told, and what it puts on the data line."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.registers: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []


class Bus:
    """Four wires' worth of I2C: the lines, and the chips that listen; `branch` is what the switch lets through."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.branch: int | None = None
        names = {"TI": {(None, 0x96), (None, 0x90)}, "Murata": {(0x04, 0x90), (0x05, 0x90)}}[variant]
        self.chips = {(branch, address): Chip(address) for branch, address in names}
        self.scl = self.sda = 1
        self.bits: list[int] = []
        self.segment: list[int] | None = None
        self.pull = 0
        """1 while a chip holds the data line low."""
        self.out: list[int] = []
        self.is_stuck = False
        self.freed = 0

    def _chip(self, address: int) -> Chip | None:
        branch = self.branch if self.variant == "Murata" else None
        return self.chips.get((branch, address & 0xFE))

    def step(self, step: int) -> int:
        scl, sda = step & 1, step >> 1 & 1
        if self.is_stuck and step & 0x0C:
            return 0xE0
        line = sda & ~self.pull & 1
        if self.scl and scl and line != self.sda:
            self.segment, self.bits, self.pull, self.out = ([] if not line else None), [], 0, []
            self.freed += line
        elif scl and not self.scl and self.segment is not None:
            self.bits.append(line)
        elif self.scl and not scl and self.segment is not None:
            self._fell()
        self.scl, self.sda = scl, sda & ~self.pull & 1
        return self.sda << 1 | scl

    def _fell(self) -> None:
        """The clock fell: time to change the data line."""
        assert self.segment is not None
        self.pull = 0
        if len(self.bits) == 8:
            value = int("".join(map(str, self.bits)), 2)
            is_read = len(self.segment) == 1 and self.segment[0] & 1
            if not is_read:
                self.segment.append(value)
                self.pull = int(self._takes())
        elif len(self.bits) == 9:
            is_last, self.bits = bool(self.out), []
            if is_last:  # the master wants no more
                self.out = []
            elif len(self.segment) == 1 and self.segment[0] & 1:
                chip = self._chip(self.segment[0])
                if chip is not None:
                    held = chip.registers[self.pointer]
                    self.out = [held >> k & 1 for k in range(7, -1, -1)]
        if self.out and len(self.bits) < 8:
            self.pull = 1 - self.out[len(self.bits)]

    def _takes(self) -> bool:
        assert self.segment is not None
        address, *rest = self.segment
        if address == 0xE0 and self.variant == "Murata":
            if rest:
                self.branch = rest[0]
            return True
        chip = self._chip(address)
        if chip is None:
            return False
        if len(rest) == 1:
            self.pointer = rest[0]
        if len(rest) == 2:
            chip.registers[rest[0]] = rest[1]
            chip.writes.append((rest[0], rest[1]))
        return True

    def trim(self, rail: str) -> int:
        """The trim of a rail, by 4.7 and the vendor's table of chips."""
        place = {
            "TI": {"vdd1": (None, 0x96, 0xF8), "vdd2": (None, 0x90, 0xF8), "vdd3": (None, 0x90, 0xF9)},
            "Murata": {"vdd1": (0x04, 0x90, 0xF8), "vdd2": (0x05, 0x90, 0xF8), "vdd3": (0x05, 0x90, 0xF9)},
        }[self.variant][rail]
        chip = self.chips.get((place[0], place[1]))
        byte = chip.registers.get(place[2], 0) if chip else 0
        return -(byte & 0x7F) if byte & 0x80 else byte


class Model(CommandGate):
    """Link and board: buses 1 to 4 with a variant or None, ports in use, volts per trim."""

    name = "board"
    last_good_s = None

    def __init__(self, variants: dict[int, str], ports: tuple[int, ...] = (0, 2)) -> None:
        self.buses = {bus: Bus(variants.get(bus, "TI")) for bus in range(1, 5)}
        self.ports = {bus: ports if bus in variants else () for bus in range(1, 5)}
        self.power = 0
        self.log: list[tuple[str, Any]] = []
        self.drop_v = 0.0
        self.extra_v: dict[tuple[int, str], float] = {}
        self.without_vdd2: set[int] = set()
        self.adc: dict[int, list[int]] = {}
        self.silent_adc: set[int] = set()
        self.good = 0xFFF
        self.i2c_fails_after: int | None = None
        self.switched = asyncio.Event()
        # VDD1 1.30 V at the least TI trim and 4 mV each; the others likewise below their targets by some steps.
        self.at_lowest = {"vdd1": 1.30, "vdd2": 2.70, "vdd3": 3.21}

    def volts(self, bus: int, port: int, rail: str) -> float:
        if not self.power & 1:
            return 0.0
        variant = self.buses[bus].variant
        steps = self.buses[bus].trim(rail) - PRESETS[variant][rail][0]
        if rail == "vdd2" and port in self.without_vdd2:
            return 0.0
        drop = self.drop_v if rail == "vdd1" else 0.0
        return self.at_lowest[rail] + 0.004 * steps - 0.01 * port - drop + self.extra_v.get((port, rail), 0.0)

    async def _exchange(self, function: int, payload: bytes, what: str, *_: Any) -> bytes:
        await asyncio.sleep(0)
        if function == Function.I2C:
            if self.i2c_fails_after is not None:
                self.i2c_fails_after -= 1
                if self.i2c_fails_after < 0:
                    raise ReplyTimeoutError(f"{what}: no answer", device=self.name)
            bus = self.buses[payload[0] << 8 | payload[1]]
            return bytes(bus.step(step) for step in payload[2:])
        if function == Function.REGISTERS:
            assert payload[3:5] == b"\x13\x02"
            if payload[0] == 0:
                return bytes((0, self.power, 0))
            self.power = payload[5]
            self.switched.set()
            trims = {(b, r): self.buses[b].trim(r) for b in range(1, 5) for r in ("vdd1", "vdd2", "vdd3")}
            self.log.append(("power", (payload[5], trims)))
            return b"\0"
        spi_id, mosi = payload[1] << 8 | payload[2], payload[21:]
        if spi_id == 0x901B:
            return b"\0" + (self.good if self.power & 1 else 0).to_bytes(2, "big") + b"\0"
        bus_number = spi_id - 0x9000 + 1
        word = mosi[2] << 8 | mosi[3]
        if bus_number in self.silent_adc:
            return b"\0\xff\xff\0"
        words = self.adc.setdefault(bus_number, [0xFFFF])
        last = words[-1]
        words.append(word)
        if word == 0 and last & 0xF87F == 0x0826:
            channel = last >> 7 & 0xF
            last = channel << 12 | self._code(bus_number, channel)
        return b"\0" + last.to_bytes(2, "big") + b"\0"

    def _code(self, bus: int, channel: int) -> int:
        port, which = divmod(channel, 4)
        ground = 0.015 if port in self.ports[bus] else 1.1
        if which == 3:
            volts = ground
        else:
            rail, divider = (("vdd2", 2), ("vdd3", 2), ("vdd1", 1))[which]
            volts = (self.volts(bus, port, rail) + ground) / divider
        return min(4095, round(max(volts, 0.0) * 4096 / 2.5))


class WholeBoard(Model):
    """A FEB/D 8K with two ASICs on one module, as far as a bring-up asks."""

    def __init__(self) -> None:
        super().__init__({1: "TI"}, ports=(0,))
        self.memory = bytearray(0x10000)
        for address, value, n in ((0x102, 2, 2), (0x101, 1, 1), (0x200, 1, 1), (0xFFF8, 0x104, 8)):
            self.memory[address : address + n] = value.to_bytes(n, "little")
        self.asics: dict[tuple[int, int | None], bytes] = {}
        self.order: list[str] = []
        self.reset()

    def reset(self) -> None:
        power_on = bytes.fromhex("c797f5adcb78d133bb665f3beef8ffe5efe7f613f0d016")
        channel = bytes.fromhex("a482006c00f4efe3d0383bd52af80000")
        self.asics = {(chip, None): power_on for chip in (0, 1)}
        self.asics |= {(chip, k): channel for chip in (0, 1) for k in range(64)}

    async def _exchange(self, function: int, payload: bytes, what: str, *rest: Any) -> bytes:
        if function == Function.ASIC:
            return self._asic(payload)
        address = int.from_bytes(payload[3:5], "little")
        if function == Function.REGISTERS and address != 0x0213:
            n = int.from_bytes(payload[1:3], "little") + 1
            if payload[0] == 0:
                mask = (3 & self.memory[0x318]).to_bytes(8, "little")
                self.memory[0x302:0x30A] = self.memory[0x310:0x318] = mask
                return b"\0" + bytes(self.memory[address : address + n]) + b"\0"
            self.memory[address : address + n] = payload[5:]
            if address == 0x300:
                self.order.append(f"reset {payload[5]}")
                self.reset()
            return b"\0"
        if function == Function.REGISTERS and payload[0] == 1:
            self.order.append(f"power {payload[5]}")
        if function == Function.I2C:
            self.order.append("i2c")
        return await super()._exchange(function, payload, what, *rest)

    def _asic(self, payload: bytes) -> bytes:
        chip = payload[0] * 4 + payload[1]
        if chip > 1:
            return b"\xe3"
        n_write, bits = payload[2], int.from_bytes(payload[4:], "big") >> (8 * (len(payload) - 4) - payload[2])
        opcode = bits >> (n_write - 4)
        channel = None if opcode & 8 else bits >> (n_write - 11) & 0x7F
        if opcode & 1:
            return b"\0" + self.asics[chip, channel]
        n, n_bytes = (184, 23) if channel is None else (125, 16)
        self.asics[chip, channel] = ((bits & (1 << n) - 1) << 8 * n_bytes - n).to_bytes(n_bytes, "big")
        self.order.append("asic")
        self.drop_v = 0.012  # configured ASICs draw more
        return b"\0"


def test_a_bring_up_trims_the_supplies_in_reset_and_vdd1_again_once_the_asics_are_configured(monkeypatch):
    monkeypatch.setattr(bring_up, "SYNC_PAUSE_S", 0.0)
    monkeypatch.setattr(bring_up, "LINK_SETTLE_S", 0.0)
    model = WholeBoard()
    kind = board_kind(0x0005, 0x0001_0111_0000_0000)
    assert (kind.modules, kind.bias_slots) == (16, 2)
    board = Board(model)  # type: ignore[arg-type]
    set_up = {(0, 0): bring_up.FebdSetUp(board, kind, AsicSettings())}
    done = asyncio.run(bring_up.bring_up(set_up, None, board))
    assert done.chips == [(0, 0, 0), (0, 0, 1)]
    steps = [step for step, _ in itertools.groupby(model.order)]
    assert steps == ["reset 1", "i2c", "power 1", "i2c", "reset 0", "reset 1", "reset 0", "asic", "i2c"]
    assert 1.35 < model.volts(1, 0, "vdd1") < 1.36
    assert model.power == 1


def run(model: Model, then: Any = None) -> TrimmedSupplies:
    async def main() -> TrimmedSupplies:
        supplies = await TrimmedSupplies.power_up(Board(model))  # type: ignore[arg-type]
        if then is not None:
            await then(supplies)
        return supplies

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE_S", "MEASURE_PAUSE_S", "_GOOD_PAUSE_S"):
        monkeypatch.setattr(power_8k, name, 0.0)
    monkeypatch.setattr(power_8k, "GOOD_DEADLINE_S", 0.02)


@pytest.mark.parametrize("variants", [{1: "TI"}, {2: "Murata"}, {1: "TI", 2: "TI", 3: "Murata", 4: "Murata"}])
def test_rails_come_up_from_their_least_and_end_just_above_their_targets(variants):
    model = Model(variants)
    supplies = run(model)
    assert {m.bus: m.variant for m in supplies.modules} == variants
    ((power, trims),) = [what for kind, what in model.log if kind == "power"]
    assert power == 1
    for bus, variant in variants.items():
        for rail, target, step in (("vdd1", 1.35, 1), ("vdd2", 2.75, 4), ("vdd3", 3.25, 3)):
            lowest, highest = PRESETS[variant][rail]
            assert trims[bus, rail] == lowest, "before switching on"
            trim = model.buses[bus].trim(rail)
            worst = min(model.volts(bus, port, rail) for port in (0, 2))
            assert lowest <= trim <= highest
            assert target - 0.001 < worst < target + step * 0.004 + 0.002
            assert next(m for m in supplies.modules if m.bus == bus).set_points[rail] == trim
    for bus in set(range(1, 5)) - set(variants):
        assert all(not chip.writes for chip in model.buses[bus].chips.values())


def test_vdd1_comes_up_again_when_the_asics_draw_more():
    model = Model({1: "TI"})

    async def then(supplies: TrimmedSupplies) -> None:
        before = model.buses[1].trim("vdd1")
        model.drop_v = 0.02
        await supplies.refine()
        assert before + 5 <= model.buses[1].trim("vdd1") <= before + 7
        assert model.power == 1

    run(model, then)


def test_a_rail_that_stays_too_low_ends_with_the_modules_off_and_the_trims_down():
    model = Model({1: "TI"})
    model.extra_v = {(port, "vdd1"): -0.3 for port in (0, 2)}
    with pytest.raises(DeviceFaultError, match=r"vdd1 of bus 1 does not reach 1\.35 V at its highest trim 31: port 0"):
        run(model)
    assert model.power == 0
    assert model.buses[1].trim("vdd1") == -30


def test_a_rail_that_is_too_high_at_one_port_ends_with_the_modules_off():
    model = Model({3: "Murata"})
    model.extra_v[2, "vdd3"] = 0.5
    with pytest.raises(
        DeviceFaultError, match=r"vdd3 of bus 3 is too high at trim 40: .*port 2 3\.\d+ V, more than 3\.575 V"
    ):
        run(model)
    assert model.power == 0


def test_a_port_without_vdd2_does_not_hold_up_the_others():
    model = Model({1: "TI"})
    model.without_vdd2 = {2}
    run(model)
    assert model.volts(1, 0, "vdd2") == pytest.approx(2.75, abs=0.02)
    model = Model({1: "TI"})
    model.without_vdd2 = {0, 2}
    run(model)
    assert model.buses[1].trim("vdd2") == 37


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.ports.update({1: ()}), "no module is plugged to any of the four buses"),
        (lambda m: m.silent_adc.add(4), "supply ADC of bus 4 does not answer"),
        (lambda m: setattr(m.buses[1], "is_stuck", True), "supplies of bus 1: bus error"),
        (lambda m: m.buses[1].chips.pop((None, 0x96)), "vdd1 of bus 1: the supply does not answer"),
        (lambda m: setattr(m, "good", 0xFEF), r"supplies not good after .* bus 1: vdd2"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_stays_on(change, words):
    model = Model({1: "TI"})
    change(model)
    with pytest.raises(DeviceFaultError, match=words):
        run(model)
    assert model.power == 0


def test_a_bus_error_is_not_taken_for_a_kind_of_supply_and_the_bus_is_freed():
    model = Model({1: "Murata"})
    model.buses[1].is_stuck = True
    with pytest.raises(DeviceFaultError, match="bus error"):
        run(model)
    assert model.log == []


def test_a_trim_that_reads_back_differently_is_an_error():
    model = Model({1: "TI"})

    class Deaf(dict[int, int]):
        def __setitem__(self, key: int, value: int) -> None:
            super().__setitem__(key, 0)

    model.buses[1].chips[None, 0x90].registers = Deaf()
    with pytest.raises(VerifyError, match="vdd2 of bus 1: trim reads 0 after writing 37"):
        run(model)
    assert model.power == 0


def test_a_ramp_that_is_cancelled_or_loses_its_board_ends_off():
    async def main() -> None:
        for cancels in (True, False):
            model = Model({1: "TI"})
            task = asyncio.create_task(TrimmedSupplies.power_up(Board(model)))  # type: ignore[arg-type]
            await model.switched.wait()
            if cancels:
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                model.i2c_fails_after = 5
                with pytest.raises(ReplyTimeoutError):
                    await task
            assert model.power == 0

    asyncio.run(main())


def test_a_module_that_is_pulled_during_the_ramp_is_noticed():
    async def main() -> None:
        model = Model({1: "TI"})
        task = asyncio.create_task(TrimmedSupplies.power_up(Board(model)))  # type: ignore[arg-type]
        await model.switched.wait()
        model.ports[1] = (0,)
        with pytest.raises(DeviceFaultError, match=r"ports in use of bus 1 changed from \[0, 2\] to \[0\]"):
            await task
        assert model.power == 0

    asyncio.run(main())


def test_supplies_as_readings():
    async def main() -> None:
        model = Model({1: "TI"})
        board = Board(model)  # type: ignore[arg-type]
        await TrimmedSupplies.power_up(board)
        model.silent_adc = {4}
        model.good = 0xFEF
        found = {(r.name, r.node): r for r in await read_supplies(board, "0.0")}
        assert found["supply_vdd1", "module:0.0.2"].value == pytest.approx(model.volts(1, 2, "vdd1"), abs=0.002)
        assert found["supply_vdd3", "module:0.0.0"].unit == "V"
        assert found["supply_vdd2", "module:0.0.1"].quality is Quality.ABSENT
        assert found["supply_ground", "module:0.0.1"].value == pytest.approx(1.1, abs=0.001)
        assert found["supply_ground", "module:0.0.15"].reason == "the supply ADC does not answer"
        assert found["supply_good", "supply:0.0.1.vdd1"].value == 1.0
        assert found["supply_good", "supply:0.0.1.vdd2"].value == 0.0
        assert found["supply_good", "supply:0.0.2.vdd2"].value == 1.0

    asyncio.run(main())


@pytest.mark.parametrize("variant", ["TI", "Murata"])
@pytest.mark.parametrize("rail", ["vdd1", "vdd2", "vdd3"])
def test_every_trim_inside_the_presets_and_no_other(variant, rail):
    lowest, highest = PRESETS[variant][rail]
    trim = TRIMS[variant][rail]
    for code in range(-200, 201):
        if lowest <= code <= highest:
            output = encode_trim(4, variant, rail, code)
            assert output.role == "trim"
            byte = 0x80 | -code if code < 0 else code
            assert i2c.spoken(output.payloads[0]) == (4, ((trim.chip, trim.register, byte),))
        else:
            with pytest.raises(LimitError):
                encode_trim(4, variant, rail, code)


@pytest.mark.parametrize(
    "transfer",
    [
        i2c.i2c_write(1, 0x90, 0xF8, 5),
        i2c.i2c_write(1, 0xE0, 0x07),
        i2c.i2c_write(1, 0x90, 0xF8),
        i2c.i2c_write(1, 0xE0, 0x04, 0x04),
    ],
)
def test_what_could_change_a_trim_does_not_pass_for_a_look(transfer):
    with pytest.raises(LimitError, match="would change an output"):
        encode_look(transfer)


def test_no_link_takes_i2c_that_is_not_sealed():
    async def main() -> None:
        model = Model({1: "TI"})
        for transfer in (i2c.i2c_read_register(1, 0x90, 0xF8), i2c.i2c_write(1, 0x90, 0xF8, 5), i2c.i2c_release(1)):
            with pytest.raises(LocalProtocolError, match="did not pass the encoder guard"):
                await Board(model).exchange(Function.I2C, transfer.to_bytes(), "x")  # type: ignore[arg-type]

    asyncio.run(main())


@given(st.lists(st.integers(0, 255), min_size=1, max_size=4), st.booleans())
def test_bytes_on_the_bus_come_back(values, hold):
    transfer = i2c.i2c_write(3, *values, hold_first=hold)
    assert i2c.spoken(transfer.to_bytes()) == (3, (tuple(values),))
    assert len(transfer.acknowledges) == len(values)


@given(st.binary(max_size=120))
def test_noise_on_the_bus_is_parsed_or_refused(payload):
    try:
        i2c.spoken(payload)
    except WireError:
        return


def test_every_trim_of_every_rail_is_inside_its_range_or_refused():
    for variant, rails in TRIMS.items():
        for rail, trim in rails.items():
            accepted = []
            for code in range(-300, 301):
                try:
                    sealed = encode_trim(1, variant, rail, code)
                except LimitError:
                    continue
                assert len(sealed.payloads) == 1
                accepted.append(code)
            assert accepted == [*range(trim.lowest, trim.highest + 1)], (variant, rail)
