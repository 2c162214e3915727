"""Faults that act on recorded hits: what is done to event words, and which faults recorded data cannot have.

A hit keeps everything that a fault does not touch, to the bit. Times and charges are changed by way of the
recording's own calibration: the fine codes are those that the same converters would have given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.calibration.charge import charge_table, code_of_time, time_of_code
from petqc.calibration.tdc import FINE_OFFSET, code_of_interval, interval_of_code
from petqc.formats.petsys_frames import CLOCKS_PER_FRAME, FRAME_ID_BITS, FRAME_SIZE_MASK, N_EVENTS_MASK
from petqc.formats.petsys_tables import BRANCH_E, BRANCH_T
from petqc_simulators.physics.blocks import Block
from petqc_simulators.physics.crystal import CLOCK_PS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_simulators.effects import Effects
    from petqc_simulators.profile import Profile

F64 = np.float64
_NO_SIPM = "what a volt or a degree does to these SiPMs is not in a recording"
_NO_PULSES = "its pulses were not recorded, and nothing is invented"
REFUSED: Final = {
    "F02": _NO_PULSES,
    "F03": _NO_SIPM,
    "F04": _NO_SIPM,
    "F06": _NO_SIPM,
    "F07": _NO_SIPM,
    "F08": _NO_SIPM,
    "F11": "the signals before the converters were not recorded",
    "F16": "the heights of signals at the thresholds were not recorded",
    "F17": "the signals before the converters were not recorded",
    "F18": "hits that a channel would have missed change which later ones it has: that was not recorded",
    "F22": "the configuration is the recording's own: give another one to the analysis instead",
    "F23": _NO_PULSES,
    "F24": _NO_SIPM,
    "F25": _NO_PULSES,
    "F26": "where decays were is not in a recording",
}
"""Faults that cannot act on recorded data, and why."""
OF_CHARGE: Final = frozenset({"F09", "F10"})
"""Those that need a table of charge; of a recording of time over threshold the energy is not a number of its own."""
_CODES = 1023


class HitFaults:
    """What faults do to the hits of one recording.

    Args:
        profile: where its channels are.
        config: the recording's configuration.
        rng: what is random about faults.
    """

    def __init__(self, profile: Profile, config: PetsysConfig, rng: np.random.Generator) -> None:
        geometry = profile.geometry
        self._gids = profile.absolute_channels()
        self._order = np.argsort(self._gids)
        self._module_of = np.arange(self._gids.size) // geometry.crystals_per_module
        self._rng = rng
        self._late_words, self._late_frames = np.empty(0, np.uint64), np.empty(0, np.int64)
        rows = 4 * self._gids.size
        self._tdc = np.full((2, rows, 4), np.nan)
        for branch, kind in enumerate((BRANCH_T, BRANCH_E)):
            table = config.tables.get("tdc")
            if table is not None:
                of = table[table["branch"] == kind]
                self._put(self._tdc[branch], of, ("t0", "a0", "a1", "a2"))
        self._has_charge = "qdc" in config.tables
        self._qdc = np.zeros((rows, 10))
        if self._has_charge:
            self._put(self._qdc, config.tables["qdc"], tuple(f"p{k}" for k in range(10)))
        self._charge = charge_table(self._qdc.astype(np.float32))

    def _put(self, to: NDArray[F64], table: NDArray[np.void], columns: tuple[str, ...]) -> None:
        """Columns of a table of channels and buffers into rows of ours."""
        number = table["port"].astype(np.int64) << 17 | table["slave"].astype(np.int64) << 12
        number |= table["chip"].astype(np.int64) << 6 | table["channel"].astype(np.int64)
        index, is_ours = self.index_of(number)
        row = (4 * index + table["tac"].astype(np.int64))[is_ours]
        for column, name in enumerate(columns):
            to[row, column] = table[name][is_ours]

    def why_not(self, fault: str) -> str:
        """Why a fault cannot act on this recording; empty: it can."""
        if fault in OF_CHARGE and not self._has_charge:
            return "the recording has no charges, and no table of them"
        return REFUSED.get(fault, "")

    def index_of(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Indices of absolute channel numbers in the detector's order, and which of them are in it."""
        at = np.minimum(np.searchsorted(self._gids, numbers, sorter=self._order), self._gids.size - 1)
        index = self._order[at]
        return index, self._gids[index] == numbers

    def forget(self) -> None:
        """Another turn begins: nothing is on its way into later frames."""
        self._late_words, self._late_frames = self._late_words[:0], self._late_frames[:0]

    def apply(self, block: Block, effects: Effects, is_read: NDArray[np.bool_]) -> Block:
        """The block as it is with faults, of channels that are read; (channels,). The same one if nothing acts."""
        acts = self._acts(effects)
        if not acts and is_read.all() and not self._late_words.size:
            return block
        starts = block.starts[:-1]
        counts = (block.words[starts + 1] & np.uint64(N_EVENTS_MASK)).astype(np.int64)
        is_event = np.ones(block.words.size, np.bool_)
        is_event[starts] = is_event[starts + 1] = False
        words, frame = block.words[is_event], np.repeat(np.arange(starts.size), counts)
        index, is_known = self.index_of((words >> np.uint64(42)).astype(np.int64))
        kept = ~is_known | (is_read & ~effects.dead)[index]
        words, frame, index, is_known = words[kept], frame[kept], index[kept], is_known[kept]
        if acts:
            words, later = self._changed(words, index, effects)
            frame = frame + later
            words = np.where(is_known, self._named(words, index, effects), words)
        words = np.concatenate([self._late_words, words])
        frame = np.concatenate([self._late_frames, frame])
        goes_on = frame >= max(starts.size, 1)
        self._late_words, self._late_frames = words[goes_on], frame[goes_on] - starts.size
        return _joined(block, words[~goes_on], frame[~goes_on])

    @staticmethod
    def _acts(effects: Effects) -> bool:
        return bool(
            effects.dead.any()
            or effects.module_delay_ps.any()
            or effects.module_jitter_ps.any()
            or effects.buffer_delay_ps.any()
            or effects.delay_ps.any()
            or effects.blur_percent.any()
            or effects.leak.any()
            or (effects.light != 1.0).any()
            or (effects.gain != 1.0).any()
            or (effects.tdc_slope != 1.0).any()
            or (effects.place != np.arange(effects.place.size)).any()
        )

    def _named(self, words: NDArray[np.uint64], index: NDArray[np.int64], effects: Effects) -> NDArray[np.uint64]:
        """Words with the channel that their hits go by."""
        place = effects.place[index]
        if effects.leak.any():
            goes = self._rng.random(index.size) < effects.leak[index]
            beside = np.where(place + 1 < self._gids.size, place + 1, place - 1)
            place = np.where(goes, beside, place)
        return words & np.uint64((1 << 42) - 1) | self._gids[place].astype(np.uint64) << np.uint64(42)

    def _changed(
        self, words: NDArray[np.uint64], index: NDArray[np.int64], effects: Effects
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Words with their times and charges changed, and by how many frames each is later."""
        tac = (words >> np.uint64(40)).astype(np.int64) & 3
        row, module = 4 * index + tac, self._module_of[index]
        later_ps = effects.module_delay_ps[module] + effects.delay_ps[index] + effects.buffer_delay_ps[index, tac]
        jitter = effects.module_jitter_ps[module]
        if jitter.any():
            later_ps = later_ps + jitter * self._rng.standard_normal(index.size)
        slope = effects.tdc_slope[index]
        gain = effects.light[index] * effects.gain[index]
        blur = effects.blur_percent[index] / 235.482
        if blur.any():
            gain = gain * (1.0 + blur * self._rng.standard_normal(index.size))
        moves = (later_ps != 0.0) | (slope != 1.0) | (gain != 1.0)
        moves &= np.isfinite(self._tdc[0, row]).all(axis=1) & (self._tdc[0, row, 2] != 0.0)
        later = np.zeros(words.size, np.int64)
        if not moves.any():
            return words, later
        out = words.copy()
        out[moves], later[moves] = self._moved(words[moves], row[moves], later_ps[moves], slope[moves], gain[moves])
        return out, later

    def _moved(
        self,
        words: NDArray[np.uint64],
        row: NDArray[np.int64],
        later_ps: NDArray[F64],
        slope: NDArray[F64],
        gain: NDArray[F64],
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        t_coarse, e_coarse = ((words >> np.uint64(bit)).astype(np.int64) & 1023 for bit in (30, 20))
        t_fine, e_fine = (((words >> np.uint64(bit)).astype(np.int64) + FINE_OFFSET) & 1023 for bit in (10, 0))
        whole = np.round(later_ps / CLOCK_PS).astype(np.int64)
        rest = later_ps / CLOCK_PS - whole
        t0, a0, a1, a2 = self._tdc[0, row].T
        q = _interval(t_fine, a0, a1, a2)
        new_t, turned = self._code(slope * (q - rest), a0, a1, a2)
        length = e_coarse - t_coarse
        length = np.where(length < -256, length + 1024, length)
        if self._has_charge:
            t_eq = time_of_code(e_fine.astype(np.float32), row, self._charge).astype(F64)
            integrated = length + q + t0  # from the hit to the end of its integration
            charge = t_eq - integrated
            # The end of the integration comes with whole clocks; what is left of the delay shortens it.
            wanted = code_of_time(integrated - rest + gain * charge, self._qdc[row])
            is_same = (gain == 1.0) & (rest == 0.0)
            new_e = np.where(is_same, e_fine, self._rounded(wanted))
            e_turned = np.zeros(words.size, np.int64)
        else:
            b0, b1, b2 = self._tdc[1, row, 1:].T
            end = _interval(e_fine, b0, b1, b2)
            new_e, e_turned = self._code(end - rest, b0, b1, b2)
        coarse = t_coarse + whole + turned
        frames, new_coarse = np.divmod(coarse, CLOCKS_PER_FRAME)
        new_end = (e_coarse + whole + e_turned) % 1024
        is_slope_only = (later_ps == 0.0) & (gain == 1.0)
        new_e = np.where(is_slope_only, e_fine, new_e)
        fields = (new_coarse << 30) | (new_end << 20)
        fields |= ((new_t - FINE_OFFSET) & 1023) << 10 | ((new_e - FINE_OFFSET) & 1023)
        head = words & ~np.uint64((1 << 40) - 1)
        return head | fields.astype(np.uint64), frames

    def _code(
        self, q: NDArray[F64], a0: NDArray[F64], a1: NDArray[F64], a2: NDArray[F64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes of intervals, and whole clocks that were added where an interval has no code of its own."""
        codes = self._rounded(code_of_interval(q, a0, a1, a2))
        turned = np.zeros(q.size, np.int64)
        for clocks in (1, -1):
            other = self._rounded(code_of_interval(q + clocks, a0, a1, a2))
            better = ((codes < 0) | (codes > _CODES)) & (other >= 0) & (other <= _CODES)
            codes, turned = np.where(better, other, codes), np.where(better, clocks, turned)
        return np.clip(codes, 0, _CODES), turned

    def _rounded(self, codes: NDArray[F64]) -> NDArray[np.int64]:
        """Whole codes; up or down by chance, so that a shift smaller than a step is right on average."""
        finite = np.where(np.isfinite(codes), codes, 0.0)
        return np.asarray(np.floor(finite + self._rng.random(codes.size)), np.int64)


def _interval(fine: NDArray[np.int64], a0: NDArray[F64], a1: NDArray[F64], a2: NDArray[F64]) -> NDArray[F64]:
    found = interval_of_code(*(one.astype(np.float32) for one in (fine, a0, a1, a2))).astype(F64)
    return np.where(np.isfinite(found), found, 0.0)


def _joined(block: Block, words: NDArray[np.uint64], frame: NDArray[np.int64]) -> Block:
    """The block's frames with other events; those of frames that are not there are lost with them."""
    starts = block.starts[:-1]
    n = starts.size
    is_there = (frame >= 0) & (frame < n)
    words, frame = words[is_there], frame[is_there]
    order = np.argsort(frame, kind="stable")
    counts = np.bincount(frame, minlength=n)
    begins = np.concatenate([[0], np.cumsum(counts + 2)]).astype(np.int64)
    out = np.empty(int(begins[-1]), np.uint64)
    heads = begins[:-1]
    of_size = np.uint64(FRAME_SIZE_MASK << FRAME_ID_BITS)
    out[heads] = block.words[starts] & ~of_size | (counts + 2).astype(np.uint64) << np.uint64(FRAME_ID_BITS)
    out[heads + 1] = block.words[starts + 1] & ~np.uint64(N_EVENTS_MASK) | counts.astype(np.uint64)
    is_event = np.ones(out.size, np.bool_)
    is_event[heads] = is_event[heads + 1] = False
    out[is_event] = words[order]
    return Block(block.first_frame, out, begins)
