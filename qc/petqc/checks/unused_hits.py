"""Hits that became part of no single, because something that petqc needs for them was not there or did not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.check_input import CheckInput
    from petqc.checks import Level

_DROPPED = "hits_dropped."
_NOT_OF_THE_DETECTOR = "trigger_record"
_CALIBRATION = "is the calibration of this board and acquisition mode?"
_MAP = "is the channel map of this scanner?"
_WHY = {
    "no_tdc_calibration": f"no TDC calibration of their channels; {_CALIBRATION}",
    "no_charge_calibration": f"no charge calibration of their channels; {_CALIBRATION}",
    "no_energy_calibration": f"no energy linearisation of their channels; {_CALIBRATION}",
    "no_kev_calibration": f"no energy calibration of their channels; {_CALIBRATION}",
    "not_mapped": f"their channels are not in the channel map; {_MAP}",
    "no_mode": f"no acquisition mode of their channels; {_CALIBRATION}",
    "outside_tdc_curve": f"their fine times lie outside the TDC calibration; {_CALIBRATION}",
    "saturated": f"at or above the saturation of the energy calibration; {_CALIBRATION}",
    "frame_out_of_order": "their frames came after later ones; does the network change the order of packets?",
}
"""By the reasons of `petqc.processing.DROP_REASONS`; each with what to ask next."""


@check(
    "unused_hits",
    title="Share of hits not used",
    unit="%",
    levels=("scanner",),
    order=115,
    data=("source", "lutetium", "mr-delta"),
    limits={"scanner": Limits(warn_high=5.0, fail_high=50.0)},
    source="fault F27: daily-qc.md §3; limits: petqc's own: a calibration that is not of this detector, or not of this "
    "acquisition mode, drops most hits, and what is left says nothing about it; dead channels have checks of their own",
)
def unused_hits(q: CheckInput) -> CheckOutput:
    """Hits received and not used, in per cent of all; counted, so without uncertainty. The reason is the commonest one.

    Records of a trigger unit are no hits of the detector.
    """
    account = q.context.account
    if "hits" not in account:
        return CheckOutput()
    dropped = {name.removeprefix(_DROPPED): int(n) for name, n in account.items() if name.startswith(_DROPPED)}
    hits = int(account["hits"]) - dropped.pop(_NOT_OF_THE_DETECTOR, 0)
    where: tuple[Level, str] = ("scanner", SCANNER)
    if hits <= 0:
        return CheckOutput()  # nothing was counted, as other checks say
    commonest = max(dropped, key=dropped.__getitem__, default="")
    value = 100.0 * sum(dropped.values()) / hits
    reason = f"most of them: {_WHY.get(commonest, commonest)}"
    return CheckOutput([q.judge("unused_hits", where, value, "%", 0.0, hits, reason=reason if commonest else None)])
