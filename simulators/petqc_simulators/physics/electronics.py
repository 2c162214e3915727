"""The ASIC: from energy in a crystal to an event word, and event words to frames.

The converters are the inverse of what calibration tables describe: a hit at time T is latched at the coarse count c
with q = c - T in 0.5 .. 1.5 clocks, code a0 + a1 q + a2 q²; the charge Q adds to the integration time t of the
baseline current, code = P(t + Q). Source: TOFPET2 interface reference, sections 6 and 7.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel, kernel_of_given_arrays
from petqc_simulators.physics.crystal import CHANNEL, DECAY, ZE, ZT, E, T
from petqc_simulators.physics.machine import ask_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME_CLK = 1024
FINE_OFFSET = 27
MAX_FRAME_EVENTS = 126
"""Largest frame on the gigabit link. Source: TOFPET2 interface reference, section 3.5."""
MAX_EVENTS_BEHIND_DAEMON = 8194
"""Events that fit a slot of the daemon's ring. Source: TOFPET2 interface reference, section 2.6."""

# Columns of the channel parameters.
ON = 0  # 1: triggers on light; 2: triggers on test pulses only; 0: off
THRESHOLD_KEV = 1  # in keV of the calibration day's amplitude
LIGHT_VARIANCE = 2  # keV² per keV
NOISE_VARIANCE = 3  # keV²
SIGNAL = 4  # amplitude per keV of light, 1 on the calibration day
CELL_SHARE = 5  # share of the cells fired per keV before saturation
SATURATION_UNIT = 6
PHOTON_VARIANCE = 7  # clocks², at 511 keV
AMPLIFIER_VARIANCE = 8  # clocks², at 511 keV
FIXED_VARIANCE = 9  # clocks²
WALK_CLK = 10
DELAY_CLK = 11
OFFSET_CLK = 12  # the calibration's time offset
WINDOW_CLK = 13  # integration window of light
WINDOW_MAX_CLK = 14  # longest integration of a test pulse
CHARGE_MODE = 15
REARM_CLK = 16
CONVERSION_CLK = 17
DECAY_CLK = 18  # of the scintillator
PARAMETERS = 19

# Channel state: float columns and integer columns.
_BUSY, _STARTED, _TAC_FREE = 0, 1, 2
STATE_FLOATS = 6
_LAST_HIT, _NEXT_TAC = 0, 1
STATE_INTS = 2

# Hits: float and integer columns.
LIGHT_KEV, INTEGRATED_CLK, TRUE_CLK = 0, 1, 2
HIT_FLOATS = 3
FRAME, ROW, HIT_CHANNEL, HIT_DECAY = 0, 1, 2, 3
HIT_INTS = 4

# Counters of what became of deposits.
ACCEPTED, BELOW, DEAD, NO_BUFFER, PILED, LOST_IN_FRAME = range(6)
COUNTERS = 6

_AHEAD = 16
"""How many deposits or hits ahead of its use a channel's memory is asked for."""


@kernel_of_given_arrays
def light_kev(energy: float, deviate: float, light_variance: float, noise_variance: float) -> float:
    """Energy as the light of one pulse shows it, with its fluctuation."""
    return max(energy + deviate * math.sqrt(light_variance * energy + noise_variance), 0.0)


@kernel_of_given_arrays
def timing_sigma_clk(energy: float, parameters: NDArray[np.float64]) -> float:
    """Standard deviation of one hit's time, in clocks, for a pulse of an energy in keV."""
    ratio = 511.0 / max(energy, 5.0)
    return math.sqrt(
        parameters[PHOTON_VARIANCE] * ratio
        + parameters[AMPLIFIER_VARIANCE] * ratio * ratio
        + parameters[FIXED_VARIANCE]
    )


@kernel_of_given_arrays
def charge_units(light: float, parameters: NDArray[np.float64]) -> float:
    """Charge of a pulse with the SiPM's saturation, in clocks of baseline current."""
    return float(parameters[SATURATION_UNIT] * (1.0 - math.exp(-light * parameters[CELL_SHARE])))


@kernel_of_given_arrays
def _latch(clk: float) -> int:
    return math.ceil(clk + 0.5)


@kernel_of_given_arrays
def _fine(interval: float, row: NDArray[np.float64], first: int) -> int:
    code = row[first + 1] + row[first + 2] * interval + row[first + 3] * interval * interval
    return int(min(max(math.floor(code + 0.5), 0), 1023))


