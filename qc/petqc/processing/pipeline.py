"""petqc's own way from frames to coincidences: calibrated-time order, carry-over at every edge, a policy for multiples.

Four stages, each with its own buffer of what cannot be decided yet: hits wait until no earlier one can come and until
their group's window is known; singles until no earlier single can come; pairs until every possible partner is known.
"""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from petqc.errors import BadInputError
from petqc.events import Coincidences, Hits, Singles
from petqc.formats.petsys_tables import QDC
from petqc.processing import DROP_REASONS, GROUP_REASONS, Processed, ProcessingAccount
from petqc.processing import event_kernels as ek
from petqc.processing import hit_kernels as k
from petqc.processing import pair_kernels as pk
from petqc.processing.look_ahead import LookAhead
from petqc.processing.row_table import row_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from petqc.calibration import CalibrationSet
    from petqc.processing import ProcessingSettings

_BLOCK_HITS = 1 << 16  # hits of one pass through the kernels: large against their call, small against the cache
_BLOCK_FRAMES = 1 << 16
_BLOCKS_AHEAD = 4  # so many may be decoded before the first of them is grouped
_END_OF_TIME_PS = 1 << 62
_MAP_WORDS = 1 << 14  # 2^20 time bins for a block's singles: few share a bit, and the map stays in the cache
_MARGIN_PS = 4  # rounding of times to whole ps, and of the bounds of the calibration


_HIT_TYPES: dict[str, Any] = {"time_ps": np.int64, "energy": np.float32, "channel": np.int32}
_PAIR_TYPES: dict[str, Any] = {
    "time_a_ps": np.int64,
    "time_b_ps": np.int64,
    "energy_a": np.float32,
    "energy_b": np.float32,
    "channel_a": np.int32,
    "channel_b": np.int32,
    "n_hits_a": np.uint8,
    "n_hits_b": np.uint8,
}


class Pipeline(Protocol):
    """What a processor runs: petqc's own chain or the vendor's."""

    def run(self, words: NDArray[np.uint64]) -> Processed:
        """Take whole frames, give what became final."""
        ...

    def end(self, last_frame: int | None) -> Processed:
        """Close a step, give the rest."""
        ...

    def account(self) -> ProcessingAccount:
        """Where everything went so far."""
        ...


