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
        n = int(second & np.uint64(0x7FFF))
        size = int((head >> np.uint64(36)) & np.uint64(0x7FFF))
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
        if last >= 0 and frame > last + HALF_WRAP:
            frame -= FRAME_ID_MASK + 1  # sent before the counter wrapped, and late
        if last >= 0 and frame <= last:
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


R_A0, R_A1, R_A2, R_STATE, R_SHIFT = range(5)
R_B0, R_B1, R_B2, R_END, R_HIGH = range(6, 11)
R_TOP, R_SCALE, R_V_LOW, R_LOW = R_B0, R_B1, R_B2, R_END
R_KEV, R_SATURATION, R_BELOW, R_ABOVE = range(12, 16)
"""Columns of `row_table.RowTable.rows`. R_SHIFT: one float64 in the place of two. From R_B0 on, of a row with time over
threshold: a0, a1, a2 and t0 of the E branch; of a row with charge: top, scale, v_low, code_low and code_high of
`ChargeTable.ends`, whose slopes outside are in R_BELOW and R_ABOVE."""

CHUNK = 256
"""Hits that go through each loop of `decode_hits` before the next ones: their rows fit the first cache."""

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
    word_of = np.empty(CHUNK, np.uint64)
    row_of = np.empty(CHUNK, np.uint32)
    start_of = np.empty(CHUNK, np.int64)
    relative_of = np.empty(CHUNK, np.float64)
    cubic_of = np.empty(CHUNK, np.uint32)
    along = np.empty(CHUNK, np.float32)
    beyond = np.empty(CHUNK, np.float32)
    pieces = cubics.reshape(cubics.shape[0] * N_CUBICS, 4).view(np.float64)  # moved by eight bytes, not four
    two_halves = np.empty((CHUNK, 2), np.float64)
    piece = two_halves.view(np.float32)
    e_of = np.empty(CHUNK, np.float32)
    kev_of = np.empty(CHUNK, np.float32)
    limit_of = np.empty(CHUNK, np.float32)
    spare = np.empty((3, CHUNK), np.float64)
    out = np.uint64(first)
    f = 0
    at = position[0] + 2 if n_frames > 0 else 0
    while f < n_frames:
        # Whose hits they are, and whether they are calibrated.
        n = np.uint64(0)
        seen = 0
        while f < n_frames and seen < CHUNK:
            begin = position[f]
            end = begin + 2 + np.int64(words[begin + 1] & np.uint64(0x7FFF))
            to = min(end, at + CHUNK - seen)
            start = frame_id[f] * whole_ps + np.int64(np.float64(frame_id[f]) * rest_ps)
            for k in range(at, to):
                w = words[np.uint64(k)]  # unsigned indices spare the test for negative ones
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
                start_of[n] = start
                n += np.uint64(1)
            seen += to - at
            at = to
            if at == end:
                f += 1
                if f < n_frames:
                    at = position[f] + 2
        # When they were, and where their charge stands on its curve.
        m = np.uint64(0)
        with_charge = False
        for i in range(n):
            w = word_of[np.uint64(i)]
            row32 = row_of[np.uint64(i)]
            row = np.uint64(row32)
            t_fine = np.float32(((w >> np.uint64(10)) + np.uint64(27)) & np.uint64(1023))
            e_fine = np.float32((w + np.uint64(27)) & np.uint64(1023))
            t_coarse = np.int64((w >> np.uint64(30)) & np.uint64(1023))
            a0 = rows[row, R_A0]
            a1 = rows[row, R_A1]
            under = a1 * a1 - four * (a0 - t_fine) * rows[row, R_A2]
            if not under >= np.float32(0):
                tally[D_CURVE] += 1
                continue
            q = two * (t_fine - a0) / (a1 + np.sqrt(under))
            relative = (np.float64(t_coarse) - np.float64(q)) * period_ps - shift_ps[row, R_SHIFT // 2]
            if rows[row, R_STATE] == np.float32(ROW_TOT):
                b0 = rows[row, R_B0]
                b1 = rows[row, R_B1]
                under = b1 * b1 - four * (b0 - e_fine) * rows[row, R_B2]
                if not under >= np.float32(0):
                    tally[D_CURVE] += 1
                    continue
                along[m] = two * (e_fine - b0) / (b1 + np.sqrt(under))
                cubic_of[m] = np.uint32(NO_CUBIC)
            else:
                inside = min(max(e_fine, rows[row, R_LOW]), rows[row, R_HIGH])
                x = (np.sqrt(rows[row, R_TOP] - inside) - rows[row, R_V_LOW]) * rows[row, R_SCALE]
                cubic = np.uint64(min(max(x, np.float32(0)), np.float32(N_CUBICS - 1)))
                along[m] = x - np.float32(cubic)
                cubic_of[m] = np.uint32(row * np.uint64(N_CUBICS) + cubic)
                with_charge = True
                beyond[m] = np.float32(0)
                if inside != e_fine:
                    tally[D_BEYOND] += 1
                    beyond[m] = rows[row, R_ABOVE if e_fine > inside else R_BELOW] * (e_fine - inside)
            word_of[m] = w
            row_of[m] = row32
            start_of[m] = start_of[np.uint64(i)]
            relative_of[m] = relative
            m += np.uint64(1)
        # That piece of the curve; of hits without one, any.
        if with_charge:
            for i in range(m):
                j = np.uint64(i)
                cubic = np.uint64(cubic_of[j])
                cubic = np.uint64(0) if cubic == np.uint64(NO_CUBIC) else cubic
                two_halves[j, 0] = pieces[cubic, 0]
                two_halves[j, 1] = pieces[cubic, 1]
        # What energy they had.
        for i in range(m):
            j = np.uint64(i)
            w = word_of[j]
            row = np.uint64(row_of[j])
            relative = relative_of[j]
            t_coarse = np.int64((w >> np.uint64(30)) & np.uint64(1023))
            e_coarse = np.int64((w >> np.uint64(20)) & np.uint64(1023))
            if e_coarse - t_coarse < -256:
                e_coarse += 1024
            if cubic_of[j] == np.uint32(NO_CUBIC):
                end_clk = np.float64(e_coarse) - np.float64(along[j]) - np.float64(rows[row, R_END])
                e = np.float32(end_clk * period_ns - relative * 1e-3)
            else:
                u = along[j]
                t_eq = ((piece[j, 3] * u + piece[j, 2]) * u + piece[j, 1]) * u
                t_eq += piece[j, 0]
                t_eq += beyond[j]
                e = np.float32(np.float64(t_eq) - (np.float64(e_coarse) - relative / period_ps))
                if has_linear:
                    base = np.float64(e)
                    curved = np.float64(linear[row, 3]) * base
                    if base > 0.0:
                        power = np.float64(linear[row, 1]) ** (base ** np.float64(linear[row, 2]))
                        curved += np.float64(linear[row, 0]) * (power - 1.0)
                    e = np.float32(curved)
            e_of[j] = e
            if has_kev:
                kev_of[j] = rows[row, R_KEV]
                limit_of[j] = rows[row, R_SATURATION]
        if has_kev:
            undo_saturation(e_of, kev_of, limit_of, int(m), spare)
        # Who has a finite energy: written in any case, and kept if so.
        before = out
        for i in range(m):
            j = np.uint64(i)
            e = e_of[j]
            time_ps[out] = start_of[j] + np.int64(np.floor(relative_of[j] + 0.5))
            energy[out] = e
            channel[out] = np.int32(row_of[j] >> np.uint32(2))
            out += np.uint64(abs(e) < np.float32(np.inf))
        tally[D_SATURATED] += np.int64(m) - np.int64(out - before)
    tally[D_KEPT] += np.int64(out) - first
    return np.int64(out)
