"""The instruments around the detector: whether each answers, and whether what it says can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from petqc.channel_map import SCANNER, is_device_node
from petqc.check_input import CLOCK_LOCKS, INSTRUMENT_ANSWERS
from petqc.checks import CheckOutput, check
from petqc.housekeeping import HousekeepingInput, by_place
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.check_input import CheckInput

_UNIT: Final = "instruments"
_DOUBTFUL: Final = ("uncertain", "bad")


@check(
    "instruments",
    title="Instruments that do not answer as they must",
    unit=_UNIT,
    levels=("scanner",),
    order=146,
    data=("source", "lutetium", "dark", "housekeeping", "mr-delta"),
    limits={"scanner": Limits(fail_high=0.0)},
    source="daily-qc.md §5.1, P0; formula: configured instruments that do not answer, or one of whose readings is "
    "stale, bad or uncertain, but for want of a reference clock; limits: any, petqc's own rule (what is not read is "
    "not known to be good)",
)
def instruments(q: CheckInput) -> CheckOutput:
    """How many of the configured instruments are not as they should be, each by name; nothing if none is configured."""
    answers = q.read(INSTRUMENT_ANSWERS)
    if not answers:
        return CheckOutput()
    wrong = {node: r.reason or "does not answer" for node, r in answers.items() if r.value != 1.0}
    # What an instrument says without its reference clock is doubtful for that one reason, which has a check of its own.
    unlocked = {(r.node, r.reason) for name in CLOCK_LOCKS for r in q.read(name).values() if r.value == 0.0}
    for (name, node), r in by_place(q.context.environment).items():
        if is_device_node(node) and r.quality in _DOUBTFUL and (node, r.reason) not in unlocked:
            wrong.setdefault(node, f"{name}: {r.reason or r.quality}")
    reason = HousekeepingInput.named([f"{node.partition(':')[2]}: {why}" for node, why in wrong.items()])
    strangers = _unknown_modules(q)
    notes = [f"What is read of {', '.join(strangers)} is in no check: not in the channel map."] if strangers else []
    return CheckOutput(
        [q.judge("instruments", ("scanner", SCANNER), len(wrong), _UNIT, 0.0, len(answers), reason=reason)], notes=notes
    )


def _unknown_modules(q: CheckInput) -> list[str]:
    """Modules that something was read of and that this scanner does not have, as of a slip in a configuration."""
    read = {place for r in q.context.environment for place in r.node.split(" - ") if place.startswith("module:")}
    return sorted(read - set(q.topology.module_nodes))
