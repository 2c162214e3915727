"""The driver against a simulated board of every kind, over a real socket: every base board, module, chip, mezzanine.

One board a kind, in this process, and one session with it; afterwards the board's own record says what its outputs were
told and had.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import LimitError, StateError
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.mezzanines import KINDS as MEZZANINES
from petqc_drivers.petsys.readout import (
    AsicSettings,
    BiasSettings,
    PetsysDaqdReadout,
    PetsysDaqdSettings,
    PetsysReadout,
    PetsysUdpReadout,
    PetsysUdpSettings,
)
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.boards.witness import judge
from petqc_simulators.config_files import tables
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.draw import bias_points
from petqc_simulators.profile import MODULE_CHIPS, load_profile
from petqc_simulators.server import BoardServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from petqc_drivers.petsys.units import Address
    from petqc_simulators.boards.petsys_febd import PetsysFebd

COLUMNS = {2: (16, 8), 4: (16, 16), 5: (20, 16), 8: (32, 16)}
"""Crystals of a module by its ASICs: 64 each."""
WORKING_V = {"BIAS_64P": 120.0, "BIAS_16P": 66.0, "BIAS_32P": 36.0, "BIAS_32P_AG": 48.0, "BIAS_32P_LTC2439": 55.0}
ABOVE_V = 3.0
"""The hard limit is as much above the working voltage."""
STEP_V = 20.0
N_SENSORS = {0x0: 0, 0x1: 4, 0x11: 4, 0x2: 0, 0x12: 4, 0x111: 8, 0x211: 0}
"""Of each kind of module without EEPROM. Source: interface reference, section 4.8."""
N_LISTED = {**N_SENSORS, 0x211: 16}
"""As the simulated EEPROMs list them."""
ENOUGH_S = 20.0


@dataclass(frozen=True)
class Kind:
    """A board that can be bought: its base, its modules, their chips, its mezzanines."""

    base_pcb: int
    module: int
    bias: tuple[str, ...] = ()
    chips: str = "2C"
    eeprom: bool = False
    places: tuple[int, ...] = (0, 1)
    legacy: tuple[int, ...] = ()
    boards: int = 1
    links: int = 1
    speed: int = 1

    def __str__(self) -> str:
        words = [f"pcb{self.base_pcb:x}", f"module{self.module:x}", *self.bias, self.chips, *["eeprom"] * self.eeprom]
        return "-".join([*words, *["legacy"] * bool(self.legacy)])

    def profile_text(self) -> str:
        """What a user would write to simulate it."""
        chips = MODULE_CHIPS[self.module]
        columns, rows = COLUMNS[chips]
        names = ", ".join(f'"{name}"' for name in self.bias)
        return f"""
            base = "bench"
            [geometry]
            columns = {columns}
            rows = {rows}
            asics_per_module = {chips}
            crystals_per_bias = {columns * rows}
            [hardware]
            boards = {self.boards}
            clock_trigger = {str(self.boards > 1).lower()}
            base_pcb = {self.base_pcb}
            module_kind = {self.module}
            module_places = {list(self.places)}
            legacy_places = {list(self.legacy)}
            asic_version = "{self.chips}"
            asic_links = {self.links}
            link_speed = {self.speed}
            bias_slots = [{names}]
            module_eeprom = {str(self.eeprom).lower()}
            """


ALL = [
    Kind(0, 0x0001, ("BIAS_64P",), "2B", eeprom=True),
    Kind(1, 0x0012, ("BIAS_16P",), links=2),
    Kind(2, 0x0011, ("BIAS_32P",), places=(2, 7), legacy=(7,), speed=3),
    Kind(2, 0x0012, ("BIAS_32P_AG",), "2B", eeprom=True),
    Kind(2, 0x0111, ("BIAS_32P_LTC2439",), eeprom=True, links=4),
    Kind(0, 0x0000, ("BIAS_32P",)),
    Kind(4, 0x0002, speed=0),
    Kind(3, 0x0211, places=(0,), boards=2),
    Kind(5, 0x0111, ("BIAS_64P", "BIAS_32P_AG"), places=(0, 3)),
    Kind(5, 0x0211, ("BIAS_16P", "BIAS_32P"), "2B", eeprom=True, places=(4, 5)),
]


@dataclass
class Served:
    """Simulated units that answer on a socket, and a driver that does not know them yet."""

    kind: Kind
    scanner: Scanner
    device: PetsysReadout
    targets: dict[BiasChannel, Volts] = field(default_factory=dict)

    @property
    def boards(self) -> dict[Address, PetsysFebd]:
        return dict(zip(self.scanner.profile.hardware.addresses, self.scanner.boards, strict=True))

    def limit_v(self, channel: BiasChannel) -> float:
        return WORKING_V[self.kind.bias[channel.slot]] + ABOVE_V


def keep_one_chip_of_each_module(board: PetsysFebd) -> None:
    """Configuring is the long part, and every chip is configured alike."""
    board.asics.absent = {chip for place, chip in enumerate(board.asics.chips) if place % board.asics.per_module}


def outputs(kind: Kind, scanner: Scanner) -> dict[BiasChannel, BiasSettings]:
    """First and last output of each DAC, and all that serve crystals; calibrated as the makers would."""
    rows = tables(scanner.profile, scanner.detector.draw)["bias_calibration"] if kind.bias else ()
    points: dict[BiasChannel, list[tuple[int, float]]] = {}
    for row in rows:
        channel = BiasChannel(*(int(row[name]) for name in ("port", "slave", "slot", "channel")))
        points.setdefault(channel, []).append((int(row["dac_code"]), float(row["volts"])))
    for slot, name in enumerate(kind.bias):
        mezzanine = MEZZANINES[name]
        nominal, volts = bias_points(*(scanner.detector.draw.dac_gain[:1] * 0 + gain for gain in (1, 0)), mezzanine)
        for first in range(0, mezzanine.n_channels, mezzanine.channels_per_dac):
            for number in (first, first + mezzanine.channels_per_dac - 1):
                points.setdefault(
                    BiasChannel(0, 0, slot, number),
                    list(zip(map(int, nominal), map(float, volts[0]), strict=True)),
                )
    return {
        channel: BiasSettings(
            HardLimit(
                channel=str(channel),
                v_min=Volts(1.2),
                v_max=Volts(WORKING_V[kind.bias[channel.slot]] + ABOVE_V),
                max_step_v=STEP_V,
                slew_v_per_s=5000.0,
            ),
            BiasCurve(tuple(curve)),
        )
        for channel, curve in points.items()
    }


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """The physics' kernels, so that no board is silent while they are compiled."""
    detector = Detector(load_profile("bench", source="none"), seed=11)
    detector.settle()
    detector.advance()


