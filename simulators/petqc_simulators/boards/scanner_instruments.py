"""What stands beside the boards of a scanner: bias supplies and a chiller, timing board and counter.

Their wire sides are served each on a port of its own; here their true outputs become the detector's bias and
temperature (modules follow the coolant within minutes), and what the detector draws, feels and sees becomes what they
measure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.channel_map import module_node
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.timing_beside import ClocksOfModules, TimingBeside
from petqc_simulators.fault_plan import HEATING_S
from petqc_simulators.physics.bias_current import dark_current_ma

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc_simulators.boards.petsys_febd import PetsysFebd
    from petqc_simulators.instrument_server import WireSide
    from petqc_simulators.physics.detector import Detector
    from petqc_simulators.profile import Profile

SUPPLY, CHILLER, TIMING, CLOCKS = "bias-{}", "chiller", "timing", "clocks"
"""Names of a module's supply and of what cools them all."""
ABOVE_OPERATION_V = 2.0
"""So far above the working voltage the hard limit of a simulated supply ends."""
MOVED_V = 0.001
MOVED_K = 0.005


class ScannerInstruments:
    """The instruments of one scanner.

    Args:
        profile: the scanner.
        detector: what they act on.
        folder: for the records of what bias supplies were told and did; None for none.

    Attributes:
        supplies: one for each module, in their order; empty if bias comes from elsewhere.
        chiller: None if nothing cools it.
        timing: None if no timing board sees the modules' fast outputs.
        clocks: None if no counter looks at the modules' clocks.
    """

    def __init__(self, profile: Profile, detector: Detector, folder: Path | None = None) -> None:
        self._profile, self._detector = profile, detector
        self._current_ma = np.zeros(profile.geometry.bias_channels)
        self._fed_v: NDArray[np.float64] | None = None
        self._seen_v: NDArray[np.float64] | None = None
        self._cooled_s = self._warmer_k = 0.0
        self.supplies: list[HamamatsuC11204Board] = []
        if profile.hardware.bias_supply:
            self.supplies = [
                HamamatsuC11204Board(
                    "C11204-02",
                    serial=f"SIM{module:05d}",
                    load_ma=self._load_of(module),
                    sensor_degc=self._sensor_of(module),
                    witness_path=None if folder is None else folder / f"bias-supply-{module}.jsonl",
                )
                for module in range(profile.geometry.modules)
            ]
        self.chiller: JulaboBoard | None = None
        if profile.environment.chiller:
            self.chiller = JulaboBoard(bath_degc=profile.environment.coolant_degc)
            self.chiller.values |= {"in_sp_00": profile.environment.coolant_degc, "in_mode_05": 1.0}
        self.timing = TimingBeside(detector) if profile.hardware.timing_board else None
        self.clocks = ClocksOfModules(detector) if profile.hardware.clock_counter else None

    def _load_of(self, module: int) -> Callable[[float], float]:
        return lambda volts: float(self._current_ma[module]) if volts > 0.0 else 0.0

    def _sensor_of(self, module: int) -> Callable[[], float]:
        return lambda: self._profile.environment.calibration_degc + float(self._detector.warmer_k[module])

    def wire_sides(self) -> dict[str, WireSide]:
        """By name: what has to be served."""
        found: dict[str, WireSide] = {SUPPLY.format(module): supply for module, supply in enumerate(self.supplies)}
        if self.chiller is not None:
            found[CHILLER] = self.chiller
        if self.timing is not None:
            found |= self.timing.wire_sides(TIMING)
        if self.clocks is not None:
            found[CLOCKS] = self.clocks.counter
        return found

    def _modules(self) -> list[str]:
        """Of every module: PORT.SLAVE.INDEX."""
        geometry, channels = self._profile.geometry, self._profile.absolute_channels()
        first = channels[:: channels.size // geometry.modules]
        return [module_node(int(one), geometry.asics_per_module).removeprefix("module:") for one in first]

    def device_tables(self, addresses: Mapping[str, str]) -> list[dict[str, Any]]:
        """What petqc needs to supervise them, as tables of petqc.toml; limits are of these simulated detectors.

        Args:
            addresses: of each that is served, by its name.
        """
        sipm, modules = self._profile.sipm, self._modules()
        tables: list[dict[str, Any]] = []
        for number, (supply, module) in enumerate(zip(self.supplies, modules, strict=False)):
            run_v = round(float(self._detector.draw.breakdown_found_v[number]) + sipm.overvoltage_v, 3)
            limits = {
                "v_min": supply.model.lowest_v + 1.0,
                "v_max": float(math.ceil(run_v + ABOVE_OPERATION_V)),
                "max_step_v": 5.0,
                "slew_v_per_s": 50.0,
                "most_current_ma": 2.0,
            }
            about = {"model": supply.model.name, "serial": supply.serial, "modules": [module], "run_v": run_v}
            about["bias"] = limits
            name = SUPPLY.format(number)
            tables.append({"name": name, "kind": "hamamatsu-c11204", "address": addresses[name], **about})
        if self.chiller is not None:
            about = {"model": self.chiller.version.split()[2], "modules": modules}
            tables.append({"name": CHILLER, "kind": "julabo", "address": addresses[CHILLER], **about})
        if self.timing is not None:
            ports = [int(addresses[name].rpartition(":")[2]) for name in self.timing.wire_sides(TIMING)]
            tables.append(
                {
                    "name": TIMING,
                    "kind": "caen-a5203",
                    "address": "tcp://127.0.0.1",
                    "control_port": ports[0],
                    "data_port": ports[1],
                    "serial": self.timing.board.card.serial,
                    "inputs": [*range(len(modules))],
                    "modules": modules,
                }
            )
        if self.clocks is not None:
            about = {"serial": self.clocks.counter.serial, "clocks": [modules[0], modules[-1]]}
            tables.append({"name": CLOCKS, "kind": "sr620", "address": addresses[CLOCKS], **about})
        return [{**table, "simulated": True} for table in tables]

    def act_on(self, boards: Sequence[PetsysFebd]) -> None:
        """Let the detector have what they give now, if it changed, and the counter its clocks."""
        if self.clocks is not None:
            self.clocks.follow()
        if self.chiller is not None:
            passed_s, self._cooled_s = self.chiller.elapsed_s - self._cooled_s, self.chiller.elapsed_s
            bath_k = self.chiller.bath_degc - self._profile.environment.coolant_degc
            self._warmer_k += (bath_k - self._warmer_k) * -math.expm1(-passed_s / HEATING_S)
            moved_k = abs(self._warmer_k - self._detector.coolant_k)
            if moved_k > MOVED_K and self._detector.set_coolant(self._warmer_k):
                self._seen_v = None
        if not self.supplies:
            return
        volts = np.array([supply.output_v for supply in self.supplies])
        if self._fed_v is None or np.abs(volts - self._fed_v).max() > MOVED_V:
            self._fed_v = volts
            for board in boards:
                board.feed_bias(volts[board.share.outputs])
        detector = self._detector
        if detector.bias_v is not self._seen_v:
            self._seen_v = detector.bias_v
            self._current_ma = dark_current_ma(detector.sipm(), detector.draw.bias_of, self._current_ma.size)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {name: side.state() for name, side in self.wire_sides().items()}

    def close(self) -> None:
        """Close the records."""
        for supply in self.supplies:
            supply.close()
