"""Numbers, times and nodes as a person reads them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from petqc.limits import Limits, Status

if TYPE_CHECKING:
    from markupsafe import Markup

    from petqc.checks import Check
    from petqc.results import CheckResult

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
NO_NUMBER = "\N{EN DASH}"
_MOST_DECIMALS = 9
_LEAST_UNCERTAINTY = 5e-7
"""Uncertainties below this are those of a calculation, not of a measurement: the value is given plainly."""

_ABBREVIATIONS = {"fwhm": "FWHM", "fwtm": "FWTM", "ctr": "CTR", "tdc": "TDC", "dac": "DAC", "iv": "IV", "inl": "INL"}
STATUS_WORD = {
    Status.PASS: "pass",
    Status.WARN: "warn",
    Status.FAIL: "fail",
    Status.INVALID: "invalid",
    Status.MISSED: "missed",
    Status.NO_LIMITS: "no limits",
}
STATUS_ORDER = (Status.FAIL, Status.INVALID, Status.MISSED, Status.WARN, Status.PASS, Status.NO_LIMITS)
"""Worst first: the order in which people want to read."""


def _group(digits: str) -> str:
    """Thin spaces every three digits of the integer part, from five digits on (ISO 80000-1)."""
    whole, dot, rest = digits.partition(".")
    sign, whole = (MINUS, whole[1:]) if whole.startswith("-") else ("", whole)
    if len(whole) > 4:
        head = len(whole) % 3
        whole = THIN.join(([whole[:head]] if head else []) + [whole[i : i + 3] for i in range(head, len(whole), 3)])
    return sign + whole + dot + rest


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; a zero has no sign."""
    shown = f"{value:.{decimals}f}"
    return _group(shown[1:] if float(shown) == 0 and shown.startswith("-") else shown)


def decimals_of(uncertainty: float) -> int:
    """Decimals so that the uncertainty shows two digits when they start with 10 to 35, otherwise one.

    Source: Review of Particle Physics, "Introduction", rounding rule (354/949). Never left of the decimal point:
    counts stay whole.
    """
    exponent = math.floor(math.log10(uncertainty))
    three = round(uncertainty / 10.0 ** (exponent - 2))
    digits = 2 if three <= 354 or three > 949 else 1
    return min(max(digits - 1 - exponent - (three > 949), 0), _MOST_DECIMALS)


def plain(value: float) -> str:
    """A number without an uncertainty: four significant digits, no trailing zeros, whole numbers whole."""
    if not math.isfinite(value):
        return NO_NUMBER
    if value == round(value) and abs(value) < 1e15:
        return fixed(value, 0)
    decimals = min(max(3 - math.floor(math.log10(abs(value))), 0), _MOST_DECIMALS)
    shown = f"{value:.{decimals}f}"
    return _group(shown.rstrip("0").rstrip(".") if "." in shown else shown)


def value_and_uncertainty(value: float, uncertainty: float | None) -> tuple[str, str]:
    """Value and one standard deviation to the same decimals; the second is empty where there is none.

    Numbers known exactly (uncertainty 0, or next to it) and numbers without an uncertainty are given plainly.
    """
    if uncertainty is None or not math.isfinite(uncertainty) or uncertainty < _LEAST_UNCERTAINTY:
        return plain(value), ""
    decimals = decimals_of(uncertainty)
    return fixed(value, decimals), fixed(uncertainty, decimals)


def unit_text(unit: str) -> str:
    """A unit of the data formats, as people write it."""
    return {"degC": "°C", "1": ""}.get(unit, unit)


def measured(value: float | None, uncertainty: float | None, unit: str = "") -> str:
    """`511.2 ± 0.3 keV`, or a dash."""
    if value is None or not math.isfinite(value):
        return NO_NUMBER
    if unit == "channels" and (uncertainty or 0.0) < 0.05:
        uncertainty = None  # a count that is certain for all purposes
    number, sigma = value_and_uncertainty(value, uncertainty)
    return " ".join(p for p in (f"{number} ± {sigma}" if sigma else number, unit_text(unit)) if p)


def limits_of(result: CheckResult) -> Limits:
    """The limits of a result as people read them: of a number of channels, whole ones that judge it the same."""
    if result.unit != "channels":
        return result.limits
    low = [None if v is None else float(math.ceil(v)) for v in (result.limits.fail_low, result.limits.warn_low)]
    high = [None if v is None else float(math.floor(v)) for v in (result.limits.warn_high, result.limits.fail_high)]
    return Limits(*low, *high)


