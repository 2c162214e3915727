"""From raw frames to singles and coincidences, in a stream: nothing is lost at any edge, everything dropped is counted.

The order of work (petqc mode): decode and calibrate each hit; sort by calibrated time; group the hits of one photon;
apply the energy window; pair singles in the prompt and in the delayed window. Whatever cannot be decided yet because
later frames may still matter is carried to the next call, so the result does not depend on how frames are cut into
calls. The vendor's own semantics (buffers, coarse sort, no policy for multiples) are in `petqc.processing.vendor_mode`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from petqc.errors import BadInputError
from petqc.events import Coincidences, EnergyUnit, Hits, Singles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.calibration import CalibrationSet
    from petqc.formats.petsys_config import PetsysConfig

DROP_REASONS = (
    "kept",
    "no_tdc_calibration",
    "no_charge_calibration",
    "no_energy_calibration",
    "no_kev_calibration",
    "not_mapped",
    "no_mode",
    "outside_tdc_curve",
    "saturated",
    "trigger_record",
    "frame_out_of_order",
)
"""Why a hit did not become part of a single; the position in this tuple is the number that kernels use."""

GROUP_REASONS = ("kept", "too_few_hits", "too_many_hits", "energy_too_low", "energy_too_high")
"""Why a group of hits did not become a single; the position in this tuple is the number that kernels use."""

Multiples = Literal["discard", "all"]

_VENDOR_CLOCK_PS = 5000.0
_LONGEST_WINDOW_PS = 1e9
_LEAST_WORDS = 1 << 15  # smaller inputs are held until they add up to this


@dataclass(frozen=True, slots=True)
class ProcessingSettings:
    """What makes a single and what makes a coincidence. Windows are full widths in ps.

    group_window_ps: a hit joins the photon of an earlier hit up to this much later. group_max_distance_mm: and up to
    this far from it. group_min_energy, group_max_energy: inclusive limits of the sum, in keV where energies are
    calibrated in keV, else in clocks, for time over threshold, too. coincidence_window_ps: full width 2τ, so
    pairs have |dt| <= half of it. coincidence_energy: inclusive range for each single before pairs are searched, in the
    unit of the calibrated energies.
    delay_ps: shift of the delayed window. multiples: "discard" drops every pair one of whose singles has a second
    possible partner; "all" keeps every pair. compacted: True for recordings, where a run of empty frames is stored as
    its first frame; False for a live stream, where every missing frame is a lost frame.
    """

    group_window_ps: float = 100_000.0
    group_max_distance_mm: float = 100.0
    group_min_hits: int = 1
    group_max_hits: int = 64
    group_min_energy: float = -1e6
    group_max_energy: float = 1e6
    coincidence_window_ps: float = 20_000.0
    coincidence_energy: tuple[float, float] | None = None
    delay_ps: float = 1_003_700.0
    multiples: Multiples = "discard"
    vendor_compatible: bool = False
    compacted: bool = True
    clock_hz: float = 200e6

    def __post_init__(self) -> None:
        """Refuse what cannot work, with the setting's name."""
        if not 0 <= self.group_window_ps <= _LONGEST_WINDOW_PS:
            raise BadInputError(f"group_window_ps is {self.group_window_ps}", do="give 0..1e9 ps")
        if not 0 < self.coincidence_window_ps <= _LONGEST_WINDOW_PS:
            raise BadInputError(f"coincidence_window_ps is {self.coincidence_window_ps}", do="give a full width in ps")
        if not self.coincidence_window_ps < self.delay_ps <= _LONGEST_WINDOW_PS:
            raise BadInputError(
                f"delay_ps is {self.delay_ps}, the coincidence window {self.coincidence_window_ps}",
                do="the delayed window must not overlap the prompt one and may be at most 1e9 ps away",
            )
        if not 0 <= self.group_min_hits <= self.group_max_hits <= 255:
            raise BadInputError(f"group_min_hits {self.group_min_hits}, group_max_hits {self.group_max_hits}")
        if self.coincidence_energy is not None and not self.coincidence_energy[0] < self.coincidence_energy[1]:
            raise BadInputError(f"coincidence_energy is {self.coincidence_energy}", do="give (low, high)")
        if self.multiples not in {"discard", "all"}:
            raise BadInputError(f"multiples is {self.multiples!r}", do="give discard or all")
        if not self.clock_hz > 0:
            raise BadInputError(f"clock_hz is {self.clock_hz}")

    @classmethod
    def from_config(cls, config: PetsysConfig) -> ProcessingSettings:
        """What a configuration's `[sw_trigger]` section asks for, and the energy window of its `[petqc]` section.

        The vendor's coincidence window is one-sided, ours is the full width: twice as large for the same pairs. Limits
        on the energy of groups are taken as they stand. The energy window is in keV and used only where the
        configuration calibrates in keV.
        """
        trigger = config.sw_trigger
        kev = config.tables.get("energy_kev")
        return cls(
            group_window_ps=trigger.group_time_window * _VENDOR_CLOCK_PS,
            group_max_distance_mm=trigger.group_max_distance,
            group_min_hits=trigger.group_min_hits,
            group_max_hits=trigger.group_max_hits,
            group_min_energy=trigger.group_min_energy,
            group_max_energy=trigger.group_max_energy,
            coincidence_window_ps=2 * trigger.coincidence_time_window * _VENDOR_CLOCK_PS,
            coincidence_energy=config.petqc.energy_window_kev if kev is not None and kev.size else None,
        )


