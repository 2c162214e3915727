"""Errors on the links: of each ASIC's data lanes, between the units, and on the way to the computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.housekeeping import HousekeepingInput

ERRORS = (
    "asic_code_errors",
    "asic_word_errors",
    "upstream_rx_bad",
    "upstream_errors",
    "downstream_rx_bad",
    "downstream_errors",
    "link_errors",
    "port_rx_bad",
)
"""Counters whose rise is an error. What exactly they count is not published: where one rises is a link to look at."""
WORDS = {"upstream_rx_bad": "upstream_rx", "downstream_rx_bad": "downstream_rx", "port_rx_bad": "port_rx"}
"""Counters of bad words, and of all words that came the same way."""
_BAD_WORDS = Limits(warn_high=1.0, fail_high=5.0)


@check(
    "link_errors",
    title="Link errors",
    unit="errors",
    levels=("scanner", "unit"),
    order=143,
    data=("housekeeping",),
    limits={"scanner": Limits(warn_high=0.0), "unit": Limits(warn_high=0.0)},
    source="fault F19: daily-qc.md §3; formula: rise of the counters of TOFPET2 interface reference, section 4.2, "
    "between two readings; limits: any error is a link to look at, petqc's own rule; share of bad words: daily-qc.md "
    "§5.2, row dead time / loss counters (1 %, 5 %)",
)
def link_errors(q: HousekeepingInput) -> CheckOutput:
    """Errors counted between the first and the last reading, and the largest share of bad words of any way."""
    rises: dict[str, list[tuple[float, str]]] = {}
    unknown: dict[str, list[str]] = {}
    shares: list[tuple[float, int, str]] = []
    for name, node in sorted(q.last):
        if name not in ERRORS or q.last[name, node].quality == "absent":
            continue
        place = q.unit_of(node) or SCANNER
        grown = q.grown(name, node)
        if grown is None:
            unknown.setdefault(place, []).append(f"{name} of {node}")
            continue
        rises.setdefault(place, []).append((grown, f"{name} of {node}"))
        words = q.grown(WORDS[name], node) if name in WORDS else None
        if words:
            shares.append((100.0 * grown / words, int(words), f"{name} of {node}"))
    places = sorted({*rises, *unknown} - {SCANNER})
    if not rises and not unknown:
        return CheckOutput([q.missing("link_errors", ("scanner", SCANNER), "errors", 0, "no counter was read")])
    total = [one for found in rises.values() for one in found]
    results = [
        q.judge(
            "link_errors", ("scanner", SCANNER), sum(n for n, _ in total), "errors", 0.0, len(total),
            method=f"rise of {len(total)} counters in {q.watched_s:.1f} s",
            reason=q.named([f"{told}: {n:.0f}" for n, told in sorted(total, reverse=True) if n > 0]),
        )
    ]  # fmt: skip
    for place in places:
        if place in unknown:
            why = "counters went backwards or were not read twice: " + (q.named(unknown[place]) or "")
            results.append(q.missing("link_errors", ("unit", place), "errors", 0, why))
            continue
        found = rises[place]
        told = q.named([f"{told}: {n:.0f}" for n, told in sorted(found, reverse=True) if n > 0])
        results.append(
            q.judge("link_errors", ("unit", place), sum(n for n, _ in found), "errors", 0.0, len(found), reason=told)
        )
    if shares:
        value, words, told = max(shares)
        results.append(
            q.judge(
                "link_errors", ("scanner", SCANNER), value, "%", 0.0, words, limits=_BAD_WORDS,
                part="bad_words", reason=told if value else None,
            )
        )  # fmt: skip
    return CheckOutput(results)
