"""The page that explains the checks, written from their registration so that it cannot drift from the code.

`python -m petqc.report.explain docs/explanation/daily-qc.md` writes it; a test compares the committed page. What is
not registered (the notes that sources refer to) stands in templates/daily-qc.md.
"""

from __future__ import annotations

import inspect
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from petqc.report.text import outside, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.checks import Check, Level
    from petqc.limits import Limits

_TABLE = "| check | title | unit | levels |\n| --- | --- | --- | --- |\n"


def page(checks: Sequence[Check]) -> str:
    """The whole page for some checks, in their order."""
    from petqc.fits import MIN_NET_COUNTS, MIN_P_VALUE, SHAPE_TOLERANCE
    from petqc.qc_input import SCANNER_SIGMAS
    from petqc.statistics import CHANNEL_SIGMAS

    table = _TABLE + "".join(
        f"| [`{c.id}`](#{_anchor(c)}) | {c.title} | {c.unit or 'ratio'} | {', '.join(c.levels)} |\n" for c in checks
    )
    frame = resources.files("petqc.report").joinpath("templates/daily-qc.md").read_text(encoding="utf-8")
    for mark, said in (
        ("@SCANNER_SIGMAS@", plain(SCANNER_SIGMAS)),
        ("@CHANNEL_SIGMAS@", plain(CHANNEL_SIGMAS)),
        ("@MIN_NET_COUNTS@", plain(MIN_NET_COUNTS)),
        ("@MIN_P_VALUE@", plain(MIN_P_VALUE)),
        ("@SHAPE_PERCENT@", plain(100.0 * SHAPE_TOLERANCE)),
        ("@CHECKS@\n", table + "".join(_section(c) for c in checks)),
    ):
        frame = frame.replace(mark, said)
    return frame


def _anchor(check: Check) -> str:
    """The anchor that renderers of Markdown give to the heading of a check."""
    heading = f"{check.title} ({check.id})".lower()
    return "".join(ch for ch in heading.replace(" ", "-") if ch.isalnum() or ch in "-_")


def _section(check: Check) -> str:
    parts = [f"\n### {check.title} ({check.id})\n", f"\n{_explanation(check)}\n"]
    for word, limits, unit in (
        ("Default limits", check.limits, check.unit),
        ("Limits relative to a baseline", check.relative, "% of the baseline"),
    ):
        rows = _limit_rows(limits)
        if rows:
            parts.append(
                f"\n{word}{f', {unit}' if unit else ''}:\n\n| level | warn | fail |\n| --- | --- | --- |\n{rows}"
            )
    if not _limit_rows(check.limits) and not _limit_rows(check.relative):
        parts.append("\nLimits are not fixed: they follow from the run as the source says, or from a configuration.\n")
    if check.data != ("source",):
        parts.append(f"\nBelongs to runs of: {', '.join(check.data)}.\n")
    parts.append(f"\nSource: {check.source.replace('daily-qc.md ', '').rstrip('.')}.\n")
    return "".join(parts)


def _explanation(check: Check) -> str:
    """What the file of the check and its function say about themselves."""
    module = inspect.getmodule(check.function)
    said = [inspect.cleandoc((module.__doc__ if module else None) or ""), inspect.getdoc(check.function) or ""]
    return "\n\n".join(s for s in said if s)


def _limit_rows(limits: Mapping[Level, Limits]) -> str:
    rows = []
    for level, found in limits.items():
        warn, fail = outside(found.warn_low, found.warn_high), outside(found.fail_low, found.fail_high)
        if warn or fail:
            rows.append(f"| {level}{' (deviation)' if level == 'channel' else ''} | {warn} | {fail} |\n")
    return "".join(rows)


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file named, or to standard output."""
    from petqc.checks import all_checks

    text = page(all_checks())
    if arguments:
        Path(arguments[0]).write_text(text, encoding="utf-8", newline="\n")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
