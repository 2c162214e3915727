"""The hot path: loops over frames and events, compiled. Each has a plain Python twin in the tests.

Times are int64 ps since frame 0. Fine times are float64 ps relative to their own frame, so precision does not depend
on how long a run is, nor on how frames are cut into blocks. Nothing here checks array bounds: callers size the arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.calibration.charge import N_CUBICS
from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

(
    S_LAST,
    S_EPOCH,
    S_IN_LOST,
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
"""Positions in the state of `index_frames`; S_LAST, S_FIRST and S_BEFORE start as -1, the rest as 0. S_IN_LOST: 1 if
the last frame was lost as a whole. At the start of a new step S_LAST goes to S_BEFORE and becomes -1: the gap between
steps is nobody's loss."""

FRAME_ID_MASK = (1 << 36) - 1
HALF_WRAP = 1 << 35

CLOCKS_PER_FRAME = 1024

D_KEPT, D_TDC, D_CHARGE, D_ENERGY, D_KEV, D_MAP, D_MODE, D_CURVE, D_SATURATED, D_TRIGGER, D_LATE, D_BEYOND = range(12)
N_DROP = 12
"""Positions in the tally of `decode_hits`: as `processing.DROP_REASONS`, then hits beyond their charge curve."""

NO_CUBIC = (1 << 32) - 1

ROW_TOT, ROW_CHARGE = 0, 1
ROW_DROP = 2
"""Row states: how to treat a row's hits; from ROW_DROP on, state - ROW_DROP is the reason to drop them."""

CHIP_UNKNOWN, CHIP_TRIGGER = -1, -2


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
) -> tuple[np.int64, np.int64, np.int64, np.int64]:
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
    # The account is kept in registers, and what follows from the rest is worked out at the end. Whether a frame is
    # empty no branch predictor can learn: it is listed like any other, and then overwritten.
    n_words = np.int64(words.size)
    room = np.int64(position.size)
    at = np.int64(begin)
    n_listed = np.int64(0)
    n_hits = np.int64(0)
    malformed = np.int64(0)
    last = state[S_LAST]
    before = last
    epoch = state[S_EPOCH]
    in_lost = state[S_IN_LOST] != 0
    lost_frames = np.int64(0)
    partly_lost = np.int64(0)
    late_listed = np.int64(0)
    late_unlisted_hits = np.int64(0)
    while at < n_words:
        if at + 2 > n_words:
            malformed = np.int64(1)
            break
        head = words[np.uint64(at)]
        second = words[np.uint64(at + 1)]
        n = np.int64(second & np.uint64(0x7FFF))
        size = n + 2
        if (np.int64((head >> np.uint64(36)) & np.uint64(0x7FFF)) != size) | (at + size > n_words):
            malformed = np.int64(1)
            break
        if n_hits + n > max_hits and n > 0 and n_listed > 0:
            break
        if n_listed >= room:
            break
        frame = np.int64(head & np.uint64(FRAME_ID_MASK)) + epoch
        if (last < 0) | (np.uint64(frame - last - 1) >= np.uint64(HALF_WRAP)):  # the first, or not a later one
            newest = max(last, state[S_BEFORE])
            if newest >= 0 and frame < newest - HALF_WRAP:
                epoch += FRAME_ID_MASK + 1
                frame += FRAME_ID_MASK + 1
            if last >= 0 and frame > last + HALF_WRAP:
                frame -= FRAME_ID_MASK + 1  # sent before the counter wrapped, and late
            if last >= 0 and frame <= last:
                state[S_LATE] += 1
                state[S_LATE_HITS] += n
                if keep_late:
                    position[np.uint64(n_listed)] = at
                    frame_id[np.uint64(n_listed)] = frame
                    n_listed += np.int64(n > 0)
                    late_listed += np.int64(n > 0)
                    n_hits += n
                else:
                    late_unlisted_hits += n
                at += size
                continue
            if last < 0:
                last = frame - 1
                before = last
                if state[S_FIRST] < 0:
                    state[S_FIRST] = frame
        is_lost = (second & np.uint64(0x18000)) != np.uint64(0)
        if in_lost | is_lost | (not compacted):
            lost_frames += frame - last - 1 if in_lost or not compacted else 0
            partly_lost += np.int64(is_lost & (n > 0))
            in_lost = is_lost & (n == 0)
            lost_frames += np.int64(in_lost)
        last = frame
        position[np.uint64(n_listed)] = at  # overwritten by the next one unless it has hits
        frame_id[np.uint64(n_listed)] = frame
        n_listed += np.int64(n > 0)
        n_hits += n
        at += size
    state[S_LAST] = last
    state[S_EPOCH] = epoch
    state[S_IN_LOST] = np.int64(in_lost)
    state[S_FRAMES] += last - before
    state[S_LOST] += lost_frames
    state[S_PARTLY_LOST] += partly_lost
    state[S_EMPTY] += last - before - lost_frames - (n_listed - late_listed)
    state[S_HITS] += n_hits + late_unlisted_hits
    return n_listed, n_hits, at, malformed


