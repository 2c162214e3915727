"""The configuration directory of a simulated detector: what its calibration day would have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.formats.petsys_config import AsicParameters, HwTrigger, PetqcSection, SwTrigger, TableKind, write_config
from petqc.formats.petsys_tables import BRANCH_E, BRANCH_T, COINCIDENCE, QDC, SAME_PHOTON, TABLES
from petqc_simulators.boards.bias_prom import adc_codes
from petqc_simulators.physics.detector import THRESHOLD_NOISE_STEPS
from petqc_simulators.physics.draw import bias_points

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc_simulators.physics.draw import Draw
    from petqc_simulators.profile import Profile

PREBREAKDOWN_BELOW_V = 5.0


def _rows(kind: TableKind, n: int, /, **columns: Any) -> NDArray[Any]:
    """A table with the given columns; those that are not given are zero (port and slave)."""
    form = TABLES[kind]
    table = np.zeros(n, [(c.name, c.dtype) for c in form.columns])
    for name, values in columns.items():
        table[name] = values
    return table


def tables(profile: Profile, draw: Draw) -> dict[TableKind, NDArray[Any]]:
    """Every table; one row per channel, TAC and branch as the vendor's tools write them."""
    geometry = profile.geometry
    n, outputs = geometry.channels, geometry.bias_channels
    index = np.arange(n)
    address = {"chip": index // 64, "channel": index % 64}
    rows = np.arange(4 * n)
    tac_address = {"chip": rows // 256, "channel": rows // 4 % 64, "tac": rows % 4}
    both = np.repeat(rows, 2)
    branch = np.tile([BRANCH_T, BRANCH_E], 4 * n)
    tdc = draw.tdc.reshape(-1, 4)  # T and E branch alternate
    column, line = index % geometry.columns, index // geometry.columns % geometry.rows
    side = np.where(draw.module_of == 0, -1.0, 1.0)
    codes, volts = bias_points(draw.dac_gain, draw.dac_offset_v)
    points = codes.size
    output = np.arange(outputs)
    settings = profile.electronics
    return {
        "tdc": _rows(
            "tdc",
            8 * n,
            chip=both // 256,
            channel=both // 4 % 64,
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
            region=draw.module_of,
            xi=column,
            yi=line,
            x=np.round((column - (geometry.columns - 1) / 2) * geometry.pitch_mm, 3),
            y=np.round((line - (geometry.rows - 1) / 2) * geometry.pitch_mm, 3),
            z=side * (geometry.face_distance_mm + geometry.crystal_length_mm / 2),
        ),
        "trigger_map": _rows(
            "trigger_map", 3, region1=[0, 1, 0], region2=[0, 1, 1], kind=[SAME_PHOTON, SAME_PHOTON, COINCIDENCE]
        ),
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
        "bias_calibration": _rows(
            "bias_calibration",
            outputs * points,
            channel=np.repeat(output, points),
            dac_code=np.tile(codes, outputs),
            volts=np.round(volts.ravel(), 5),
            adc_code=adc_codes(volts.ravel()),
        ),
        "bias_settings": _rows(
            "bias_settings",
            outputs,
            channel=output,
            prebreakdown=np.round(draw.breakdown_found_v - PREBREAKDOWN_BELOW_V, 4),
            breakdown=draw.breakdown_found_v,
            overvoltage=profile.sipm.overvoltage_v,
        ),
        "bias_map": _rows("bias_map", n, **address, bias_channel=draw.bias_of),
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
        ),
    )
