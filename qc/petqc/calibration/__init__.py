"""Calibrations of a detector, made ready for the kernels: one row of numbers for each channel and TAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from petqc.calibration.charge import ChargeTable, charge_table
from petqc.calibration.charge_kernels import N_COEFFICIENTS
from petqc.calibration.tdc import interval_range
from petqc.channel_map import Topology, channel_node
from petqc.errors import BadInputError
from petqc.formats.petsys_tables import BRANCH_E, COINCIDENCE, QDC, TOT, absolute_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from petqc.events import EnergyUnit
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.formats.petsys_frames import RawHeader

__all__ = ["ROWS_PER_CHIP", "CalibrationSet", "Rows", "acquisition_of"]

Acquisition = Literal["tot", "qdc", "mixed"]

ROWS_PER_CHIP = 256
"""64 channels of 4 TACs; row = first row of the chip + channel * 4 + TAC, the low 8 bits above an event's tacID."""

_N_CHIPS = 1 << 16  # port, slave and chip of an absolute channel number

SAME_PHOTON_BIT, COINCIDENCE_BIT = 1, 2
"""Values in `CalibrationSet.relation`."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Numbers by row (channel and TAC); (n_rows, ...) arrays, zero where a table has no line.

    tdc: (n, 8) float32, t0 a0 a1 a2 of the T branch, then of the E branch. charge: (n, 10) float32 p0..p9.
    linearisation: (n, 4) float32 p0..p3, or (0, 4) where the table is not used.
    """

    tdc: NDArray[np.float32]
    charge: NDArray[np.float32]
    linearisation: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """All that turns raw events into hits with time, energy and place.

    chip_row: (65536,) int32, first row of each chip (port, slave, chip), -1 where no table names it. rows: numbers by
    row. curves: inverse charge curves, by row. The next are by dense channel, which is row // 4: channel: absolute
    channel number; mode: int8, 0 time over threshold, 1 charge, -1 unknown; offset_ps: float64; kev: (n, 2) float32
    keV per unit and saturation (0: no line), or (0, 2) where the table is not used; region: int32, -1 not mapped;
    xyz_mm: (n, 3) float32. relation: (n_regions, n_regions) uint8, bit 0 same photon, bit 1 coincidence.
    mapped: whether there is a channel map at all; without one no hit is dropped for its place.
    """

    topology: Topology
    energy_unit: EnergyUnit
    acquisition: Acquisition
    chip_row: NDArray[np.int32]
    rows: Rows
    curves: ChargeTable
    channel: NDArray[np.int32]
    mode: NDArray[np.int8]
    offset_ps: NDArray[np.float64]
    kev: NDArray[np.float32]
    region: NDArray[np.int32]
    xyz_mm: NDArray[np.float32]
    relation: NDArray[np.uint8]
    mapped: bool

    @classmethod
    def from_config(
        cls, config: PetsysConfig, *, acquisition: Literal["tot", "qdc"] | NDArray[Any] | None = None
    ) -> CalibrationSet:
        """Build from the tables of a configuration.

        Args:
            config: as read by `petqc.formats.petsys_config.load_config`.
            acquisition: how the hits were taken, which a recording states: everything "tot" or "qdc", or a table with
                port, slave, chip, channel and mode (0 tot, 1 qdc). None: the configuration's own table, or else charge
                if there is a charge calibration and time over threshold if there is none.

        Raises:
            BadInputError: there is no TDC calibration, or charge is wanted and there is no charge calibration.
        """
        tables: Mapping[Any, NDArray[Any]] = config.tables
        tdc = config.require("tdc")
        if acquisition is None:
            acquisition = tables.get("acquisition_mode")
        qdc = tables.get("qdc")
        if acquisition is None or (not isinstance(acquisition, str) and not acquisition.size):
            acquisition = "qdc" if qdc is not None and qdc.size else "tot"
        channel_map = tables.get("channel_map")
        has_map = channel_map is not None and channel_map.size > 0
        named = [absolute_of(t) for t in (tdc, channel_map if has_map else None) if t is not None]
        chips = np.unique(np.concatenate(named) >> 6) if named else np.empty(0, np.int32)
        chip_row = np.full(_N_CHIPS, -1, np.int32)
        chip_row[chips] = np.arange(chips.size, dtype=np.int32) * ROWS_PER_CHIP
        n_channels = int(chips.size) * 64
        mode = _modes(acquisition, chip_row, n_channels)
        any_charge = bool((mode == QDC).any())
        if any_charge:
            qdc = config.require("qdc")
        rows = _rows(chip_row, n_channels, tdc, qdc if any_charge else None, tables.get("energy"))
        kev = _kev(chip_row, n_channels, tables.get("energy_kev"))
        region, xyz = _places(chip_row, n_channels, channel_map if has_map else None)
        channel = (chips[:, None] * 64 + np.arange(64)).astype(np.int32).reshape(-1)
        kinds = set(np.unique(mode[mode >= 0]).tolist())
        kind: Acquisition = "mixed" if kinds == {TOT, QDC} else "qdc" if kinds == {QDC} else "tot"
        unit: EnergyUnit = "kev" if kev.size else {"mixed": "arbitrary", "qdc": "clock", "tot": "ns"}[kind]  # type: ignore[assignment]
        return cls(
            topology=_topology(config, tdc, channel_map if has_map else None),
            energy_unit=unit,
            acquisition=kind,
            chip_row=chip_row,
            rows=rows,
            curves=charge_table(rows.charge),
            channel=channel,
            mode=mode,
            offset_ps=_offsets(chip_row, n_channels, tables.get("time_offset")),
            kev=kev,
            region=region,
            xyz_mm=xyz,
            relation=_relation(tables.get("trigger_map"), int(region.max(initial=-1)) + 1),
            mapped=has_map,
        )

    @property
    def n_channels(self) -> int:
        """Dense channels: 64 for each chip that any table names."""
        return int(self.channel.size)

    def dense_of(self, absolute: NDArray[np.int32]) -> NDArray[np.int64]:
        """Dense channels of absolute channel numbers; -1 where the chip is unknown. Shape as given."""
        return _dense(self.chip_row, absolute)

    def searched_pairs(self) -> NDArray[np.bool_]:
        """Which pairs of modules can be in coincidence, in the order of `QcHistograms`; all, where no map says."""
        n_modules = len(self.topology.module_nodes)
        high, low = np.tril_indices(n_modules, -1)
        if not self.mapped:
            return np.ones(high.size, np.bool_)
        # A module may have several regions: it is in coincidence if any of them is.
        n_regions = self.relation.shape[0]
        has = np.zeros((n_modules, n_regions), np.bool_)
        known = (self.topology.region >= 0) & (self.topology.region < n_regions)
        has[self.topology.module[known], self.topology.region[known]] = True
        related = (self.relation & COINCIDENCE_BIT > 0).astype(np.int64)
        return np.asarray((has.astype(np.int64) @ related @ has.T.astype(np.int64) > 0)[high, low])

    def time_shift_ps(self, period_ps: float) -> tuple[float, float]:
        """Bounds (low, high) of t_coarse - T over all calibrated channels, TACs and codes, in ps."""
        tdc = self.rows.tdc
        good = tdc[:, 2] != 0
        if not good.any():
            return 0.0, 0.0
        t0, a0, a1, a2 = (tdc[good, k] for k in range(4))
        low, high = interval_range(a0, a1, a2)
        offset = np.repeat(self.offset_ps, 4)[good]
        least = (low.astype(np.float64) + t0) * period_ps + offset
        most = (high.astype(np.float64) + t0) * period_ps + offset
        return float(np.nanmin(least)), float(np.nanmax(most))


