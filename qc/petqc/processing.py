"""From raw frames to singles and coincidences, in a stream: nothing is lost at any edge, everything dropped is counted.

The order of work (petqc mode): decode and calibrate each hit; sort by calibrated time; group the hits of one photon;
apply the energy window; pair singles in the prompt and in the delayed window. Whatever cannot be decided yet because
later frames may still matter is carried to the next call, so the result does not depend on how frames are cut into
calls. The vendor's own semantics (buffers, coarse sort, no policy for multiples) are in `petqc.vendor_mode`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from petqc.events import Coincidences, Hits, Singles

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


@dataclass(frozen=True, slots=True)
class ProcessingSettings:
    """What makes a single and what makes a coincidence. Windows are full widths in ps.

    group_window_ps: a hit joins the photon of an earlier hit up to this much later. group_max_distance_mm: and up to
    this far from it. group_min_energy, group_max_energy: inclusive, in the unit of the calibrated energies (vendor
    mode with time over threshold: clocks, as the vendor compares them). coincidence_window_ps: full width 2τ, so
    pairs have |dt| <= half of it. coincidence_energy: inclusive range for each single before pairs are searched.
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
    policy would have kept: subtract these from prompts. hits: only if they were asked for.
    """

    singles: Singles
    prompts: Coincidences
    delayed: Coincidences
    delayed_unambiguous: NDArray[np.bool_]
    hits: Hits | None = None
