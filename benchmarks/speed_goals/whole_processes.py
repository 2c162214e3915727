"""Whole commands, each in turn with a copy of the same bytes: wall time, processor time, memory."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure
from whole_process import PETQC, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from figures import Size
    from whole_process import Took

COPY = """
import sys
with open(sys.argv[1], "rb", 0) as source, open(sys.argv[2], "wb", 0) as target:
    while block := source.read(1 << 20):
        target.write(block)
"""


def figures(size: Size) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _recording(Path(folder), size)
    yield from _start_up(size)


def _recorded(folder: Path, seconds: float) -> tuple[Path, Path, int]:
    record = [sys.executable, "-m", "petqc_simulators", "record", "--profile", "bench", "--seed", "1"]
    timed([*record, "--seconds", str(seconds), str(folder / "run")])
    hits = int(json.loads((folder / "run.manifest.jsonl").read_text().splitlines()[-1])["events"])
    return folder / "run.rawf", folder / "config" / "config.ini", hits


def _recording(folder: Path, size: Size) -> Iterator[Figure]:
    (folder / "tenth").mkdir()
    short, short_config, _ = _recorded(folder / "tenth", size.seconds / 10)
    raw, config, hits = _recorded(folder, size.seconds)

    def convert(file: Path, ini: Path, *more: str) -> list[str]:
        return [
            *PETQC,
            "convert",
            str(file),
            "--config",
            str(ini),
            "--to",
            "coincidences",
            *more,
            "-o",
            str(folder / "c.ldat"),
        ]

    commands = {
        "copy": [sys.executable, "-c", COPY, str(raw), str(folder / "copy")],
        "convert": convert(raw, config),
        "vendor": convert(raw, config, "--vendor-compatible"),
        "analyse": [*PETQC, "analyse", str(raw), "--config", str(config), "--report", str(folder / "report.html")],
    }
    rows: dict[str, list[Took]] = {name: [] for name in commands}
    for k in range(size.repeats + 1):
        for name, command in commands.items():  # in turn, so that a slow moment hits all of them
            row = timed(command, accept=(0, 1, 4))
            if k:
                rows[name].append(row)
    copy_s = statistics.median(row[0] for row in rows["copy"])
    for name, what in (
        ("convert", "convert to coincidences"),
        ("vendor", "the same, as the maker's tool does"),
        ("analyse", "analyse with report"),
    ):
        wall_s, cpu_s = (statistics.median(row[k] for row in rows[name]) for k in (0, 1))
        yield Figure(
            f"{name}-rate",
            f"petqc {what}",
            hits / cpu_s / 1e6,
            "Mhit/s a core",
            f"{hits / 1e6:.1f} M hits of a file with start-up: {wall_s:.1f} s, {wall_s / copy_s:.0f} times the copy",
        )
    peak, short_peak = max(row[2] for row in rows["convert"]), timed(convert(short, short_config))[2]
    yield Figure(
        "memory",
        "memory of a conversion",
        peak,
        "MB",
        f"a tenth of the file: {short_peak:.0f} MB",
        300.0,
        is_least=False,
    )
    started = [
        timed(
            [
                *PETQC,
                "convert",
                str(short),
                "--config",
                str(short_config),
                "--to",
                "coincidences",
                "-o",
                str(folder / "w.ldat"),
            ]
        )
        for _ in range(size.repeats)
    ]
    yield Figure(
        "first-result",
        "warm start to a first result",
        statistics.median(row[0] for row in started),
        "s",
        f"conversion of {size.seconds / 10:g} s of the bench, wall time; processor time "
        f"{statistics.median(row[1] for row in started):.2f} s",
        1.5,
        is_least=False,
    )


def _start_up(size: Size) -> Iterator[Figure]:
    words = [*PETQC, "--help"]
    timed(words)
    turns = [(timed(words), timed([sys.executable, "-c", "pass"])) for _ in range(3 * size.repeats)]
    help_s, bare_s = (statistics.median(turn[k][0] for turn in turns) for k in (0, 1))
    yield Figure("help", "petqc --help", help_s, "s", f"wall time; python alone: {bare_s:.3f} s", 0.3, is_least=False)