def acquisition_of(header: RawHeader, modes: NDArray[Any] | None) -> Literal["tot", "qdc"] | NDArray[Any]:
    """How a recording was taken, as its header and (where they are mixed) its modes say; for `from_config`."""
    if header.mixed and modes is not None:
        return modes
    return "qdc" if header.all_charge else "tot"


def _dense(chip_row: NDArray[np.int32], absolute: NDArray[np.int32]) -> NDArray[np.int64]:
    first = chip_row[np.asarray(absolute) >> 6].astype(np.int64)
    return np.where(first < 0, np.int64(-1), first // 4 + (np.asarray(absolute) & 63))


def _row_of(
    chip_row: NDArray[np.int32], table: NDArray[Any] | None, *, by_tac: bool
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Rows (or dense channels) of the lines of a table whose chip is known, and those lines."""
    if table is None or not table.size:
        return np.empty(0, np.int64), np.empty(0, [("none", "i1")])
    at = _dense(chip_row, absolute_of(table))
    known = at >= 0
    lines = table[known]
    return (at[known] * 4 + lines["tac"] if by_tac else at[known]), lines


def _rows(
    chip_row: NDArray[np.int32],
    n_channels: int,
    tdc: NDArray[Any],
    qdc: NDArray[Any] | None,
    energy: NDArray[Any] | None,
) -> Rows:
    n = n_channels * 4
    tdc_rows = np.zeros((n, 8), np.float32)
    at, lines = _row_of(chip_row, tdc, by_tac=True)
    for k, name in enumerate(("t0", "a0", "a1", "a2")):
        if at.size:
            tdc_rows[at, k + 4 * (lines["branch"] == BRANCH_E)] = lines[name]
    charge = np.zeros((n, N_COEFFICIENTS), np.float32)
    at, lines = _row_of(chip_row, qdc, by_tac=True)
    for k in range(N_COEFFICIENTS):
        if at.size:
            charge[at, k] = lines[f"p{k}"]
    linear = np.zeros((n if energy is not None and energy.size else 0, 4), np.float32)
    at, lines = _row_of(chip_row, energy, by_tac=True)
    for k in range(4):
        if at.size:
            linear[at, k] = lines[f"p{k}"]
    return Rows(tdc_rows, charge, linear)


def _modes(acquisition: str | NDArray[Any], chip_row: NDArray[np.int32], n_channels: int) -> NDArray[np.int8]:
    if isinstance(acquisition, str):
        if acquisition not in {"tot", "qdc"}:
            raise BadInputError(f"acquisition {acquisition!r} is neither tot nor qdc")
        return np.full(n_channels, QDC if acquisition == "qdc" else TOT, np.int8)
    mode = np.full(n_channels, -1, np.int8)
    at, lines = _row_of(chip_row, acquisition, by_tac=False)
    if at.size:
        mode[at] = lines["mode"]
    return mode


def _offsets(chip_row: NDArray[np.int32], n_channels: int, table: NDArray[Any] | None) -> NDArray[np.float64]:
    offset = np.zeros(n_channels)
    at, lines = _row_of(chip_row, table, by_tac=False)
    if at.size:
        offset[at] = lines["t0_ps"]
    return offset


def _kev(chip_row: NDArray[np.int32], n_channels: int, table: NDArray[Any] | None) -> NDArray[np.float32]:
    if table is None or not table.size:
        return np.zeros((0, 2), np.float32)
    kev = np.zeros((n_channels, 2), np.float32)
    at, lines = _row_of(chip_row, table, by_tac=False)
    bad = ~((lines["kev_per_unit"] > 0) & (lines["saturation_unit"] > 0))
    if bad.any():
        line = lines[bad][:1]
        raise BadInputError(
            f"energy_kev: {channel_node(int(absolute_of(line)[0]))}: kev_per_unit {line['kev_per_unit'][0]}, "
            f"saturation_unit {line['saturation_unit'][0]}",
            do="both must be above 0; saturation_unit inf means linear; leave a channel without calibration out",
        )
    kev[at, 0], kev[at, 1] = lines["kev_per_unit"], lines["saturation_unit"]
    return kev


def _places(
    chip_row: NDArray[np.int32], n_channels: int, channel_map: NDArray[Any] | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    region = np.full(n_channels, -1, np.int32)
    xyz = np.zeros((n_channels, 3), np.float32)
    at, lines = _row_of(chip_row, channel_map, by_tac=False)
    if at.size:
        region[at] = lines["region"]
        for k, name in enumerate("xyz"):
            xyz[at, k] = lines[name]
    return region, xyz


def _relation(table: NDArray[Any] | None, n_regions: int) -> NDArray[np.uint8]:
    relation = np.zeros((max(n_regions, 1), max(n_regions, 1)), np.uint8)
    for first, second, kind in table[["region1", "region2", "kind"]].tolist() if table is not None else ():
        if first < n_regions and second < n_regions:
            bit = COINCIDENCE_BIT if kind == COINCIDENCE else SAME_PHOTON_BIT
            relation[first, second] = relation[second, first] = bit
    return relation


def _topology(config: PetsysConfig, tdc: NDArray[Any], channel_map: NDArray[Any] | None) -> Topology:
    per_module = config.petqc.asics_per_module
    fed = config.tables.get("bias_map")
    outputs = (
        {} if fed is None else dict(zip(absolute_of(fed).tolist(), fed[["slot", "bias_channel"]].tolist(), strict=True))
    )
    if channel_map is None:
        return Topology.from_channels(np.unique(absolute_of(tdc)), asics_per_module=per_module, bias_output=outputs)
    lines = channel_map[channel_map["region"] >= 0]
    return Topology.from_channels(
        absolute_of(lines),
        asics_per_module=per_module,
        column=lines["xi"].astype(np.int16),
        row=lines["yi"].astype(np.int16),
        xyz_mm=np.stack([lines["x"], lines["y"], lines["z"]], axis=1).astype(np.float32),
        region=lines["region"].astype(np.int32),
        bias_output=outputs,
    )