@dataclass(frozen=True, slots=True)
class ProcessingAccount:
    """Where every frame and every hit went; counts since the start of the run.

    frames: ids covered by the run, empty and lost ones included = frames_lost + frames not lost. frames_empty: not lost
    and without a hit. frames_partly_lost: some events missing (their time counts as live). hits: events in frames.
    hits_dropped, groups_rejected: by reason. multiples: pairs discarded by the multiples policy. out_of_order: frames
    that came after a later one and were not used. live_time_s: time covered by frames that were not lost as a whole.
    """

    frames: int = 0
    frames_lost: int = 0
    frames_partly_lost: int = 0
    frames_empty: int = 0
    out_of_order: int = 0
    hits: int = 0
    hits_dropped: dict[str, int] = field(default_factory=dict)
    hits_beyond_charge_curve: int = 0
    hits_kept: int = 0
    groups_rejected: dict[str, int] = field(default_factory=dict)
    hits_in_rejected_groups: int = 0
    singles: int = 0
    singles_in_window: int = 0
    prompts: int = 0
    delayed: int = 0
    multiples: int = 0
    first_frame: int | None = None
    last_frame: int | None = None
    live_time_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Processed:
    """What became final. Over all calls of a run each list is complete and in order of time.

    prompts, delayed: ordered by their earlier single (delayed: before the shift). delayed: all pairs of the delayed
    window, for comparison with 2τ·S_a·S_b; the earlier single's time is shifted by the delay, so that
    dt = time_a_ps - time_b_ps lies in the window. delayed_unambiguous: (n delayed,) bool, those that the multiples
    policy would have kept. Both singles take their turn as the delayed one, so half of these estimate the randoms.
    hits: only if they were asked for.
    """

    singles: Singles
    prompts: Coincidences
    delayed: Coincidences
    delayed_unambiguous: NDArray[np.bool_]
    hits: Hits | None = None

    @classmethod
    def empty(cls, energy_unit: EnergyUnit = "arbitrary", *, with_hits: bool = False) -> Processed:
        """Nothing yet."""
        none = Hits(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32), energy_unit)
        return cls(
            Singles.empty(energy_unit),
            Coincidences.empty(energy_unit),
            Coincidences.empty(energy_unit),
            np.empty(0, np.bool_),
            none if with_hits else None,
        )


class Processor:
    """Turns a stream of whole frames into singles and coincidences; one run, one processor, one caller at a time.

    Args:
        calibration: of the detector.
        settings: what makes a single and a coincidence.
        trigger_id: the unit (port * 32 + slave) whose events are trigger records, as a recording's header says.
        keep_hits: give calibrated hits, too, sorted by time.
        look_ahead: decode in a thread of its own while what is decoded is grouped and paired; all results together are
            the same, but of the words of a call most come with the next one. Not in vendor-compatible mode.
    """

    def __init__(
        self,
        calibration: CalibrationSet,
        settings: ProcessingSettings,
        *,
        trigger_id: int | None = None,
        keep_hits: bool = False,
        look_ahead: bool = False,
    ) -> None:
        from petqc.processing.pipeline import PetqcPipeline, Pipeline
        from petqc.processing.vendor_mode import VendorPipeline

        self.settings = settings
        self._held: list[NDArray[np.uint64]] = []
        self._n_held = 0
        self._unit = calibration.energy_unit
        self._keep_hits = keep_hits
        self._pipeline: Pipeline = (
            VendorPipeline(calibration, settings, trigger_id, keep_hits=keep_hits)
            if settings.vendor_compatible
            else PetqcPipeline(calibration, settings, trigger_id, keep_hits=keep_hits, look_ahead=look_ahead)
        )

    @property
    def account(self) -> ProcessingAccount:
        """Where everything went so far. Words still held back are not in it; after `finish` nothing is."""
        return self._pipeline.account()

    def feed(self, words: NDArray[np.uint64]) -> Processed:
        """Take whole frames (two header words and the events each) and return what became final.

        With look_ahead the words must not change before the step is closed, and what is wrong with them may be told
        by a later call.

        Raises:
            BadInputError: a frame is not whole, or its size and its number of events disagree.
        """
        if words.ndim != 1 or words.dtype != np.uint64:
            raise BadInputError(f"words are {words.dtype} of shape {words.shape}", do="give a row of uint64")
        if self._n_held + words.size < _LEAST_WORDS:
            if words.size:
                self._held.append(words.copy())  # the caller may use its buffer again
                self._n_held += words.size
            return Processed.empty(self._unit, with_hits=self._keep_hits)
        return self._pipeline.run(self._release(words))

    def end_step(self, last_frame: int | None = None) -> Processed:
        """Close a step: return all that is left. Frames missing before the next one fed are not this run's loss.

        Args:
            last_frame: the last frame of the step as an index says; a recording does not store a closing run of empty
                frames, so without it live time ends at the last frame seen.
        """
        done = self._pipeline.run(self._release(None))
        rest = self._pipeline.end(last_frame)
        return joined([done, rest])

    def finish(self, last_frame: int | None = None) -> Processed:
        """Close the run: return all that is left (`last_frame`: as in `end_step`)."""
        return self.end_step(last_frame)

    def _release(self, words: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        parts = self._held if words is None else [*self._held, words]
        self._held, self._n_held = [], 0
        if len(parts) == 1:
            return np.ascontiguousarray(parts[0])
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)


_Columns = TypeVar("_Columns", Hits, Singles, Coincidences)


def _join(parts: list[_Columns]) -> _Columns:
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(parts[0])
        if f.name != "energy_unit"
    }
    return type(parts[0])(**columns, energy_unit=parts[0].energy_unit)


def joined(parts: list[Processed]) -> Processed:
    """One result from consecutive ones (at least one)."""
    hits = [part.hits for part in parts if part.hits is not None]
    return Processed(
        _join([part.singles for part in parts]),
        _join([part.prompts for part in parts]),
        _join([part.delayed for part in parts]),
        np.concatenate([part.delayed_unambiguous for part in parts]),
        _join(hits) if hits else None,
    )