@kernel
def sort_by_time(deposits: NDArray[np.float64], n: int) -> None:
    """Order rows by time; they are nearly in order, so that moving each back to its place is cheap."""
    columns = deposits.shape[1]
    held = np.empty(columns)
    for i in range(1, n):
        if deposits[i, T] >= deposits[i - 1, T]:
            continue
        for k in range(columns):
            held[k] = deposits[i, k]
        j = i
        while j > 0 and deposits[j - 1, T] > held[T]:
            for k in range(columns):
                deposits[j, k] = deposits[j - 1, k]
            j -= 1
        for k in range(columns):
            deposits[j, k] = held[k]


@kernel_of_given_arrays
def digitise(
    deposits: NDArray[np.float64],
    n_deposits: int,
    until_clk: float,
    parameters: NDArray[np.float64],
    tdc: NDArray[np.float64],
    gids: NDArray[np.uint64],
    state_f: NDArray[np.float64],
    state_i: NDArray[np.int64],
    hits_f: NDArray[np.float64],
    hits_i: NDArray[np.int64],
    words: NDArray[np.uint64],
    n_hits: int,
    counters: NDArray[np.int64],
) -> tuple[int, int]:
    """Trigger on deposits in order of time; returns the number of hits, and of deposits dealt with.

    A negative energy is a test pulse of that many clocks. Light that arrives while a channel integrates adds to its
    hit; what arrives while the channel re-arms, or finds all four buffers converting, is lost.
    """
    used = 0
    for i in range(n_deposits):
        if i + _AHEAD < n_deposits:
            later = int(deposits[i + _AHEAD, CHANNEL])
            ask_for(parameters, later)
            ask_for(state_f, later)
            ask_for(state_i, later)
            soon = int(deposits[i + _AHEAD // 2, CHANNEL])
            ask_for(tdc, soon * 4 + state_i[soon, _NEXT_TAC])
        clk = deposits[i, T]
        if clk >= until_clk:
            break
        used = i + 1
        energy = deposits[i, E]
        channel = int(deposits[i, CHANNEL])
        p = parameters[channel]
        is_pulse = energy < 0.0
        if p[ON] == 0.0 or is_pulse != (p[ON] == 2.0):
            continue
        light = 0.0
        if not is_pulse:
            light = light_kev(energy, deposits[i, ZE], p[LIGHT_VARIANCE], p[NOISE_VARIANCE])
        since = clk - state_f[channel, _STARTED]
        last = state_i[channel, _LAST_HIT]
        if last >= 0 and since < p[WINDOW_CLK] and not is_pulse:
            hits_f[last, LIGHT_KEV] += light * -math.expm1((since - p[WINDOW_CLK]) / p[DECAY_CLK])
            counters[PILED] += 1
            continue
        if not is_pulse and light * p[SIGNAL] < p[THRESHOLD_KEV]:
            counters[BELOW] += 1
            continue
        if clk < state_f[channel, _BUSY]:
            counters[DEAD] += 1
            continue
        tac = state_i[channel, _NEXT_TAC]
        if state_f[channel, _TAC_FREE + tac] > clk:
            counters[NO_BUFFER] += 1
            continue
        row = channel * 4 + tac
        t = tdc[row]
        if is_pulse:
            window = min(max(-energy, p[WINDOW_CLK]), p[WINDOW_MAX_CLK])
            # The offsets are those of light and cables: a pulse made on the board has none of them, so that a TDC
            # calibration with pulses and the offset table do not say the same thing twice.
            start = clk + deposits[i, ZT] * math.sqrt(p[FIXED_VARIANCE]) + p[DELAY_CLK] - p[OFFSET_CLK]
            measured = start
        else:
            window = p[WINDOW_CLK]
            walk = min(p[WALK_CLK] * (511.0 / max(energy, 5.0) - 1.0), 0.4)
            measured = clk + walk + deposits[i, ZT] * timing_sigma_clk(energy, p) + p[DELAY_CLK]
            start = measured - p[OFFSET_CLK]
        latched = _latch(measured + t[0])
        tfine = _fine(latched - (measured + t[0]), t, 0)
        if p[CHARGE_MODE] != 0.0:
            end = math.floor(start + window)
            hits_f[n_hits, INTEGRATED_CLK] = end - start
        else:
            over = -energy if is_pulse else 20.0 + 12.0 * math.log(max(light * p[SIGNAL] / p[THRESHOLD_KEV], 1.0))
            stop = measured + over + t[4]
            end = _latch(stop)
            hits_f[n_hits, INTEGRATED_CLK] = -1.0 - _fine(end - stop, t, 4)
        hits_f[n_hits, LIGHT_KEV] = light
        hits_f[n_hits, TRUE_CLK] = clk
        hits_i[n_hits, FRAME] = latched // FRAME_CLK
        hits_i[n_hits, ROW] = row
        hits_i[n_hits, HIT_CHANNEL] = channel
        hits_i[n_hits, HIT_DECAY] = int(deposits[i, DECAY])
        words[n_hits] = (
            gids[channel] << np.uint64(42)
            | np.uint64(tac) << np.uint64(40)
            | np.uint64(latched % FRAME_CLK) << np.uint64(30)
            | np.uint64(end % FRAME_CLK) << np.uint64(20)
            | np.uint64((tfine - FINE_OFFSET) % 1024) << np.uint64(10)
        )
        state_f[channel, _STARTED] = clk
        state_f[channel, _BUSY] = clk + window + p[REARM_CLK]
        state_f[channel, _TAC_FREE + tac] = clk + window + p[CONVERSION_CLK]
        state_i[channel, _LAST_HIT] = n_hits
        state_i[channel, _NEXT_TAC] = (tac + 1) % 4
        n_hits += 1
        counters[ACCEPTED] += 1
    return n_hits, used


@kernel_of_given_arrays
def _charge_code(integrated: float, light: float, p: NDArray[np.float64], row: NDArray[np.float64]) -> int:
    if integrated < 0.0:  # time over threshold: the code is the E branch's own
        return int(-integrated - 1.0)
    t = integrated + charge_units(light, p)
    value = 0.0
    for k in range(row.shape[0] - 1, -1, -1):
        value = value * t + row[k]
    return min(max(math.floor(value + 0.5), 0), 1023)


@kernel
def emit(
    first_frame: int,
    n_frames: int,
    largest: int,
    parameters: NDArray[np.float64],
    qdc: NDArray[np.float64],
    hits_f: NDArray[np.float64],
    hits_i: NDArray[np.int64],
    words: NDArray[np.uint64],
    n_hits: int,
    state_i: NDArray[np.int64],
    out: NDArray[np.uint64],
    starts: NDArray[np.int64],
    counters: NDArray[np.int64],
) -> tuple[int, int]:
    """Make whole frames of the hits of frames 0 .. n_frames - 1, keep the later hits for the next call.

    first_frame is the id of frame 0, largest the most events of a frame: more of them are lost, and the frame says so.
    starts: (n_frames + 1,) gets the place of each frame in `out`. Returns the number of words in `out` and of hits
    kept.
    """
    starts[:] = 0
    for i in range(n_hits):
        frame = hits_i[i, FRAME]
        if frame < n_frames:
            starts[frame + 1] += 1
    place = 0
    for frame in range(n_frames):
        count = starts[frame + 1]
        lost = count > largest
        if lost:
            counters[LOST_IN_FRAME] += count - largest
            count = largest
        starts[frame] = place
        identity = (first_frame + frame) & ((1 << 36) - 1)
        out[place] = np.uint64(identity) | np.uint64(count + 2) << np.uint64(36)
        out[place + 1] = np.uint64(count) | (np.uint64(1 << 16) if lost else np.uint64(0))
        place += 2 + count
    starts[n_frames] = place
    filled = np.zeros(n_frames, np.int64)
    kept = 0
    for channel in range(state_i.shape[0]):
        state_i[channel, _LAST_HIT] = -1
    for i in range(n_hits):
        if i + _AHEAD < n_hits:
            ask_for(qdc, hits_i[i + _AHEAD, ROW])
            ask_for(parameters, hits_i[i + _AHEAD, HIT_CHANNEL])
        frame = hits_i[i, FRAME]
        if frame >= n_frames:
            hits_f[kept] = hits_f[i]
            hits_i[kept] = hits_i[i]
            hits_i[kept, FRAME] = frame - n_frames
            words[kept] = words[i]
            state_i[hits_i[kept, HIT_CHANNEL], _LAST_HIT] = kept
            kept += 1
            continue
        if filled[frame] == largest:
            continue
        row = hits_i[i, ROW]
        code = _charge_code(
            hits_f[i, INTEGRATED_CLK], hits_f[i, LIGHT_KEV], parameters[hits_i[i, HIT_CHANNEL]], qdc[row]
        )
        out[starts[frame] + 2 + filled[frame]] = words[i] | np.uint64((code - FINE_OFFSET) % 1024)
        filled[frame] += 1
    return place, kept


@kernel_of_given_arrays
def shift_state(state_f: NDArray[np.float64], hits_f: NDArray[np.float64], n_hits: int, clk: float) -> None:
    """Move the origin of time forward."""
    for channel in range(state_f.shape[0]):
        for k in range(state_f.shape[1]):
            state_f[channel, k] -= clk
    for i in range(n_hits):
        hits_f[i, TRUE_CLK] -= clk