R_A0, R_A1, R_A2, R_STATE, R_SHIFT = range(5)
R_B0, R_B1, R_B2, R_END, R_HIGH = range(6, 11)
R_TOP, R_SCALE, R_V_LOW, R_LOW = R_B0, R_B1, R_B2, R_END
R_KEV, R_SATURATION, R_BELOW, R_ABOVE = range(12, 16)
"""Columns of `row_table.RowTable.rows`. R_SHIFT: one float64 in the place of two. From R_B0 on, of a row with time over
threshold: a0, a1, a2 and t0 of the E branch; of a row with charge: top, scale, v_low, code_low and code_high of
`ChargeTable.ends`, whose slopes outside are in R_BELOW and R_ABOVE."""

CHUNK = 128
"""Hits that go through each loop of `decode_hits` before the next ones: their rows fit the first cache."""

FEW = 8
"""Most hits of a frame that are copied without counting them."""

LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
LG1, LG2, LG3, LG4 = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
)
LG5, LG6, LG7 = 1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01
HALF_ROOT_2 = 0x3FE6A09E667F3BCD
ONE = 0x3FF0000000000000
MANTISSA = 0xFFFFFFFFFFFFF
"""ln 2 in two parts, the polynomial of the logarithm of fdlibm's e_log.c (Sun Microsystems, 1993; error below 2^-58),
and the bits of sqrt(1/2), of 1 and of a mantissa in double precision."""


@kernel
def undo_saturation(
    energy: NDArray[np.float32],
    kev: NDArray[np.float32],
    limit: NDArray[np.float32],
    n: int,
    spare: NDArray[np.float64],
) -> None:
    """E = -k s ln(1 - Q/s) in keV in place of Q (`calibration.energy.kev_of_charge`), NaN at and above saturation.

    The logarithm is worked out here: a library's is called hit by hit, these loops take several at a time. It is within
    a unit of the last place in double precision, and the energy is rounded to single.

    Inputs:
        energy: (>= n,) charges, changed in place. kev, limit: (>= n,) keV per unit and saturation; inf: linear.
        spare: (3, >= n) scratch.
    """
    share = spare[0]
    rest = spare[1]
    power = spare[2]
    bits = rest.view(np.uint64)
    for i in range(n):
        share[i] = -np.float64(energy[i]) / np.float64(limit[i])
        rest[i] = 1.0 + share[i]
    for i in range(n):  # rest = 2^power mantissa, the mantissa between sqrt(1/2) and sqrt(2)
        shifted = bits[i] + np.uint64(ONE - HALF_ROOT_2)
        power[i] = np.float64(np.int64(shifted >> np.uint64(52)) - np.int64(1023))
        bits[i] = (shifted & np.uint64(MANTISSA)) + np.uint64(HALF_ROOT_2)
    for i in range(n):
        x = share[i] if power[i] == 0.0 else rest[i] - 1.0
        half = 0.5 * x * x
        r = x / (2.0 + x)
        z = r * r
        series = z * (LG1 + z * (LG2 + z * (LG3 + z * (LG4 + z * (LG5 + z * (LG6 + z * LG7))))))
        logarithm = power[i] * LN2_HIGH - ((half - (r * (half + series) + power[i] * LN2_LOW)) - x)
        e = energy[i]
        bent = np.float32(-np.float64(kev[i]) * np.float64(limit[i]) * logarithm)
        bent = bent if e < limit[i] else np.float32(np.nan)
        energy[i] = kev[i] * e if limit[i] == np.float32(np.inf) else bent