class FrameWalk:
    """Goes through words in blocks of frames with hits, and keeps the account of frames."""

    def __init__(self, settings: ProcessingSettings, *, keep_late: bool) -> None:
        self.state = np.zeros(k.N_STATE, np.int64)
        self.state[[k.S_LAST, k.S_FIRST, k.S_BEFORE]] = -1
        self.position = np.empty(_BLOCK_FRAMES, np.int64)
        self.frame_id = np.empty(_BLOCK_FRAMES, np.int64)
        self._compacted = settings.compacted
        self._keep_late = keep_late
        self._frame_s = k.CLOCKS_PER_FRAME / settings.clock_hz
        self._words_before = 0

    def blocks(self, words: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
        """Number of frames listed in `position` and `frame_id`, and of their hits, block by block.

        Raises:
            BadInputError: a frame is not whole, or its size and number of events disagree.
        """
        at = 0
        while at < words.size:
            indexed = k.index_frames(
                words, at, _BLOCK_HITS, self._compacted, self._keep_late, self.state, self.position, self.frame_id
            )
            n_frames, n_hits, at, malformed = (int(x) for x in indexed)
            yield n_frames, n_hits
            if malformed:
                raise BadInputError(
                    f"word {self._words_before + at} is not the start of a whole frame",
                    where="raw frames",
                    do="feed whole frames, as the reader and the driver give them",
                )
        self._words_before += words.size

    def end_step(self, last_frame: int | None) -> None:
        """Account for frames up to the given last one, and let the next frame follow without a gap."""
        state = self.state
        if last_frame is not None and 0 <= state[k.S_LAST] < last_frame:
            missing = last_frame - int(state[k.S_LAST])
            state[k.S_FRAMES] += missing
            lost = bool(state[k.S_IN_LOST]) or not self._compacted
            state[k.S_LOST if lost else k.S_EMPTY] += missing
            state[k.S_LAST] = last_frame
        if state[k.S_LAST] >= 0:
            state[k.S_BEFORE] = state[k.S_LAST]
        state[k.S_LAST] = -1
        state[k.S_IN_LOST] = 0

    def account(self, **counts: Any) -> ProcessingAccount:
        """The account of frames, with the given counts of hits and what became of them."""
        state = [int(x) for x in self.state]
        last = max(state[k.S_LAST], state[k.S_BEFORE])
        return ProcessingAccount(
            frames=state[k.S_FRAMES],
            frames_lost=state[k.S_LOST],
            frames_partly_lost=state[k.S_PARTLY_LOST],
            frames_empty=state[k.S_EMPTY],
            out_of_order=state[k.S_LATE],
            hits=state[k.S_HITS],
            first_frame=state[k.S_FIRST] if state[k.S_FIRST] >= 0 else None,
            last_frame=last if last >= 0 else None,
            live_time_s=(state[k.S_FRAMES] - state[k.S_LOST]) * self._frame_s,
            **counts,
        )


def row_states(calibration: CalibrationSet, *, vendor: bool = False) -> NDArray[np.uint8]:
    """How to treat the hits of each row: as time over threshold, as charge, or dropped and why; (n_rows,).

    vendor: only 0 means missing, and there is no calibration in keV.
    """
    rows = calibration.rows
    mode = np.repeat(calibration.mode, 4)
    is_charge = mode == QDC
    a1_t, a1_e = rows.tdc[:, 2], rows.tdc[:, 6]
    no_tdc = (a1_t == 0) | (~is_charge & (a1_e == 0))
    no_charge = rows.charge[:, 1] == 0
    if not vendor:
        no_tdc |= (a1_t < 0) | (~is_charge & (a1_e < 0))
        no_charge = ~calibration.curves.usable
    problems = [(mode < 0, k.D_MODE), (no_tdc, k.D_TDC), (is_charge & no_charge, k.D_CHARGE)]
    if rows.linearisation.size:
        problems.append((is_charge & (rows.linearisation[:, 0] == 0), k.D_ENERGY))
    if calibration.kev.size and not vendor:
        problems.append((np.repeat(calibration.kev[:, 0] <= 0, 4), k.D_KEV))
    if calibration.mapped:
        problems.append((np.repeat(calibration.region < 0, 4), k.D_MAP))
    state = np.where(is_charge, k.ROW_CHARGE, k.ROW_TOT).astype(np.uint8)
    for holds, reason in reversed(problems):  # the first that holds is the reason given
        state[holds] = k.ROW_DROP + reason
    return state


def chip_rows(calibration: CalibrationSet, trigger_id: int | None) -> NDArray[np.int32]:
    """First row of each chip, with the chips of the trigger unit marked."""
    chips = calibration.chip_row.copy()
    if trigger_id is not None:
        chips[trigger_id << 6 : (trigger_id + 1) << 6] = k.CHIP_TRIGGER
    return chips


class Columns:
    """Rows of parallel arrays with room to grow; the first n are in use."""

    def __init__(self, **dtypes: Any) -> None:
        self.n = 0
        self._arrays = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def reserve(self, n: int) -> None:
        """Make room for n rows in all."""
        if n > next(iter(self._arrays.values())).size:
            room = n + n // 2 + 1024
            for name, array in self._arrays.items():
                grown = np.empty((room, *array.shape[1:]), array.dtype)
                grown[: self.n] = array[: self.n]
                self._arrays[name] = grown

    def append(self, **columns: NDArray[Any]) -> None:
        """Add rows."""
        n_new = next(iter(columns.values())).size
        self.reserve(self.n + n_new)
        for name, column in columns.items():
            self._arrays[name][self.n : self.n + n_new] = column
        self.n += n_new

    def used(self, begin: int = 0, end: int | None = None) -> dict[str, NDArray[Any]]:
        """The rows in use, or some of them."""
        rows = slice(begin, self.n if end is None else end)
        return {name: array[rows] for name, array in self._arrays.items()}

    def take_first(self, n: int) -> dict[str, NDArray[Any]]:
        """Copies of the first n rows, which are then forgotten; the room stays."""
        taken = {name: array.copy() for name, array in self.used(0, n).items()}
        self.drop_first(n)
        return taken

    def take(self) -> dict[str, NDArray[Any]]:
        """Copies of the rows in use, which are then forgotten; the room stays."""
        return self.take_first(self.n)

    def drop_first(self, n: int) -> None:
        """Forget the first n rows."""
        if n:
            left = self.n - n
            for array in self._arrays.values():
                array[:left] = array[n : self.n].copy()
            self.n = left


class PetqcPipeline:
    """The chain of petqc mode (`petqc.processing.Processor` is its front)."""

    def __init__(
        self,
        calibration: CalibrationSet,
        settings: ProcessingSettings,
        trigger_id: int | None,
        *,
        keep_hits: bool,
        look_ahead: bool = False,
    ) -> None:
        self._calibration = calibration
        self._settings = settings
        self._keep_hits = keep_hits
        self._period_ps = 1e12 / settings.clock_hz
        self._walk = FrameWalk(settings, keep_late=False)
        self._chip_row = chip_rows(calibration, trigger_id)
        tdc = calibration.rows.tdc
        self._table = row_table(
            row_states(calibration),
            tdc[:, [1, 2, 3, 0, 5, 6, 7, 4]],
            tdc[:, 0].astype(np.float64) * self._period_ps + np.repeat(calibration.offset_ps, 4),
            calibration.curves.ends,
            calibration.kev,
        )
        self._early_ps = ceil(max(calibration.time_shift_ps(self._period_ps)[1], 0.0)) + _MARGIN_PS
        self._window_ps = floor(settings.group_window_ps)
        self._limit_unit = self._period_ps * 1e-3 if calibration.energy_unit == "ns" else 1.0
        self._half_ps = floor(settings.coincidence_window_ps / 2)
        self._delay_ps = round(settings.delay_ps)
        self._hits = Columns(**_HIT_TYPES)
        rooms = tuple(Columns(**_HIT_TYPES) for _ in range(_BLOCKS_AHEAD))
        self._ahead = LookAhead(self._walk.blocks, self._decode, rooms) if look_ahead else None
        self._n_hits_given = 0  # leading hits that were already given as hits, and wait for their group only
        self._sort = Columns(key=np.int64, spare=np.int64, energy=np.float32, channel=np.int32)
        self._bucket = np.empty(0, np.int32)
        self._singles = Columns(time_ps=np.int64, energy=np.float32, channel=np.int32, n_hits=np.uint8)
        self._n_singles_given = 0  # leading singles that are final, and are given back with the present call
        self._pairable = Columns(time_ps=np.int64, energy=np.float32, channel=np.int32, n_hits=np.uint8)
        self._n_paired = 0  # leading singles whose pairs were already given, and that are kept to be looked at
        self._scratch = Columns(partners=np.int32, forward=np.int32, back=np.int32)
        self._occupied = np.empty(_MAP_WORDS, np.uint64)
        self._prompt = np.empty((1024, 2), np.int32)
        self._delayed = np.empty((1024, 2), np.int32)
        self._alone = np.empty(1024, np.bool_)
        # What the present call has to give back; the room stays from call to call.
        self._given_hits = Columns(**_HIT_TYPES)
        self._given_prompts, self._given_delayed = Columns(**_PAIR_TYPES), Columns(**_PAIR_TYPES)
        self._given_alone = Columns(alone=np.bool_)
        self._tally = np.zeros(k.N_DROP, np.int64)
        self._group_tally = np.zeros(6, np.int64)
        self._counts = {"singles": 0, "singles_in_window": 0, "prompts": 0, "delayed": 0, "multiples": 0}

    def run(self, words: NDArray[np.uint64]) -> Processed:
        """Take whole frames, give what became final."""
        if self._ahead is None:
            for n_frames, n_hits in self._walk.blocks(words):
                self._advance(self._decode(words, n_frames, n_hits, self._hits))
        else:
            self._ahead.give(words)
            self._take_ahead(waiting=1)
        return self._given()

    def _take_ahead(self, waiting: int) -> None:
        """The same blocks in the same order; while one goes through the later stages the next ones are decoded."""
        if self._ahead is not None:
            for decoded, known_ps in self._ahead.take(waiting):
                self._hits.append(**decoded.used())
                self._advance(known_ps)

    def end(self, last_frame: int | None) -> Processed:
        """Close a step, give the rest."""
        self._take_ahead(waiting=0)
        self._walk.end_step(last_frame)
        self._advance(_END_OF_TIME_PS)
        self._pairable.drop_first(self._pairable.n)
        self._n_paired = 0
        return self._given()

    def _given(self) -> Processed:
        unit = self._calibration.energy_unit
        singles = self._singles.take_first(self._n_singles_given)
        singles["channel"] = self._calibration.channel.take(singles["channel"])
        self._n_singles_given = 0
        return Processed(
            Singles(**singles, energy_unit=unit),
            Coincidences(**self._given_prompts.take(), energy_unit=unit),
            Coincidences(**self._given_delayed.take(), energy_unit=unit),
            self._given_alone.take()["alone"],
            Hits(**self._given_hits.take(), energy_unit=unit) if self._keep_hits else None,
        )

    def account(self) -> ProcessingAccount:
        """Where everything went so far."""
        tally = self._tally.copy()
        tally[k.D_LATE] = self._walk.state[k.S_LATE_HITS]
        return self._walk.account(
            hits_dropped={name: int(tally[i]) for i, name in enumerate(DROP_REASONS) if i},
            hits_beyond_charge_curve=int(tally[k.D_BEYOND]),
            hits_kept=int(tally[k.D_KEPT]),
            groups_rejected={name: int(self._group_tally[i]) for i, name in enumerate(GROUP_REASONS) if i},
            hits_in_rejected_groups=int(self._group_tally[5]),
            **self._counts,
        )

    def _known_ps(self) -> int:
        """Every hit before this time has been decoded: a later frame can only hold later ones."""
        frame_ps = self._period_ps * k.CLOCKS_PER_FRAME
        following = int(self._walk.state[k.S_LAST]) + 1
        whole = floor(frame_ps)
        return following * whole + floor(following * (frame_ps - whole)) - self._early_ps

    def _decode(self, words: NDArray[np.uint64], n_frames: int, n_hits: int, hits: Columns) -> int:
        """Add the hits of a block; see _known_ps."""
        calibration = self._calibration
        hits.reserve(hits.n + n_hits)
        decoded = k.decode_hits(
            words,
            self._walk.position,
            self._walk.frame_id,
            n_frames,
            self._period_ps,
            self._chip_row,
            self._table.rows,
            self._table.shift_ps,
            self._table.has_kev,
            calibration.curves.cubics,
            calibration.rows.linearisation,
            hits.n,
            hits["time_ps"],
            hits["energy"],
            hits["channel"],
            self._tally,
        )
        hits.n = int(decoded)
        return self._known_ps()

    def _advance(self, known_ps: int) -> None:
        """Take every stage as far as it can go, now that all hits before known_ps are there."""
        hits, settings, calibration, sort = self._hits, self._settings, self._calibration, self._sort
        sort.reserve(hits.n)
        if self._bucket.size < 2 * hits.n + 2:
            self._bucket = np.empty(3 * hits.n + 2, np.int32)
        ek.sort_hits(
            hits["time_ps"],
            hits["energy"],
            hits["channel"],
            hits.n,
            sort["key"],
            sort["spare"],
            self._bucket,
            sort["energy"],
            sort["channel"],
        )
        if self._keep_hits:
            self._give_hits(known_ps)
        singles = self._singles
        singles.reserve(singles.n + hits.n)
        grouped = ek.group_hits(
            hits["time_ps"],
            hits["energy"],
            hits["channel"],
            hits.n,
            known_ps,
            self._window_ps,
            settings.group_max_distance_mm**2,
            settings.group_min_hits,
            settings.group_max_hits,
            settings.group_min_energy * self._limit_unit,
            settings.group_max_energy * self._limit_unit,
            calibration.region,
            calibration.xyz_mm,
            calibration.relation,
            singles.n,
            singles["time_ps"],
            singles["energy"],
            singles["channel"],
            singles["n_hits"],
            self._group_tally,
        )
        first_open, singles.n = int(grouped[0]), int(grouped[1])
        frontier = known_ps if first_open == hits.n else min(known_ps, int(hits["time_ps"][first_open]))
        hits.drop_first(first_open)
        self._n_hits_given = max(self._n_hits_given - first_open, 0)
        self._give_singles(frontier)
        self._pair(frontier)

    def _give_hits(self, known_ps: int) -> None:
        hits = self._hits
        final = int(np.searchsorted(hits["time_ps"][: hits.n], known_ps, "left"))
        part = slice(self._n_hits_given, final)
        self._n_hits_given = final
        channel = hits["channel"][part] & ~np.int32(ek.TAKEN)
        self._given_hits.append(
            time_ps=hits["time_ps"][part], energy=hits["energy"][part], channel=self._calibration.channel[channel]
        )

    def _give_singles(self, frontier_ps: int) -> None:
        """Singles before the frontier are final; those in the energy window go on to be paired."""
        singles, waiting, first = self._singles, self._pairable, self._n_singles_given
        ek.order_singles(singles["time_ps"], singles["energy"], singles["channel"], singles["n_hits"], first, singles.n)
        final = first + int(np.searchsorted(singles["time_ps"][first : singles.n], frontier_ps, "left"))
        now = singles.used(first, final)
        before = waiting.n
        if self._settings.coincidence_energy is None:
            waiting.append(**now)
        else:
            waiting.reserve(waiting.n + final - first)
            selected = ek.select_singles(
                now["time_ps"],
                now["energy"],
                now["channel"],
                now["n_hits"],
                *self._settings.coincidence_energy,
                waiting.n,
                waiting["time_ps"],
                waiting["energy"],
                waiting["channel"],
                waiting["n_hits"],
            )
            waiting.n = int(selected)
        self._n_singles_given = final
        self._counts["singles"] += final - first
        self._counts["singles_in_window"] += waiting.n - before

    def _pair(self, known_ps: int) -> None:
        """Pairs of all singles whose every possible partner, and the partners of those, are known."""
        waiting = self._pairable
        n, own_from = waiting.n, self._n_paired
        time = waiting["time_ps"][:n]
        reach = self._delay_ps + 2 * self._half_ps
        own_to = max(int(np.searchsorted(time, known_ps - reach, "left")), own_from)
        self._scratch.reserve(n)
        scratch = self._scratch
        while True:
            found = pk.pair_singles(
                time,
                waiting["channel"],
                n,
                own_from,
                own_to,
                self._half_ps,
                self._delay_ps,
                self._calibration.region,
                self._calibration.relation,
                scratch["partners"],
                scratch["forward"],
                scratch["back"],
                self._occupied,
                self._prompt,
                self._delayed,
                self._alone,
                self._settings.multiples == "all",
            )
            n_prompt, n_delayed, discarded, too_small = (int(x) for x in found)
            if not too_small:
                break
            room = 2 * self._prompt.shape[0]
            self._prompt, self._delayed = np.empty((room, 2), np.int32), np.empty((room, 2), np.int32)
            self._alone = np.empty(room, np.bool_)
        self._give_pairs(self._prompt, n_prompt, 0, self._given_prompts)
        self._give_pairs(self._delayed, n_delayed, self._delay_ps, self._given_delayed)
        self._given_alone.append(alone=self._alone[:n_delayed])
        self._counts["prompts"] += n_prompt
        self._counts["delayed"] += n_delayed
        self._counts["multiples"] += discarded
        oldest = int(time[own_to]) if own_to < n else known_ps - reach
        past = min(int(np.searchsorted(time, oldest - 2 * self._half_ps, "left")), own_to)
        waiting.drop_first(past)
        self._n_paired = own_to - past

    def _give_pairs(self, pair: NDArray[np.int32], n: int, shift_ps: int, given: Columns) -> None:
        waiting = self._pairable
        given.reserve(given.n + n)
        pk.give_pairs(
            pair,
            n,
            shift_ps,
            waiting["time_ps"],
            waiting["energy"],
            waiting["channel"],
            waiting["n_hits"],
            self._calibration.region,
            self._calibration.channel,
            given.n,
            given["time_a_ps"],
            given["time_b_ps"],
            given["energy_a"],
            given["energy_b"],
            given["channel_a"],
            given["channel_b"],
            given["n_hits_a"],
            given["n_hits_b"],
        )
        given.n += n
