"""The configuration directory of a simulated detector: what its calibration day would have written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.formats.petsys_config import AsicParameters, HwTrigger, PetqcSection, SwTrigger, TableKind, write_config
from petqc.formats.petsys_tables import BRANCH_E, BRANCH_T, COINCIDENCE, QDC, SAME_PHOTON, TABLES
from petqc.lutetium.crystals import MATERIALS
from petqc.scanners import load_scanner
from petqc_simulators.boards.bias_prom import adc_codes
from petqc_simulators.boards.hardware_trigger import REGIONS_OF_BOARD, quarter
from petqc_simulators.physics.detector import THRESHOLD_NOISE_STEPS
from petqc_simulators.physics.draw import bias_points
from petqc_simulators.physics.placement import crystal_middles_mm, in_coincidence
from petqc_simulators.profile import CHANNELS_OF_CHIP, MODULE_PLACES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc_simulators.physics.draw import Draw
    from petqc_simulators.profile import Profile

PREBREAKDOWN_BELOW_V = 5.0


def _rows(kind: TableKind, n: int, /, **columns: Any) -> NDArray[Any]:
    """A table with the given columns; those that are not given are zero."""
    form = TABLES[kind]
    table = np.zeros(n, [(c.name, c.dtype) for c in form.columns])
    for name, values in columns.items():
        table[name] = values
    return table


def _address(absolute: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {
        "port": absolute >> 17,
        "slave": absolute >> 12 & 31,
        "chip": absolute >> 6 & 63,
        "channel": absolute & 63,
    }


def _outputs(profile: Profile) -> dict[str, NDArray[np.int64]]:
    """Address of every bias output."""
    places = [
        (*address, *place)
        for address in profile.hardware.addresses
        for place in profile.hardware.bias_places(profile.outputs_per_board)
    ]
    return dict(zip(("port", "slave", "slot", "channel"), np.array(places, np.int64).reshape(-1, 4).T, strict=True))


def _bias_calibration(profile: Profile, draw: Draw) -> NDArray[Any]:
    """What was measured of every bias output, point by point."""
    kinds = profile.output_kinds
    curves = []
    for output, kind in enumerate(kinds):
        one = slice(output, output + 1)
        curves.append(bias_points(draw.dac_gain[one], draw.dac_offset_v[one], kind))
    points = np.array([codes.size for codes, _ in curves], np.int64)
    volts = np.concatenate([volts.ravel() for _, volts in curves])
    return _rows(
        "bias_calibration",
        volts.size,
        **{name: np.repeat(values, points) for name, values in _outputs(profile).items()},
        dac_code=np.concatenate([codes for codes, _ in curves]),
        volts=np.round(volts, 5),
        adc_code=adc_codes(volts),
    )


def regions_of_modules(profile: Profile) -> NDArray[np.int64]:
    """(modules, ASICs or 1) regions of each module's ASICs.

    Those of the hardware trigger where no two modules share one; or else each module is a region with its own number.
    """
    numbers = np.arange(profile.geometry.modules)[:, None]
    if not profile.hardware.is_tofpet2:
        return numbers
    places, _ = MODULE_PLACES[profile.hardware.base_pcb]
    per_module = profile.geometry.asics_per_module
    of_board = quarter(np.array(profile.board_chips, np.int64), places * per_module)
    found = REGIONS_OF_BOARD * np.arange(profile.hardware.boards)[:, None] + of_board
    of_modules = found.reshape(-1, per_module)
    is_own = sum(np.unique(of_module).size for of_module in of_modules) == np.unique(of_modules).size
    return of_modules if is_own else numbers


def _trigger_map(profile: Profile, regions: NDArray[np.int64]) -> NDArray[Any]:
    """Hits of one module may belong to one photon, photons of modules that see each other may be in coincidence."""
    one, other = np.nonzero(np.triu(in_coincidence(profile.geometry), 1))
    of_module = [np.unique(row) for row in regions]
    same = [(first, second) for row in of_module for first in row for second in row if first <= second]
    pairs = [(a, b) for i, j in zip(one, other, strict=True) for a in of_module[i] for b in of_module[j]]
    first, second = np.array([*same, *pairs], np.int64).T
    kinds = np.repeat([SAME_PHOTON, COINCIDENCE], [len(same), len(pairs)])
    return _rows("trigger_map", first.size, region1=first, region2=second, kind=kinds)


def tables(profile: Profile, draw: Draw) -> dict[TableKind, NDArray[Any]]:
    """Every table; one row per channel, TAC and branch as the vendor's tools write them; of bias only with outputs."""
    geometry = profile.geometry
    n, outputs = geometry.channels, geometry.bias_channels
    absolute = profile.absolute_channels()
    rows = np.arange(4 * n)
    both = np.repeat(rows, 2)
    address = _address(absolute)
    tac_address = {**_address(absolute[rows // 4]), "tac": rows % 4}
    branch = np.tile([BRANCH_T, BRANCH_E], 4 * n)
    tdc = draw.tdc.reshape(-1, 4)  # T and E branch alternate
    column, line = geometry.places
    middle = crystal_middles_mm(geometry)
    output = _outputs(profile)
    regions = regions_of_modules(profile)
    chip = np.minimum(np.arange(n) % geometry.crystals_per_module // CHANNELS_OF_CHIP, regions.shape[1] - 1)
    settings = profile.electronics
    of_bias: dict[TableKind, NDArray[Any]] = {}
    if profile.hardware.bias_slots:
        of_bias = {
            "bias_calibration": _bias_calibration(profile, draw),
            "bias_settings": _rows(
                "bias_settings",
                outputs,
                **output,
                prebreakdown=np.round(draw.breakdown_found_v - PREBREAKDOWN_BELOW_V, 4),
                breakdown=draw.breakdown_found_v,
                overvoltage=profile.sipm.overvoltage_v,
            ),
            "bias_map": _rows(
                "bias_map",
                n,
                **address,
                **{name: output[of][draw.bias_of] for name, of in (("slot", "slot"), ("bias_channel", "channel"))},
            ),
        }
    return {
        "tdc": _rows(
            "tdc",
            8 * n,
            **_address(absolute[both // 4]),
            tac=both % 4,
            branch=branch,
            t0=tdc[:, 0],
            a0=tdc[:, 1],
            a1=tdc[:, 2],
            a2=tdc[:, 3],
        ),
        "qdc": _rows("qdc", 4 * n, **tac_address, **{f"p{k}": draw.qdc[:, k] for k in range(10)}),
        "time_offset": _rows("time_offset", n, **address, t0_ps=draw.offset_ps),
        "energy_kev": _rows(
            "energy_kev", n, **address, kev_per_unit=draw.kev_per_unit, saturation_unit=draw.saturation_unit
        ),
        "channel_map": _rows(
            "channel_map",
            n,
            **address,
            region=regions[draw.module_of, chip],
            xi=column,
            yi=line,
            **{axis: np.round(middle[:, k], 3) for k, axis in enumerate("xyz")},
        ),
        "trigger_map": _trigger_map(profile, regions),
        "acquisition_mode": _rows("acquisition_mode", n, **address, mode=QDC),
        "disc_calibration": _rows(
            "disc_calibration",
            n,
            **address,
            baseline_t=draw.baseline[:, 0],
            baseline_e=draw.baseline[:, 1],
            zero_t1=draw.zero[:, 0],
            zero_t2=draw.zero[:, 1],
            zero_e=draw.zero[:, 2],
            noise_t1=THRESHOLD_NOISE_STEPS,
            noise_t2=THRESHOLD_NOISE_STEPS,
            noise_e=THRESHOLD_NOISE_STEPS,
        ),
        # What the hardware trigger is given when there is no calibration of its energy: every hit counts the same.
        "hwtrigger": _rows("hwtrigger", 4 * n, **tac_address, p0=1.0, k0=0.5),
        "disc_settings": _rows(
            "disc_settings", n, **address, vth_t1=settings.vth_t1, vth_t2=settings.vth_t2, vth_e=settings.vth_e
        ),
        **of_bias,
    }


def _about(profile: Profile) -> dict[str, Any]:
    """What the configuration says of crystals, a source that is no point, and a scanner that stands for a real one."""
    geometry, crystal = profile.geometry, profile.crystal
    # The crystal's own section, of the shape of its place.
    smaller = math.sqrt(crystal.fill_factor)
    found: dict[str, Any] = {
        "crystal_material": crystal.material if crystal.material in MATERIALS else "",
        "crystal_mm": (
            round(geometry.pitches_mm[0] * smaller, 4),
            round(geometry.pitches_mm[1] * smaller, 4),
            geometry.crystal_length_mm,
        ),
    }
    if profile.source.shape != "point":  # that is what is taken for granted where nothing is said
        found["source"] = profile.source.shape
    if not profile.reference:
        return found
    return {
        **found,
        "scanner": load_scanner(profile.reference),
        "source": profile.source.shape,
        "source_mm": (0.0, 0.0, 0.0) if profile.source.kind != "none" else None,
    }


def write_config_folder(folder: Path, profile: Profile, draw: Draw) -> Path:
    """Write config.ini and its tables into a folder; the path of config.ini."""
    numbers = profile.processing
    return write_config(
        folder,
        tables(profile, draw),
        sw_trigger=SwTrigger(
            group_max_hits=numbers.group_max_hits,
            group_max_distance=numbers.group_max_distance_mm,
            group_time_window=numbers.group_time_window_clk,
            coincidence_time_window=numbers.coincidence_time_window_clk,
        ),
        hw_trigger=HwTrigger(),
        asic_parameters=AsicParameters(channel_fields={"min_intg_time": 34, "max_intg_time": 34}),
        petqc=PetqcSection(
            asics_per_module=profile.geometry.asics_per_module,
            energy_window_kev=(numbers.energy_window_low_kev, numbers.energy_window_high_kev),
            **_about(profile),
        ),
    )
