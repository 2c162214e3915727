"""Sorting hits and grouping them into singles: the second part of the hot path.

Like the kernels of hits: compiled loops, int64 ps, no bounds checks, a plain Python twin of each in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAKEN = 1 << 30
"""Bit in a hit's channel: it already belongs to a photon."""

POSITION_BITS = 22
"""Low bits of a sorting key, for the position; so a sort takes fewer than 2^22 hits."""

MOST_MOVES = 2
"""Places that a hit may be from its own, on average, for inserting to be the fast way; most data have 0.2 to 0.3."""

MERGED = 64
"""Hits of one bucket that are merged rather than inserted."""


@kernel
def merge_sort(key: NDArray[np.int64], n: int, spare: NDArray[np.int64]) -> None:
    """Sort key[:n] in place, stable, in n log n steps whatever the data. spare: (>= n,)."""
    width = 1
    source = key
    target = spare
    in_spare = False
    while width < n:
        low = 0
        while low < n:
            middle = min(low + width, n)
            high = min(low + 2 * width, n)
            i = low
            j = middle
            for k in range(low, high):
                if i < middle and (j >= high or source[i] <= source[j]):
                    target[k] = source[i]
                    i += 1
                else:
                    target[k] = source[j]
                    j += 1
            low = high
        source, target = target, source
        in_spare = not in_spare
        width *= 2
    if in_spare:
        for k in range(n):
            key[k] = spare[k]


@kernel
def insert_late_hits(
    time_ps: NDArray[np.int64], energy: NDArray[np.float32], channel: NDArray[np.int32], n: int
) -> bool:
    """Move each of the first n hits that comes too late back to its place, in place, stable.

    Returns:
        False if there were so many moves that it was given up; what was done so far is no harm to a stable sort.
    """
    one = np.uint64(1)  # unsigned indices spare the test for negative ones
    moves = np.uint64(0)
    newest = time_ps[0] if n > 0 else np.int64(0)
    for i in range(one, np.uint64(max(n, 1))):
        t = time_ps[i]
        if t >= newest:
            newest = t
            continue
        e = energy[i]
        c = channel[i]
        j = np.uint64(i)
        while j > np.uint64(0) and time_ps[j - one] > t:
            time_ps[j] = time_ps[j - one]
            energy[j] = energy[j - one]
            channel[j] = channel[j - one]
            j -= one
        time_ps[j] = t
        energy[j] = e
        channel[j] = c
        moves += np.uint64(i) - j
        if moves > np.uint64(MOST_MOVES) * i + np.uint64(MERGED):
            return False
    return True


@kernel
def sort_hits(
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    n: int,
    key: NDArray[np.int64],
    spare: NDArray[np.int64],
    bucket: NDArray[np.int32],
    energy_spare: NDArray[np.float32],
    channel_spare: NDArray[np.int32],
) -> None:
    """Sort the first n hits by time, in place; hits of equal time keep their order.

    Frames come in order, so most hits are in their place already or a few places from it, and are inserted there. If
    they are not, they are spread over buckets of time, about one each, and finished by insertion; data that crowd into
    few buckets (long gaps) are merged instead, so no data make this slow.

    Inputs:
        time_ps, energy, channel: (>= n,) columns.
        n: how many hits; below 2^22.
        key, spare: (>= n,) int64 scratch. bucket: (>= 2 n + 2,) int32 scratch.
        energy_spare, channel_spare: (>= n,) scratch.
    """
    if insert_late_hits(time_ps, energy, channel, n):
        return
    low = time_ps[0]
    high = low
    for i in range(1, n):
        low = min(low, time_ps[i])
        high = max(high, time_ps[i])
    span = high - low
    if span >= np.int64(1) << 40:  # about 1.1 s: the time does not fit beside the position in one key
        order = np.argsort(time_ps[:n], kind="mergesort")
        for i in range(n):
            spare[i] = time_ps[order[i]]
            energy_spare[i] = energy[order[i]]
            channel_spare[i] = channel[order[i]]
        for i in range(n):
            time_ps[i] = spare[i]
            energy[i] = energy_spare[i]
            channel[i] = channel_spare[i]
        return
    shift = np.int64(0)
    while (span >> shift) >= 2 * n:
        shift += 1
    n_buckets = np.int64(span >> shift) + 1
    bits = np.uint64(shift)
    one = np.uint64(1)
    for b in range(n_buckets + 1):
        bucket[b] = 0
    for i in range(n):
        bucket[(np.uint64(time_ps[i] - low) >> bits) + one] += 1
    fullest = np.int32(0)
    for b in range(1, n_buckets + 1):
        fullest = max(fullest, bucket[b])
        bucket[b] += bucket[b - 1]
    if fullest > MERGED:
        for i in range(n):
            key[i] = (time_ps[i] - low) << POSITION_BITS | np.int64(i)
        merge_sort(key, n, spare)
    else:
        for i in range(n):
            since = time_ps[i] - low
            place = np.uint64(since) >> bits  # unsigned indices spare the test for negative ones
            to = bucket[place]
            key[np.uint64(to)] = since << POSITION_BITS | np.int64(i)
            bucket[place] = to + np.int32(1)
        before = key[0]
        for i in range(1, n):
            value = key[i]
            if value >= before:
                before = value
                continue
            j = i - 1
            while j >= 0 and key[j] > value:
                key[j + 1] = key[j]
                j -= 1
            key[j + 1] = value
    for i in range(n):
        at = np.uint64(key[i] & np.int64((1 << POSITION_BITS) - 1))
        energy_spare[i] = energy[at]
        channel_spare[i] = channel[at]
    for i in range(n):
        time_ps[i] = low + (key[i] >> POSITION_BITS)
        energy[i] = energy_spare[i]
        channel[i] = channel_spare[i]


