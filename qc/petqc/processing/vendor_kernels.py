"""Compiled loops of the vendor-compatible mode: clocks as the vendor counts them, single precision where it has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel
from petqc.processing.hit_kernels import CHIP_TRIGGER, D_CURVE, D_TDC, FRAME_ID_MASK, ROW_DROP, ROW_TOT
from petqc.processing.introsort import PAYLOAD_BITS, introsort

if TYPE_CHECKING:
    from numpy.typing import NDArray

DISORDER_CLOCKS = 20.0
"""How far the vendor expects hits to be out of order, added to a window where a search stops."""

FARTHEST_FRAMES = 1 << 32


@kernel
def copy_events(
    words: NDArray[np.uint64],
    position: NDArray[np.int64],
    n_frames: int,
    events: NDArray[np.uint64],
    frames: NDArray[np.int64],
) -> None:
    """Copy the event words of listed frames, each with its frame's id as the board counts it (36 bits)."""
    out = 0
    for f in range(n_frames):
        at = position[f]
        frame = np.int64(words[at] & np.uint64(FRAME_ID_MASK))
        for i in range(at + 2, at + 2 + np.int64(words[at + 1] & np.uint64(0x7FFF))):
            events[out] = words[i]
            frames[out] = frame
            out += 1


@kernel
def buffer_edges(frames: NDArray[np.int64], closing: bool, buffer_hits: int, frame_hits: int) -> NDArray[np.int64]:  # noqa: FBT001
    """Where the vendor's buffers begin and end, for a list of events by frame.

    Frames fill a buffer while they fit; none is split. Unless closing, the last buffer stays open.
    """
    n = frames.size
    edges = np.empty(n + 2, np.int64)
    edges[0] = 0
    n_edges = 1
    capacity = np.int64(0)
    begin = 0
    i = 0
    while i < n:
        j = i + 1
        while j < n and frames[j] == frames[i]:
            j += 1
        if i > begin and (j - begin > capacity or abs(frames[i] - frames[begin]) > FARTHEST_FRAMES):
            edges[n_edges] = i
            n_edges += 1
            begin = i
        if i == begin:
            size = np.int64(j - i)
            capacity = np.int64((size // 1024 + 1) * 1024) if size > frame_hits else np.int64(buffer_hits)
        i = j
    if closing and n > begin:
        edges[n_edges] = n
        n_edges += 1
    return edges[:n_edges].copy()


@kernel
def _charge_time(code: np.float32, start: np.float32, p: NDArray[np.float32]) -> np.float32:
    """Time t with ADC(t) = code, single precision; a Newton step of at most 0.05 is the last one taken."""
    t = start
    for _ in range(100):
        value = np.float32(0)
        slope = np.float32(0)
        for k in range(9, -1, -1):
            slope = slope * t + value
            value = value * t + p[k]
        step = (code - value) / slope
        step = min(max(step, np.float32(-10)), np.float32(10))
        t += step
        if abs(step) <= np.float32(0.05):
            break
    return t


@kernel
def process_buffers(
    words: NDArray[np.uint64],
    frames: NDArray[np.int64],
    edges: NDArray[np.int64],
    chip_row: NDArray[np.int32],
    row_state: NDArray[np.uint8],
    tdc: NDArray[np.float32],
    offset_clocks: NDArray[np.float64],
    charge: NDArray[np.float32],
    linear: NDArray[np.float32],
    region_of: NDArray[np.int32],
    xyz_mm: NDArray[np.float32],
    relation: NDArray[np.uint8],
    group_window: float,
    group_distance: float,
    min_hits: int,
    max_hits: int,
    min_energy: float,
    max_energy: float,
    coincidence_window: float,
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    tot: NDArray[np.bool_],
    member: NDArray[np.int64],
    first_member: NDArray[np.int64],
    energy_sum: NDArray[np.float32],
    pair: NDArray[np.int64],
    tally: NDArray[np.int64],
    group_tally: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Hits, photons and pairs of whole buffers, each buffer for itself. Windows are in clocks.

    The outputs are those of `vendor_mode.VendorEvents`. Returns the numbers of hits, photons and pairs; if there are
    more pairs than the output has room for, the surplus is only counted.
    """
    distance2 = np.float32(group_distance) * np.float32(group_distance)
    n_hits = 0
    n_groups = 0
    n_pairs = 0
    n_member = 0
    first_member[0] = 0
    for b in range(edges.size - 1):
        low, high = edges[b], edges[b + 1]
        size = high - low
        frame0 = frames[low]
        key = np.empty(size, np.int64)
        least = frame0
        for i in range(size):
            least = min(least, frames[low + i])
        for i in range(size):
            t_coarse = (frames[low + i] - least) * 1024 + np.int64((words[low + i] >> np.uint64(30)) & np.uint64(1023))
            key[i] = t_coarse << PAYLOAD_BITS | np.int64(i)
        introsort(key, size)
        start = n_hits
        t = np.empty(size, np.float64)
        region = np.empty(size, np.int32)
        place = np.empty(size, np.int64)
        for i in range(size):
            at = low + (key[i] & np.int64((1 << PAYLOAD_BITS) - 1))
            w = words[at]
            coarse = np.float64((frames[at] - frame0) * 1024 + np.int64((w >> np.uint64(30)) & np.uint64(1023)))
            t_fine = np.float32(((w >> np.uint64(10)) + np.uint64(27)) & np.uint64(1023))
            e_fine = np.float32((w + np.uint64(27)) & np.uint64(1023))
            chip = chip_row[np.int64(w >> np.uint64(48))]
            if chip == CHIP_TRIGGER:
                hit_time = coarse - (np.float64(t_fine) - 27.0) * 0.25
                hit_energy = np.float32(1) if e_fine == np.float32(28) else np.float32(-1)
                is_tot = False
                dense = np.int64(-1)
                hit_region = np.int32(-1)
            else:
                if chip < 0:
                    tally[D_TDC] += 1
                    continue
                row = np.int64(chip) + np.int64((w >> np.uint64(40)) & np.uint64(255))
                state = np.int64(row_state[row])
                if state >= ROW_DROP:
                    tally[state - ROW_DROP] += 1
                    continue
                dense = row >> 2
                hit_region = region_of[dense]
                end = np.int64((w >> np.uint64(20)) & np.uint64(1023)) - np.int64(
                    (w >> np.uint64(30)) & np.uint64(1023)
                )
                if end < -256:
                    end += 1024
                e_coarse = coarse + np.float64(end)
                a1 = tdc[row, 2]
                under = a1 * a1 - np.float32(4) * (tdc[row, 1] - t_fine) * tdc[row, 3]
                q = (-a1 + np.sqrt(under)) / (np.float32(2) * tdc[row, 3])
                hit_time = coarse - np.float64(q) - np.float64(tdc[row, 0]) - offset_clocks[dense]
                is_tot = state == ROW_TOT
                if is_tot:
                    a1 = tdc[row, 6]
                    under = a1 * a1 - np.float32(4) * (tdc[row, 5] - e_fine) * tdc[row, 7]
                    q = (-a1 + np.sqrt(under)) / (np.float32(2) * tdc[row, 7])
                    hit_energy = np.float32(e_coarse - np.float64(q) - np.float64(tdc[row, 4]) - hit_time)
                else:
                    integrated = np.float32(e_coarse - hit_time)
                    hit_energy = _charge_time(e_fine, integrated, charge[row]) - integrated
                    if linear.shape[0] > 0:
                        power = linear[row, 1] ** (hit_energy ** linear[row, 2])
                        hit_energy = linear[row, 0] * power + linear[row, 3] * hit_energy - linear[row, 0]
                if np.isnan(hit_time):
                    tally[D_CURVE] += 1
                    continue
            tally[0] += 1
            here = n_hits - start
            t[here] = hit_time
            region[here] = hit_region
            place[here] = dense
            time_ps[n_hits] = np.int64(hit_time * 5000.0) + frame0 * 1024 * 5000
            energy[n_hits] = hit_energy
            channel[n_hits] = np.int32(w >> np.uint64(42))
            tot[n_hits] = is_tot
            n_hits += 1
        count = n_hits - start
        taken = np.zeros(count, np.bool_)
        first_group = n_groups
        for i in range(count):
            if taken[i]:
                continue
            taken[i] = True
            begin = n_member
            member[n_member] = start + i
            n_member += 1
            for j in range(i + 1, count):
                apart = t[j] - t[i]
                if apart > group_window + DISORDER_CLOCKS:
                    break
                if taken[j] or region[i] < 0 or region[j] < 0 or not relation[region[i], region[j]] & np.uint8(1):
                    continue
                if abs(apart) > group_window:
                    continue
                dx = xyz_mm[place[j], 0] - xyz_mm[place[i], 0]
                dy = xyz_mm[place[j], 1] - xyz_mm[place[i], 1]
                dz = xyz_mm[place[j], 2] - xyz_mm[place[i], 2]
                if dx * dx + dy * dy + dz * dz > distance2:
                    continue
                taken[j] = True
                member[n_member] = start + j
                n_member += 1
            n_members = n_member - begin
            total = np.float32(0)
            for m in range(begin, n_member):  # strongest first; equals keep their order
                value = member[m]
                total += energy[value]
                at = m
                while at > begin and energy[member[at - 1]] < energy[value]:
                    member[at] = member[at - 1]
                    at -= 1
                member[at] = value
            reason = 0
            if n_members < min_hits:
                reason = 1
            elif n_members > max_hits:
                reason = 2
            elif np.float64(total) < min_energy:
                reason = 3
            elif np.float64(total) > max_energy:
                reason = 4
            group_tally[reason] += 1
            if reason:
                group_tally[5] += n_members
                n_member = begin
                continue
            energy_sum[n_groups] = total
            n_groups += 1
            first_member[n_groups] = n_member
        for g in range(first_group, n_groups):
            one = member[first_member[g]] - start
            for h in range(g + 1, n_groups):
                two = member[first_member[h]] - start
                apart = t[two] - t[one]
                if apart > coincidence_window + DISORDER_CLOCKS:
                    break
                if region[one] < 0 or region[two] < 0 or not relation[region[one], region[two]] & np.uint8(2):
                    continue
                if abs(apart) > coincidence_window:
                    continue
                if n_pairs < pair.shape[0]:
                    first_is_one = region[one] > region[two]
                    pair[n_pairs, 0] = g if first_is_one else h
                    pair[n_pairs, 1] = h if first_is_one else g
                n_pairs += 1
    return n_hits, n_groups, n_pairs
