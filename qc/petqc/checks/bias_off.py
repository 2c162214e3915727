"""Bias while nothing needs it: between runs the supply must be off, and read back as off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.housekeeping import HousekeepingInput

BIAS_SUPPLY = "bias_supply_on"
"""Name of the reading: 1 on, 0 off; measured if it was read back."""


@check(
    "bias_off",
    title="Bias supply on",
    unit="",
    levels=("scanner",),
    order=144,
    data=("housekeeping",),
    limits={"scanner": Limits(fail_high=0.0)},
    source="daily-qc.md §5.1, P0 needs no bias; formula: what switching off came to; limits: petqc's own rule, bias is "
    "on during runs that need it and never otherwise",
)
def bias_off(q: HousekeepingInput) -> CheckOutput:
    """1 if the bias supply is on, 0 if it was read back as off; one that only was commanded off gives no number."""
    r = q.last.get((BIAS_SUPPLY, SCANNER))
    where: tuple[Level, str] = ("scanner", SCANNER)
    if r is None or r.value is None:
        told = r.reason if r is not None and r.reason else "nobody knows whether the bias supply is on"
        return CheckOutput([q.missing("bias_off", where, "", 0, told)])
    if not r.measured:
        told = "off was commanded, and this board cannot be asked whether it is"
        return CheckOutput([q.missing("bias_off", where, "", 0, told, needed=False)])
    return CheckOutput([q.judge("bias_off", where, r.value, "", 0.0, 1)])
