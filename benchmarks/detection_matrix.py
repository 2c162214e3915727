"""The detection matrix: what campaigns of `diagnosis.py` found, as a page and as a picture.

    python benchmarks/detection_matrix.py RESULTS.jsonl… --page docs/reference/detection-matrix.md

A cell is a fault at a size on a scanner: in how many runs it was noticed, in how many the right place, and the right
cause, was named first. Intervals are those of Wilson, 95 %. The picture lies beside the page, with the same name; its
cells say everything in numbers and signs, so that it needs neither colour nor good greys.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnosis import HEALTHY, at_size, read

from petqc.report.svg import join, picture, tag
from petqc_simulators.faults import KINDS

if TYPE_CHECKING:
    from markupsafe import Markup

SIZES = ("half", "typical", "twice")
_TIMES = {"half": "0.5", "typical": "1", "twice": "2"}
_Z = 1.96
_LEFT, _TOP, _CELL_W, _CELL_H = 330.0, 64.0, 96.0, 24.0
SIGNS = {
    "●": "always noticed, right place and right cause first",
    "◐": "always noticed, but the place or the cause named first was not always right",
    "○": "not always noticed",
    "×": "never noticed",
}
_PICTURE_STYLE = (
    "text{font:13px sans-serif;fill:#111}.value{text-anchor:middle}.head{text-anchor:middle;font-weight:bold}"
    ".on-dark{fill:#fff}.small{font-size:11px}"
)

_INTRODUCTION = """# What is noticed of each fault, and what is named

Every fault of the catalogue (`petqc faults`), planted in a simulated scanner at a place that the seed chooses, at half,
once and twice its typical size, and analysed as `petqc analyse` would with baselines of one healthy run of the same
detector. Nothing was tuned on these seeds. Noticed: the run is no pass, or a cause is named. Place and cause: what is
named first, as shares of all runs; of two modules that face each other, the pair counts as the place of one. Intervals
are of 95 %. F24, heating by gradients, is measured by the run with the MR idle, under stress and idle again.

![Faults by scanner and size: the same numbers as below, with signs]({image})

| sign | in the picture |
| --- | --- |
{signs}

Written by the last of these commands; a campaign goes on where it was interrupted:

```text
{commands}
python benchmarks/detection_matrix.py benchmarks/results/detection.jsonl --page docs/reference/detection-matrix.md
```