@kernel
def group_hits(
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    n: int,
    known_ps: int,
    window_ps: int,
    distance2_mm2: float,
    min_hits: int,
    max_hits: int,
    min_energy: float,
    max_energy: float,
    region: NDArray[np.int32],
    xyz_mm: NDArray[np.float32],
    relation: NDArray[np.uint8],
    first: int,
    out_time: NDArray[np.int64],
    out_energy: NDArray[np.float32],
    out_channel: NDArray[np.int32],
    out_hits: NDArray[np.uint8],
    tally: NDArray[np.int64],
) -> tuple[np.int64, np.int64]:
    """Group hits of one photon around the earliest hit not yet taken, as far as all later hits are known.

    A later hit joins if it comes at most window_ps after the seed, the two regions may belong to one photon, and it
    lies within the distance. The photon has the time and channel of its strongest hit (the earliest of equals) and the
    sum of the energies.

    Inputs:
        time_ps, energy, channel: hits sorted by time; taken hits get the TAKEN bit in channel, in place.
        n: how many.
        known_ps: all hits before this time are there; seeds whose window reaches it are left for the next call.
        window_ps, distance2_mm2, min_hits, max_hits, min_energy, max_energy: what makes a photon; limits inclusive.
        region, xyz_mm: by dense channel. relation: by pair of regions, bit 0: same photon.
        first: where in the output to begin.
        out_time, out_energy, out_channel, out_hits: out, in the order of seeds.
        tally: (6,) counts added to: kept, too few hits, too many, energy too low, too high, hits in rejected groups.

    Returns:
        The first hit that must be kept for the next call, and where the next group goes.
    """
    # Unsigned indices spare the test for negative ones; conditions that no branch predictor can learn are combined.
    one = np.uint64(1)
    taken = np.int32(TAKEN)
    distance2 = np.float32(distance2_mm2)
    end = np.uint64(n)
    out = np.uint64(first)
    i = np.uint64(0)
    while i < end:
        own = channel[i]
        if own & taken:
            i += one
            continue
        last = time_ps[i] + window_ps
        if last >= known_ps:
            break
        strongest = i
        top = energy[i]
        total = np.float64(top)
        members = 1
        j = i + one
        if j < end and time_ps[j] <= last and region[np.uint64(own)] >= 0:
            seed = np.uint64(own)
            seed_region = np.uint64(region[seed])
            while j < end and time_ps[j] <= last:
                c = channel[j]
                other = np.uint64(c & ~taken)
                other_region = region[other]
                related = relation[seed_region, np.uint64(max(other_region, np.int32(0)))] & np.uint8(1)
                dx = xyz_mm[other, 0] - xyz_mm[seed, 0]
                dy = xyz_mm[other, 1] - xyz_mm[seed, 1]
                dz = xyz_mm[other, 2] - xyz_mm[seed, 2]
                near = dx * dx + dy * dy + dz * dz <= distance2
                if near & (related != np.uint8(0)) & (c < taken) & (other_region >= 0):
                    channel[j] = c | taken
                    members += 1
                    e = energy[j]
                    total += np.float64(e)
                    stronger = e > top
                    top = e if stronger else top
                    strongest = j if stronger else strongest
                j += one
        sum_energy = np.float32(total)
        if min_hits <= members <= max_hits and min_energy <= np.float64(sum_energy) <= max_energy:
            out_time[out] = time_ps[strongest]
            out_energy[out] = sum_energy
            out_channel[out] = channel[strongest] & ~taken
            out_hits[out] = np.uint8(members)
            out += one
        else:
            tally[5] += members
            if members < min_hits:
                tally[1] += 1
            elif members > max_hits:
                tally[2] += 1
            elif np.float64(sum_energy) < min_energy:
                tally[3] += 1
            else:
                tally[4] += 1
        i += one
    tally[0] += np.int64(out) - first
    return np.int64(i), np.int64(out)


@kernel
def order_singles(
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    n_hits: NDArray[np.uint8],
    first: int,
    n: int,
) -> None:
    """Sort singles [first, n) by time, in place, stable; they are nearly in order, so insertion is the fast way."""
    one = np.uint64(1)  # unsigned indices spare the test for negative ones
    begin = np.uint64(first)
    for i in range(begin + one, np.uint64(n)):
        t = time_ps[i]
        if t >= time_ps[i - one]:
            continue
        e = energy[i]
        c = channel[i]
        h = n_hits[i]
        j = np.uint64(i)
        while j > begin and time_ps[j - one] > t:
            time_ps[j] = time_ps[j - one]
            energy[j] = energy[j - one]
            channel[j] = channel[j - one]
            n_hits[j] = n_hits[j - one]
            j -= one
        time_ps[j] = t
        energy[j] = e
        channel[j] = c
        n_hits[j] = h


@kernel
def select_singles(
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    n_hits: NDArray[np.uint8],
    low: float,
    high: float,
    first: int,
    out_time: NDArray[np.int64],
    out_energy: NDArray[np.float32],
    out_channel: NDArray[np.int32],
    out_hits: NDArray[np.uint8],
) -> np.int64:
    """Copy the singles with low <= energy <= high; first, out_…: where to begin, with room for all.

    Returns:
        Where the next one goes.
    """
    at = np.uint64(first)  # unsigned indices spare the test for negative ones
    for i in range(time_ps.size):
        e = np.float64(energy[i])
        out_time[at] = time_ps[i]
        out_energy[at] = energy[i]
        out_channel[at] = channel[i]
        out_hits[at] = n_hits[i]
        at += np.uint64((low <= e) & (e <= high))
    return np.int64(at)