@kernel
def decode_hits(
    words: NDArray[np.uint64],
    position: NDArray[np.int64],
    frame_id: NDArray[np.int64],
    n_frames: int,
    period_ps: float,
    chip_row: NDArray[np.int32],
    rows: NDArray[np.float32],
    shift_ps: NDArray[np.float64],
    has_kev: bool,  # noqa: FBT001
    cubics: NDArray[np.float32],
    linear: NDArray[np.float32],
    first: int,
    time_ps: NDArray[np.int64],
    energy: NDArray[np.float32],
    channel: NDArray[np.int32],
    tally: NDArray[np.int64],
) -> np.int64:
    """Decode and calibrate the hits of listed frames, append those that are good, count the others by reason.

    Short loops over a chunk: find each hit's row, then its time, then its piece of the charge curve, then its energy.
    Each waits for one place of one table, and a short loop lets the processor wait for many of them at once.

    Inputs:
        words: whole frames.
        position, frame_id: of the frames to decode, from `index_frames`.
        n_frames: how many of them.
        period_ps: clock period; one frame is 1024 of them.
        chip_row: first row of a chip (CHIP_UNKNOWN, CHIP_TRIGGER).
        rows, shift_ps, has_kev: the calibration by row (`row_table.RowTable`).
        cubics: inverse charge curves (`calibration.charge.ChargeTable`).
        linear: (rows or 0, 4) energy linearisation.
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
    two = np.float32(2)
    four = np.float32(4)
    word_of = np.empty(CHUNK + FEW, np.uint64)
    start_of = np.empty(CHUNK + FEW, np.int64)
    row_of = np.empty(CHUNK, np.uint32)
    cubic_of = np.empty(CHUNK, np.uint32)
    is_tot = np.empty(CHUNK, np.bool_)
    # One memory for what has one type: a compiler that knows the distances of columns takes several hits at a time.
    singles = np.empty((18, CHUNK), np.float32)
    a0, a1, a2, t_fine, t_root = singles[0], singles[1], singles[2], singles[3], singles[4]
    b0, b1, b2, b3, b4 = singles[5], singles[6], singles[7], singles[8], singles[9]
    e_fine, along, beyond, e_of, kev_of, limit_of = (
        singles[10],
        singles[11],
        singles[12],
        singles[13],
        singles[14],
        singles[15],
    )
    root_of, outside = singles[16], singles[17]
    doubles = np.empty((8, CHUNK), np.float64)
    relative_of, shift_of, began, ended = doubles[0], doubles[1], doubles[2], doubles[3]
    spare = doubles[4:7]
    pieces = cubics.reshape(cubics.shape[0] * N_CUBICS, 4).view(np.float64)  # moved by eight bytes, not four
    two_halves = np.empty((CHUNK, 2), np.float64)
    piece = two_halves.view(np.float32)
    out = np.uint64(first)
    f = np.int64(0)
    done = np.int64(0)
    safe = np.int64(words.size) - FEW
    while f < n_frames:
        # The words of the next hits. How many a frame has no branch predictor can learn, so of those with few as many
        # are copied as fit, and the next ones written over what was not theirs.
        seen = np.int64(0)
        while f < n_frames and seen < CHUNK:
            begin = position[np.uint64(f)]
            of_frame = np.int64(words[np.uint64(begin + 1)] & np.uint64(0x7FFF))
            frame = frame_id[np.uint64(f)]
            start = frame * whole_ps + np.int64(np.float64(frame) * rest_ps)
            at = begin + 2 + done
            left = min(of_frame - done, CHUNK - seen)
            if at <= safe:
                for k in range(FEW):
                    word_of[np.uint64(seen + k)] = words[np.uint64(at + k)]
                for k in range(FEW):
                    start_of[np.uint64(seen + k)] = start
            if left > FEW or at > safe:
                for k in range(left):
                    word_of[np.uint64(seen + k)] = words[np.uint64(at + k)]
                    start_of[np.uint64(seen + k)] = start
            seen += left
            whole = left == of_frame - done
            done = np.int64(0) if whole else done + left
            f += np.int64(whole)
        # Whose hits they are, and whether they are calibrated.
        n = np.uint64(0)
        for i in range(seen):
            w = word_of[np.uint64(i)]
            chip = chip_row[w >> np.uint64(48)]
            if chip < 0:
                tally[D_TRIGGER if chip == CHIP_TRIGGER else D_TDC] += 1
                continue
            row = np.uint64(chip) + ((w >> np.uint64(40)) & np.uint64(255))
            state = np.int64(rows[row, R_STATE])
            if state >= ROW_DROP:
                tally[state - ROW_DROP] += 1
                continue
            word_of[n] = w
            row_of[n] = np.uint32(row)
            start_of[n] = start_of[np.uint64(i)]
            n += np.uint64(1)
        # When they were.
        n_tot = np.int64(0)
        for i in range(n):
            j = np.uint64(i)
            row = np.uint64(row_of[j])
            a0[j] = rows[row, R_A0]
            a1[j] = rows[row, R_A1]
            a2[j] = rows[row, R_A2]
            b0[j] = rows[row, R_B0]
            b1[j] = rows[row, R_B1]
            b2[j] = rows[row, R_B2]
            b3[j] = rows[row, R_END]
            b4[j] = rows[row, R_HIGH]
            shift_of[j] = shift_ps[row, R_SHIFT // 2]
            of_time = rows[row, R_STATE] == np.float32(ROW_TOT)
            is_tot[j] = of_time
            n_tot += np.int64(of_time)
        for i in range(n):
            w = word_of[i]
            t_coarse = np.int32((w >> np.uint64(30)) & np.uint64(1023))
            e_coarse = np.int32((w >> np.uint64(20)) & np.uint64(1023))
            e_coarse += np.int32(1024) if e_coarse - t_coarse < np.int32(-256) else np.int32(0)
            t_fine[i] = np.float32(np.int32(((w >> np.uint64(10)) + np.uint64(27)) & np.uint64(1023)))
            e_fine[i] = np.float32(np.int32((w + np.uint64(27)) & np.uint64(1023)))
            began[i] = np.float64(t_coarse)
            ended[i] = np.float64(e_coarse)
        for i in range(n):
            t_root[i] = np.sqrt(a1[i] * a1[i] - four * (a0[i] - t_fine[i]) * a2[i])
            q = two * (t_fine[i] - a0[i]) / (a1[i] + t_root[i])
            relative_of[i] = (began[i] - np.float64(q)) * period_ps - shift_of[i]
        if n_tot > 0:  # How long they were over threshold.
            for i in range(n):
                root = np.sqrt(b1[i] * b1[i] - four * (b0[i] - e_fine[i]) * b2[i])
                over = two * (e_fine[i] - b0[i]) / (b1[i] + root)
                end_clk = ended[i] - np.float64(over) - np.float64(b3[i])
                root_of[i] = root
                e_of[i] = np.float32(end_clk * period_ns - relative_of[i] * 1e-3)
        if n_tot < np.int64(n):  # Where their charge stands on its curve.
            for i in range(n):
                inside = min(max(e_fine[i], b3[i]), b4[i])
                x = (np.sqrt(b0[i] - inside) - b2[i]) * b1[i]
                whole = np.int32(min(max(x, np.float32(0)), np.float32(N_CUBICS - 1)))
                along[i] = x - np.float32(whole)
                outside[i] = e_fine[i] - inside
                cubic_of[i] = row_of[i] * np.uint32(N_CUBICS) + np.uint32(whole)
            for i in range(n):
                j = np.uint64(i)
                cubic = np.uint64(0) if is_tot[j] else np.uint64(cubic_of[j])
                two_halves[j, 0] = pieces[cubic, 0]
                two_halves[j, 1] = pieces[cubic, 1]
            for i in range(n):
                j = np.uint64(i)
                beyond[j] = np.float32(0)
                if (outside[j] != np.float32(0)) & (not is_tot[j]):
                    row = np.uint64(row_of[j])
                    beyond[j] = rows[row, R_ABOVE if outside[j] > np.float32(0) else R_BELOW] * outside[j]
                    tally[D_BEYOND] += np.int64(t_root[j] >= np.float32(0))
            for i in range(n):
                u = along[i]
                t_eq = ((piece[i, 3] * u + piece[i, 2]) * u + piece[i, 1]) * u
                t_eq += piece[i, 0]
                t_eq += beyond[i]
                e = np.float32(np.float64(t_eq) - (ended[i] - relative_of[i] / period_ps))
                e_of[i] = e_of[i] if is_tot[i] else e
                root_of[i] = root_of[i] if is_tot[i] else np.float32(0)
            if has_linear:
                for i in range(n):
                    j = np.uint64(i)
                    if is_tot[j]:
                        continue
                    row = np.uint64(row_of[j])
                    base = np.float64(e_of[j])
                    curved = np.float64(linear[row, 3]) * base
                    if base > 0.0:
                        power = np.float64(linear[row, 1]) ** (base ** np.float64(linear[row, 2]))
                        curved += np.float64(linear[row, 0]) * (power - 1.0)
                    e_of[j] = np.float32(curved)
        if has_kev:
            for i in range(n):
                j = np.uint64(i)
                row = np.uint64(row_of[j])
                kev_of[j] = rows[row, R_KEV]
                limit_of[j] = rows[row, R_SATURATION]
            undo_saturation(e_of, kev_of, limit_of, int(n), spare)
        # Who has a time and a finite energy: written in any case, and kept if so.
        before = out
        n_curve = np.int64(0)
        for i in range(n):
            j = np.uint64(i)
            e = e_of[j]
            on_curve = (t_root[j] >= np.float32(0)) & (root_of[j] >= np.float32(0))
            time_ps[out] = start_of[j] + np.int64(np.floor(relative_of[j] + 0.5))
            energy[out] = e
            channel[out] = np.int32(row_of[j] >> np.uint32(2))
            n_curve += np.int64(not on_curve)
            out += np.uint64(on_curve & (abs(e) < np.float32(np.inf)))
        tally[D_CURVE] += n_curve
        tally[D_SATURATED] += np.int64(n) - n_curve - np.int64(out - before)
    tally[D_KEPT] += np.int64(out) - first
    return np.int64(out)
