"""The hardware trigger: what a trigger unit and a FEB/D must be told before they let only coincidences pass.

Numbers that do not fit are refused. The vendor clamps energies and wraps the others; a threshold that silently became
another one throws events away that nobody misses. Two things are taken over because they mean what was asked for: a
greatest energy of exactly 128, the vendor's default, is the top of its scale (127.96875), and fractions finer than the
fixed point are cut off.

All of it is write-only: that a board acknowledged is all that can be known.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2 (0x0600 to 0x0620,
functions 0x06 and 0x07), 7.6 and 7.7; width of k0 from the public vendor software of the same revision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import LocalProtocolError
from petqc_drivers.petsys.wire import Function, MemoryWrite, WireError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from petqc_drivers.petsys.board import Board

ENABLE_TRIGGER_UNIT: Final = 0x0001
ENABLE_FEBD: Final = 0x0713
"""Trigger on, energies calibrated and summed up, thresholds on energy and hits, trigger of the FEB/D itself."""
OFF: Final = 0x0000
REFERENCE_VECTORS: Final = 0x03E0_03E0
"""Energies and hits are summed up over -2 to +2 clocks."""
_ENERGY_BITS, _ENERGY_FRACTION = 12, 5
_ENERGY_TOP: Final = 128.0
_TACS, _CHANNELS = 4, 64


def _whole(value: int, n_bits: int, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << n_bits:
        raise WireError(f"hardware trigger: {name} {value!r} is not a whole number from 0 to {(1 << n_bits) - 1}")
    return value


def _fixed(value: float, n_bits: int, n_fraction: int, name: str, *, is_signed: bool = False) -> int:
    """Fixed point, cut off towards zero, two's complement if it is signed."""
    step = 2.0**-n_fraction
    low, high = (-(1 << n_bits - 1), (1 << n_bits - 1) - 1) if is_signed else (0, (1 << n_bits) - 1)
    code = math.trunc(value / step) if math.isfinite(value) else high + 1
    if not low <= code <= high or (value < 0 and not is_signed):
        raise WireError(f"hardware trigger: {name} {value!r} is outside {low * step:g} to {high * step:g}")
    return code & (1 << n_bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSettings:
    """Thresholds and windows. Energies in the unit of the calibration words, windows in clocks of 5 ns.

    Attributes:
        group_min_energy: Least summed energy of a region.
        group_max_energy: Greatest; 128 for no limit.
        group_min_multiplicity: Least number of hits.
        group_max_multiplicity: Greatest.
        before_clk: How long before a trigger hits are kept.
        after_clk: How long after it.
        coincidence_window_clk: How far two regions may be apart.
        singles_period: Of the acceptance of singles, see `singles_length`.
        singles_length: How much of each period singles pass without a partner; 0 for none.

    Raises:
        WireError: If a number does not fit, or a least is above its greatest.
    """

    group_min_energy: float = 0.0
    group_max_energy: float = _ENERGY_TOP
    group_min_multiplicity: int = 1
    group_max_multiplicity: int = 1024
    before_clk: int = 2
    after_clk: int = 3
    coincidence_window_clk: int = 2
    singles_period: int = 1000
    singles_length: int = 0

    def __post_init__(self) -> None:
        self.trigger_unit_registers()
        self.febd_registers()
        if self.group_min_energy > self.group_max_energy:
            raise WireError("hardware trigger: group_min_energy is above group_max_energy")
        if self.group_min_multiplicity > self.group_max_multiplicity:
            raise WireError("hardware trigger: group_min_multiplicity is above group_max_multiplicity")

    def trigger_unit_registers(self) -> dict[str, int]:
        """Registers of the trigger unit, without the one that switches on."""
        return {
            "coincidence_window": _whole(self.coincidence_window_clk, 3, "coincidence_window_clk"),
            "window_before": 0,
            "window_after": 0,
            "singles_acceptance": _whole(self.singles_length, 16, "singles_length") << 16
            | _whole(self.singles_period, 16, "singles_period"),
        }

    def febd_registers(self) -> dict[str, int]:
        """Registers of a FEB/D, without the one that switches on."""
        top = (1 << _ENERGY_BITS) - 1
        is_top = self.group_max_energy == _ENERGY_TOP
        return {
            "reference_vectors": REFERENCE_VECTORS,
            "group_window_before": _whole(self.before_clk, 2, "before_clk"),
            "group_window_after": _whole(self.after_clk, 4, "after_clk"),
            "group_min_energy": _fixed(self.group_min_energy, _ENERGY_BITS, _ENERGY_FRACTION, "group_min_energy"),
            "group_max_energy": top
            if is_top
            else _fixed(self.group_max_energy, _ENERGY_BITS, _ENERGY_FRACTION, "group_max_energy"),
            "group_max_multiplicity": _whole(self.group_max_multiplicity, 16, "group_max_multiplicity"),
            "group_min_multiplicity": _whole(self.group_min_multiplicity, 16, "group_min_multiplicity"),
        }


@dataclass(frozen=True, slots=True)
class EnergyCalibration:
    """How the board makes an energy of a raw charge: c0 + c1 x efine + c2 x efine^2, time walk 0.06 + k0 / energy.

    Raises:
        WireError: If a coefficient does not fit its field.
    """

    c0: float
    c1: float
    c2: float
    k0: float

    def __post_init__(self) -> None:
        self.to_word()

    def to_word(self) -> int:
        """The 40-bit word."""
        return (
            _fixed(self.c0, 10, 3, "c0")
            | _fixed(self.c1, 10, 10, "c1") << 10
            | _fixed(self.c2, 10, 16, "c2", is_signed=True) << 20
            | _fixed(self.k0, 6, 4, "k0") << 30
        )


UNCALIBRATED: Final = EnergyCalibration(1.0, 0.0, 0.0, 0.5)
"""What every buffer gets if there is no table: each hit has energy 1."""


def region_rows(n_regions: int, pairs: Iterable[tuple[int, int]]) -> list[bytes]:
    """Rows of the matrix of regions: which may be in coincidence with which.

    Args:
        n_regions: How many the trigger unit has.
        pairs: Regions that may be in coincidence, in either order.

    Raises:
        WireError: If a region is not one of them.
    """
    row_bytes = (n_regions + 7) // 8
    masks = [0] * n_regions
    for one, other in pairs:
        if not (0 <= one < n_regions and 0 <= other < n_regions):
            raise WireError(f"hardware trigger: regions {one} and {other}, the trigger unit has 0..{n_regions - 1}")
        masks[one] |= 1 << other
        masks[other] |= 1 << one
    return [mask.to_bytes(row_bytes, "little") for mask in masks]


def region_write(region: int, row: bytes) -> MemoryWrite:
    """Write of one row of the matrix."""
    return MemoryWrite(region * len(row), len(row), row)


def calibration_write(chip: int, channel: int, tac: int, calibration: EnergyCalibration) -> MemoryWrite:
    """Write of the calibration of one buffer.

    Raises:
        WireError: If there is no such buffer.
    """
    if not (0 <= chip < 64 and 0 <= channel < _CHANNELS and 0 <= tac < _TACS):
        raise WireError(f"hardware trigger: no buffer {tac} of channel {channel} of ASIC {chip}")
    return MemoryWrite(chip << 8 | channel << 2 | tac, 1, calibration.to_word().to_bytes(5, "little"))


async def write_trigger_unit(board: Board, settings: TriggerSettings, pairs: Iterable[tuple[int, int]]) -> int:
    """Tell a trigger unit its windows and which regions may be in coincidence; it stays off.

    Args:
        board: The trigger unit.
        settings: Its windows.
        pairs: Regions that may be in coincidence, in either order.

    Returns:
        How many regions it has.

    Raises:
        LocalProtocolError: If a region is not one of them; nothing but off was written then.
    """
    await board.write("hardware_trigger", OFF)
    n_regions = await board.read("trigger_regions")
    try:
        rows = region_rows(n_regions, pairs)
    except WireError as error:
        raise LocalProtocolError(str(error), device=board.name) from error
    for name, value in settings.trigger_unit_registers().items():
        await board.write(name, value)
    for region, row in enumerate(rows):
        await board.write_memory(Function.TRIGGER_REGIONS, region_write(region, row), f"write trigger region {region}")
    return n_regions


async def write_febd(
    board: Board,
    settings: TriggerSettings,
    chips: Iterable[int],
    calibrations: Mapping[tuple[int, int, int], EnergyCalibration] | None,
) -> None:
    """Tell a FEB/D its thresholds, and the energy calibration of every buffer of some chips; it stays off.

    Args:
        board: The FEB/D.
        settings: Its thresholds and windows.
        chips: The chips in use.
        calibrations: By chip, channel and buffer; None for `UNCALIBRATED`.

    Raises:
        LocalProtocolError: If there is a table and it lacks a buffer; nothing was written then.
    """
    buffers = [(chip, channel, tac) for chip in chips for channel in range(_CHANNELS) for tac in range(_TACS)]
    missing = [] if calibrations is None else [place for place in buffers if place not in calibrations]
    if missing:
        raise LocalProtocolError(
            f"hardware trigger: no energy calibration of {len(missing)} buffers, the first is "
            "ASIC {} channel {} buffer {}".format(*missing[0]),
            device=board.name,
        )
    await board.write("hardware_trigger", OFF)
    for name, value in settings.febd_registers().items():
        await board.write(name, value)
    for place in buffers:
        calibration = UNCALIBRATED if calibrations is None else calibrations[place]
        what = "write energy calibration of ASIC {} channel {} buffer {}".format(*place)
        await board.write_memory(Function.TRIGGER_CALIBRATION, calibration_write(*place, calibration), what)


async def switch(board: Board, *, is_febd: bool, is_on: bool) -> None:
    """Switch the trigger of a unit on or off; a board that is FEB/D and trigger unit at once counts as FEB/D.

    What it is told must have been written before.
    """
    word = ENABLE_FEBD if is_febd else ENABLE_TRIGGER_UNIT
    await board.write("hardware_trigger", word if is_on else OFF)
