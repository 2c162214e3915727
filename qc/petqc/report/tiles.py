"""The six numbers of the first page, each with its limits drawn and its place in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from petqc.limits import Status
from petqc.report.svg import Scale, picture, short, tag
from petqc.report.text import (
    STATUS_ORDER,
    level_of,
    limits_of,
    limits_text,
    measured,
    node_sort_key,
    plain,
    result_text,
    status_word,
    title_of,
    unit_text,
    value_and_uncertainty,
)

if TYPE_CHECKING:
    from markupsafe import Markup

    from petqc.limits import Limits
    from petqc.results import CheckResult, Run

WANTED = (
    ("photopeak", "Photopeak", (("window_acceptance", "window acceptance"),)),
    ("energy_resolution", "Energy resolution, FWHM", ()),
    ("ctr_fit", "CTR, FWHM of the fit", (("ctr_nema", "NEMA-style"),)),
    ("module_time_offset", "Module time offset", (("module_time_offset.rms", "RMS of the modules"),)),
    (
        "prompts",
        "Coincidences",
        (
            ("block_efficiency", "block efficiency"),
            ("singles_rate", "singles"),
            ("randoms_delayed", "randoms, delayed"),
        ),
    ),
    ("dead_channels", "Dead channels", (("hot_channels", "hot"),)),
)
"""Check of each tile, its heading, and the checks that stand beside it."""
MOST_MODULES = 4
"""In a tile."""
_WIDTH, _LEFT, _RIGHT = 300, 10, 290


@dataclass(frozen=True, slots=True)
class Beside:
    """A second number in a tile."""

    word: str
    text: str
    status: Status


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile as the template draws it."""

    id: str
    heading: str
    node: str
    number: str
    sigma: str
    unit: str
    status: Status
    word: str
    reason: str
    limits: str
    bar: Markup | None
    beside: tuple[Beside, ...]
    modules: tuple[Beside, ...]
    trend: Markup | None = None


def tiles(run: Run) -> list[Tile]:
    """The six tiles; a check that did not run gives one that says so. Runs of another kind have their own numbers."""
    if not is_of_a_source(run):
        ids = [i for i in dict.fromkeys(c.id for c in run.checks) if "." not in i and _is_applicable(run, i)]
        return [_tile(run, check_id, title_of(check_id), ()) for check_id in ids[: len(WANTED)]]
    return [_tile(run, *wanted) for wanted in WANTED]


def is_of_a_source(run: Run) -> bool:
    """Whether a run has any of the numbers that only a source gives, or no number at all."""
    wanted = {check_id for check_id, _, _ in WANTED if check_id != "dead_channels"}
    return not run.is_calibration and (not run.checks or any(c.id in wanted for c in run.checks))


def _is_applicable(run: Run, check_id: str) -> bool:
    return any(c.value is not None or c.status is not Status.NO_LIMITS for c in run.checks if c.id == check_id)


def headline(run: Run, check_id: str) -> CheckResult | None:
    """The scanner's result of a check, or the worst of the highest level that has one."""
    results = [c for c in run.checks if c.id == check_id]
    if not results:
        return None
    top = min(node_sort_key(c.node)[0] for c in results)
    level = [c for c in results if node_sort_key(c.node)[0] == top]
    return min(level, key=lambda c: (STATUS_ORDER.index(c.status), -abs(c.value or 0.0), node_sort_key(c.node)))


def _tile(run: Run, check_id: str, heading: str, others: tuple[tuple[str, str], ...]) -> Tile:
    result = headline(run, check_id)
    if result is None:
        return Tile(
            check_id,
            heading,
            "",
            "",
            "",
            "",
            Status.NO_LIMITS,
            "not measured",
            "this run has no such check",
            "",
            None,
            (),
            (),
        )
    number, sigma = ("", "") if result.value is None else value_and_uncertainty(result.value, result.uncertainty)
    modules = sorted(
        (c for c in run.checks if c.id == check_id and level_of(c.node) == "module"),
        key=lambda c: node_sort_key(c.node),
    )
    return Tile(
        id=check_id,
        heading=heading,
        node=result.node,
        number=number,
        sigma=sigma,
        unit=unit_text(result.unit),
        status=result.status,
        word=status_word(result),
        reason=result.reason or "",
        limits=limits_text(limits_of(result)),
        bar=limit_bar(result),
        beside=tuple(
            Beside(word, result_text(other), other.status)
            for other_id, word in others
            if (other := headline(run, other_id)) is not None
        ),
        modules=_modules(modules) if level_of(result.node) == "scanner" else (),
        trend=_trend(run, result),
    )


