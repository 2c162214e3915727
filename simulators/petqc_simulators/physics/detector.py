"""The whole detector: what is set decides what it sees; it advances by blocks of frames."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from petqc_simulators.effects import Effects
from petqc_simulators.fault_plan import FaultPlan
from petqc_simulators.physics import electronics as el
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S, Block
from petqc_simulators.physics.controls import MODE_NORMAL, MODE_TEST_PULSE, Controls, nominal_controls
from petqc_simulators.physics.crystal import CHANNEL, CLOCK_PS, DECAY, ZE, ZT, E, T
from petqc_simulators.physics.draw import draw_detector, stream
from petqc_simulators.physics.emission import CLOCK_S, Emission
from petqc_simulators.physics.sipm import SipmState, dark_pulse_rate_hz, dark_staircase_hz, sipm_state
from petqc_simulators.physics.working_memory import WorkingMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from petqc_simulators.faults import Fault
    from petqc_simulators.physics.controls import PulseTrain
    from petqc_simulators.physics.photons_ahead import PhotonsAhead
    from petqc_simulators.profile import Profile, Share

_BLOCK_CLK = float(BLOCK_FRAMES * el.FRAME_CLK)
_AHEAD_CLK = float(el.FRAME_CLK)
"""Deposits are made one frame ahead of what is emitted, so that pile-up and late latching are complete."""
_WAITS_BLOCKS = 20
"""For so many blocks, a tenth of a second, noise with all bias off may go on as it was before new settings."""
THRESHOLD_NOISE_STEPS = 0.5
"""Standard deviation of the baseline's noise, in threshold steps."""
NOISE_CROSSINGS_HZ = 5.0e7
"""Rate at which the baseline's noise crosses its own mean upwards: about its bandwidth."""
_NOISE_HZ = 2.0e5
"""Rate of a comparator whose thresholds all lie in the baseline."""
T1_BEST_STEPS = 20.0
INTEGRATION_CLK_PER_CODE = 1.8
"""Integration time per step of min_intg_time and max_intg_time: code 34 is about 0.3 us. The true scale is not
documented; it cancels in the calibration, which measures the integrated time itself."""
BASELINE_STEPS = (1.2, 3.0)
"""Shift of the threshold zeros per step of baseline_t (T1, T2) and baseline_e (E)."""


_BASELINE_FOLLOWS = 0.1
"""Share of the way that the baseline goes towards the mean rate in one block: 50 ms."""