def limits_text(limits: Limits) -> str:
    """Limits in one line: `warn outside 505.9 to 516.1, fail outside 495.7 to 526.3`."""
    warn, fail = outside(limits.warn_low, limits.warn_high), outside(limits.fail_low, limits.fail_high)
    return ", ".join(f"{word} {said}" for word, said in (("warn", warn), ("fail", fail)) if said) or "none"


def outside(low: float | None, high: float | None) -> str:
    """One pair of limits: `outside 505.9 to 516.1`, `below 99`, `above 14`; empty where there is none."""
    if low is not None and high is not None:
        return f"outside {plain(low)} to {plain(high)}"
    if low is not None:
        return f"below {plain(low)}"
    return "" if high is None else f"above {plain(high)}"


def inside(low: float | None, high: float | None) -> str:
    """The same pair as what is allowed, for narrow columns: `505.9 to 516.1`, `≥ 99`, `≤ 14`."""
    if low is not None and high is not None:
        return f"{plain(low)} to {plain(high)}"
    if low is not None:
        return f"≥ {plain(low)}"
    return "" if high is None else f"≤ {plain(high)}"


def status_word(result: CheckResult) -> str:
    """The status as a word; a number that is missing and not needed is just that."""
    if result.value is None and result.status is Status.NO_LIMITS:
        return "no number"
    return STATUS_WORD[result.status]


def result_text(result: CheckResult) -> str:
    """A result in words: number with unit, or why there is none."""
    if result.value is None:
        return f"no number: {result.reason}"
    return measured(result.value, result.uncertainty, result.unit)


@lru_cache(1 << 16)
def node_sort_key(node: str) -> tuple[int, tuple[int, ...], str]:
    """Scanner first, then modules, pairs, ASICs, bias groups, channels; addresses in numeric order."""
    levels = ("scanner", "module", "pair", "asic", "bias", "channel")
    level = level_of(node)
    numbers = tuple(int(n) for n in re.findall(r"[0-9]{1,9}", node))
    return levels.index(level) if level in levels else len(levels), numbers, node


def level_of(node: str) -> str:
    """The level of the hardware tree a node stands on."""
    if " - " in node:
        return "pair"
    return node.partition(":")[0]


def moment(text: str) -> str:
    """An ISO 8601 time as `2026-03-02 06:00:00 UTC`; anything else as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    if when.tzinfo is None:
        return when.strftime("%Y-%m-%d %H:%M:%S")
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(started: str, finished: str) -> str:
    """How long a run took, `5 min 12 s`; empty where the two times do not tell."""
    try:
        seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return ""
    return "" if seconds < 0 else age(seconds)


def age(seconds: float) -> str:
    """A time span in the two largest units that say something."""
    if not math.isfinite(seconds):
        return NO_NUMBER
    if seconds < 60:
        return f"{plain(round(seconds, 1))} s"
    whole = round(seconds)
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def title_of(check_id: str) -> str:
    """A check's title from the registry, with the part that an id like `ctr_fit.second_width` names.

    The id as words where no such check is registered: reports of older and newer versions stay readable.
    """
    base, _, part = check_id.partition(".")
    check = _registered().get(base)
    title = check.title if check else sentence_case("_".join(_ABBREVIATIONS.get(w, w) for w in base.split("_")))
    words = [_ABBREVIATIONS.get(word, word) for word in part.split("_")]
    return f"{title}, {' '.join(words)}" if part else title


def source_of(check_id: str) -> str:
    """Where a check's formula and limits come from, as its registration says; empty for an unknown check."""
    check = _registered().get(check_id.partition(".")[0])
    return check.source if check else ""


@cache
def _registered() -> dict[str, Check]:
    from petqc.checks import all_checks

    return {c.id: c for c in all_checks()}


def sentence_case(key: str) -> str:
    """`frames_partly_lost` as `Frames partly lost`."""
    words = key.replace("_", " ").replace("-", " ").strip()
    return words[:1].upper() + words[1:]


def with_commands(text: str) -> Markup:
    """A text for a page; what stands between backticks is a command."""
    from markupsafe import Markup

    parts = text.split("`")
    return Markup().join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))
