"""`petqc bench`: its document has the form that a later one is compared with. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BENCH = [sys.executable, "-c", "from petqcd.cli import main; main()", "bench"]


def test_a_quick_one_writes_what_a_later_one_compares_with(tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    told = subprocess.run(
        [*BENCH, "--quick", "--part", "intake", "--out", str(first)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "--quick: the figures hold nothing" in told.stdout
    document = json.loads(first.read_text())
    assert document["schema"] == "petqc-bench/1"
    assert document["quick"]
    figures = {figure["id"]: figure for figure in document["figures"]}
    assert figures["gigabit-core"]["value"] > 0.0
    assert figures["gigabit-core"]["met"] == (figures["gigabit-core"]["value"] <= figures["gigabit-core"]["goal"])
    assert all(figure["unit"] and figure["how"] for figure in figures.values())
    figures["gigabit-core"]["value"] *= 1e6
    first.write_text(json.dumps({**document, "figures": list(figures.values())}))
    again = subprocess.run(
        [*BENCH, "--quick", "--part", "intake", "--against", str(first)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    row = next(line for line in again.stdout.splitlines() if line.startswith("core that it takes"))
    assert row.rstrip().endswith("-100 %")


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    told = subprocess.run([*BENCH, "--against", str(tmp_path / "x.json")], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "is no file of petqc bench" in told.stderr