def _without_last_zeros(qdc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Polynomials without the powers that none of them has."""
    return np.ascontiguousarray(qdc[:, : np.flatnonzero(qdc.any(axis=0))[-1] + 1])


def _neighbours(profile: Profile) -> NDArray[np.int64]:
    """The next crystal in the row of each one's module, of the last one the one before; (channels,)."""
    g = profile.geometry
    column, row = g.places
    module = np.arange(g.channels) // g.crystals_per_module
    at = np.full((g.modules, g.columns, g.rows), -1)
    at[module, column, row] = np.arange(g.channels)
    beside = np.where(column + 1 < g.columns, column + 1, np.maximum(column - 1, 0))
    return np.asarray(at[module, beside, row], np.int64)


class Detector:
    """Source, crystals, SiPMs and ASICs of one seed. `set` changes what the readout controls; `advance` sees on.

    One thread may `advance` while another one calls `set`, which waits for the block.

    Attributes:
        onlooker: given the deposits of each block, times in clocks since its first frame, and the parameters of the
            channels: what else looks at the same photons. It must not keep or change them.
        signal_delay_ps: (modules,) how much later signals come from a module than on the calibration day: its front
            end or cable, before anything that times them. Settable, a defect; acts once something else is set.
        ahead: follows the photons of the next block while hits of this one are made; None: one after the other. Hits
            are the same.
    """

    def __init__(
        self, profile: Profile, seed: int, faults: Sequence[Fault] = (), *, stream_name: str = "events"
    ) -> None:
        self.profile = profile
        self.draw = draw_detector(profile, seed)
        self.plan = FaultPlan(faults, profile, seed)
        self.effects = Effects.none(profile.geometry)
        self.controls = nominal_controls(profile, self.draw)
        self.bias_v = np.zeros(profile.geometry.bias_channels)
        self.coolant_k = 0.0
        self.signal_delay_ps = np.zeros(profile.geometry.modules)
        self.counters = np.zeros(el.COUNTERS, np.int64)
        self.parameters = np.zeros((profile.geometry.channels, el.PARAMETERS))
        self.emission = Emission(profile, stream(seed, stream_name), self.plan.farthest_source_mm)
        self._loss_rng = stream(seed, stream_name + " loss")
        self._gids = profile.absolute_channels().astype(np.uint64)
        self._tdc = self.draw.tdc
        self._qdc = _without_last_zeros(self.draw.qdc)
        self._largest_frame = el.MAX_EVENTS_BEHIND_DAEMON if profile.hardware.clock_trigger else el.MAX_FRAME_EVENTS
        self._buffers = WorkingMemory.empty(profile.geometry.channels)
        self._onsets: list[float] = []
        self._varies_at_s = math.inf
        self._neighbour = _neighbours(profile)
        self._rate_khz = 0.0
        self._accepted = 0
        self._pulses: dict[int, tuple[slice, PulseTrain]] = {}
        self._is_blind = False
        self._stale = True
        self._waited = 0
        self._lock = threading.Lock()
        self.onlooker: Callable[[NDArray[np.float64], NDArray[np.float64]], None] | None = None
        self.ahead: PhotonsAhead | None = None
        self.slices_lost = 0
        self.frame = 0
        self.restart()

    # -- what is set ------------------------------------------------------------------------------------------------

    def set(self, controls: Controls, share: Share | None = None) -> None:
        """Take new settings of all, or of one board's share; bias outputs follow with their own time constant."""
        with self._lock:
            self._set(controls, share)

    def _set(self, controls: Controls, share: Share | None) -> None:
        channels = slice(0, self._gids.size) if share is None else share.channels
        self.controls = controls if share is None else self.controls.with_share(share, controls)
        if share is None:
            self._pulses.clear()
        self._pulses.pop(channels.start, None)
        if controls.test_pulse is not None:
            self._pulses[channels.start] = channels, controls.test_pulse
        self._stale = True

    @property
    def sees_light(self) -> bool:
        """Some channel is on, with a SiPM that detects, and nothing is pulsed."""
        return not (self._is_blind or self._pulses)

    @property
    def is_steady(self) -> bool:
        """Each block is like the last: no new setting, no voltage on its way, no fault yet to come, no pulses."""
        if math.isfinite(self._varies_at_s):
            return False
        return not (self._stale or self._onsets or self._pulses or (self.controls.bias_v != self.bias_v).any())

    def set_coolant(self, warmer_k: float) -> bool:
        """The coolant is so much warmer than on the calibration day, all modules with it; False while it is busy."""
        if not self._lock.acquire(blocking=False):
            return False
        self.coolant_k, self._stale = warmer_k, True
        self._lock.release()
        return True

    def begin_fault(self, fault: Fault) -> int:
        """Plant a fault now, in addition; its number in the plan.

        Raises:
            ProfileError: it cannot be planted here, or not while it runs.
        """
        with self._lock:
            self._give_up_ahead()
            if fault.kind.id == "F26" and fault.size > self.plan.farthest_source_mm:
                farther = Emission(self.profile, self.emission.rng, fault.size)
                farther.clock[:] = self.emission.clock
                self.emission = farther
            number = self.plan.begin(fault, self.now_s)
            self._faults_changed()
            return number

    def resize_fault(self, number: int, size: float) -> None:
        """Let a fault of the plan be of another size from now on."""
        with self._lock:
            self.plan.resize(number, size)
            self._faults_changed()

    def end_fault(self, number: int) -> None:
        """Take a fault of the plan away now.

        Raises:
            ProfileError: it is not one that can be taken away while it runs.
        """
        with self._lock:
            self.plan.end(number, self.now_s)
            self._faults_changed()

    def _faults_changed(self) -> None:
        self._onsets = [at_s for at_s in self.plan.onsets_s() if at_s > self.now_s]
        self._set_in()

    def settle(self) -> None:
        """Bring the bias outputs to their set-points at once."""
        self.bias_v = self.controls.bias_v.copy()
        self._stale = True

    def restart(self) -> None:
        """Synchronisation: frame ids begin at 0, nothing from before is sent."""
        self.plan.let_pass(self.now_s)
        self.frame = 0
        self._give_up_ahead()
        self._buffers = WorkingMemory.empty(self.profile.geometry.channels)
        self.emission.clock[0] = -1.0
        self._onsets = self.plan.onsets_s()
        self._set_in()

    def _set_in(self) -> None:
        now_s = self.now_s
        self.effects = self.plan.effects(now_s)
        self._varies_at_s = now_s + self.plan.varies_every_s(now_s)
        self._stale = True

    @property
    def now_s(self) -> float:
        """Simulated time since the synchronisation, as far as it has seen."""
        return self.frame * el.FRAME_CLK * CLOCK_S

    # -- what holds -------------------------------------------------------------------------------------------------

    def sipm(self) -> SipmState:
        """State of the SiPMs at the present voltages."""
        draw = self.draw
        volts = (self.bias_v + np.where(self.bias_v > 1.5, self.effects.bias_shift_v, 0.0))[draw.bias_of]
        state = sipm_state(
            self.profile.sipm, self.profile.crystal, volts, draw.breakdown_v, self.warmer_k[draw.module_of]
        )
        return replace(state, dark_hz=state.dark_hz * self.effects.dark)

    @property
    def warmer_k(self) -> NDArray[np.float64]:
        """Temperature of each module's SiPMs above the calibration temperature, (modules,)."""
        return np.asarray(self.draw.warmer_k + self.effects.warmer_k + self.coolant_k)

    def stand(self, seconds: float) -> None:
        """No frames for so long: bias outputs follow their set-points, faults that were planted live grow older."""
        self.advance_bias(seconds)
        if not self.plan.has_live:
            return
        with self._lock:
            acted = [fault.acts(self.now_s) for fault in self.plan.faults]
            self.plan.let_pass(seconds)
            if math.isfinite(self._varies_at_s) or acted != [fault.acts(self.now_s) for fault in self.plan.faults]:
                self._faults_changed()

    def advance_bias(self, seconds: float) -> None:
        """Let the bias outputs follow their set-points."""
        distance = self.controls.bias_v - self.bias_v
        if not distance.any():
            return
        follow = -np.expm1(-seconds / self.profile.electronics.bias_settle_s)
        moved = self.bias_v + distance * follow
        self.bias_v = np.where(np.abs(self.controls.bias_v - moved) < 1e-4, self.controls.bias_v, moved)
        self._stale = True

    def threshold_steps(
        self, controls: Controls, channels: slice | NDArray[np.int64] = slice(None)
    ) -> NDArray[np.float64]:
        """How far T1, T2 and E of some channels lie above the baseline, in DAC steps; (n, 3)."""
        trim = (controls.baseline[channels] - self.draw.baseline[channels])[:, [0, 0, 1]]
        zero = self.draw.zero[channels]
        higher = self.effects.threshold_steps[channels][:, None]
        return np.asarray(zero + higher + trim * np.array(BASELINE_STEPS)[[0, 0, 1]] - controls.vth[channels])

    def comparator_duty(
        self, controls: Controls, channels: slice | NDArray[np.int64] = slice(None)
    ) -> NDArray[np.float64]:
        """Share of the time that each comparator of some channels is over its threshold on noise alone; (n, 3)."""
        z = -self.threshold_steps(controls, channels) / THRESHOLD_NOISE_STEPS
        return np.asarray(0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0))))

    def comparator_dark_hz(
        self, controls: Controls, channels: slice | NDArray[np.int64] = slice(None)
    ) -> NDArray[np.float64]:
        """Rate at which comparators of some channels go over their thresholds, by dark counts and by noise; (n, 3).

        One that noise holds over its threshold cannot go over it. Noise alone crosses a level as a Gaussian process
        does (Rice's formula). The pulses of a hot channel are large: they pass every threshold.
        """
        z = self.threshold_steps(controls, channels) / THRESHOLD_NOISE_STEPS
        state = self.sipm()
        detects = ((state.overvoltage_v > 0.01) & ~self.effects.dead)[channels, None]
        dark_hz = np.where(detects, state.dark_hz[channels, None], 0.0)
        noise_cells = THRESHOLD_NOISE_STEPS * self._kev_per_step() / self._kev_per_cell(state)[channels, None]
        dark_hz = dark_staircase_hz(dark_hz, state.crosstalk[channels, None], z * noise_cells, noise_cells)
        dark_hz += np.where(detects, self.effects.extra_hz[channels, None], 0.0)
        return np.asarray(dark_hz * ndtr(z) + NOISE_CROSSINGS_HZ * np.exp(-0.5 * np.minimum(z * z, 1400.0)))

    def _kev_per_step(self) -> NDArray[np.float64]:
        e = self.profile.electronics
        return np.array([e.threshold_t1_kev_per_step, e.threshold_t2_kev_per_step, e.threshold_e_kev_per_step])

    def _dark_rate_hz(self, state: SipmState, threshold_kev: NDArray[np.float64]) -> NDArray[np.float64]:
        """Dark counts over thresholds in keV of the calibration day's amplitude; (n,)."""
        cells = threshold_kev / self._kev_per_cell(state)
        return np.where(state.overvoltage_v > 0.01, dark_pulse_rate_hz(state.dark_hz, state.crosstalk, cells), 0.0)

    def _kev_per_cell(self, state: SipmState) -> NDArray[np.float64]:
        """Amplitude of one fired cell, in keV of the calibration day's amplitude; (n,)."""
        draw = self.draw
        gain = np.where(state.overvoltage_v > 0.01, state.gain / draw.calibrated.gain, 1.0)
        return np.asarray(gain / (draw.photoelectrons_per_kev * draw.calibrated.fired_per_photon))

    def refresh(self) -> None:
        """Bring the channel parameters up to date with settings, voltages and faults."""
        draw, profile, controls, effects = self.draw, self.profile, self.controls, self.effects
        timing, electronics = profile.timing, profile.electronics
        p = self.parameters
        state, module = self.sipm(), draw.module_of
        detects = state.overvoltage_v > 0.01
        fired = np.where(detects, state.fired_per_photon, 1e-9) * draw.light_today * effects.light
        gain = np.where(detects, state.gain, 1e-9) * effects.gain * (1.0 - effects.fall_per_khz * self._rate_khz)
        per_kev = draw.photoelectrons_per_kev * fired
        signal = fired * gain / (draw.calibrated.fired_per_photon * draw.calibrated.gain)
        window_clk = np.maximum(controls.integration * INTEGRATION_CLK_PER_CODE, 4.0)

        steps = self.threshold_steps(controls)
        threshold = np.maximum((steps * self._kev_per_step()).max(axis=1), 0.05)
        is_on = controls.is_read & ~effects.dead & (controls.trigger_mode == MODE_NORMAL)
        is_pulsed = controls.is_read & (controls.trigger_mode == MODE_TEST_PULSE)
        p[:, el.ON] = np.where(is_on, 1.0, np.where(is_pulsed, 2.0, 0.0))
        p[:, el.THRESHOLD_KEV] = threshold

        # per_kev counts crosstalk too: one detected photon stands for 1 + crosstalk cells, with an excess noise alike.
        blur = draw.intrinsic**2 + (effects.blur_percent / 235.482) ** 2
        p[:, el.LIGHT_VARIANCE] = blur * 511.0 + (1.0 + state.crosstalk) ** 2 / per_kev
        dark_cells = state.dark_hz * window_clk * CLOCK_S * (1.0 + state.crosstalk)
        noise_kev = electronics.noise_units * effects.noise * draw.kev_per_unit / np.maximum(signal, 1e-6)
        p[:, el.NOISE_VARIANCE] = np.where(detects, noise_kev**2 + dark_cells / per_kev**2, 0.0)
        p[:, el.SIGNAL] = signal
        p[:, el.CELL_SHARE] = per_kev / draw.cells
        p[:, el.SATURATION_UNIT] = draw.units_per_cell * draw.cells * gain

        over = np.maximum(state.overvoltage_v / profile.sipm.overvoltage_v, 0.05)
        # A sensor without dark counts (a PMT) stays as it was on the calibration day.
        dark = state.dark_hz / profile.sipm.dark_rate_hz if profile.sipm.dark_rate_hz else np.ones(state.dark_hz.size)
        best = 1.0 + 0.3 * ((steps[:, 0] - T1_BEST_STEPS) / T1_BEST_STEPS) ** 2
        photon_ps = draw.photon_sigma_ps**2 / np.maximum(state.pde * state.light * effects.light, 0.02)
        p[:, el.PHOTON_VARIANCE] = photon_ps * over**-1.2 * (0.75 + 0.25 * dark) * best / CLOCK_PS**2
        amplifier_ps = timing.amplifier_sigma_ps * effects.noise
        p[:, el.AMPLIFIER_VARIANCE] = (amplifier_ps / CLOCK_PS / np.maximum(signal, 0.02)) ** 2
        p[:, el.FIXED_VARIANCE] = (
            timing.tdc_sigma_ps**2 + timing.clock_sigma_ps**2 + effects.module_jitter_ps[module] ** 2
        ) / CLOCK_PS**2
        p[:, el.WALK_CLK] = timing.walk_ps / CLOCK_PS
        later_ps = (effects.module_delay_ps + self.signal_delay_ps)[module] + effects.delay_ps
        later_ps += timing.walk_ps * (1.0 / effects.light - 1.0)
        p[:, el.DELAY_CLK] = (draw.delay_ps + later_ps) / CLOCK_PS
        p[:, el.OFFSET_CLK] = draw.offset_ps / CLOCK_PS
        p[:, el.WINDOW_CLK] = window_clk
        p[:, el.WINDOW_MAX_CLK] = np.maximum(window_clk, 430.0)
        p[:, el.CHARGE_MODE] = controls.is_charge
        p[:, el.REARM_CLK] = electronics.rearm_clk + effects.rearm_clk
        p[:, el.CONVERSION_CLK] = electronics.conversion_clk
        p[:, el.DECAY_CLK] = profile.crystal.decay_ns / (CLOCK_PS / 1000.0)

        extra = self._dark_rate_hz(state, threshold)
        extra += np.where(detects, effects.extra_hz, 0.0)
        extra += np.where((steps <= 0.5).all(axis=1), _NOISE_HZ, 0.0)
        floor = np.minimum(1.05 * threshold / np.maximum(signal, 1e-12), 1e12)
        extra = np.where(is_on, extra, 0.0)
        self.emission.set_extra(extra, floor)
        self._is_blind = not (is_on & detects).any() and not extra.any()
        self._tdc = self._converters()
        self.emission.move_source(effects.source_mm)
        self._stale = False

    def _converters(self) -> NDArray[np.float64]:
        """The time converters as faults leave them; (n * 4, 8) as in `Draw.tdc`."""
        tdc, slope, delay_ps = self.draw.tdc, self.effects.tdc_slope, self.effects.buffer_delay_ps
        if (slope == 1.0).all() and not delay_ps.any():
            return tdc
        changed = tdc.copy()
        changed[:, 0] += delay_ps.ravel() / CLOCK_PS
        changed[:, 2] *= np.repeat(slope, 4)
        return changed

    # -- what it sees -----------------------------------------------------------------------------------------------

    def advance(self) -> Block:
        """The next BLOCK_FRAMES frames."""
        with self._lock:
            return self._advance()

    def pass_over(self, hits: int) -> int:
        """Count a block with so many hits as seen without simulating it; the id of its first frame."""
        with self._lock:
            first, self.frame = self.frame, self.frame + BLOCK_FRAMES
            self.counters[el.ACCEPTED] += hits
            return first

    def _look_at_faults(self) -> None:
        """Let those act whose time has come."""
        if self._onsets and self.now_s >= self._onsets[0]:
            del self._onsets[0]
            self._set_in()
        elif self.now_s >= self._varies_at_s:
            self._set_in()

    def _is_due(self) -> bool:
        """Whether what has changed matters now: in the dark, settings of channel after channel are taken together."""
        is_dark = self._is_blind and not (self._pulses or self.bias_v.any() or self.controls.bias_v.any())
        self._waited = self._waited + 1 if is_dark and self._waited < _WAITS_BLOCKS else 0
        return self._waited == 0

    def _advance(self) -> Block:
        b = self._buffers
        self._look_at_faults()
        self.advance_bias(BLOCK_S)
        if self._stale and self._is_due():
            self._give_up_ahead()
            self.refresh()
        until = _BLOCK_CLK + _AHEAD_CLK
        is_ahead = self._see_photons(b, until)
        if self._pulses:
            self._add_test_pulses()
        el.sort_by_time(b.deposits, b.n_deposits)
        b.make_room(b.n_hits + b.n_deposits)
        before = b.n_hits
        b.n_hits, used = el.digitise(
            b.deposits,
            b.n_deposits,
            until,
            self.parameters,
            self._tdc,
            self._gids[self.effects.place],
            b.state_f,
            b.state_i,
            b.hits_f,
            b.hits_i,
            b.words,
            b.n_hits,
            self.counters,
        )
        if self.onlooker is not None:
            self.onlooker(b.deposits[:used], self.parameters)
        self._leak(b.words[before : b.n_hits], b.hits_i[before : b.n_hits, el.HIT_CHANNEL])
        self._follow_rate()
        left = b.n_deposits - used
        b.deposits[:left] = b.deposits[used : b.n_deposits].copy()
        b.n_deposits = left
        out = np.empty(2 * BLOCK_FRAMES + b.n_hits, np.uint64)
        n_words, b.n_hits = el.emit(
            self.frame,
            BLOCK_FRAMES,
            self._largest_frame,
            self.parameters,
            self._qdc,
            b.hits_f,
            b.hits_i,
            b.words,
            b.n_hits,
            b.state_i,
            out,
            b.starts,
            self.counters,
        )
        if not is_ahead:
            self.emission.shift(_BLOCK_CLK)
        b.deposits[:left, T] -= _BLOCK_CLK
        el.shift_state(b.state_f, b.hits_f, b.n_hits, _BLOCK_CLK)
        block = Block(self.frame, out[:n_words], b.starts.copy())
        self.frame += BLOCK_FRAMES
        return self._through_link(block)

    def _see_photons(self, b: WorkingMemory, until_clk: float) -> bool:
        """Deposits of this block; whether those of the next one are being made, with the origin of time moved to it."""
        if self._is_blind:
            self.emission.pass_over(until_clk)
            return False
        if self.ahead is not None and self.ahead.is_going_on:
            deposits = self.ahead.take()
            b.add_deposits(len(deposits))[:] = deposits
        else:
            b.deposits, b.n_deposits = self.emission.generate(until_clk, b.deposits, b.n_deposits)
        if self.ahead is None or not self.is_steady:
            return False
        self.emission.shift(_BLOCK_CLK)
        self.ahead.begin(self.emission, until_clk)
        return True

    def _give_up_ahead(self) -> None:
        if self.ahead is not None:
            self.ahead.give_up()

    def _leak(self, words: NDArray[np.uint64], channel: NDArray[np.int64]) -> None:
        """Let some of these hits go by the name of the next crystal: its tables make energy and time of them."""
        if not self.effects.leak.any():
            return
        goes = self._loss_rng.random(channel.size) < self.effects.leak[channel]
        name = self._gids[self.effects.place][self._neighbour[channel[goes]]]
        words[goes] = words[goes] & np.uint64((1 << 42) - 1) | name << np.uint64(42)

    def _follow_rate(self) -> None:
        """Let the baseline follow the rate, where it does."""
        accepted = int(self.counters[el.ACCEPTED])
        rate_khz = (accepted - self._accepted) / self._gids.size / BLOCK_S / 1000.0
        self._accepted = accepted
        if self.effects.fall_per_khz:
            self._rate_khz += (rate_khz - self._rate_khz) * _BASELINE_FOLLOWS
            self._stale = True

    def _add_test_pulses(self) -> None:
        b = self._buffers
        # Deposits reach one frame ahead, so the pulses of this block are those of the frames 1 .. BLOCK_FRAMES.
        begin = self.frame * el.FRAME_CLK + _AHEAD_CLK
        pulsed = self.parameters[:, el.ON] == 2.0
        for part, pulse in self._pulses.values():
            channels = part.start + np.flatnonzero(pulsed[part])
            first = int(np.ceil((begin - pulse.phase_clk) / pulse.interval_clk))
            last = int(np.ceil((begin + _BLOCK_CLK - pulse.phase_clk) / pulse.interval_clk))
            clk = np.arange(first, last) * float(pulse.interval_clk) + pulse.phase_clk - self.frame * el.FRAME_CLK
            added = b.add_deposits(clk.size * channels.size)
            added[:, T] = np.repeat(clk, channels.size)
            added[:, CHANNEL] = np.tile(channels, clk.size)
            added[:, E] = -float(pulse.length_clk)
            added[:, DECAY] = -1.0
            added[:, ZE] = 0.0
            added[:, ZT] = self._loss_rng.standard_normal(len(added))
        merged = b.deposits[: b.n_deposits]
        merged[:] = merged[np.argsort(merged[:, T], kind="stable")]

    def _through_link(self, block: Block) -> Block:
        """Frames that the link loses: slices of a quarter of a block, about 1.3 ms, vanish as a whole."""
        if self.effects.frame_loss <= 0.0:
            return block
        slices = 4
        gone = self._loss_rng.random(slices) < self.effects.frame_loss
        if not gone.any():
            return block
        self.slices_lost += int(gone.sum())
        per_slice = BLOCK_FRAMES // slices
        lengths = np.diff(block.starts)
        keep = np.repeat(~gone, per_slice)
        words = block.words[np.repeat(keep, lengths)]
        return Block(block.first_frame, words, np.concatenate([[0], np.cumsum(lengths[keep])]))
