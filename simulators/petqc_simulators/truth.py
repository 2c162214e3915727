"""The truth about a simulated detector: what a perfect analysis of an endless run would find, and in which sense.

Every gamma is followed as in the simulation, from another random stream; everything that is Gaussian (light, noise,
timing) is then folded in exactly instead of drawn, and pile-up and accidental coincidences are left out. So the numbers
come from the parameters, never from the events that a run or recording contains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.channel_map import asic_node, channel_node, module_node, pair_node
from petqc_simulators.densities import FWHM_PER_SIGMA, mixture_density, peak_and_fwhm
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.crystal import CHANNEL, CLOCK_PS, DECAY, DEPOSIT_COLUMNS, ZE, ZT, E, T
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.emission import crystal_volume_mm3
from petqc_simulators.physics.placement import in_coincidence
from petqc_simulators.physics.source import LU176_ENDPOINT_KEV, LU176_GAMMAS_KEV, source_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc_simulators.faults import Fault
    from petqc_simulators.profile import Profile

SCHEMA = "petqc-simulated-truth/1"
MOST_NODES = 512
"""Of one level: of more, only rates and time offsets are given."""
TRUTH_SECONDS = 3.0
"""Simulated time that the mixtures are built from: about 75 000 photopeak pairs on the bench."""
MOST_DECAYS = 1e6
"""The truth of a whole scanner is built from fewer seconds, so that it fits the memory."""
_PHOTON_KEV = 510.999
_TOF_GRID_PS = np.arange(-1500.0, 1501.0, 1.0)
_ENERGY_GRID_KEV = np.arange(0.0, 1601.0, 1.0)

DEFINITIONS = {
    "photopeak_kev": (
        "Place of the maximum of the full-energy peak, in keV of the written calibration: the density of the summed "
        "energy of all singles of photons of 511 keV that left all their energy in one module and made one single "
        "there, attributed to the channel of the strongest hit. Light below a hit threshold is missing from them as "
        "it is in the data. Background and photons that left the module are not part of it."
    ),
    "photopeak_one_hit_kev": "The same for photons absorbed in one crystal: what the channel's own gain is today.",
    "energy_resolution_percent": (
        "Full width at half maximum of the same full-energy peak, in percent of its place; light statistics, "
        "electronic noise, ADC steps and, above channel level, the differences between channels included."
    ),
    "ctr_fwhm_ps": (
        "Full width at half maximum of the density of dt = t_a - t_b of pairs of singles of one annihilation, both in "
        "the energy window, times calibrated with the written tables: TDC steps, depth of interaction, time walk and "
        "the offsets that changed since the calibration are part of it, accidental pairs are not. Side a is the "
        "module of the higher trigger region. At ASIC and channel level: all such pairs with one side there."
    ),
    "ctr_rms_fwhm_ps": "2.3548 times the standard deviation of the same density.",
    "tof_mean_ps": "Mean of the same density: half of it is each module's offset if the two share it equally.",
    "time_offset_ps": (
        "Mean over the node's channels of today's delay minus the written time offset, positive is late; relative to "
        "the mean of all channels. Delays that depend on energy or depth are not part of it."
    ),
    "singles_hz": "Rate of groups of hits of one decay in one module above the thresholds, by strongest hit.",
    "singles_in_window_hz": "The same with the summed energy in the energy window.",
    "prompts_hz": "Rate of decays with a single in the energy window in each of the two modules, accidentals left out.",
    "randoms_hz": "2 tau times the product of the two modules' singles_in_window_hz, 2 tau as configured.",
}


@dataclass(frozen=True, slots=True)
class _Groups:
    """Singles of the truth, (n,) each.

    deposited_kev: left in the module by the decay, if all of it belongs to this single, else -1. mean_kev and sigma_kev
    are of the calibrated sum of the recorded hits, times of the strongest one.
    """

    decay: NDArray[np.int64]
    channel: NDArray[np.int64]
    n_hits: NDArray[np.int64]
    deposited_kev: NDArray[np.float64]
    energy_kev: NDArray[np.float64]
    mean_kev: NDArray[np.float64]
    sigma_kev: NDArray[np.float64]
    time_ps: NDArray[np.float64]
    sigma_ps: NDArray[np.float64]


class Response:
    """Calibrated energy of a deposit: mean and standard deviation, for today's detector and the written tables."""

    def __init__(self, detector: Detector) -> None:
        self.p = detector.parameters
        self.k = detector.draw.kev_per_unit
        self.s = detector.draw.saturation_unit
        self.qdc = detector.draw.qdc
        slope = detector.draw.tdc.reshape(-1, 4, 8)
        codes_per_clk = np.abs(slope[:, :, 2] + 2.0 * slope[:, :, 3] * 1.0)
        self.tdc_variance_ps2 = ((CLOCK_PS / codes_per_clk) ** 2 / 12.0).mean(axis=1)

    def calibrated_kev(self, light: NDArray[np.float64], channel: NDArray[np.int64]) -> NDArray[np.float64]:
        """Energy that the written tables give for an amount of light (keV)."""
        charge = -self.p[channel, el.SATURATION_UNIT] * np.expm1(-light * self.p[channel, el.CELL_SHARE])
        s = self.s[channel]
        return np.asarray(-self.k[channel] * s * np.log1p(-np.minimum(charge / s, 1.0 - 1e-9)))

    def moments(
        self, energy: NDArray[np.float64], channel: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation for a deposit, by five-point Gauss-Hermite folding; ADC steps included."""
        sigma = np.sqrt(self.p[channel, el.LIGHT_VARIANCE] * energy + self.p[channel, el.NOISE_VARIANCE])
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        values = [self.calibrated_kev(np.maximum(energy + z * sigma, 0.0), channel) for z in nodes]
        norm = weights.sum()
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / norm
        square = sum(w * v * v for w, v in zip(weights, values, strict=True)) / norm
        middle = self.calibrated_kev(energy, channel)
        charge = -self.p[channel, el.SATURATION_UNIT] * np.expm1(-energy * self.p[channel, el.CELL_SHARE])
        time = self.p[channel, el.WINDOW_CLK] - 0.5 + charge
        row = self.qdc[channel * 4]
        codes_per_unit = row[:, 1] + 2 * row[:, 2] * time + 3 * row[:, 3] * time**2
        step_kev = self.k[channel] * np.exp(middle / (self.k[channel] * self.s[channel])) / codes_per_unit
        return np.asarray(mean), np.sqrt(np.maximum(square - mean**2, 0.0) + step_kev**2 / 12.0)


def _single_of(
    detector: Detector, key: NDArray[np.int64], channel: NDArray[np.int64], clk: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Number of the single that each hit belongs to; rising with key (decay and module).

    As the event processing does it: the earliest hit takes the hits near it, the earliest of the rest the next ones.
    """
    geometry = detector.profile.geometry
    column, line = (place[channel] for place in geometry.places)
    across_mm, along_mm = geometry.pitches_mm
    single = np.full(key.size, -1, np.int64)
    left = np.lexsort((clk, key))
    for turn in range(16):
        if not left.size:
            break
        begins = np.concatenate([[True], np.diff(key[left]) != 0])
        seed = left[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
        apart = np.hypot(across_mm * (column[left] - column[seed]), along_mm * (line[left] - line[seed]))
        # The last turn takes what is left: a decay never makes so many singles.
        near = (apart <= detector.profile.processing.group_max_distance_mm) | (turn == 15)
        single[left[near]] = key[left[near]] * 16 + turn
        left = left[~near]
    return single


def _key(detector: Detector, decay: NDArray[np.float64], channel: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each decay and module, rising with the decay."""
    return np.asarray(
        decay.astype(np.int64) * detector.profile.geometry.modules + detector.draw.module_of[channel], np.int64
    )


def _groups(detector: Detector, seconds: float) -> _Groups:
    emission = detector.emission
    rows = np.empty((int(400_000 * max(seconds, 0.1)), DEPOSIT_COLUMNS))
    rows, n = emission.generate(seconds / (CLOCK_PS * 1e-12), rows, 0)
    rows = rows[:n]
    key_of_all = _key(detector, rows[:, DECAY], rows[:, CHANNEL].astype(np.int64))
    places, inverse = np.unique(key_of_all, return_inverse=True)
    absorbed_kev = np.bincount(inverse, weights=rows[:, E], minlength=places.size)
    p, response = detector.parameters, Response(detector)
    channel = rows[:, CHANNEL].astype(np.int64)
    energy = rows[:, E]
    light = np.maximum(
        energy + rows[:, ZE] * np.sqrt(p[channel, el.LIGHT_VARIANCE] * energy + p[channel, el.NOISE_VARIANCE]), 0.0
    )
    seen = (p[channel, el.ON] == 1.0) & (light * p[channel, el.SIGNAL] >= p[channel, el.THRESHOLD_KEV])
    rows, channel, energy, light = rows[seen], channel[seen], energy[seen], light[seen]
    if not channel.size:
        none, no = np.empty(0), np.empty(0, np.int64)
        return _Groups(no, no, no, none, none, none, none, none, none)
    measured = response.calibrated_kev(light, channel)
    walk = np.minimum(p[channel, el.WALK_CLK] * (511.0 / np.maximum(energy, 5.0) - 1.0), 0.4)
    ratio = 511.0 / np.maximum(energy, 5.0)
    variance = (
        p[channel, el.PHOTON_VARIANCE] * ratio
        + p[channel, el.AMPLIFIER_VARIANCE] * ratio**2
        + p[channel, el.FIXED_VARIANCE]
    )
    clk = rows[:, T] + walk + p[channel, el.DELAY_CLK] - p[channel, el.OFFSET_CLK]
    key = _key(detector, rows[:, DECAY], channel)
    single = _single_of(detector, key, channel, clk + rows[:, ZT] * np.sqrt(variance))
    order = np.lexsort((-measured, single))
    first_of = np.flatnonzero(np.concatenate([[True], np.diff(single[order]) != 0]))
    first = order[first_of]
    mean, sigma = response.moments(energy, channel)
    # A hit that only just passed its threshold did so because its light came out high: it keeps the light it had.
    near = energy < 3.0 * p[channel, el.THRESHOLD_KEV] / p[channel, el.SIGNAL]
    mean, sigma = np.where(near, measured, mean), np.where(near, 0.1, sigma)
    # Where one decay makes several singles in a module, none of them holds the whole.
    _, which, count = np.unique(key[first], return_inverse=True, return_counts=True)
    absorbed = np.where(count[which] == 1, absorbed_kev[np.searchsorted(places, key[first])], -1.0)

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add.reduceat(values[order], first_of)

    return _Groups(
        decay=rows[first, DECAY].astype(np.int64),
        channel=channel[first],
        n_hits=np.diff(np.concatenate([first_of, [key.size]])),
        deposited_kev=absorbed,
        energy_kev=summed(measured),
        mean_kev=summed(mean),
        sigma_kev=np.sqrt(summed(sigma**2)),
        time_ps=clk[first] * CLOCK_PS,
        sigma_ps=np.sqrt(variance[first] * CLOCK_PS**2 + response.tdc_variance_ps2[channel[first]]),
    )


def _peak(
    groups: _Groups, mine: NDArray[np.int64], *, step_kev: float, least: int = 20
) -> tuple[float, float, int] | None:
    """Place and FWHM of the full-energy peak of some singles (their indices), and how many stand for it."""
    if mine.size < least:
        return None
    mean = groups.mean_kev[mine]
    middle = float(np.median(mean))
    grid = np.arange(middle - 150.0, middle + 150.0, step_kev)
    return (*peak_and_fwhm(grid, mixture_density(grid, mean, groups.sigma_kev[mine])), mine.size)


def _by_node(node: NDArray[np.int64], nodes: int) -> list[NDArray[np.int64]]:
    """Indices of the members of each node."""
    order = np.argsort(node, kind="stable")
    return np.split(order, np.searchsorted(node[order], np.arange(1, nodes)))


def _energy(groups: _Groups, of: NDArray[np.int64], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Photopeak and resolution of every node; `of` is the node's index for each channel."""
    full = np.flatnonzero(np.abs(groups.deposited_kev - _PHOTON_KEV) < 0.01)
    members = _by_node(of[groups.channel[full]], len(names))
    step = 0.5 if len(names) < 64 else 2.0
    found: dict[str, dict[str, Any]] = {}
    for name, inside in zip(names, members, strict=True):
        mine = full[inside]
        both = _peak(groups, mine, step_kev=step)
        single = _peak(groups, mine[groups.n_hits[mine] == 1], step_kev=step)
        if both is None or single is None:
            continue
        found[name] = {
            "photopeak_kev": round(both[0], 5),
            "photopeak_one_hit_kev": round(single[0], 5),
            "energy_resolution_percent": round(100.0 * both[1] / both[0], 5),
            "full_energy_singles_hz": both[2],
        }
    return found


def _ctr(mean: NDArray[np.float64], sigma: NDArray[np.float64], *, step_ps: float) -> dict[str, Any] | None:
    if mean.size < 20:
        return None
    middle = float(np.median(mean))
    width = math.sqrt(float((sigma**2).mean()))
    half, step_ps = max(1500.0, 4.0 * width), max(step_ps, width / 300.0)
    grid = np.arange(middle - half, middle + half + step_ps, step_ps)
    _, fwhm = peak_and_fwhm(grid, mixture_density(grid, mean, sigma))
    return {
        "ctr_fwhm_ps": round(fwhm, 4),
        "ctr_rms_fwhm_ps": round(FWHM_PER_SIGMA * math.sqrt(float((sigma**2).mean() + mean.var())), 4),
        "tof_mean_ps": round(float(mean.mean()), 4),
        "pairs": int(mean.size),
    }


def _spectrum(groups: _Groups, mine: NDArray[np.bool_], seconds: float) -> list[float]:
    density = mixture_density(_ENERGY_GRID_KEV, groups.mean_kev[mine], np.maximum(groups.sigma_kev[mine], 0.3))
    return [round(float(v) / seconds, 4) for v in density]


def _runs_of_two(values: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For each run of equal values whether it has two members, and its length."""
    edges = np.flatnonzero(np.concatenate([[True], np.diff(values) != 0, [True]])) if values.size else np.zeros(1, int)
    lengths = np.diff(edges)
    return lengths == 2, lengths


def _pairs(
    names: Sequence[str],
    facing: NDArray[np.bool_],
    module_a: NDArray[np.int64],
    module_b: NDArray[np.int64],
    dt: NDArray[np.float64],
    sigma: NDArray[np.float64],
    tau2_times_singles: NDArray[np.float64],
    singles_hz: NDArray[np.float64],
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """CTR and rates of every pair of modules in coincidence; the module of the higher region is side a."""
    found: dict[str, dict[str, Any]] = {}
    few = int(facing.sum()) // 2 <= 1
    for high, low in zip(*np.nonzero(np.tril(facing)), strict=True):
        mine = (module_a == high) & (module_b == low)
        found[pair_node(names[high], names[low])] = {
            **((_ctr(dt[mine], sigma[mine], step_ps=1.0 if few else 5.0)) or {}),
            "prompts_hz": round(int(mine.sum()) / seconds, 4),
            "randoms_hz": round(float(tau2_times_singles[high] * singles_hz[low]), 4),
        }
    return found


def _lutetium(profile: Profile) -> dict[str, Any]:
    """What the crystals do by themselves, with a source or without."""
    crystal = profile.crystal
    decays_hz = crystal_volume_mm3(profile) * 1e-3 * crystal.lu176_bq_per_cm3
    return {
        "material": crystal.material,
        "bq_per_cm3": crystal.lu176_bq_per_cm3,
        "decays_hz": round(decays_hz * profile.geometry.channels, 4),
        "decays_per_channel_hz": round(decays_hz, 6),
        "gammas_kev": list(LU176_GAMMAS_KEV),
        "beta_endpoint_kev": LU176_ENDPOINT_KEV,
        "walk_ps": profile.timing.walk_ps,
        "tdc_scale": 1.0,
    }


def compute_truth(
    profile: Profile, seed: int, faults: Sequence[Fault] = (), *, seconds: float | None = None
) -> dict[str, Any]:
    """The truth document of a detector with its faults, after all of them have set in.

    Args:
        profile: the scanner.
        seed: the detector's seed.
        faults: what is planted.
        seconds: simulated time that the mixtures are built from; None: TRUTH_SECONDS, or until MOST_DECAYS.
    """
    detector = Detector(profile, seed, faults, stream_name="truth")
    if seconds is None:
        decays_hz = detector.emission.source_hz + detector.emission.lutetium_hz
        seconds = min(TRUTH_SECONDS, MOST_DECAYS / max(decays_hz, 1.0))
    detector.settle()
    detector.effects = detector.plan.effects(max((f.onset_s for f in faults), default=0.0))
    detector.refresh()
    groups = _groups(detector, seconds)
    geometry, numbers = profile.geometry, detector.plan.configured(profile).processing
    channels = np.arange(geometry.channels)
    absolute = profile.absolute_channels()
    first_of_module = absolute[:: geometry.crystals_per_module]
    facing_modules = in_coincidence(geometry)
    levels: dict[str, tuple[NDArray[np.int64], list[str]]] = {
        "scanner": (np.zeros(channels.size, np.int64), ["scanner"]),
        "modules": (
            detector.draw.module_of,
            [module_node(int(first), geometry.asics_per_module) for first in first_of_module],
        ),
        "asics": (
            channels // geometry.crystals_per_asic,
            [asic_node(int(first)) for first in absolute[:: geometry.crystals_per_asic]],
        ),
        "channels": (channels, [channel_node(int(c)) for c in absolute]),
    }
    nodes: dict[str, dict[str, dict[str, Any]]] = {}
    residual = (detector.parameters[:, el.DELAY_CLK] - detector.parameters[:, el.OFFSET_CLK]) * CLOCK_PS
    residual = residual - residual.mean()
    in_window = (groups.energy_kev >= numbers.energy_window_low_kev) & (
        groups.energy_kev <= numbers.energy_window_high_kev
    )
    module = detector.draw.module_of[groups.channel] if groups.channel.size else groups.channel
    for level, (of, names) in levels.items():
        # Mixtures of thousands of channels take minutes, and seconds of simulation say little about each of them.
        energy = _energy(groups, of, names) if len(names) <= MOST_NODES else {}
        node = of[groups.channel]
        count = np.bincount(node, minlength=len(names)) / seconds
        inside = np.bincount(node[in_window], minlength=len(names)) / seconds
        offset_ps = np.bincount(of, weights=residual) / np.bincount(of)
        nodes[level] = {
            name: {
                **energy.get(name, {}),
                "singles_hz": round(float(count[i]), 4),
                "singles_in_window_hz": round(float(inside[i]), 4),
                "time_offset_ps": round(float(offset_ps[i]), 4),
            }
            for i, name in enumerate(names)
        }
        for values in nodes[level].values():
            if "full_energy_singles_hz" in values:
                values["full_energy_singles_hz"] = round(values["full_energy_singles_hz"] / seconds, 4)

    # Singles come ordered by decay and module; a decay with more than one in a module is ambiguous and left out.
    kept = np.flatnonzero(in_window)
    is_pair, lengths = _runs_of_two(groups.decay[kept])
    kept = kept[np.repeat(is_pair, lengths)]
    b, a = kept[0::2], kept[1::2]
    facing = facing_modules[module[a], module[b]]
    a, b = a[facing], b[facing]
    dt = groups.time_ps[a] - groups.time_ps[b]
    sigma = np.hypot(groups.sigma_ps[a], groups.sigma_ps[b])
    near = np.abs(dt) <= numbers.coincidence_time_window_clk * CLOCK_PS
    a, b, dt, sigma = a[near], b[near], dt[near], sigma[near]
    scanner = _ctr(dt, sigma, step_ps=1.0)
    tau2_s = 2 * numbers.coincidence_time_window_clk * CLOCK_PS * 1e-12
    per_module = np.bincount(module[in_window], minlength=geometry.modules) / seconds
    names = levels["modules"][1]
    pair_values = {
        **(scanner or {}),
        "prompts_hz": round(dt.size / seconds, 4),
        "randoms_hz": round(float(tau2_s * per_module @ facing_modules @ per_module / 2.0), 4),
    }
    nodes["scanner"]["scanner"].update(pair_values)
    for level, step_ps in (("asics", 2.0), ("channels", 10.0)):
        of, level_names = levels[level]
        if len(level_names) > MOST_NODES:
            continue
        sides = [_by_node(of[groups.channel[side]], len(level_names)) for side in (a, b)]
        for name, *both in zip(level_names, *sides, strict=True):
            mine = np.union1d(*both)
            one_side = _ctr(dt[mine], sigma[mine], step_ps=step_ps)
            if one_side is not None:
                nodes[level][name].update(one_side)
    state = detector.sipm()
    volts = detector.bias_v + np.where(detector.bias_v > 1.5, detector.effects.bias_shift_v, 0.0)
    density = mixture_density(_TOF_GRID_PS, dt, sigma) / max(dt.size, 1)
    return {
        "schema": SCHEMA,
        "profile": profile.name,
        "seed": seed,
        "source": profile.source.kind,
        "activity_bq": source_model(profile.source, geometry).activity_bq,
        "lutetium": _lutetium(profile),
        "definitions": DEFINITIONS,
        "from_simulated_seconds": seconds,
        **({"served_frames_repeat_after_s": round(turn * BLOCK_S, 6)} if (turn := profile.repetition.blocks) else {}),
        "energy_window_kev": [numbers.energy_window_low_kev, numbers.energy_window_high_kev],
        "coincidence_window_ps": 2 * numbers.coincidence_time_window_clk * CLOCK_PS,
        "faults": detector.plan.describe(),
        "dead_channels": [channel_node(int(c)) for c in absolute[detector.effects.dead]],
        "hot_channels": [channel_node(int(c)) for c in absolute[detector.effects.extra_hz > 0]],
        "frames_lost_share": detector.effects.frame_loss,
        "sipm_temperature_degc": [round(profile.environment.calibration_degc + float(w), 4) for w in detector.warmer_k],
        "bias_v": [round(float(v), 5) for v in volts],
        "overvoltage_v": [
            round(float(state.overvoltage_v[detector.draw.bias_of == i].mean()), 5)
            for i in range(geometry.bias_channels)
        ],
        "pairs": _pairs(
            names, facing_modules, module[a], module[b], dt, sigma, tau2_s * per_module, per_module, seconds
        ),
        "scanner": nodes["scanner"]["scanner"],
        "modules": nodes["modules"],
        "asics": nodes["asics"],
        "channels": nodes["channels"],
        "tof_density": {
            "unit": "1/ps",
            "first_ps": float(_TOF_GRID_PS[0]),
            "step_ps": 1.0,
            "values": [round(float(v), 9) for v in density],
        },
        "energy_spectrum": {
            "unit": "singles per keV and second",
            "first_kev": 0.0,
            "step_kev": 1.0,
            **{name: _spectrum(groups, module == i, seconds) for i, name in enumerate(names)},
        },
    }
