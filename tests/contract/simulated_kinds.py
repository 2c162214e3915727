"""Simulated boards of every kind on a socket, and a driver for each: shared by the tests that need them."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.daqd_readout import PetsysDaqdReadout
from petqc_drivers.petsys.mezzanines import KINDS as MEZZANINES
from petqc_drivers.petsys.settings import BiasSettings, PetsysDaqdSettings, PetsysUdpSettings
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.config_files import tables
from petqc_simulators.physics.draw import bias_points
from petqc_simulators.profile import MODULE_CHIPS, load_profile
from petqc_simulators.server import BoardServer
from petqc_simulators.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from petqc_drivers.petsys.readout import PetsysReadout
    from petqc_drivers.petsys.units import Address
    from petqc_simulators.boards.petsys_febd import PetsysFebd

COLUMNS = {2: (16, 8), 4: (16, 16), 5: (40, 8), 8: (32, 16)}
"""Crystals of a module by its ASICs: 64 each."""
WORKING_V = {"BIAS_64P": 120.0, "BIAS_16P": 66.0, "BIAS_32P": 36.0, "BIAS_32P_AG": 48.0, "BIAS_32P_LTC2439": 55.0}
ABOVE_V = 3.0
"""The hard limit is as much above the working voltage."""
STEP_V = 20.0
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
            asic_columns = 8
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
    address: str
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


def compile_kernels() -> None:
    """Those of physics and trigger, so that no board is silent while they are compiled."""
    warm_up(load_profile("bench", source="none"))


@contextlib.contextmanager
def served(kind: Kind, folder: Path, *, is_whole: bool = False, source: str = "none") -> Iterator[Served]:
    """Serve it; is_whole: with every chip, and not only one of each module."""
    path = folder / "kind.toml"
    path.write_text(kind.profile_text(), "utf-8")
    scanner = Scanner(load_profile(str(path), source=source), seed=11)
    for board in scanner.boards if not is_whole else ():
        keep_one_chip_of_each_module(board)
    bias = outputs(kind, scanner)
    targets = {channel: Volts(WORKING_V[kind.bias[channel.slot]]) for channel in bias}
    # A BIAS_16P hears nothing before the supply is on; that its outputs start below 1 V is what somebody measured.
    starts = {(0, 0, slot): Volts(1.0) for slot, name in enumerate(kind.bias) if name == "BIAS_16P"}
    settings = {"bias": bias, "bias_starts_with": starts, "settle_s": 0.02, "reply_timeout_s": 2.0}
    if kind.boards == 1:
        udp = BoardServer(scanner.boards[0], "127.0.0.1", 0)
        server: BoardServer | DaqdServer = udp
        address = f"udp://127.0.0.1:{udp.address[1]}"
        device: PetsysReadout = PetsysUdpReadout(
            PetsysUdpSettings(host="127.0.0.1", udp_port=udp.address[1], **settings)
        )
    else:
        server = DaqdServer(scanner.units, folder / "d.sock", "/kinds", folder=folder, frames=scanner.advance_blocks)
        address = server.address
        device = PetsysDaqdReadout(
            PetsysDaqdSettings(
                socket=str(folder / "d.sock"), shared_memory="/kinds", shared_memory_folder=str(folder), **settings
            )
        )
    thread = threading.Thread(target=server.run, name=f"simulated {kind}")
    thread.start()
    try:
        yield Served(kind, scanner, address, device, targets)
    finally:
        server.stop()
        thread.join(ENOUGH_S)
        server.close()
        scanner.close()
