"""Pairing singles in the prompt and the delayed window: the last part of the hot path.

Like the kernels of hits: compiled loops, int64 ps, no bounds checks, a plain Python twin of each in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    occupied: NDArray[np.uint64],
    prompt: NDArray[np.int32],
    delayed: NDArray[np.int32],
    delayed_alone: NDArray[np.bool_],
    keep_multiples: bool,  # noqa: FBT001
) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """Pairs of singles in the prompt and the delayed window; a pair belongs to its earlier single.

    Prompt: 0 <= t_j - t_i <= half. Delayed: |t_j - t_i - delay| <= half. Regions must be a coincidence pair.

    Most delayed windows are empty, so before looking for a single the map of occupied time bins is asked. A bin is as
    wide as the window, which thus lies in two of them; bins far apart in time share a bit of the map, which costs a
    search now and then and nothing else.

    Inputs:
        time_ps, channel: (>= n,) singles sorted by time; those before own_from and from own_to on are only looked at.
        n: how many.
        own_from, own_to: range of singles whose pairs are wanted.
        half_ps: half of the coincidence window. delay_ps: shift of the delayed window.
        region: by dense channel. relation: by pair of regions, bit 1: coincidence.
        partners, delayed_forward, delayed_back: (>= n,) scratch.
        occupied: (a power of 2,) scratch.
        prompt, delayed: (m, 2) out, indices of the earlier and the later single.
        delayed_alone: (m,) out, the multiples policy would keep this delayed pair.
        keep_multiples: write every prompt pair; else only those both of whose singles have one partner.

    Returns:
        Prompt pairs, delayed pairs, prompt pairs discarded as multiples, 1 if an output was too small (then nothing
        is valid).
    """
    one = np.uint64(1)
    zero = np.uint64(0)
    end = np.uint64(n)
    begin_own = np.uint64(own_from)
    end_own = np.uint64(own_to)
    full = (np.int64(0), np.int64(0), np.int64(0), np.int64(1))
    for k in range(n):
        partners[k] = 0
        delayed_forward[k] = 0
        delayed_back[k] = 0
    n_prompt = zero
    room = np.uint64(prompt.shape[0])
    i = zero
    while i + one < end:
        last = time_ps[i] + half_ps
        j = i + one
        if time_ps[j] <= last and region[np.uint64(channel[i])] >= 0:
            mine = np.uint64(region[np.uint64(channel[i])])
            while j < end and time_ps[j] <= last:
                other = region[np.uint64(channel[j])]
                related = relation[mine, np.uint64(max(other, np.int32(0)))] & np.uint8(2)
                if (other >= 0) & (related != np.uint8(0)):
                    partners[i] += 1
                    partners[j] += 1
                    if begin_own <= i < end_own:
                        if n_prompt >= room:
                            return full
                        prompt[n_prompt, 0] = np.int32(i)
                        prompt[n_prompt, 1] = np.int32(j)
                        n_prompt += one
                j += one
        i += one
    n_all = n_prompt
    if not keep_multiples:
        n_prompt = zero
        m = zero
        while m < n_all:
            earlier = prompt[m, 0]
            later = prompt[m, 1]
            prompt[n_prompt, 0] = earlier
            prompt[n_prompt, 1] = later
            n_prompt += np.uint64((partners[earlier] == 1) & (partners[later] == 1))
            m += one
    width = 2 * half_ps
    bin_bits = zero
    while np.int64(one << bin_bits) <= width:
        bin_bits += one
    six = np.uint64(6)
    in_word = np.uint64(63)
    in_map = np.uint64(occupied.size - 1)
    for k in range(occupied.size):
        occupied[k] = zero
    for k in range(n):
        b = np.uint64(time_ps[k]) >> bin_bits
        occupied[(b >> six) & in_map] |= one << (b & in_word)
    n_delayed = zero
    room = np.uint64(delayed.shape[0])
    ahead = zero
    i = zero
    while i < end:
        early = time_ps[i] + delay_ps - half_ps
        b = np.uint64(early) >> bin_bits
        c = b + one
        found = occupied[(b >> six) & in_map] >> (b & in_word) | occupied[(c >> six) & in_map] >> (c & in_word)
        if found & one and region[np.uint64(channel[i])] >= 0:
            step = one
            high = ahead
            while high < end and time_ps[high] < early:  # ever longer steps, then halving: near or far, it is quick
                ahead = high + one
                high = min(high + step, end)
                step += step
            while ahead < high:
                middle = (ahead + high) >> one
                if time_ps[middle] < early:
                    ahead = middle + one
                else:
                    high = middle
            mine = np.uint64(region[np.uint64(channel[i])])
            j = ahead
            while j < end and time_ps[j] <= early + width:
                other = region[np.uint64(channel[j])]
                related = relation[mine, np.uint64(max(other, np.int32(0)))] & np.uint8(2)
                if (other >= 0) & (related != np.uint8(0)):
                    delayed_forward[i] += 1
                    delayed_back[j] += 1
                    if begin_own <= i < end_own:
                        if n_delayed >= room:
                            return full
                        delayed[n_delayed, 0] = np.int32(i)
                        delayed[n_delayed, 1] = np.int32(j)
                        n_delayed += one
                j += one
        i += one
    m = zero
    while m < n_delayed:
        earlier = delayed[m, 0]
        later = delayed[m, 1]
        alone = partners[earlier] == 0 and partners[later] == 0
        delayed_alone[m] = keep_multiples or (alone and delayed_forward[earlier] == 1 and delayed_back[later] == 1)
        m += one
    return np.int64(n_prompt), np.int64(n_delayed), np.int64(n_all - n_prompt), np.int64(0)


@kernel
def give_pairs(
    pair: NDArray[np.int32],
    n: int,
    shift_ps: int,
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    n_hits: NDArray[np.uint8],
    region: NDArray[np.int32],
    channel_of: NDArray[np.int32],
    first: int,
    time_a_ps: NDArray[np.int64],
    time_b_ps: NDArray[np.int64],
    energy_a: NDArray[np.float32],
    energy_b: NDArray[np.float32],
    channel_a: NDArray[np.int32],
    channel_b: NDArray[np.int32],
    n_hits_a: NDArray[np.uint8],
    n_hits_b: NDArray[np.uint8],
) -> None:
    """Write the columns of n pairs (earlier, later); side a has the higher region, and is the later one of equals.

    shift_ps is added to the earlier one's time. Results begin at `first` and have absolute channels.
    """
    for k in range(n):
        earlier = np.uint64(pair[k, 0])  # unsigned indices spare the test for negative ones
        later = np.uint64(pair[k, 1])
        t_earlier = time_ps[earlier] + shift_ps
        t_later = time_ps[later]
        swap = region[np.uint64(channel[earlier])] > region[np.uint64(channel[later])]
        a = earlier if swap else later
        b = later if swap else earlier
        out = np.uint64(first + k)
        time_a_ps[out] = t_earlier if swap else t_later
        time_b_ps[out] = t_later if swap else t_earlier
        energy_a[out] = energy[a]
        energy_b[out] = energy[b]
        channel_a[out] = channel_of[np.uint64(channel[a])]
        channel_b[out] = channel_of[np.uint64(channel[b])]
        n_hits_a[out] = n_hits[a]
        n_hits_b[out] = n_hits[b]
