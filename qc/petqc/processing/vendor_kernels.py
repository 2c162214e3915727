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

LANES = 32
"""Hits whose charge curves are solved together."""


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
def charge_times(
    code: NDArray[np.float32],
    start: NDArray[np.float32],
    row: NDArray[np.uint32],
    n: int,
    p: NDArray[np.float32],
    time: NDArray[np.float32],
) -> None:
    """Times t with ADC(t) = code of n hits, single precision; a Newton step of at most 0.05 is the last one taken.

    A step of one hit waits for the step before. So many hits take each step together, and those that have arrived stay.

    Inputs:
        code, start: (>= n,) ADC codes and where to start, in clocks. row: (>= n,) whose curve.
        p: (n_rows, 10) coefficients by power.
        time: (>= n,) out.
    """
    lanes = np.empty((12, LANES), np.float32)  # one memory, so that the compiler knows that nothing overlaps
    wanted = lanes[10]
    t = lanes[11]
    step_of = np.empty(LANES, np.float32)
    for begin in range(0, n, LANES):
        size = min(LANES, n - begin)
        for i in range(LANES):
            k = np.uint64(begin + min(i, size - 1))
            of_row = p[np.uint64(row[k])]
            for power in range(10):
                lanes[power, i] = of_row[power]
            wanted[i] = code[k]
            t[i] = start[k]
            step_of[i] = np.float32(1)
        for _ in range(100):
            for i in range(LANES):
                value = np.float32(0)
                slope = np.float32(0)
                for power in range(9, -1, -1):
                    slope = slope * t[i] + value
                    value = value * t[i] + lanes[power, i]
                step = (wanted[i] - value) / slope
                step = min(max(step, np.float32(-10)), np.float32(10))
                goes_on = not abs(step_of[i]) <= np.float32(0.05)
                t[i] = t[i] + step if goes_on else t[i]
                step_of[i] = step if goes_on else step_of[i]
            going = 0
            for i in range(LANES):
                going += int(not abs(step_of[i]) <= np.float32(0.05))
            if going == 0:
                break
        for i in range(size):
            time[np.uint64(begin + i)] = t[np.uint64(i)]


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
        lead_time = np.empty(size, np.float64)
        lead_region = np.empty(size, np.int32)
        charged = np.empty(size, np.uint32)
        code = np.empty(size, np.float32)
        integrated = np.empty(size, np.float32)
        row_of = np.empty(size, np.uint32)
        solved = np.empty(size, np.float32)
        n_charged = 0
        for i in range(size):
            at = np.uint64(low + (key[np.uint64(i)] & np.int64((1 << PAYLOAD_BITS) - 1)))
            w = words[at]
            t_coarse = np.int64((w >> np.uint64(30)) & np.uint64(1023))
            coarse = np.float64((frames[at] - frame0) * 1024 + t_coarse)
            t_fine = np.float32(((w >> np.uint64(10)) + np.uint64(27)) & np.uint64(1023))
            e_fine = np.float32((w + np.uint64(27)) & np.uint64(1023))
            chip = chip_row[w >> np.uint64(48)]
            hit_energy = np.float32(0)
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
                row = np.uint64(chip) + ((w >> np.uint64(40)) & np.uint64(255))
                state = np.int64(row_state[row])
                if state >= ROW_DROP:
                    tally[state - ROW_DROP] += 1
                    continue
                dense = np.int64(row >> np.uint64(2))
                hit_region = region_of[np.uint64(dense)]
                end = np.int64((w >> np.uint64(20)) & np.uint64(1023)) - t_coarse
                if end < -256:
                    end += 1024
                e_coarse = coarse + np.float64(end)
                a1 = tdc[row, 2]
                under = a1 * a1 - np.float32(4) * (tdc[row, 1] - t_fine) * tdc[row, 3]
                q = (-a1 + np.sqrt(under)) / (np.float32(2) * tdc[row, 3])
                hit_time = coarse - np.float64(q) - np.float64(tdc[row, 0]) - offset_clocks[np.uint64(dense)]
                if np.isnan(hit_time):
                    tally[D_CURVE] += 1
                    continue
                is_tot = state == ROW_TOT
                if is_tot:
                    a1 = tdc[row, 6]
                    under = a1 * a1 - np.float32(4) * (tdc[row, 5] - e_fine) * tdc[row, 7]
                    q = (-a1 + np.sqrt(under)) / (np.float32(2) * tdc[row, 7])
                    hit_energy = np.float32(e_coarse - np.float64(q) - np.float64(tdc[row, 4]) - hit_time)
                else:
                    next_one = np.uint64(n_charged)
                    charged[next_one] = np.uint32(n_hits)
                    code[next_one] = e_fine
                    integrated[next_one] = np.float32(e_coarse - hit_time)
                    row_of[next_one] = np.uint32(row)
                    n_charged += 1
            tally[0] += 1
            in_buffer = np.uint64(n_hits - start)
            t[in_buffer] = hit_time
            region[in_buffer] = hit_region
            place[in_buffer] = dense
            one_hit = np.uint64(n_hits)
            time_ps[one_hit] = np.int64(hit_time * 5000.0) + frame0 * 1024 * 5000
            energy[one_hit] = hit_energy
            channel[one_hit] = np.int32(w >> np.uint64(42))
            tot[one_hit] = is_tot
            n_hits += 1
        charge_times(code, integrated, row_of, n_charged, charge, solved)
        for k in range(n_charged):
            hit_energy = solved[k] - integrated[k]
            if linear.shape[0] > 0:
                row = np.uint64(row_of[k])
                power = linear[row, 1] ** (hit_energy ** linear[row, 2])
                hit_energy = linear[row, 0] * power + linear[row, 3] * hit_energy - linear[row, 0]
            energy[np.uint64(charged[k])] = hit_energy
        count = np.uint64(n_hits - start)
        taken = np.zeros(count, np.bool_)
        first_group = n_groups
        for k in range(n_hits - start):
            seed = np.uint64(k)  # unsigned indices spare the test for negative ones
            if taken[seed]:
                continue
            taken[seed] = True
            begin = n_member
            member[n_member] = start + k
            n_member += 1
            seed_time = t[seed]
            seed_region = region[seed]
            j = seed + np.uint64(1)
            while j < count:
                apart = t[j] - seed_time
                if apart > group_window + DISORDER_CLOCKS:
                    break
                # The time first: nearly always it says no.
                if (abs(apart) <= group_window) and not taken[j] and seed_region >= 0 and region[j] >= 0:
                    here = np.uint64(place[seed])
                    there = np.uint64(place[j])
                    dx = xyz_mm[there, 0] - xyz_mm[here, 0]
                    dy = xyz_mm[there, 1] - xyz_mm[here, 1]
                    dz = xyz_mm[there, 2] - xyz_mm[here, 2]
                    related = relation[np.uint64(seed_region), np.uint64(region[j])] & np.uint8(1)
                    if related and not dx * dx + dy * dy + dz * dz > distance2:
                        taken[j] = True
                        member[n_member] = start + np.int64(j)
                        n_member += 1
                j += np.uint64(1)
            n_members = n_member - begin
            total = np.float32(0)
            for m in range(begin, n_member):  # strongest first; equals keep their order
                value = member[m]
                total += energy[value]
                to = m
                while to > begin and energy[member[to - 1]] < energy[value]:
                    member[to] = member[to - 1]
                    to -= 1
                member[to] = value
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
        n_here = np.uint64(n_groups - first_group)
        for k in range(n_groups - first_group):  # of each photon the time and region of its strongest hit
            strongest = np.uint64(member[first_member[first_group + k]] - start)
            lead_time[k] = t[strongest]
            lead_region[k] = region[strongest]
        for k in range(n_groups - first_group):
            g = np.uint64(k)
            own_time = lead_time[g]
            own_region = lead_region[g]
            h = g + np.uint64(1)
            while h < n_here:
                apart = lead_time[h] - own_time
                if apart > coincidence_window + DISORDER_CLOCKS:
                    break
                region_h = lead_region[h]
                if abs(apart) <= coincidence_window and own_region >= 0 and region_h >= 0:
                    coincident = relation[np.uint64(own_region), np.uint64(region_h)] & np.uint8(2) != np.uint8(0)
                    if coincident and n_pairs < pair.shape[0]:
                        one = first_group + np.int64(g)
                        two = first_group + np.int64(h)
                        pair[n_pairs, 0] = one if own_region > region_h else two
                        pair[n_pairs, 1] = two if own_region > region_h else one
                    n_pairs += int(coincident)
                h += np.uint64(1)
    return n_hits, n_groups, n_pairs
