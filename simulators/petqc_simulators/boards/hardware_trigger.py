"""The hardware trigger: of the events of all boards, those that coincidences of regions let pass.

As the readout's maker models it. Every hit has an energy and, corrected for time walk, a clock. A board sums energies
and hits of a region, a quarter of its ASICs, over some clocks; a sum inside the limits is a request. A request with one
of a partner region close enough in time is accepted by the trigger unit. The board is told, and all of its requests
that close to an accepted one hold. Hits of the region a little before and after these pass.

A block of frames is looked at on its own: a coincidence over its edge, one clock in some hundred thousand, is missed.
What becomes of energies of 128 and above, in which unit singles are let pass, and whether a limit itself is inside, is
not documented: here energies stay at the top of the scale, the unit is a clock, and limits are inside.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2 (0x0600 to 0x0620,
functions 0x06 and 0x07), 7.6 and 9 (7); answer of a whole board to an accepted request, and the smallest energy, from
the public vendor software of the same revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel
from petqc_simulators.physics.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc_simulators.boards.registers import RegisterFile, WordMemory

REGIONS_OF_BOARD = 4
"""Region = 4 x trigger port + quarter of the board's ASICs, in the maps that the vendor's software makes."""
_ENABLED, _CALIBRATED, _SUMMED, _ENERGY_LIMITS, _HIT_LIMITS = 0, 1, 4, 8, 9
"""Bits of the word that switches a FEB/D's trigger on."""
_ENERGY_STEPS, _ENERGY_TOP = 32.0, 4095
_SMALLEST_ENERGY = 0.1875
_WALK_CLK = 0.06
_NOW = 7
"""Bit of a reference vector that stands for the clock itself; the next higher one is the next clock."""
_VECTOR_BITS = 16
_FINE_OFFSET = 27
_BUFFERS = 4


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What one board was told. Energies in its own unit, offsets and windows in clocks."""

    energy: tuple[float, float]
    hits: tuple[int, int]
    energy_offsets: tuple[int, ...]
    hit_offsets: tuple[int, ...]
    before_clk: int
    after_clk: int

    @classmethod
    def of(cls, registers: RegisterFile) -> Thresholds:
        """From a board's registers."""
        word, vectors = registers.value("hardware_trigger"), registers.value("reference_vectors")
        least, greatest = (registers.value(f"group_{name}_energy") / _ENERGY_STEPS for name in ("min", "max"))
        has_energy, has_hits = word >> _ENERGY_LIMITS & 1, word >> _HIT_LIMITS & 1
        return cls(
            energy=(least, greatest) if has_energy else (0.0, np.inf),
            hits=(registers.value("group_min_multiplicity"), registers.value("group_max_multiplicity"))
            if has_hits
            else (1, 1 << _VECTOR_BITS),
            energy_offsets=_offsets(vectors) if word >> _SUMMED & 1 else (0,),
            hit_offsets=_offsets(vectors >> _VECTOR_BITS) if word >> _SUMMED & 1 else (0,),
            before_clk=registers.value("group_window_before"),
            after_clk=registers.value("group_window_after"),
        )


def _offsets(vector: int) -> tuple[int, ...]:
    return tuple(bit - _NOW for bit in range(_VECTOR_BITS) if vector >> bit & 1)


