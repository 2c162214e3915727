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

    Hits are spread over buckets of time, about one each, and finished by insertion; data that crowd into few buckets
    (long gaps) are merged instead, so no data make this slow.

    Inputs:
        time_ps, energy, channel: (>= n,) columns.
        n: how many hits; below 2^22.
        key, spare: (>= n,) int64 scratch. bucket: (>= 2 n + 2,) int32 scratch.
        energy_spare, channel_spare: (>= n,) scratch.
    """
    if n < 2:
        return
    low = time_ps[0]
    high = low
    ordered = True
    for i in range(1, n):
        t = time_ps[i]
        if t < time_ps[i - 1]:
            ordered = False
        low = min(low, t)
        high = max(high, t)
    if ordered:
        return
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
    if fullest > 64:
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
        if j < end and time_ps[j] <= last and region[own] >= 0:
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
    n: int,
) -> None:
    """Sort the first n singles by time, in place, stable; they are nearly in order, so insertion is the fast way."""
    for i in range(1, n):
        t = time_ps[i]
        if t >= time_ps[i - 1]:
            continue
        e = energy[i]
        c = channel[i]
        h = n_hits[i]
        j = i - 1
        while j >= 0 and time_ps[j] > t:
            time_ps[j + 1] = time_ps[j]
            energy[j + 1] = energy[j]
            channel[j + 1] = channel[j]
            n_hits[j + 1] = n_hits[j]
            j -= 1
        time_ps[j + 1] = t
        energy[j + 1] = e
        channel[j + 1] = c
        n_hits[j + 1] = h


@kernel
def give_singles(
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    n_hits: NDArray[np.uint8],
    n: int,
    channel_of: NDArray[np.int32],
    low: float,
    high: float,
    first: int,
    out_time: NDArray[np.int64],
    out_energy: NDArray[np.float32],
    out_channel: NDArray[np.int32],
    out_hits: NDArray[np.uint8],
    first_in_window: int,
    in_time: NDArray[np.int64],
    in_energy: NDArray[np.float32],
    in_channel: NDArray[np.int32],
    in_hits: NDArray[np.uint8],
) -> int:
    """Copy n singles to the results, and those with low <= energy <= high to the ones that wait to be paired.

    Inputs:
        time_ps, energy, channel, n_hits: singles, channel dense.
        channel_of: absolute channel by dense channel; results have absolute channels, those that wait dense ones.
        first, out_…: where in the results to begin. first_in_window, in_…: the same for those that wait.

    Returns:
        Where the next single that waits goes.
    """
    at = first_in_window
    for i in range(n):
        e = energy[i]
        c = channel[i]
        out_time[first + i] = time_ps[i]
        out_energy[first + i] = e
        out_channel[first + i] = channel_of[c]
        out_hits[first + i] = n_hits[i]
        in_time[at] = time_ps[i]
        in_energy[at] = e
        in_channel[at] = c
        in_hits[at] = n_hits[i]
        at += int(low <= e <= high)
    return at