Delay: runs until the one that notices a fault that is there from one run to the next, 1 being the first one that has
it. What creeps is found by control charts before it has these sizes: their delays are in
[control charts](../explanation/control-charts.md). Why a cause is named, and what cannot be told, is in
[from flags to a named cause](../explanation/diagnosis.md).
"""


@dataclass
class Cell:
    """runs: how many. noticed, node, cause: in how many of them; node and cause named first."""

    runs: int = 0
    noticed: int = 0
    node: int = 0
    cause: int = 0

    def __add__(self, other: Cell) -> Cell:
        counts = (self.runs, self.noticed, self.node, self.cause), (other.runs, other.noticed, other.node, other.cause)
        return Cell(*(a + b for a, b in zip(*counts, strict=True)))

    @property
    def sign(self) -> str:
        """One of SIGNS."""
        if self.noticed < self.runs:
            return "○" if self.noticed else "×"
        return "●" if self.node == self.cause == self.runs else "◐"

    def delay(self) -> str:
        """Runs until the one that notices it, in the mean, if it is there from one run to the next."""
        return f"{self.runs / self.noticed:.2g}" if self.noticed else "–"

    def add(self, line: dict[str, Any]) -> None:
        self.runs += 1
        self.noticed += bool(line["detected"])
        self.node += bool(line["detected"] and line["node_right"])
        self.cause += bool(line["detected"] and line["cause_right"])


def planted_size(fault: str) -> float:
    """In the unit of its kind."""
    return float(fault.partition("=")[2] or KINDS[fault[:3]].default_size)


def size_class(fault: str) -> str:
    """Whether a fault as planted is smaller than, as large as, or larger than its typical size."""
    kind = KINDS[fault[:3]]
    size = planted_size(fault)
    return SIZES[1 + (size > kind.default_size) - (size < kind.default_size)]


def cells(lines: list[dict[str, Any]]) -> tuple[dict[tuple[str, str, str], Cell], dict[str, list[int]]]:
    """By scanner, fault and size; and healthy runs and false alarms by scanner."""
    found: dict[tuple[str, str, str], Cell] = defaultdict(Cell)
    healthy: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in lines:
        if line["fault"] == HEALTHY:
            healthy[line["profile"]][0] += 1
            healthy[line["profile"]][1] += bool(line["detected"])
        else:
            found[line["profile"], line["fault"][:3], size_class(line["fault"])].add(line)
    return dict(found), dict(healthy)


def interval(n: int, of: int) -> str:
    """Share in per cent with its interval. Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209."""
    if not of:
        return "–"
    share, extra = n / of, _Z**2 / of
    middle = (share + 0.5 * extra) / (1 + extra)
    half = _Z * math.sqrt(share * (1 - share) / of + 0.25 * extra / of) / (1 + extra)
    low, high = 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)
    return f"{n} of {of}: {100 * share:.0f} % ({low:.0f} to {high:.0f})"


def seen_from(found: dict[tuple[str, str, str], Cell], profile: str, fault: str) -> str:
    """The smallest size from which on every run noticed it, and what was missed at which size."""
    measured = [(size, found[profile, fault, size]) for size in SIZES if (profile, fault, size) in found]
    missed = [(size, cell) for size, cell in measured if cell.noticed < cell.runs]
    if not missed:
        return f"{measured[0][0]} on" if measured else ""
    above = [size for size, _ in measured if SIZES.index(size) > SIZES.index(missed[-1][0])]
    told = ", ".join(f"{size} missed in {cell.runs - cell.noticed} of {cell.runs}" for size, cell in missed)
    return f"{above[0]} on; {told}" if above else f"not always; {told}"


def commands(lines: list[dict[str, Any]]) -> list[str]:
    """What makes the same results again, scanner by scanner and size by size."""
    asked: dict[tuple[str, float, str], set[int]] = defaultdict(set)
    faults: dict[tuple[str, float, str], set[str]] = defaultdict(set)
    for line in lines:
        if line["fault"] != HEALTHY:
            key = line["profile"], line["seconds"], size_class(line["fault"])
            asked[key].add(line["seed"])
            faults[key].add(line["fault"][:3])
    told: dict[tuple[str, float, str, str], list[str]] = defaultdict(list)
    for key in sorted(asked, key=lambda k: (k[0], SIZES.index(k[2]))):
        profile, seconds, size = key
        planted = sorted(faults[key])
        possible = [f for f in KINDS if at_size(f, float(_TIMES[size])) is not None]
        some = "" if planted == possible else f" --faults {' '.join(planted)}"
        seeds = "-".join(map(str, sorted({min(asked[key]), max(asked[key])})))
        told[profile, seconds, seeds, some].append(_TIMES[size])
    return [
        f"python benchmarks/diagnosis.py --profile {profile} --seconds {seconds:g} --seeds {seeds}{some} "
        f"--sizes {' '.join(times)} --results benchmarks/results/detection.jsonl"
        for (profile, seconds, seeds, some), times in told.items()
    ]


def _sums(found: dict[tuple[str, str, str], Cell], profile: str) -> list[str]:
    """All faults of a scanner together, by size."""
    rows = ["| size | noticed | right place first | right cause first |", "| --- | --- | --- | --- |"]
    for size in SIZES:
        c = sum((cell for (where, _, s), cell in found.items() if (where, s) == (profile, size)), Cell())
        if c.runs:
            shares = (interval(n, c.runs) for n in (c.noticed, c.node, c.cause))
            rows.append(f"| {size} | {' | '.join(shares)} |")
    return rows


def _each(found: dict[tuple[str, str, str], Cell], profile: str) -> list[str]:
    """Fault by fault: half, typical and twice its size."""
    heads = "fault", "typical size", "noticed: half · typical · twice", "right place first", "right cause first"
    rows = [f"| {' | '.join(heads)} | delay, runs | noticed from, of these |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    for fault, kind in KINDS.items():
        row = [found.get((profile, fault, size)) for size in SIZES]
        if any(row):
            counts = [
                " · ".join("–" if c is None else f"{getattr(c, name)}/{c.runs}" for c in row)
                for name in ("noticed", "node", "cause")
            ]
            delays = " · ".join("–" if c is None else c.delay() for c in row)
            size = f"{kind.size_means}: {kind.default_size:g}"
            rows.append(
                f"| {fault} {kind.title} | {size} | {' | '.join(counts)} | {delays} "
                f"| {seen_from(found, profile, fault)} |"
            )
    return rows


def page(lines: list[dict[str, Any]], image: str) -> str:
    """Everything in words and tables."""
    found, healthy = cells(lines)
    signs = "\n".join(f"| {sign} | {told} |" for sign, told in SIGNS.items())
    parts = [_INTRODUCTION.format(image=image, signs=signs, commands="\n".join(commands(lines)))]
    for profile in sorted({key[0] for key in found}):
        mine = [line for line in lines if line["profile"] == profile]
        seeds = ", ".join(map(str, sorted({line["seed"] for line in mine})))
        seconds = ", ".join(f"{s:g}" for s in sorted({line["seconds"] for line in mine}))
        made = ", ".join(sorted({line.get("commit", "") for line in mine} - {""}))
        runs, alarms = healthy.get(profile, [0, 0])
        parts += [f"## {profile}", ""]
        parts.append(f"{seconds} simulated seconds a run; seeds {seeds}{f'; commit {made}' if made else ''}.")
        parts += [f"False alarms of healthy runs: {interval(alarms, runs)}.", ""]
        parts += [*_sums(found, profile), "", *_each(found, profile), ""]
    return "\n".join(parts)


def drawn(lines: list[dict[str, Any]]) -> str:
    """Faults downwards, scanners and sizes across: the share of runs with the right place first, in grey and in words.

    A cell has one of SIGNS and says cause/place/noticed of its runs; white is all of them, black none.
    """
    found, _ = cells(lines)
    columns = sorted({(p, s) for p, _, s in found}, key=lambda c: (c[0], SIZES.index(c[1])))
    width = max(_LEFT + _CELL_W * len(columns) + 10, 620.0)
    height = _TOP + _CELL_H * len(KINDS) + 34 + 18 * len(SIGNS)
    pieces = [tag("style", _PICTURE_STYLE), tag("rect", x=0.0, y=0.0, width=width, height=height, fill="#fff")]
    for i, (profile, size) in enumerate(columns):
        x = _LEFT + _CELL_W * (i + 0.5)
        pieces += [tag("text", profile, class_="head", x=x, y=24.0), tag("text", size, class_="value", x=x, y=44.0)]
    for j, (fault, kind) in enumerate(KINDS.items()):
        y = _TOP + _CELL_H * j
        title = kind.title if len(kind.title) < 42 else kind.title[:40] + " …"
        pieces.append(tag("text", f"{fault} {title}", x=8.0, y=y + 17.0))
        for i, column in enumerate(columns):
            cell = found.get((column[0], fault, column[1]))
            pieces += _cell(cell, _LEFT + _CELL_W * i, y, f"{fault} on {column[0]}, {column[1]} size")
    foot = "In a cell: right cause first / right place first / noticed, of so many runs. Lighter: more of all three."
    last = _TOP + _CELL_H * len(KINDS) + 22
    pieces.append(tag("text", foot, x=8.0, y=last))
    pieces += [
        tag("text", f"{sign}  {told}", x=8.0, y=last + 18.0 * (n + 1)) for n, (sign, told) in enumerate(SIGNS.items())
    ]
    svg = picture(width, height, "Detection matrix: faults by scanner and size", join(pieces))
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _cell(cell: Cell | None, x: float, y: float, what: str) -> list[Markup]:
    middle = x + _CELL_W / 2
    if cell is None:
        return [tag("text", "not run", class_="value small", x=middle, y=y + 16.0)]
    grey = round(45 + 200 * (cell.noticed + cell.node + cell.cause) / (3 * cell.runs))
    told = f"{what}: {cell.noticed} of {cell.runs} noticed, {cell.node} right place, {cell.cause} right cause first"
    said = f"{cell.sign} {cell.cause}/{cell.node}/{cell.noticed} of {cell.runs}"
    return [
        tag(
            "rect", tag("title", told), x=x + 1, y=y + 1, width=_CELL_W - 2, height=_CELL_H - 2, stroke="#555",
            fill=f"#{grey:02x}{grey:02x}{grey:02x}",
        ),
        tag("text", said, class_="value on-dark" if grey < 120 else "value", x=middle, y=y + 17.0),
    ]  # fmt: skip


def main() -> int:
    """Write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    given = parser.parse_args()
    lines = [line for file in given.results for line in read(file)]
    if not lines:
        sys.stderr.write("no results in these files: run benchmarks/diagnosis.py first\n")
        return 2
    image = given.page.with_suffix(".svg")
    given.page.write_text(page(lines, image.name), "utf-8")
    image.write_text(drawn(lines), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