@contextlib.contextmanager
def served(kind: Kind, folder: Path) -> Iterator[Served]:
    path = folder / "kind.toml"
    path.write_text(kind.profile_text(), "utf-8")
    scanner = Scanner(load_profile(str(path), source="none"), seed=11)
    for board in scanner.boards:
        keep_one_chip_of_each_module(board)
    bias = outputs(kind, scanner)
    targets = {channel: Volts(WORKING_V[kind.bias[channel.slot]]) for channel in bias}
    # A BIAS_16P hears nothing before the supply is on; that its outputs start below 1 V is what somebody measured.
    starts = {(0, 0, slot): Volts(1.0) for slot, name in enumerate(kind.bias) if name == "BIAS_16P"}
    settings = {"bias": bias, "bias_starts_with": starts, "settle_s": 0.02}
    if kind.boards == 1:
        udp = BoardServer(scanner.boards[0], "127.0.0.1", 0)
        server: BoardServer | DaqdServer = udp
        device: PetsysReadout = PetsysUdpReadout(
            PetsysUdpSettings(host="127.0.0.1", udp_port=udp.address[1], **settings)
        )
    else:
        server = DaqdServer(scanner.units, folder / "d.sock", "/kinds", folder=folder, frames=scanner.advance_blocks)
        device = PetsysDaqdReadout(
            PetsysDaqdSettings(
                socket=str(folder / "d.sock"), shared_memory="/kinds", shared_memory_folder=str(folder), **settings
            )
        )
    thread = threading.Thread(target=server.run, name=f"simulated {kind}")
    thread.start()
    try:
        yield Served(kind, scanner, device, targets)
    finally:
        server.stop()
        thread.join(ENOUGH_S)
        server.close()
        scanner.close()


