"""The hot path: loops over words, hits and singles, compiled. Each has a plain Python twin in the tests.

Times are int64 ps since frame 0. Fine times are float64 ps relative to their own frame, so precision does not depend
on how long a run is, nor on how frames are cut into blocks. Nothing here checks array bounds: callers size the arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

(
    S_LAST,
    S_EPOCH,
    S_KIND,
    S_FIRST,
    S_FRAMES,
    S_LOST,
    S_PARTLY_LOST,
    S_EMPTY,
    S_LATE,
    S_HITS,
    S_LATE_HITS,
    S_BEFORE,
) = range(12)
N_STATE = 12
"""Positions in the state of `index_frames`; S_LAST, S_FIRST and S_BEFORE start as -1, the rest as 0. At the start of a
new step S_LAST goes to S_BEFORE and becomes -1: the gap between steps is nobody's loss."""

KIND_NONE, KIND_HITS, KIND_EMPTY, KIND_LOST = 0, 1, 2, 3

FRAME_ID_MASK = (1 << 36) - 1
HALF_WRAP = 1 << 35

CLOCKS_PER_FRAME = 1024

D_KEPT, D_TDC, D_CHARGE, D_ENERGY, D_KEV, D_MAP, D_MODE, D_CURVE, D_SATURATED, D_TRIGGER, D_LATE, D_BEYOND = range(12)
N_DROP = 12
"""Positions in the tally of `decode_hits`: as `processing.DROP_REASONS`, then hits beyond their charge curve."""

ROW_TOT, ROW_CHARGE = 0, 1
ROW_DROP = 2
"""Row states: how to treat a row's hits; from ROW_DROP on, state - ROW_DROP is the reason to drop them."""

CHIP_UNKNOWN, CHIP_TRIGGER = -1, -2

TAKEN = 1 << 30
"""Bit in a hit's channel: it already belongs to a photon."""


@kernel
def index_frames(
    words: NDArray[np.uint64],
    begin: int,
    max_hits: int,
    compacted: bool,  # noqa: FBT001
    keep_late: bool,  # noqa: FBT001
    state: NDArray[np.int64],
    position: NDArray[np.int64],
    frame_id: NDArray[np.int64],
) -> tuple[int, int, int, int]:
    """Walk frame headers from `begin`, do the accounting of frames and list the frames that have hits.

    Stops at the end of the words, before a frame that would exceed max_hits (but never before the first), when the
    list is full, or at a frame that is not whole or whose size and number of events disagree.

    Inputs:
        words: (n,) whole frames, two header words and the events each.
        begin: where to start.
        max_hits: most events to list.
        compacted: a gap after an empty frame, or one with hits, is a run of empty frames that was not stored.
        keep_late: list frames that come after a later one, too.
        state: (N_STATE,) account and memory, changed in place.
        position: (m,) out, first word of each listed frame.
        frame_id: (m,) out, its id with wraps of the 36-bit counter undone.

    Returns:
        Listed frames, their events, the position where the walk stopped, 1 if that is a malformed frame else 0.
    """
    n_words = words.size
    at = begin
    n_listed = 0
    n_hits = 0
    while at < n_words:
        if at + 2 > n_words:
            return n_listed, n_hits, at, 1
        head = words[at]
        second = words[at + 1]
        n = np.int64(second & np.uint64(0x7FFF))
        size = np.int64((head >> np.uint64(36)) & np.uint64(0x7FFF))
        if size != n + 2 or at + size > n_words:
            return n_listed, n_hits, at, 1
        if n > 0 and n_listed > 0 and n_hits + n > max_hits:
            break
        if n_listed >= position.size:
            break
        frame = np.int64(head & np.uint64(FRAME_ID_MASK)) + state[S_EPOCH]
        last = state[S_LAST]
        if max(last, state[S_BEFORE]) >= 0 and frame < max(last, state[S_BEFORE]) - HALF_WRAP:
            state[S_EPOCH] += FRAME_ID_MASK + 1
            frame += FRAME_ID_MASK + 1
        if last >= 0 and (frame <= last or frame > last + HALF_WRAP):
            state[S_LATE] += 1
            state[S_HITS] += n
            state[S_LATE_HITS] += n
            if not keep_late:
                at += size
                continue
        else:
            lost = (second & np.uint64(0x18000)) != np.uint64(0)
            if last < 0:
                if state[S_FIRST] < 0:
                    state[S_FIRST] = frame
            elif frame > last + 1:
                missing = frame - last - 1
                state[S_FRAMES] += missing
                if state[S_KIND] == KIND_LOST or not compacted:
                    state[S_LOST] += missing
                else:
                    state[S_EMPTY] += missing
            state[S_FRAMES] += 1
            state[S_HITS] += n
            if n > 0:
                state[S_KIND] = KIND_HITS
                if lost:
                    state[S_PARTLY_LOST] += 1
            elif lost:
                state[S_KIND] = KIND_LOST
                state[S_LOST] += 1
            else:
                state[S_KIND] = KIND_EMPTY
                state[S_EMPTY] += 1
            state[S_LAST] = frame
        if n > 0:
            position[n_listed] = at
            frame_id[n_listed] = frame
            n_listed += 1
            n_hits += n
        at += size
    return n_listed, n_hits, at, 0


