"""The page that explains the checks, written from their registration so that it cannot drift from the code.

`python -m petqc.report.explain docs/explanation/daily-qc.md` writes it; a test compares the committed page.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from petqc.report.text import outside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.checks import Check, Level
    from petqc.limits import Limits

_BEGIN = """\
# The daily QC: what each check measures

<!-- Written by `python -m petqc.report.explain docs/explanation/daily-qc.md` from the checks' own registration: change the check,
     then run it again. -->

A daily run asks one question: is the detector still the one that was calibrated? It is answered by the checks below, each a formula with
an uncertainty, limits and a source. All of them look at the same histograms, filled while the data arrive.

**Counts are not enough.** With a window of 425 to 650 keV and a resolution of 10.5 %, a gain loss of 4 % changes the accepted photopeak
coincidences by a quarter of a per cent. The peak itself is measured, at every level of the hardware tree, whatever the counts say.

**A status is a comparison, nothing more.** `pass`, `warn` and `fail` say on which side of which limit the value lies; a value on a limit is
inside. `invalid` means that there is no number: too few counts, a fit that did not converge or does not describe its data, two peaks
where one belongs. Missing data is never a pass. `no limits` means that the value is reported and not judged. The verdict of the run
is the worst status of all, in the order fail, invalid, warn, pass.

**Uncertainties** are one standard deviation and statistical only. A limit is crossed by the value, not by the value and its uncertainty.

**Limits** below are the defaults. A configuration replaces single sides by check and level; where a node has a baseline, the relative limits
replace the default ones. Every report carries the limits that were used.

| check | title | unit | levels |
| --- | --- | --- | --- |
"""
_SIDES = ("fail_low", "warn_low", "warn_high", "fail_high")


def page(checks: Sequence[Check]) -> str:
    """The whole page for some checks, in their order."""
    table = "".join(
        f"| [`{c.id}`](#{_anchor(c)}) | {c.title} | {c.unit or 'count'} | {', '.join(c.levels)} |\n" for c in checks
    )
    return _BEGIN + table + "".join(_section(c) for c in checks)


def _anchor(check: Check) -> str:
    """The anchor that renderers of Markdown give to the heading of a check."""
    heading = f"{check.title} ({check.id})".lower()
    return "".join(ch for ch in heading.replace(" ", "-") if ch.isalnum() or ch in "-_")


def _section(check: Check) -> str:
    parts = [f"\n## {check.title} ({check.id})\n", f"\n{_explanation(check)}\n"]
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
        parts.append("\nNo default limits: the value is reported and not judged until a configuration sets some.\n")
    parts.append(f"\nSource: {check.source.rstrip('.')}.\n")
    return "".join(parts)


def _explanation(check: Check) -> str:
    """What the file of the check says about itself: one check is one file, so its docstring is the explanation."""
    module = inspect.getmodule(check.function)
    said = inspect.cleandoc(module.__doc__ or "") if module else ""
    return said or inspect.getdoc(check.function) or ""


def _limit_rows(limits: Mapping[Level, Limits]) -> str:
    return "".join(
        f"| {level} | {outside(found.warn_low, found.warn_high)} | {outside(found.fail_low, found.fail_high)} |\n"
        for level, found in limits.items()
        if any(getattr(found, side) is not None for side in _SIDES)
    )


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