def _modules(modules: list[CheckResult]) -> tuple[Beside, ...]:
    """All modules of a few; of more the worst of those that are outside: the whole scanner may well be inside."""
    shown = modules
    if len(modules) > MOST_MODULES:
        outside = [c for c in modules if c.status in (Status.FAIL, Status.WARN)]
        shown = sorted(outside, key=lambda c: STATUS_ORDER.index(c.status))[:MOST_MODULES]
    return tuple(Beside(c.node, measured(c.value, c.uncertainty), c.status) for c in shown)


def _trend(run: Run, result: CheckResult) -> Markup | None:
    """The sparkline of a tile; None: there is no past of it."""
    from petqc.report.sparkline import sparkline

    trends = run.past.trends if run.past is not None else ()
    found = next((t for t in trends if (t.check, t.node) == (result.id, result.node)), None)
    return None if found is None or len(found.points) < 2 else sparkline(found, result.limits, result.baseline)


def _domain(limits: Limits, value: float | None) -> tuple[float, float] | None:
    """The stretch of the axis to draw: all limits with room outside, from zero where only the upper side has any."""
    given = [v for v in (limits.fail_low, limits.warn_low, limits.warn_high, limits.fail_high) if v is not None]
    if not given:
        return None
    low, high = min(given), max(given)
    is_upper = limits.fail_low is None and limits.warn_low is None
    is_lower = limits.fail_high is None and limits.warn_high is None
    if is_upper:
        low = min(0.0, low, value if value is not None else 0.0)
    elif is_lower:
        high = max(high, value if value is not None else high) + (high - low or abs(high) or 1.0)
    room = (high - low or abs(high) or 1.0) * 0.18
    return (low if is_upper and low == 0.0 else low - room), high + room


def limit_bar(result: CheckResult) -> Markup | None:
    """Fail, warn and pass stretches with the value's place; an arrow where the value lies outside the drawing."""
    limits, value = limits_of(result), result.value
    domain = _domain(limits, value)
    if domain is None:
        return None
    x = Scale(*domain, _LEFT, _RIGHT)
    cuts = [domain[0], *_sorted_cuts(limits), domain[1]]
    pieces = []
    for low, high in pairwise(cuts):
        name = limits.judge((low + high) / 2)
        if high > low:
            pieces.append(
                tag("rect", class_=f"zone {name}", x=x.at(low), y=18, width=x.at(high) - x.at(low), height=10)
            )
    pieces += _limit_labels(limits, x)
    if value is not None:
        pieces += _pointer(x, value, result.uncertainty or 0.0)
    said = measured(value, result.uncertainty, result.unit) if value is not None else "no number"
    label = f"{title_of(result.id)}: {said}; limits in {unit_text(result.unit) or 'counts'}: {limits_text(limits)}."
    return picture(_WIDTH, 46, label, *pieces, class_="limits")


def _sorted_cuts(limits: Limits) -> list[float]:
    return [v for v in (limits.fail_low, limits.warn_low, limits.warn_high, limits.fail_high) if v is not None]


def _limit_labels(limits: Limits, x: Scale) -> list[Markup]:
    """Numbers under the bar; the fail limits first, warn limits where there is still room."""
    taken: list[tuple[float, float]] = []
    out = []
    for value in (limits.fail_low, limits.fail_high, limits.warn_low, limits.warn_high):
        if value is None:
            continue
        at, text = x.at(value), plain(value)
        out.append(tag("line", class_="axis", x1=at, x2=at, y1=18, y2=31))
        half = 3.6 * len(text) + 3
        middle = min(max(at, half), _WIDTH - half)
        if all(middle + half < a or middle - half > b for a, b in taken):
            taken.append((middle - half, middle + half))
            out.append(tag("text", text, x=middle, y=44, text_anchor="middle"))
    return out


def _pointer(x: Scale, value: float, sigma: float) -> list[Markup]:
    at = x.at(value)
    if value < x.low or value > x.high:
        way = 1 if value > x.high else -1
        return [tag("path", class_="value", d=f"M{short(at)} 23l{-8 * way}-7v14Z")]
    low, high = x.at(value - sigma), x.at(value + sigma)
    pieces = [tag("path", class_="value", d=f"M{short(at)} 17l-6-11h12Z")]
    if high - low > 2:
        pieces.append(
            tag("path", class_="sigma", d=f"M{short(low)} 23H{short(high)}M{short(low)} 20v6M{short(high)} 20v6")
        )
    pieces.append(tag("line", class_="value-line", x1=at, x2=at, y1=17, y2=29))
    return pieces