async def identified(it: Served) -> None:
    identity = await it.device.connect()
    assert set(identity.boards) == set(it.boards)
    for found in identity.boards.values():
        assert found.kind.base_pcb == it.kind.base_pcb
        assert found.kind.module == it.kind.module
        assert found.kind.asics_per_module == MODULE_CHIPS[it.kind.module]
        assert found.mezzanines == it.kind.bias or (not it.kind.bias and set(found.mezzanines) <= {"BIAS_64P"})
    assert it.device.bias_state is OutputState.OFF
    if it.targets:
        with pytest.raises(StateError, match="configure first"):
            await it.device.bias_on(it.targets)


async def powered_and_configured(it: Served) -> None:
    done = await it.device.configure({board: AsicSettings() for board in it.boards})
    per_module = MODULE_CHIPS[it.kind.module]
    assert done.chips == [(*board, per_module * place) for board in it.boards for place in it.kind.places]
    for board in it.boards.values():
        assert board.registers.value("power") == 1
        assert not [line for line in board.witness.lines if line["event"] in {"over_voltage", "set", "flash"}]
    supplies = {(r.node, r.name): r.value for r in await it.device.read_supplies()}
    if it.kind.base_pcb == 5:
        for place in it.kind.places:
            found = {rail: supplies[f"module:0.0.{place}", f"supply_{rail}"] for rail in ("vdd1", "vdd2", "vdd3")}
            assert found == pytest.approx({"vdd1": 1.38, "vdd2": 2.8, "vdd3": 3.3}, abs=0.06)
        assert supplies["module:0.0.8", "supply_vdd1"] is None
    else:
        assert set(supplies.values()) == {1.0}


async def warm_where_it_should_be(it: Served) -> None:
    n_sensors = (N_LISTED if it.kind.eeprom else N_SENSORS)[it.kind.module]
    for board in it.boards.values():
        for module in board.modules[1:]:
            module.broken = {sensor.channel: "open" for sensor in module.sensors[:1]}
    readings = await it.device.read_temperatures()
    n_modules = len(it.kind.places) * len(it.boards)
    if not n_sensors:
        assert [r.quality for r in readings] == [Quality.ABSENT] * n_modules
        return
    assert len(readings) == n_sensors * n_modules
    good = [r for r in readings if r.quality is Quality.GOOD]
    assert len(readings) - len(good) == n_modules - len(it.boards)
    assert all("open or shorted" in str(r.reason) for r in readings if r.quality is Quality.BAD)
    expected = it.scanner.profile.environment.calibration_degc
    for reading in good:
        # Sensors of chips sit in the warmth of the chips, and 12 bits of an LMT86 are 0.06 K.
        low, high = (-1.0, 2.0) if reading.name == "temperature_sipm" else (0.5, 16.0)
        assert reading.value is not None
        assert expected + low < reading.value < expected + high
    if it.kind.eeprom:
        serials = [found.serial for found in it.device.module_eeproms.values()]
        assert serials == [1000 + k for k in range(n_modules)]


