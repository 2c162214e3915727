"""The detection matrix: what campaigns of `diagnosis.py` found, as a page and as a picture.

    python benchmarks/detection_matrix.py RESULTS.jsonl… --page docs/reference/detection-matrix.md

A cell is a fault at a size on a scanner: in how many runs it was noticed, in how many the right place, and the right
cause, was named first. Intervals are those of Wilson, 68 %. The picture lies beside the page, with the same name.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnosis import HEALTHY, read

from petqc.report.svg import join, picture, tag
from petqc_simulators.faults import KINDS

SIZES = ("half", "typical", "twice")
_LEFT, _TOP, _CELL_W, _CELL_H = 330.0, 64.0, 84.0, 24.0
_PICTURE_STYLE = (
    "text{font:13px sans-serif;fill:#111}.value{text-anchor:middle}.head{text-anchor:middle;font-weight:bold}"
    ".on-dark{fill:#fff}.small{font-size:11px}"
)


@dataclass
class Cell:
    """runs: how many. noticed, node, cause: in how many of them; node and cause named first."""

    runs: int = 0
    noticed: int = 0
    node: int = 0
    cause: int = 0

    def add(self, line: dict[str, Any]) -> None:
        self.runs += 1
        self.noticed += bool(line["detected"])
        self.node += bool(line["detected"] and line["node_right"])
        self.cause += bool(line["detected"] and line["cause_right"])


def size_class(fault: str) -> str:
    """Whether a fault as planted is smaller than, as large as, or larger than its typical size."""
    kind = KINDS[fault[:3]]
    size = float(fault.partition("=")[2] or kind.default_size)
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
    """Share in per cent with its interval. Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209, with z = 1."""
    if not of:
        return "–"
    share = n / of
    middle, half = (share + 0.5 / of) / (1 + 1 / of), math.sqrt(share * (1 - share) / of + 0.25 / of**2) / (1 + 1 / of)
    return f"{n} of {of}: {100 * share:.0f} % ({100 * max(middle - half, 0):.0f} to {100 * min(middle + half, 1):.0f})"


def seen_from(found: dict[tuple[str, str, str], Cell], profile: str, fault: str) -> str:
    """The smallest size from which on every run noticed it."""
    measured = [(size, found[profile, fault, size]) for size in SIZES if (profile, fault, size) in found]
    always = [size for size, cell in measured if cell.noticed == cell.runs]
    if not always:
        return "not always, up to " + measured[-1][0] if measured else ""
    first = always[0]
    later_missed = any(c.noticed < c.runs for s, c in measured if SIZES.index(s) > SIZES.index(first))
    return "not always" if later_missed else f"{first} on"


def page(lines: list[dict[str, Any]], command: str, image: str) -> str:
    found, healthy = cells(lines)
    profiles = sorted({key[0] for key in found})
    rows = [
        "# What is noticed of each fault, and what is named", "",
        "Every fault of the catalogue, planted in a simulated scanner at a place that the seed chooses, at half, once",
        "and twice its typical size (`petqc faults`), analysed as `petqc analyse` would with baselines of one healthy",
        "run before. Seeds that nothing was tuned on. Noticed: the run is no pass, or a cause is named. Place and",
        "cause: what is named first. Intervals are of 68 %.",
        "",
        f"![The matrix as a picture]({image})", "",
        "Made by these commands; a campaign goes on where it was interrupted:", "",
        "```text", *command.splitlines(), "```", "",
    ]  # fmt: skip
    for profile in profiles:
        seeds = sorted({line["seed"] for line in lines if line["profile"] == profile})
        runs, alarms = healthy.get(profile, [0, 0])
        total = {size: Cell() for size in SIZES}
        for (where, _, size), cell in found.items():
            if where == profile:
                for name in ("runs", "noticed", "node", "cause"):
                    setattr(total[size], name, getattr(total[size], name) + getattr(cell, name))
        rows += [f"## {profile}", ""]
        rows += [f"Seeds {', '.join(map(str, seeds))}; {runs} healthy runs, {alarms} false alarms.", ""]
        rows += ["| size | noticed | right place first | right cause first |", "| --- | --- | --- | --- |"]
        rows += [
            f"| {size} | {interval(c.noticed, c.runs)} | {interval(c.node, c.runs)} | {interval(c.cause, c.runs)} |"
            for size, c in total.items()
            if c.runs
        ]
        rows += [
            "",
            "| fault | typical size | noticed: half, typical, twice | right place first | right cause first | from |",
        ]
        rows.append("| --- | --- | --- | --- | --- | --- |")
        for fault, kind in KINDS.items():
            row = [found.get((profile, fault, size)) for size in SIZES]
            if not any(row):
                continue
            counts = [
                " · ".join("–" if c is None else f"{getattr(c, name)}/{c.runs}" for c in row)
                for name in ("noticed", "node", "cause")
            ]
            size = f"{kind.default_size:g} {kind.size_means}"
            rows.append(
                f"| {fault} {kind.title} | {size} | {' | '.join(counts)} | {seen_from(found, profile, fault)} |"
            )
        rows.append("")
    return "\n".join(rows)


def drawn(lines: list[dict[str, Any]]) -> str:
    """Faults downwards, scanners and sizes across: the share of runs with the right place first, in grey and in words.

    A cell says cause/place/noticed of its runs; white is all of them, black none.
    """
    found, _ = cells(lines)
    columns = sorted({(p, s) for p, _, s in found}, key=lambda c: (c[0], SIZES.index(c[1])))
    width, height = _LEFT + _CELL_W * len(columns) + 10, _TOP + _CELL_H * len(KINDS) + 34
    pieces = [tag("style", _PICTURE_STYLE), tag("rect", x=0.0, y=0.0, width=width, height=height, fill="#fff")]
    for i, (profile, size) in enumerate(columns):
        x = _LEFT + _CELL_W * (i + 0.5)
        pieces += [tag("text", profile, class_="head", x=x, y=24.0), tag("text", size, class_="value", x=x, y=44.0)]
    for j, (fault, kind) in enumerate(KINDS.items()):
        y = _TOP + _CELL_H * j
        title = kind.title if len(kind.title) < 42 else kind.title[:40] + " …"
        pieces.append(tag("text", f"{fault} {title}", x=8.0, y=y + 17.0))
        for i, (profile, size) in enumerate(columns):
            cell = found.get((profile, fault, size))
            x = _LEFT + _CELL_W * i
            if cell is None:
                pieces.append(tag("text", "not run", class_="value small", x=x + _CELL_W / 2, y=y + 16.0))
                continue
            share = (cell.noticed + cell.node + cell.cause) / (3 * cell.runs)
            grey = round(45 + 200 * share)
            pieces.append(
                tag(
                    "rect", x=x + 1, y=y + 1, width=_CELL_W - 2, height=_CELL_H - 2, stroke="#555",
                    fill=f"#{grey:02x}{grey:02x}{grey:02x}",
                )
            )  # fmt: skip
            said = f"{cell.cause}/{cell.node}/{cell.noticed} of {cell.runs}"
            class_ = "value on-dark" if grey < 120 else "value"
            pieces.append(tag("text", said, class_=class_, x=x + _CELL_W / 2, y=y + 17.0))
    foot = "In a cell: right cause first / right place first / noticed, of so many runs. Lighter: more of all three."
    pieces.append(tag("text", foot, x=8.0, y=height - 10.0))
    svg = picture(width, height, "Detection matrix: faults by scanner and size", join(pieces))
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


COMMAND = """python benchmarks/diagnosis.py --seeds 8106-8109 --results bench.jsonl
python benchmarks/diagnosis.py --seeds 8110-8111 --sizes 0.5 2 --results bench.jsonl
python benchmarks/diagnosis.py --profile ring-small --seeds 8002-8003 --results ring.jsonl
python benchmarks/detection_matrix.py bench.jsonl ring.jsonl --page docs/reference/detection-matrix.md"""


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
    given.page.write_text(page(lines, COMMAND, image.name), "utf-8")
    image.write_text(drawn(lines), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
