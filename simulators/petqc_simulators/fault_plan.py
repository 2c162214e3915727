"""Where the faults of a session sit, and what they do to the detector's physics, its clocks and its link."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.channel_map import SCANNER, asic_node, bias_node, channel_node, module_node
from petqc_simulators.effects import Effects
from petqc_simulators.faults import OF_CONFIGURATION
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc_simulators.faults import Fault, Place
    from petqc_simulators.profile import Geometry, Profile

RAMP_STEPS = 50
"""Steps in which a fault grows."""
PATCH = 4
"""Crystals along each side of a patch."""
RF_PULSE_S = 1024 * 1024 * 5e-9
"""How long the RF pulses of a sequence last: a block of frames, 5.2 ms ..."""
RF_EVERY = 8
"""... one in so many: a repetition time of 42 ms."""
DAY_S = 86_400.0
HEATING_S = 180.0
"""Time constant of detectors that gradients warm, and of their cooling. Source: daily-qc.md §2i (minutes)."""
AXIAL_EDGE = 0.5
"""Share of the heating that modules at the axial ends get: it is worst near the axial centre. Source: as above."""
FRAME_PS = 1024 * 5000.0
CLOCK_US = 0.005
CRACKED_FWHM_PERCENT = 8.0
"""What a crack adds to the intrinsic energy resolution, in quadrature, with every 25 % of light lost."""
GAIN_PERCENT_PER_PS = 1.0 / 20.0
"""How far gains of a stale calibration are off for each ps that its offsets are off."""


_VARIES_S = {"F07": 10.0, "F23": RF_PULSE_S, "F24": 1.0, "F25": RF_PULSE_S}
"""How often the effects of faults that change of themselves are looked at again."""


class FaultPlan:
    """The faults of a session with the places that they name, or that the seed gave them.

    Attributes:
        faults: in the order in which they came; those that ended stay, with their end.
    """

    def __init__(self, faults: Sequence[Fault], profile: Profile, seed: int) -> None:
        self.faults: list[Fault] = []
        self.profile = profile
        self.geometry: Geometry = profile.geometry
        self.seed = seed
        self._places: list[NDArray[np.int64]] = []
        self._is_live: list[bool] = []
        self._chooses = np.random.default_rng([seed, 0xFA17])
        for fault in faults:
            self._append(fault, is_live=False)

    def _append(self, fault: Fault, *, is_live: bool) -> None:
        g = self.geometry
        patches = g.modules * (g.columns // PATCH) * (g.rows // PATCH)
        ranges = {
            "channel": g.channels,
            "patch": patches,
            "bias": g.bias_channels,
            "asic": g.chips,
            "module": g.modules,
            "scanner": 1,
        }
        rng, n = self._chooses, ranges[fault.kind.place]
        count = int(fault.size) if fault.kind.id == "F01" else 1
        if count > n or not n:
            raise ProfileError(
                f"fault {fault}: there {'is' if n == 1 else 'are'} {n} {fault.kind.place} in this scanner"
            )
        # Drawn also where it says its place, so that those that come after it are where they would be.
        chosen = rng.choice(n, size=max(count, 1), replace=False)
        if fault.where:
            chosen = self._named(fault, n)
        if fault.kind.id == "F21":
            first = int(chosen[0])
            others = [a for a in self._siblings(first) if a != first]
            chosen = np.array([first, others[int(rng.integers(len(others)))]] if others else [first])
        self.faults.append(fault)
        self._places.append(chosen)
        self._is_live.append(is_live)

    def _named(self, fault: Fault, n: int) -> NDArray[np.int64]:
        """The place that a fault names, out of n."""
        if fault.kind.id == "F01" and fault.size != 1.0:
            raise ProfileError(f"fault {fault}: it names one channel and asks for {fault.size:g}")
        is_patch = fault.kind.place == "patch"
        wanted = "channel" if is_patch else fault.kind.place
        names = self.names(wanted)
        if fault.where not in names:
            near = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            if fault.where.partition(":")[0] != wanted:
                how = "a patch, named by one of its channels" if is_patch else f"a place of the kind {wanted}"
                raise ProfileError(f"fault {fault}: it sits at {how}, not at {fault.where}; there is {near}")
            raise ProfileError(f"fault {fault}: there is no {fault.where} in this scanner; there is {near}")
        found = names.index(fault.where)
        if is_patch:
            found = next((p for p in range(n) if found in self.channels(fault, np.array([p]))), -1)
        if found < 0:
            raise ProfileError(f"fault {fault}: no whole patch has this crystal")
        return np.array([found])

    def begin(self, fault: Fault, now_s: float) -> int:
        """Plant a fault now; its times count from now on. Returns its number.

        It stays over synchronisations of the readout, until `end`.

        Raises:
            ProfileError: it has no such place, or is not one of a detector that runs.
        """
        if fault.kind.id in OF_CONFIGURATION:
            raise ProfileError(f"fault {fault}: it is in the configuration, which has been read already")
        self._append(replace(fault, onset_s=fault.onset_s + now_s, end_s=fault.end_s + now_s), is_live=True)
        return len(self.faults) - 1

    def end(self, number: int, now_s: float) -> None:
        """Take a fault away now, for good; what it warmed cools down.

        Raises:
            ProfileError: it is in the configuration.
        """
        fault = self.faults[number]
        if fault.kind.id in OF_CONFIGURATION:
            raise ProfileError(f"fault {fault}: it is in the configuration, which has been read already")
        self.faults[number] = replace(fault, onset_s=min(fault.onset_s, now_s), end_s=min(fault.end_s, now_s))
        self._is_live[number] = True

    def resize(self, number: int, size: float) -> None:
        """Another size of a fault that stays what and where it is."""
        self.faults[number] = replace(self.faults[number], size=size)

    @property
    def has_live(self) -> bool:
        """Some fault was planted, or taken away, while it ran."""
        return any(self._is_live)

    def let_pass(self, elapsed_s: float) -> None:
        """So much time that the synchronisation does not count: faults that were planted while it ran are older."""
        for number, fault in enumerate(self.faults):
            if self._is_live[number]:
                self.faults[number] = replace(fault, onset_s=fault.onset_s - elapsed_s, end_s=fault.end_s - elapsed_s)

    @property
    def farthest_source_mm(self) -> float:
        """How far from its place the source will ever be."""
        return max((f.size for f in self.faults if f.kind.id == "F26"), default=0.0)

    def onsets_s(self) -> list[float]:
        """Times at which a fault begins or ends."""
        ends = {f.end_s for f in self.faults if math.isfinite(f.end_s)}
        return sorted({f.onset_s for f in self.faults} | ends)

    def varies_every_s(self, seconds: float) -> float:
        """How soon the effects are others again of themselves, at a time since synchronisation; infinite: never."""
        begun = [fault for fault in self.faults if fault.has_begun(seconds)]
        grows = [f.ramp_s / RAMP_STEPS for f in begun if f.acts(seconds) and seconds < f.onset_s + f.ramp_s]
        return min([*(_VARIES_S.get(fault.kind.id, math.inf) for fault in begun), *grows], default=math.inf)

    def effects(self, seconds: float) -> Effects:
        """What is so at a time since synchronisation."""
        effects = Effects.none(self.geometry)
        for number, (fault, place) in enumerate(zip(self.faults, self._places, strict=True)):
            if fault.acts(seconds) or (fault.has_begun(seconds) and fault.kind.id == "F24"):
                self._add(effects, fault.at(seconds), place, self._rng(number), seconds - fault.onset_s)
        return effects

    def configured(self, profile: Profile) -> Profile:
        """The profile as its configuration is written: with the wrong windows that are planted, if any.

        The seed says whether it is the coincidence window, or the lower edge of the energy window.
        """
        numbers = profile.processing
        for number, fault in enumerate(self.faults):
            if fault.kind.id != "F22":
                continue
            if self._rng(number).random() < 0.5:
                numbers = replace(numbers, coincidence_time_window_clk=fault.size * numbers.coincidence_time_window_clk)
            else:
                high = numbers.energy_window_high_kev
                low = high - fault.size * (high - numbers.energy_window_low_kev)
                numbers = replace(numbers, energy_window_low_kev=low)
        return replace(profile, processing=numbers)

    def _rng(self, number: int) -> np.random.Generator:
        """What a fault draws for itself is the same whenever it is asked for."""
        return np.random.default_rng([self.seed, 0xFA17, number])

    def _add(
        self, effects: Effects, fault: Fault, place: NDArray[np.int64], rng: np.random.Generator, since_s: float
    ) -> None:
        if self._add_varying(effects, fault, place, since_s):
            return
        size, channels = fault.size, self.channels(fault, place)
        match fault.kind.id:
            case "F01":
                effects.dead[channels] = True
            case "F02":
                effects.extra_hz[channels] += size
            case "F03":
                effects.bias_shift_v[place] -= size / 1000.0
            case "F04":
                effects.bias_shift_v[place] += rng.choice([-1.0, 1.0]) * size / 1000.0
            case "F05":
                effects.sensor_k[place] += size
            case "F06":
                effects.warmer_k[place] += size
            case "F08":
                effects.dark *= 1.0 + size / 100.0
            case "F09":
                effects.light[channels] *= 1.0 - size / 100.0
            case "F10":
                effects.light[channels] *= 1.0 - size / 100.0
                effects.blur_percent[channels] = np.hypot(
                    effects.blur_percent[channels], CRACKED_FWHM_PERCENT * size / 25.0
                )
            case "F11":
                effects.noise[channels] *= size
            case "F12":
                effects.tdc_slope[channels] *= 1.0 + size / 100.0
            case "F13":
                effects.buffer_delay_ps[channels, int(rng.integers(4))] += size
            case "F14":
                effects.module_delay_ps[place] += size
            case "F15":
                effects.module_jitter_ps[place] = np.hypot(effects.module_jitter_ps[place], size)
            case "F16":
                effects.threshold_steps[channels] += size
            case "F17":
                effects.fall_per_khz += size / 100.0
            case "F18":
                effects.rearm_clk += size / CLOCK_US
            case "F20":
                effects.module_delay_ps[place] += np.round(size) * FRAME_PS
            case "F21":
                if place.size == 2:
                    of_asic = self.geometry.crystals_per_asic
                    one, other = (a * of_asic + np.arange(of_asic) for a in place)
                    effects.place[one], effects.place[other] = effects.place[other].copy(), effects.place[one].copy()
            case "F26":
                direction = rng.normal(size=3)
                effects.source_mm += size * direction / np.linalg.norm(direction)
            case "F27":
                n = self.geometry.channels
                effects.delay_ps += rng.normal(0.0, size, n)
                effects.gain *= 1.0 + np.clip(rng.normal(0.0, size * GAIN_PERCENT_PER_PS / 100.0, n), -0.5, 0.5)
            case "F28":
                effects.leak[channels] = np.maximum(effects.leak[channels], size / 100.0)
            case "F19":
                effects.frame_loss = max(effects.frame_loss, size / 100.0)
            case _:
                pass  # what is configured wrongly is nothing that the detector does

    def _add_varying(self, effects: Effects, fault: Fault, place: NDArray[np.int64], since_s: float) -> bool:
        """What changes of itself with the time since the fault began; False: this one does not."""
        match fault.kind.id:
            case "F07":
                effects.warmer_k += fault.size * np.cos(2.0 * np.pi * since_s / DAY_S)
            case "F23" | "F25":
                if round(since_s / RF_PULSE_S) % RF_EVERY == 0:
                    effects.extra_hz[self.channels(fault, place)] += 1000.0 * fault.size
            case "F24":
                lasted_s = fault.end_s - fault.onset_s
                warm = -np.expm1(-min(since_s, lasted_s) / HEATING_S)
                warm *= np.exp(-max(since_s - lasted_s, 0.0) / HEATING_S)
                effects.warmer_k += fault.size * warm * self._heated()
            case _:
                return False
        return True

    def _heated(self) -> NDArray[np.float64]:
        """Share of the heating that each module gets, by how far along the axis it is from the middle."""
        g = self.geometry
        rows = max((g.modules if g.arrangement == "ring" else g.modules // 2) // g.across, 1)
        off = np.abs(np.arange(g.modules) // g.across % rows - 0.5 * (rows - 1))
        return np.asarray(1.0 - (1.0 - AXIAL_EDGE) * (off - off.min()) / max(float(np.ptp(off)), 1.0))

    def channels(self, fault: Fault, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The channels of a fault's places, in the detector's own order."""
        g = self.geometry
        if fault.kind.place == "patch":
            per_row, per_column = g.columns // PATCH, g.rows // PATCH
            column, row = (at // PATCH for at in g.places)
            module = np.arange(g.channels) // g.crystals_per_module
            patch = (module * per_column + row) * per_row + column
            whole = (column < per_row) & (row < per_column)
            return np.concatenate([np.flatnonzero(whole & (patch == one)) for one in place])
        length = {
            "channel": 1,
            "bias": g.crystals_per_bias,
            "asic": g.crystals_per_asic,
            "module": g.crystals_per_module,
            "scanner": g.channels,
        }[fault.kind.place]
        return np.asarray(place[:, None] * length + np.arange(length)).ravel()

    def _siblings(self, asic: int) -> range:
        per_module = self.geometry.asics_per_module
        first = asic // per_module * per_module
        return range(first, first + per_module)

    def describe(self) -> list[dict[str, Any]]:
        """What was planted, for truth.json: places are channel, patch, bias output, ASIC or module indices."""
        return [self.describe_one(number) for number in range(len(self.faults))]

    def describe_one(self, number: int) -> dict[str, Any]:
        """What one of them is; `nodes`: the hardware addresses as the QC names them."""
        fault, place = self.faults[number], self._places[number]
        return {
            "id": fault.kind.id,
            "title": fault.kind.title,
            "size": fault.size,
            "size_means": fault.kind.size_means,
            "onset_s": fault.onset_s,
            **({"end_s": fault.end_s} if math.isfinite(fault.end_s) else {}),
            "places": [int(p) for p in place] if fault.kind.place != "scanner" else [],
            "nodes": self.nodes(fault, place),
        }

    def nodes(self, fault: Fault, place: NDArray[np.int64]) -> list[str]:
        """Hardware addresses of a fault's places; of a patch: the ASICs that its crystals are on."""
        if fault.kind.place != "patch":
            names = self.names(fault.kind.place)
            return [names[int(one)] for one in place]
        absolute = self.profile.absolute_channels()[self.channels(fault, place)]
        return list(dict.fromkeys(asic_node(int(c)) for c in absolute))

    def names(self, place: Place) -> list[str]:
        """Every place of a kind as the QC names it, in the detector's order; of patches none."""
        profile = self.profile
        if place == "scanner":
            return [SCANNER]
        if place == "bias":
            outputs, hardware = profile.hardware.bias_places(profile.outputs_per_board), profile.hardware
            if not outputs:  # from a supply for each module
                return self.names("module")[: self.geometry.bias_channels]
            boards = range(hardware.boards)
            return [bias_node(*hardware.address(board), *output) for board in boards for output in outputs]
        absolute = [int(c) for c in profile.absolute_channels()]
        match place:
            case "channel":
                return [channel_node(c) for c in absolute]
            case "module":
                return list(dict.fromkeys(module_node(c, self.geometry.asics_per_module) for c in absolute))
            case _:
                return list(dict.fromkeys(asic_node(c) for c in absolute))