def quarter(chips: NDArray[np.int64], places: int) -> NDArray[np.int64]:
    """The region of ASICs on a board that has places for so many; those that do not divide are with the last."""
    return np.minimum(chips // max(places // REGIONS_OF_BOARD, 1), REGIONS_OF_BOARD - 1)


def calibration(memory: WordMemory) -> NDArray[np.float64]:
    """(65536, 4) c0, c1, c2 and k0 of every buffer, by chip << 8 | channel << 2 | buffer."""
    raw = np.frombuffer(bytes(memory.content), np.uint8).reshape(-1, 5).astype(np.int64)
    words = raw @ (np.int64(1) << 8 * np.arange(5))
    c2 = words >> 20 & 0x3FF
    c2 -= (c2 & 0x200) << 1
    return np.stack(
        [(words & 0x3FF) / 8.0, (words >> 10 & 0x3FF) / 1024.0, c2 / 65536.0, (words >> 30 & 0x3F) / 16.0], axis=1
    )


class BoardTrigger:
    """The trigger of one board: which of its hits request, and which pass.

    Args:
        registers: the board's.
        memory: its energy calibration.
        chips: how many ASICs it has places for.
    """

    def __init__(self, registers: RegisterFile, memory: WordMemory, chips: int) -> None:
        self._registers, self._memory = registers, memory
        self._chips = chips
        self._seen = -1
        self._table = np.zeros((0, 4))

    @property
    def is_on(self) -> bool:
        """Whether it holds anything back."""
        return bool(self._registers.value("hardware_trigger") >> _ENABLED & 1)

    def regions(self, chips: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which quarter of the board an ASIC belongs to."""
        return quarter(chips, self._chips)

    def energies(self, events: NDArray[np.uint64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Energy of each hit, and how many clocks its time walk makes it late."""
        if self._memory.written != self._seen:
            self._table, self._seen = calibration(self._memory), self._memory.written
        buffers = (events >> np.uint64(42) & np.uint64(0xFFF)).astype(np.int64) << 2
        buffers |= (events >> np.uint64(40) & np.uint64(_BUFFERS - 1)).astype(np.int64)
        efine = (((events & np.uint64(0x3FF)) + np.uint64(_FINE_OFFSET)) & np.uint64(0x3FF)).astype(np.float64)
        c0, c1, c2, k0 = self._table[buffers].T
        is_calibrated = self._registers.value("hardware_trigger") >> _CALIBRATED & 1
        energy = c0 + c1 * efine + c2 * efine * efine if is_calibrated else np.ones(events.size)
        energy = np.maximum(energy, _SMALLEST_ENERGY)
        return energy, (_WALK_CLK + k0 / energy).astype(np.int64)

    def thresholds(self) -> Thresholds:
        """What it was told."""
        return Thresholds.of(self._registers)


class HardwareTrigger:
    """The trigger of a whole scanner: its unit, and the boards at its ports.

    Args:
        unit: registers of the unit with the trigger; of a single board, the board's own.
        matrix: which regions may be in coincidence.
        boards: by port and slave, in the order of the trigger ports.
    """

    def __init__(
        self, unit: RegisterFile, matrix: WordMemory, boards: Sequence[tuple[tuple[int, int], BoardTrigger]]
    ) -> None:
        self._unit, self._matrix = unit, matrix
        self._boards = boards

    @property
    def is_on(self) -> bool:
        """Whether anything is held back."""
        return bool(self._unit.value("hardware_trigger") & 1) and any(board.is_on for _, board in self._boards)

    def _may_coincide(self) -> NDArray[np.bool_]:
        """(regions, regions) of the boards there are."""
        row_bytes = (self._unit.value("trigger_regions") + 7) // 8
        n = REGIONS_OF_BOARD * len(self._boards)
        rows = np.frombuffer(bytes(self._matrix.content[: n * row_bytes]), np.uint8).reshape(n, row_bytes)
        return np.unpackbits(rows, axis=1, bitorder="little")[:, :n].astype(np.bool_)

    def pass_on(self, block: Block) -> Block:
        """The frames of a block with the events that pass."""
        if not self.is_on:
            return block
        heads = block.starts[:-1]
        is_event = np.ones(block.words.size, np.bool_)
        is_event[heads] = is_event[heads + 1] = False
        events = block.words[is_event]
        frame_of = np.repeat(np.arange(heads.size), np.diff(block.starts) - 2)
        is_kept = self._kept(events, 1024 * frame_of + (events >> np.uint64(30) & np.uint64(0x3FF)).astype(np.int64))
        counts = np.bincount(frame_of[is_kept], minlength=heads.size)
        is_event[is_event] = is_kept
        is_event[heads] = is_event[heads + 1] = True
        words, starts = block.words[is_event], np.concatenate(([0], np.cumsum(counts + 2)))
        first, second = words[starts[:-1]], words[starts[:-1] + 1]
        words[starts[:-1]] = first & ~np.uint64(0x7FFF << 36) | (counts + 2).astype(np.uint64) << np.uint64(36)
        words[starts[:-1] + 1] = second & ~np.uint64(0x7FFF) | counts.astype(np.uint64)
        return Block(block.first_frame, words, starts)

    def _kept(self, events: NDArray[np.uint64], coarse: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which events pass."""
        is_kept = np.ones(events.size, np.bool_)
        unit = (events >> np.uint64(54)).astype(np.int64)
        asked: list[tuple[int, Thresholds, NDArray[np.int64], NDArray[np.int64]]] = []
        requests: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * (REGIONS_OF_BOARD * len(self._boards))
        for number, ((port, slave), board) in enumerate(self._boards):
            if not board.is_on:
                continue
            mine = np.flatnonzero(unit == port << 5 | slave)
            told, energy_walk = board.thresholds(), board.energies(events[mine])
            at, energy = coarse[mine] - energy_walk[1], energy_walk[0]
            quarter = board.regions((events[mine] >> np.uint64(48) & np.uint64(0x3F)).astype(np.int64))
            for region in range(REGIONS_OF_BOARD):
                there = np.flatnonzero(quarter == region)
                there = there[np.argsort(at[there], kind="stable")]
                place = REGIONS_OF_BOARD * number + region
                requests[place] = _requests(
                    at[there],
                    energy[there],
                    np.array(told.energy),
                    np.array(told.hits, np.int64),
                    np.array(told.energy_offsets, np.int64),
                    np.array(told.hit_offsets, np.int64),
                    _ENERGY_TOP / _ENERGY_STEPS,
                )
                asked.append((place, told, mine[there], at[there]))
        held = self._held(requests)
        for place, told, hits, at in asked:
            is_kept[hits] = _is_near(at, held[place], -told.after_clk, told.before_clk)
        return is_kept

    def _held(self, requests: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Requests of each region that hold."""
        may_coincide, window = self._may_coincide(), self._unit.value("coincidence_window")
        length, period = divmod(self._unit.value("singles_acceptance"), 1 << 16)
        accepted = []
        for region, mine in enumerate(requests):
            others = [requests[other] for other in np.flatnonzero(may_coincide[region])]
            partners = np.sort(np.concatenate([np.zeros(0, np.int64), *others]), kind="stable")
            is_accepted = _is_near(mine, partners, -window, window)
            if length and period:
                is_accepted |= mine % period < length
            accepted.append(mine[is_accepted])
        held = []
        for region, mine in enumerate(requests):
            first = region - region % REGIONS_OF_BOARD
            of_board = np.sort(np.concatenate(accepted[first : first + REGIONS_OF_BOARD]), kind="stable")
            held.append(mine[_is_near(mine, of_board, -window, window)])
        return held


def warm_up() -> None:
    """Compile, or load, what the trigger needs: on its first frames it would take seconds."""
    clocks, energies = np.zeros(2, np.int64), np.zeros(2)
    _is_near(_requests(clocks, energies, energies, clocks, clocks, clocks, 1.0), clocks, 0, 1)


@kernel
def _is_near(times: NDArray[np.int64], others: NDArray[np.int64], low: int, high: int) -> NDArray[np.bool_]:
    """Whether another one is within low to high of each; both rise."""
    found = np.zeros(times.size, np.bool_)
    k = 0
    for i in range(times.size):
        while k < others.size and others[k] < times[i] + low:
            k += 1
        found[i] = k < others.size and others[k] <= times[i] + high
    return found


@kernel
def _requests(
    at: NDArray[np.int64],
    energy: NDArray[np.float64],
    energy_limits: NDArray[np.float64],
    hit_limits: NDArray[np.int64],
    energy_offsets: NDArray[np.int64],
    hit_offsets: NDArray[np.int64],
    top: float,
) -> NDArray[np.int64]:
    """Clocks at which a region requests; hits by rising time. Only near a hit there is anything to sum up."""
    widest = 0
    for offset in energy_offsets:
        widest = max(widest, abs(offset))
    for offset in hit_offsets:
        widest = max(widest, abs(offset))
    found = np.empty(at.size * (2 * widest + 1), np.int64)
    n = 0
    first = 0
    done = -(1 << 62)
    for i in range(at.size):
        for clock in range(max(at[i] - widest, done + 1), at[i] + widest + 1):
            done = clock
            while at[first] < clock - widest:
                first += 1
            energy_sum, hits = 0.0, 0
            k = first
            while k < at.size and at[k] <= clock + widest:
                for offset in energy_offsets:
                    if at[k] == clock + offset:
                        energy_sum += energy[k]
                for offset in hit_offsets:
                    if at[k] == clock + offset:
                        hits += 1
                k += 1
            energy_sum = min(energy_sum, top)
            is_energy = energy_limits[0] <= energy_sum <= energy_limits[1]
            if hits > 0 and is_energy and hit_limits[0] <= hits <= hit_limits[1]:
                found[n] = clock
                n += 1
    return found[:n].copy()
