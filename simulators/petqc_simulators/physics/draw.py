"""The individual detector that a seed stands for: every parameter, on the calibration day and today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys.mezzanines import BIAS_32P
from petqc_simulators.physics.sipm import SipmState, sipm_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_drivers.petsys.mezzanines import BiasKind
    from petqc_simulators.profile import Profile

_POINT_EVERY_V = 2
F64 = np.float64


def stream(seed: int, name: str) -> np.random.Generator:
    """An independent random stream for one purpose."""
    return np.random.default_rng([seed, *name.encode()])


@dataclass(frozen=True, slots=True)
class Draw:
    """One detector.

    Channels are in the detector's own order: modules, ASICs, then row-major crystals; (n,) arrays are per channel.
    tdc: (n * 4, 8) t0 a0 a1 a2 of the T and the E branch; qdc: (n * 4, 10) polynomial; rows are channel * 4 + tac.
    zero: (n, 3) threshold codes at which T1, T2 and E fire half the time; baseline: (n, 2) trims that go with them.
    kev_per_unit, saturation_unit, offset_ps: what the calibration day found; light_today, delay_ps: what holds today.
    dac_gain, dac_offset_v, volts_per_code: (outputs,) real bias outputs, the last one nominal. warmer_k: (modules,)
    today against the calibration day.
    """

    bias_of: NDArray[np.int64]
    module_of: NDArray[np.int64]
    breakdown_v: NDArray[F64]
    cells: NDArray[F64]
    photoelectrons_per_kev: NDArray[F64]
    units_per_cell: NDArray[F64]
    intrinsic: NDArray[F64]
    photon_sigma_ps: NDArray[F64]
    tdc: NDArray[F64]
    qdc: NDArray[F64]
    zero: NDArray[F64]
    baseline: NDArray[np.int64]
    dac_gain: NDArray[F64]
    dac_offset_v: NDArray[F64]
    volts_per_code: NDArray[F64]
    breakdown_found_v: NDArray[F64]
    bias_code: NDArray[np.int64]
    calibrated: SipmState
    kev_per_unit: NDArray[F64]
    saturation_unit: NDArray[F64]
    offset_ps: NDArray[F64]
    delay_ps: NDArray[F64]
    light_today: NDArray[F64]
    warmer_k: NDArray[F64]

    def output_v(self, code: NDArray[np.int64], outputs: slice = slice(None)) -> NDArray[F64]:
        """True voltage of some bias outputs for DAC codes, (outputs,)."""
        nominal = self.volts_per_code[outputs] * code
        return np.asarray(nominal * self.dac_gain[outputs] + self.dac_offset_v[outputs])


def codes_for(volts: NDArray[F64], points_v: NDArray[F64], points_code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Highest DAC codes that a table gives no more than these voltages; points_v: (outputs, points)."""
    codes = [np.interp(v, row, points_code) for v, row in zip(volts, points_v, strict=True)]
    return np.array([int(code) for code in codes], np.int64)


def bias_points(
    draw_gain: NDArray[F64], draw_offset_v: NDArray[F64], kind: BiasKind = BIAS_32P
) -> tuple[NDArray[np.int64], NDArray[F64]]:
    """Points of the bias calibration: codes (points,) and true volts (outputs, points), about every 2 V."""
    all_codes, full_scale_v = 1 << kind.bits, int(kind.full_scale_v)
    between = np.arange(_POINT_EVERY_V, full_scale_v, _POINT_EVERY_V) * all_codes // full_scale_v
    codes = np.unique(np.concatenate([[kind.lowest_code], between, [all_codes - 1]]))
    volts = kind.full_scale_v * codes[None, :] / all_codes * draw_gain[:, None] + draw_offset_v[:, None]
    return codes.astype(np.int64), volts


def _bias_codes(
    wanted_v: NDArray[F64], dac_gain: NDArray[F64], dac_offset_v: NDArray[F64], kinds: list[BiasKind]
) -> NDArray[np.int64]:
    """The code that the calibration of each output gives for a voltage."""
    found = np.zeros(wanted_v.size, np.int64)
    for kind in dict.fromkeys(kinds):
        mine = np.array([other is kind for other in kinds])
        codes, volts = bias_points(dac_gain[mine], dac_offset_v[mine], kind)
        found[mine] = codes_for(wanted_v[mine], np.round(volts, 5), codes)
    return found


def _tdc(rng: np.random.Generator, rows: int, codes_per_clock: float) -> NDArray[F64]:
    columns = []
    for _ in range(2):
        columns += [
            rng.normal(0.0, 0.15, rows),
            rng.normal(105.0, 8.0, rows),
            rng.normal(codes_per_clock, 5.0, rows),
            -np.clip(rng.normal(5.0, 2.0, rows), 0.05, 12.0),
        ]
    return np.asarray(np.round(np.stack(columns, axis=1), 5), F64)


