"""How fast petqc is on this machine, against its goals: `petqc bench`, or `python benchmarks/speed_goals`.

Ratios are of one run and of processor time where they can be: on a busy machine nothing else holds. A figure of
`--quick` shows that the benchmark works, and no more.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from figures import FULL, QUICK, Figure

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where benchmarks have what they share

PARTS = ("hot_path", "recordings", "fits", "intake", "simulator", "whole_processes")
SCHEMA = "petqc-bench/1"


def told(figure: Figure, before: dict[str, Any] | None) -> str:
    value = "–" if figure.value is None else f"{figure.value:.3g}"
    sign = "≥" if figure.is_least else "≤"
    goal = "" if figure.goal is None else f"{sign} {figure.goal:g}"
    if figure.met is None or figure.value is None or figure.goal is None:
        verdict = ""
    elif figure.met:
        verdict = "met"
    else:
        part = figure.value / figure.goal if figure.is_least else figure.goal / max(figure.value, 1e-12)
        verdict = f"NOT met: {100 * part:.0f} % of it"
    then = ""
    if before is not None and before.get("value") and figure.value is not None:
        then = f"{100 * (figure.value / before['value'] - 1):+.0f} %"
    return f"{figure.what:58} {value:>9} {figure.unit:14} {goal:>8}  {verdict:20} {then:>7}"


def main() -> int:
    options = argparse.ArgumentParser(
        prog="petqc bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--part", action="append", choices=PARTS, help="only these; may be repeated")
    options.add_argument("--quick", action="store_true", help="hardly anything is measured: does it work?")
    options.add_argument(
        "--maker", type=Path, metavar="PROGRAM", help="the maker's convert_raw_to_coincidence, to compare with"
    )
    options.add_argument("--out", type=Path, metavar="FILE.json", help="write every figure here")
    options.add_argument("--against", type=Path, metavar="FILE.json", help="an earlier file, to compare with")
    options.add_argument("--json", action="store_true", help="the same document on stdout instead of the table")
    given = options.parse_args()
    earlier: dict[str, Any] = {}
    if given.against is not None:
        try:
            document = json.loads(given.against.read_text())
            earlier = {figure["id"]: figure for figure in document["figures"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.stderr.write(f"petqc: {given.against} is no file of petqc bench ({error}): give one that --out wrote\n")
            return 2
    size = replace(QUICK if given.quick else FULL, maker=given.maker)
    found: list[Figure] = []
    if not given.json:
        print(f"{'':58} {'':>9} {'':14} {'goal':>8}  {'':20} {'before':>7}" if earlier else f"{'':84}goal")
    for number, part in enumerate(given.part or PARTS, 1):
        began = time.perf_counter()
        sys.stderr.write(f"{number}/{len(given.part or PARTS)} {part} …\n")
        for figure in importlib.import_module(part).figures(size):
            found.append(figure)
            if not given.json:
                print(told(figure, earlier.get(figure.id)), flush=True)
        sys.stderr.write(f"    {time.perf_counter() - began:.0f} s\n")
    document = {
        "schema": SCHEMA,
        "quick": given.quick,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "figures": [{**asdict(figure), "met": figure.met} for figure in found],
    }
    if given.out is not None:
        given.out.write_text(json.dumps(document, indent=1) + "\n")
    if given.json:
        print(json.dumps(document))
    else:
        with_goal = [figure for figure in found if figure.met is not None]
        warning = "; --quick: the figures hold nothing" if given.quick else ""
        print(f"{sum(bool(f.met) for f in with_goal)} of {len(with_goal)} goals met{warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
