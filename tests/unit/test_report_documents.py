"""Pages of documentation that would otherwise drift: their programs are run, their tables compared with the code."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest

import petqc
from petqc import results
from petqc.checks import Check, CheckOutput, all_checks
from petqc.limits import Limits
from petqc.report import explain

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
DAILY_QC = DOCS / "explanation" / "daily-qc.md"
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
        ("### An entry of parts", results.RunPart),
    ],
)
def test_every_field_of_an_entry_is_described(heading: str, kind: type) -> None:
    described = section(RUN_DOCUMENT.read_text(encoding="utf-8"), heading)
    assert {f.name for f in dataclasses.fields(kind)} <= described


def test_every_field_of_the_document_is_described_and_no_other() -> None:
    text = RUN_DOCUMENT.read_text(encoding="utf-8")
    run = results.Run("", "", "", "", False, results.Status.PASS, "", {}, "", {}, calibration_set={})
    run.parts, run.reanalysis_of = [results.RunPart("", "", results.Status.PASS, "")], "a run"
    words = section(text, "## run.json")
    assert set(run.document()) == {w for w in words if re.fullmatch(r"[a-z_]+", w)}
    assert {f.name for f in dataclasses.fields(Limits)} <= set(re.findall(r"`([a-z_]+)`", text))


def test_every_column_of_the_spectra_file_is_described() -> None:
    described = section(RUN_DOCUMENT.read_text(encoding="utf-8"), "## spectra.parquet")
    fields = {f.name for f in dataclasses.fields(results.Spectrum)} - {"window"}
    assert fields | {"window_low", "window_high"} == described


def test_the_page_on_the_checks_is_current() -> None:
    written = DAILY_QC.read_text(encoding="utf-8")
    assert written == explain.page(all_checks()), "run: python -m petqc.report.explain docs/explanation/daily-qc.md"


def test_every_source_that_names_a_section_finds_it() -> None:
    """Checks and fits say `daily-qc.md §2a`: whoever follows that must arrive."""
    there = set(re.findall(r"\*\*§([0-9.a-z]+) ", DAILY_QC.read_text(encoding="utf-8")))
    there |= set(re.findall(r"^### §(\d)", DAILY_QC.read_text(encoding="utf-8"), re.MULTILINE))
    folder = Path(petqc.__file__).parent
    named: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for line in re.findall(r"daily-qc\.md((?:(?!\w+\.md)[^\"\n])*)", path.read_text(encoding="utf-8")):
            named.update(dict.fromkeys(re.findall(r"§(\d(?:[a-z]|\.\d)?)", line), str(path)))
    assert named
    assert not {section: path for section, path in named.items() if section not in there}


def test_links_of_the_table_lead_to_headings() -> None:
    text = DAILY_QC.read_text(encoding="utf-8")
    headings = {
        "".join(c for c in line[4:].lower().replace(" ", "-") if c.isalnum() or c in "-_")
        for line in text.splitlines()
        if line.startswith("### ")
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(links) == len(all_checks())
    assert links <= headings


def test_a_check_without_limits_says_where_they_come_from() -> None:
    def function(_: object) -> CheckOutput:
        """What it does."""
        return CheckOutput()

    check = Check("some", "Some check", "", ("scanner",), {}, {}, "Somebody 2020.", 1, ("source",), function)
    text = explain.page([check])
    assert "What it does." in text
    assert "Limits are not fixed" in text
    assert "Source: Somebody 2020.\n" in text
    with_limits = dataclasses.replace(check, limits={"channel": Limits(None, None, 1.0, 2.0)})
    assert "| channel (deviation) | above 1 | above 2 |" in explain.page([with_limits])