def _qdc(rng: np.random.Generator, rows: int) -> NDArray[F64]:
    table = np.zeros((rows, 10))
    table[:, 0] = rng.normal(95.0, 5.0, rows)
    table[:, 1] = rng.normal(3.0, 0.15, rows)
    table[:, 2] = rng.normal(-1.2e-3, 2e-4, rows)
    table[:, 3] = np.clip(rng.normal(1e-6, 3e-7, rows), 1e-7, None)
    table[:, :4] = [[float(f"{value:.9g}") for value in row] for row in table[:, :4].tolist()]
    return table


def draw_detector(profile: Profile, seed: int) -> Draw:
    """Draw everything from one seed; the same seed gives the same detector."""
    rng = stream(seed, "detector")
    geometry, crystal, sipm, timing, electronics = (
        profile.geometry,
        profile.crystal,
        profile.sipm,
        profile.timing,
        profile.electronics,
    )
    n, outputs, per_module = geometry.channels, geometry.bias_channels, geometry.crystals_per_module
    bias_of = np.arange(n) // geometry.crystals_per_bias
    module_of = np.arange(n) // per_module
    chip_of = np.arange(n) // geometry.crystals_per_asic

    group_v = sipm.breakdown_v + rng.normal(0.0, sipm.breakdown_group_spread_v, outputs)
    breakdown_v = group_v[bias_of] + rng.normal(0.0, sipm.breakdown_crystal_spread_v, n)
    cells = sipm.cells * (1.0 + rng.normal(0.0, sipm.cells_spread, n))
    light = 1.0 + np.clip(rng.normal(0.0, crystal.light_yield_spread, n), -0.2, 0.2)
    per_kev = crystal.photoelectrons_at_511 / 511.0 * light
    nominal_fired = -cells * np.expm1(-crystal.photoelectrons_at_511 * (1 + sipm.crosstalk_per_v * 3.5) / cells)
    units_per_cell = electronics.units_at_511 / nominal_fired * (1.0 + rng.normal(0.0, electronics.gain_spread, n))
    spread = 1.0 + rng.normal(0.0, crystal.resolution_spread, n)

    dac_gain = 1.0 + rng.normal(0.0, 2e-3, outputs)
    dac_offset_v = rng.normal(0.0, 0.02, outputs)
    kinds = profile.output_kinds
    volts_per_code = np.array([kind.full_scale_v / (1 << kind.bits) for kind in kinds])
    breakdown_found_v = np.round(
        np.array([breakdown_v[bias_of == i].mean() for i in range(outputs)]) + rng.normal(0.0, 0.005, outputs), 4
    )
    bias_code = _bias_codes(breakdown_found_v + sipm.overvoltage_v, dac_gain, dac_offset_v, kinds)
    supplied_v = volts_per_code * bias_code * dac_gain + dac_offset_v
    calibrated = sipm_state(sipm, crystal, supplied_v[bias_of], breakdown_v, np.zeros(n))

    saturation_unit = units_per_cell * cells * calibrated.gain
    kev_per_unit = cells / (per_kev * calibrated.fired_per_photon * saturation_unit)
    delay_ps = (
        rng.normal(0.0, timing.channel_delay_ps, n)
        + rng.normal(0.0, timing.asic_delay_ps, geometry.chips)[chip_of]
        + rng.normal(0.0, timing.module_delay_ps, geometry.modules)[module_of]
    )
    offset_ps = np.round(delay_ps - delay_ps.mean(), 2)
    today = profile.today
    moved_ps = (
        rng.normal(0.0, today.channel_delay_ps, n) + rng.normal(0.0, today.module_delay_ps, geometry.modules)[module_of]
    )
    zero = np.array([57.0, 52.0, 50.0]) + rng.normal(0.0, 1.0, (n, 3))
    return Draw(
        bias_of=bias_of,
        module_of=module_of,
        breakdown_v=breakdown_v,
        cells=cells,
        photoelectrons_per_kev=per_kev,
        units_per_cell=units_per_cell,
        intrinsic=crystal.intrinsic_fwhm_percent / 235.482 * spread,
        photon_sigma_ps=timing.photon_sigma_ps * (1.0 + rng.normal(0.0, timing.photon_sigma_spread, n)),
        tdc=_tdc(rng, 4 * n, electronics.tdc_codes_per_clock),
        qdc=_qdc(rng, 4 * n),
        zero=np.round(zero, 3),
        baseline=np.stack([rng.integers(52, 62, n), rng.integers(5, 8, n)], axis=1),
        dac_gain=dac_gain,
        dac_offset_v=dac_offset_v,
        volts_per_code=volts_per_code,
        breakdown_found_v=breakdown_found_v,
        bias_code=bias_code,
        calibrated=calibrated,
        kev_per_unit=kev_per_unit,
        saturation_unit=saturation_unit,
        offset_ps=offset_ps,
        delay_ps=offset_ps + moved_ps,
        light_today=1.0 + rng.normal(0.0, today.light_percent / 100.0, n),
        warmer_k=rng.normal(0.0, today.temperature_k, geometry.modules),
    )
