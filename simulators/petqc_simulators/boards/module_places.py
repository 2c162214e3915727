"""The front-end modules of a board: what each one's surroundings are, how warm, how much current it draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from petqc_simulators.boards.front_end_module import FrontEndModule

if TYPE_CHECKING:
    import numpy as np

    from petqc_simulators.boards.petsys_febd import PetsysFebd
    from petqc_simulators.boards.temperature_sensors import Sensor

_FEBD_1K = 0x0002
_LEGACY_KINDS = {0x0001, 0x0011}
_FIRST_SERIAL = 1000
_BETWEEN_SENSORS_K = 0.15
"""SiPM sensors of one module differ a little with their place."""
_ASIC_ABOVE_SIPM_K = 2.0
_SIPM_NOISE_K, _ASIC_NOISE_K = 0.02, 0.05
_LOAD_RESET, _LOAD_STARTED, _LOAD_CONFIGURED = 0.3, 0.6, 1.0
"""Current of an ASIC, as a share of the most: held in reset, as it is switched on, configured."""


class ModulePlaces:
    """All places for modules of one board.

    Args:
        board: whose.
        rng: for what sensors read.

    Attributes:
        modules: those that are plugged, in the order of their places.
        on_since_s: since when they have power; infinite without.
    """

    def __init__(self, board: PetsysFebd, rng: np.random.Generator) -> None:
        self._board, self._rng = board, rng
        self.on_since_s = math.inf
        hardware = board.profile.hardware
        self.modules = [self._module(number, place) for number, place in enumerate(hardware.module_places)]
        for module, place in zip(self.modules, hardware.module_places, strict=True):
            module.is_legacy = place in hardware.legacy_places

    def _module(self, number: int, place: int) -> FrontEndModule:
        board = self._board
        return FrontEndModule(
            board.profile.hardware.module_kind,
            place,
            has_eeprom=board.profile.hardware.module_eeprom,
            serial=_FIRST_SERIAL + board.share.modules.start + number,
            degc=lambda sensor: self._degc(number, sensor),
            is_powered=board.fem_is_on,
            is_legacy_mode=lambda: self._is_legacy_mode(place),
            now_s=lambda: board.elapsed_s,
        )

    def _is_legacy_mode(self, place: int) -> bool:
        hardware = self._board.profile.hardware
        has_modes = hardware.base_pcb == _FEBD_1K and hardware.module_kind in _LEGACY_KINDS
        return has_modes and bool(self._board.registers.value("legacy_modules") >> place & 1)

    def switched(self, *, is_on: bool) -> bool:
        """The modules' supply was switched; whether it was off before and is on now."""
        was_on = not math.isinf(self.on_since_s)
        if is_on and not was_on:
            self.on_since_s = self._board.elapsed_s
        elif not is_on:
            self.on_since_s = math.inf
        return is_on and not was_on

    def load(self, place: int) -> float | None:
        """Current of the module at a place, as a share of the most; None without a module."""
        board, places = self._board, self._board.profile.hardware.module_places
        if place not in places:
            return None
        first = places.index(place) * board.asics.per_module
        loads = [
            (_LOAD_STARTED if board.asics.is_as_switched_on(chip) else _LOAD_CONFIGURED)
            if board.asics_are_alive()
            else _LOAD_RESET
            for chip in range(first, first + board.asics.per_module)
            if board.asics.is_there(chip)
        ]
        return sum(loads) / board.asics.per_module

    def _degc(self, number: int, sensor: Sensor) -> float:
        """The seed gives the SiPMs' temperature; the sensors of a module sit around it."""
        board, environment = self._board, self._board.profile.environment
        sipm_degc = environment.calibration_degc + float(board.detector.warmer_k[board.share.modules][number])
        if sensor.place == "sipm":
            middle = (sum(other.place == "sipm" for other in self.modules[number].sensors) - 1) / 2.0
            room_k = _BETWEEN_SENSORS_K * (sensor.number - middle)
            asic = (board.share.modules.start + number) * board.profile.geometry.asics_per_module + sensor.number
            wrong_k = float(board.detector.effects.sensor_k[asic])
            return sipm_degc + room_k + wrong_k + float(self._rng.normal(0.0, _SIPM_NOISE_K))
        powered_s = max(board.elapsed_s - self.on_since_s, 0.0) if board.fem_is_on() else 0.0
        rise = environment.asic_rise_k * -math.expm1(-powered_s / environment.asic_settle_s)
        return sipm_degc + _ASIC_ABOVE_SIPM_K + rise + float(self._rng.normal(0.0, _ASIC_NOISE_K))