@kernel
def decode_hits(
    words: NDArray[np.uint64],
    position: NDArray[np.int64],
    frame_id: NDArray[np.int64],
    n_frames: int,
    period_ps: float,
    chip_row: NDArray[np.int32],
    row_state: NDArray[np.uint8],
    tdc: NDArray[np.float32],
    shift_ps: NDArray[np.float64],
    cubics: NDArray[np.float32],
    ends: NDArray[np.float32],
    linear: NDArray[np.float32],
    kev: NDArray[np.float32],
    first: int,
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    tally: NDArray[np.int64],
) -> int:
    """Decode and calibrate the hits of listed frames, append those that are good, count the others by reason.

    Inputs:
        words: whole frames.
        position, frame_id: of the frames to decode, from `index_frames`.
        n_frames: how many of them.
        period_ps: clock period; one frame is 1024 of them.
        chip_row, row_state: first row of a chip (CHIP_UNKNOWN, CHIP_TRIGGER) and how to treat each row.
        tdc: (rows, 8) float32 a0 a1 a2 and t0, of the T branch, then of the E branch.
        shift_ps: (rows,) t0 of the T branch and the channel's time offset, in ps.
        cubics, ends: inverse charge curves (`calibration.charge.ChargeTable`).
        linear: (rows or 0, 4) energy linearisation.
        kev: (rows / 4 or 0, 2) keV per unit and saturation.
        first: where in the output to begin.
        time_ps, energy, channel: out; channel is dense (row // 4).
        tally: (N_DROP,) counts by reason, added to.

    Returns:
        Where in the output the next hit goes.
    """
    frame_ps = period_ps * CLOCKS_PER_FRAME
    whole_ps = np.int64(frame_ps)
    rest_ps = frame_ps - np.float64(whole_ps)
    period_ns = period_ps * 1e-3
    has_linear = linear.shape[0] > 0
    has_kev = kev.shape[0] > 0
    two = np.float32(2)
    four = np.float32(4)
    out = first
    for f in range(n_frames):
        at = position[f]
        n = np.int64(words[at + 1] & np.uint64(0x7FFF))
        start = frame_id[f] * whole_ps + np.int64(np.float64(frame_id[f]) * rest_ps)
        for k in range(at + 2, at + 2 + n):
            w = words[k]
            chip = chip_row[np.int64(w >> np.uint64(48))]
            if chip < 0:
                tally[D_TRIGGER if chip == CHIP_TRIGGER else D_TDC] += 1
                continue
            row = np.int64(chip) + np.int64((w >> np.uint64(40)) & np.uint64(255))
            state = row_state[row]
            if state >= ROW_DROP:
                tally[np.int64(state) - ROW_DROP] += 1
                continue
            t_fine = np.float32(((w >> np.uint64(10)) + np.uint64(27)) & np.uint64(1023))
            e_fine = np.float32((w + np.uint64(27)) & np.uint64(1023))
            t_coarse = np.int64((w >> np.uint64(30)) & np.uint64(1023))
            e_coarse = np.int64((w >> np.uint64(20)) & np.uint64(1023))
            if e_coarse - t_coarse < -256:
                e_coarse += 1024
            a0 = tdc[row, 0]
            a1 = tdc[row, 1]
            under = a1 * a1 - four * (a0 - t_fine) * tdc[row, 2]
            if not under >= np.float32(0):
                tally[D_CURVE] += 1
                continue
            q = two * (t_fine - a0) / (a1 + np.sqrt(under))
            relative = (np.float64(t_coarse) - np.float64(q)) * period_ps - shift_ps[row]
            if state == ROW_TOT:
                b0 = tdc[row, 4]
                b1 = tdc[row, 5]
                under = b1 * b1 - four * (b0 - e_fine) * tdc[row, 6]
                if not under >= np.float32(0):
                    tally[D_CURVE] += 1
                    continue
                q = two * (e_fine - b0) / (b1 + np.sqrt(under))
                end = np.float64(e_coarse) - np.float64(q) - np.float64(tdc[row, 7])
                e = np.float32(end * period_ns - relative * 1e-3)
            else:
                inside = min(max(e_fine, ends[row, 3]), ends[row, 4])
                x = (np.sqrt(ends[row, 0] - inside) - ends[row, 2]) * ends[row, 1]
                cubic = min(max(np.int64(x), 0), 15)
                u = x - np.float32(cubic)
                t_eq = ((cubics[row, cubic, 3] * u + cubics[row, cubic, 2]) * u + cubics[row, cubic, 1]) * u
                t_eq += cubics[row, cubic, 0]
                if inside != e_fine:
                    tally[D_BEYOND] += 1
                    t_eq += ends[row, 6 if e_fine > inside else 5] * (e_fine - inside)
                e = np.float32(np.float64(t_eq) - (np.float64(e_coarse) - relative / period_ps))
                if has_linear:
                    base = np.float64(e)
                    curved = np.float64(linear[row, 3]) * base
                    if base > 0.0:
                        power = np.float64(linear[row, 1]) ** (base ** np.float64(linear[row, 2]))
                        curved += np.float64(linear[row, 0]) * (power - 1.0)
                    e = np.float32(curved)
            if has_kev:
                dense = row >> 2
                saturation = kev[dense, 1]
                if np.isinf(saturation):
                    e = kev[dense, 0] * e
                elif e < saturation:
                    share = np.float64(e) / np.float64(saturation)
                    e = np.float32(-np.float64(kev[dense, 0]) * np.float64(saturation) * np.log1p(-share))
                else:
                    tally[D_SATURATED] += 1
                    continue
            if not np.isfinite(e):
                tally[D_CURVE] += 1
                continue
            time_ps[out] = start + np.int64(np.floor(relative + 0.5))
            energy[out] = e
            channel[out] = np.int32(row >> 2)
            out += 1
    tally[D_KEPT] += out - first
    return out


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
    fullest = 0
    for b in range(1, n_buckets + 1):
        fullest = max(fullest, np.int64(bucket[b]))
        bucket[b] += bucket[b - 1]
    if fullest > 64:
        for i in range(n):
            key[i] = (time_ps[i] - low) << 22 | np.int64(i)
        merge_sort(key, n, spare)
    else:
        for i in range(n):
            b = (time_ps[i] - low) >> shift
            key[bucket[b]] = (time_ps[i] - low) << 22 | np.int64(i)
            bucket[b] += 1
        for i in range(1, n):
            value = key[i]
            j = i - 1
            while j >= 0 and key[j] > value:
                key[j + 1] = key[j]
                j -= 1
            key[j + 1] = value
    for i in range(n):
        at = key[i] & np.int64((1 << 22) - 1)
        energy_spare[i] = energy[at]
        channel_spare[i] = channel[at]
    for i in range(n):
        time_ps[i] = low + (key[i] >> 22)
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
