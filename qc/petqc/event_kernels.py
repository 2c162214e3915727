"""Sorting hits, grouping them into singles, pairing singles: the second half of the hot path.

Like `petqc.kernels`: compiled loops, int64 ps, no bounds checks, a plain Python twin of each in the tests.
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
    for b in range(n_buckets + 1):
        bucket[b] = 0
    for i in range(n):
        bucket[((time_ps[i] - low) >> shift) + 1] += 1
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
            b = (time_ps[i] - low) >> shift
            key[bucket[b]] = (time_ps[i] - low) << POSITION_BITS | np.int64(i)
            bucket[b] += 1
        for i in range(1, n):
            value = key[i]
            j = i - 1
            while j >= 0 and key[j] > value:
                key[j + 1] = key[j]
                j -= 1
            key[j + 1] = value
    for i in range(n):
        at = key[i] & np.int64((1 << POSITION_BITS) - 1)
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
) -> tuple[int, int]:
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
    out = first
    taken = np.int32(TAKEN)
    i = 0
    while i < n:
        if channel[i] & taken:
            i += 1
            continue
        t = time_ps[i]
        last = t + window_ps
        if last >= known_ps:
            break
        seed = np.int64(channel[i])
        strongest = i
        top = energy[i]
        total = np.float64(top)
        members = 1
        seed_region = np.int64(region[seed])
        j = i + 1
        if seed_region >= 0:
            while j < n and time_ps[j] <= last:
                c = channel[j]
                if not c & taken:
                    other = np.int64(c)
                    other_region = np.int64(region[other])
                    if other_region >= 0 and relation[seed_region, other_region] & np.uint8(1):
                        dx = xyz_mm[other, 0] - xyz_mm[seed, 0]
                        dy = xyz_mm[other, 1] - xyz_mm[seed, 1]
                        dz = xyz_mm[other, 2] - xyz_mm[seed, 2]
                        if np.float64(dx * dx + dy * dy + dz * dz) <= distance2_mm2:
                            channel[j] = c | taken
                            members += 1
                            total += np.float64(energy[j])
                            if energy[j] > top:
                                top = energy[j]
                                strongest = j
                j += 1
        sum_energy = np.float32(total)
        if members < min_hits:
            tally[1] += 1
            tally[5] += members
        elif members > max_hits:
            tally[2] += 1
            tally[5] += members
        elif np.float64(sum_energy) < min_energy:
            tally[3] += 1
            tally[5] += members
        elif np.float64(sum_energy) > max_energy:
            tally[4] += 1
            tally[5] += members
        else:
            tally[0] += 1
            out_time[out] = time_ps[strongest]
            out_energy[out] = sum_energy
            out_channel[out] = channel[strongest] & ~taken
            out_hits[out] = np.uint8(members)
            out += 1
        i += 1
    return i, out


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
def pair_singles(
    time_ps: NDArray[np.int64],
    channel: NDArray[np.int32],
    n: int,
    own_from: int,
    own_to: int,
    half_ps: int,
    delay_ps: int,
    region: NDArray[np.int32],
    relation: NDArray[np.uint8],
    partners: NDArray[np.int32],
    delayed_forward: NDArray[np.int32],
    delayed_back: NDArray[np.int32],
    prompt: NDArray[np.int32],
    delayed: NDArray[np.int32],
    delayed_alone: NDArray[np.bool_],
    keep_multiples: bool,  # noqa: FBT001
) -> tuple[int, int, int, int]:
    """Pairs of singles in the prompt and the delayed window; a pair belongs to its earlier single.

    Prompt: 0 <= t_j - t_i <= half. Delayed: |t_j - t_i - delay| <= half. Regions must be a coincidence pair.

    Inputs:
        time_ps, channel: (>= n,) singles sorted by time; those before own_from and from own_to on are only looked at.
        n: how many.
        own_from, own_to: range of singles whose pairs are wanted.
        half_ps: half of the coincidence window. delay_ps: shift of the delayed window.
        region: by dense channel. relation: by pair of regions, bit 1: coincidence.
        partners, delayed_forward, delayed_back: (>= n,) scratch.
        prompt, delayed: (m, 2) out, indices of the earlier and the later single.
        delayed_alone: (m,) out, the multiples policy would keep this delayed pair.
        keep_multiples: write every prompt pair; else only those both of whose singles have one partner.

    Returns:
        Prompt pairs, delayed pairs, prompt pairs discarded as multiples, 1 if an output was too small (then nothing
        is valid).
    """
    for i in range(n):
        partners[i] = 0
        delayed_forward[i] = 0
        delayed_back[i] = 0
    n_prompt = 0
    room = prompt.shape[0]
    for i in range(n - 1):
        last = time_ps[i] + half_ps
        if time_ps[i + 1] > last:
            continue
        one = np.int64(region[channel[i]])
        if one < 0:
            continue
        j = i + 1
        while j < n and time_ps[j] <= last:
            other = np.int64(region[channel[j]])
            if other >= 0 and relation[one, other] & np.uint8(2):
                partners[i] += 1
                partners[j] += 1
                if own_from <= i < own_to:
                    if n_prompt >= room:
                        return 0, 0, 0, 1
                    prompt[n_prompt, 0] = i
                    prompt[n_prompt, 1] = j
                    n_prompt += 1
            j += 1
    discarded = 0
    if not keep_multiples:
        kept = 0
        for k in range(n_prompt):
            if partners[prompt[k, 0]] == 1 and partners[prompt[k, 1]] == 1:
                prompt[kept, 0] = prompt[k, 0]
                prompt[kept, 1] = prompt[k, 1]
                kept += 1
        discarded = n_prompt - kept
        n_prompt = kept
    n_delayed = 0
    room = delayed.shape[0]
    ahead = 0
    for i in range(n):
        early = time_ps[i] + delay_ps - half_ps
        late = time_ps[i] + delay_ps + half_ps
        while ahead < n and time_ps[ahead] < early:
            ahead += 1
        if ahead >= n:
            break
        if time_ps[ahead] > late:
            continue
        one = np.int64(region[channel[i]])
        if one < 0:
            continue
        j = ahead
        while j < n and time_ps[j] <= late:
            other = np.int64(region[channel[j]])
            if other >= 0 and relation[one, other] & np.uint8(2):
                delayed_forward[i] += 1
                delayed_back[j] += 1
                if own_from <= i < own_to:
                    if n_delayed >= room:
                        return 0, 0, 0, 1
                    delayed[n_delayed, 0] = i
                    delayed[n_delayed, 1] = j
                    n_delayed += 1
            j += 1
    for k in range(n_delayed):
        i = delayed[k, 0]
        j = delayed[k, 1]
        delayed_alone[k] = keep_multiples or (
            partners[i] == 0 and partners[j] == 0 and delayed_forward[i] == 1 and delayed_back[j] == 1
        )
    return n_prompt, n_delayed, discarded, 0
