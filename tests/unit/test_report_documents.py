"""Pages of documentation that would otherwise drift: their programs are run, their tables compared with the code."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest

from petqc import results
from petqc.limits import Limits

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
RUN_DOCUMENT = DOCS / "reference" / "run-document.md"


def section(text: str, heading: str) -> set[str]:
    """Names in the first column of the table under a heading."""
    part = text.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_programs_of_the_run_document_print_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", RUN_DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 2
    names: dict[str, object] = {"__name__": "example"}
    for program, printed in found:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(program, str(RUN_DOCUMENT), "exec"), names)  # noqa: S102 - our own page
        assert out.getvalue() == printed


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### An entry of checks", results.CheckResult),
        ("### An entry of raw_files", results.RawFile),
        ("### An entry of environment", results.EnvironmentReading),
        ("### An entry of diagnosis", results.Hypothesis),
    ],
)
def test_every_field_of_an_entry_is_described(heading: str, kind: type) -> None:
    described = section(RUN_DOCUMENT.read_text(encoding="utf-8"), heading)
    assert {f.name for f in dataclasses.fields(kind)} <= described


def test_every_field_of_the_document_is_described_and_no_other() -> None:
    text = RUN_DOCUMENT.read_text(encoding="utf-8")
    run = results.Run("", "", "", "", False, results.Status.PASS, "", {}, "", {})
    words = section(text, "## run.json")
    assert set(run.document()) == {w for w in words if re.fullmatch(r"[a-z_]+", w)}
    assert {f.name for f in dataclasses.fields(Limits)} <= set(re.findall(r"`([a-z_]+)`", text))


def test_every_column_of_the_spectra_file_is_described() -> None:
    described = section(RUN_DOCUMENT.read_text(encoding="utf-8"), "## spectra.parquet")
    fields = {f.name for f in dataclasses.fields(results.Spectrum)} - {"window"}
    assert fields | {"window_low", "window_high"} == described