async def biased_within_limits(it: Served) -> None:
    board = it.boards[0, 0]

    def told() -> int:
        return sum(line["event"] in {"set", "converter"} for line in board.witness.lines)

    for channel in it.targets:
        with pytest.raises(LimitError):
            await it.device.bias_on({**it.targets, channel: Volts(it.limit_v(channel) + 0.01)})
    with pytest.raises(LimitError):
        await it.device.bias_on({**it.targets, BiasChannel(0, 0, 7, 0): Volts(30.0)})
    assert told() == 0
    assert not board.registers.value("power") & 2

    await it.device.bias_on(it.targets)
    assert it.device.bias_state is OutputState.ON
    truth = {(mezzanine.slot, n): v for mezzanine in board.mezzanines for n, v in enumerate(mezzanine.volts())}
    commanded = {r.node: r for r in it.device.bias_readings() if r.name == "bias_commanded"}
    assert len(commanded) == len(truth), "every output is accounted for, also those that stay lowest"
    for (slot, number), volts in truth.items():
        channel = BiasChannel(0, 0, slot, number)
        mezzanine = board.mezzanines[slot].kind
        reading = commanded[str(channel)]
        assert not reading.measured
        if channel not in it.targets:
            assert reading.value is None
            assert volts < 1.1
            continue
        step_v = mezzanine.nominal_volts(1)
        assert reading.quality is (Quality.GOOD if mezzanine.shows_code else Quality.UNCERTAIN)
        assert it.targets[channel].value - 1.1 * step_v < reading.value <= it.targets[channel].value
        assert volts == pytest.approx(reading.value, abs=1e-4)
    lower = {channel: Volts(volts.value - 10.0) for channel, volts in list(it.targets.items())[:1]}
    await it.device.bias_on(lower)
    ((channel, volts),) = lower.items()
    assert board.mezzanines[channel.slot].volts()[channel.channel] == pytest.approx(volts.value, abs=0.02)


async def really_off(it: Served) -> None:
    board = it.boards[0, 0]
    report = await it.device.bias_off()
    assert report.state is OutputState.OFF
    assert not report.failures
    assert board.registers.value("power") == 1
    assert max(volts for mezzanine in board.mezzanines for volts in mezzanine.volts()) < 1.1


def verdict_of_the_board(it: Served) -> None:
    """Nothing is left at any output, and nothing ever was beyond its limit; slot by slot, for limits differ."""
    board = it.boards[0, 0]
    until_s = time.monotonic() + ENOUGH_S
    while max(it.scanner.detector.bias_v) > 0 and time.monotonic() < until_s:
        time.sleep(0.01)
    assert max(it.scanner.detector.bias_v) == 0.0
    for slot, name in enumerate(it.kind.bias):
        lines = [line for line in board.witness.lines if line.get("slot", slot) == slot and line["event"] != "output"]
        sets = [line for line in lines if line["event"] == "set"]
        assert len({(line["dac"], line["output"]) for line in sets}) == MEZZANINES[name].n_channels
        highest_v, lowest = WORKING_V[name] + ABOVE_V, MEZZANINES[name].lowest_code
        assert judge(lines, highest_v=highest_v, lowest_code=lowest, largest_step_v=STEP_V + 0.001) == []
        converters = [line["volts"] for line in lines if line["event"] == "converter"]
        assert max(converters, default=0.0) <= WORKING_V[name] + 2.0
    assert not [line for line in board.witness.lines if line["event"] in {"over_voltage", "flash"}]


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_a_session_with_a_board_of_each_kind(kind: Kind, tmp_path: Path) -> None:
    async def session(it: Served) -> None:
        try:
            await identified(it)
            await powered_and_configured(it)
            await warm_where_it_should_be(it)
            if it.targets:
                await biased_within_limits(it)
                await really_off(it)
        finally:
            await it.device.aclose()

    with served(kind, tmp_path) as it:
        asyncio.run(session(it))
        if it.targets:
            verdict_of_the_board(it)
