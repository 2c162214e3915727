"""The report as PDF/A: what is on it, that it is the same each time, and that it is an archive's PDF."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING

import pypdf
import pytest
from tests.unit.run_documents import usual_run
from tests.unit.test_report import make_run

from petqc.errors import BadInputError
from petqc.limits import Status
from petqc.report import write_report
from petqc.report.pdf import render_pdf

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.results import Run


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


@pytest.fixture(scope="module")
def pdf(run: Run) -> bytes:
    return render_pdf(run)


def test_the_first_page_says_it_all_and_every_page_says_simulated(run: Run, pdf: bytes) -> None:
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages]
    first = " ".join(pages[0].split())
    assert "Warning" in first
    assert run.sentence[:40] in first
    for heading in ("Photopeak", "Energy resolution", "CTR", "Module time offset", "Coincidences", "Dead channels"):
        assert heading in first
    assert run.diagnosis[0].cause in first
    assert all("SIMULATED" in page for page in pages)
    whole = " ".join(" ".join(pages).split())
    assert "ab" * 32 in whole.replace(" ", "")
    assert "no conformity" in whole


def test_it_is_a_pdf_for_archives_with_all_its_fonts_and_the_same_each_time(run: Run, pdf: bytes) -> None:
    assert pdf.startswith(b"%PDF-1.7")
    assert b"pdfaid:part>2<" in pdf.replace(b" ", b"")
    assert pdf == render_pdf(run)


def test_what_was_not_measured_and_a_real_scanner_have_a_report_too(tmp_path: Path) -> None:
    empty = usual_run(
        run_id="r",
        started_at="2026-03-02T06:00:00Z",
        finished_at="2026-03-02T06:00:10Z",
        simulated=False,
        verdict=Status.INVALID,
        sentence='Not measured: the "link" #1 [lost] *everything* _at_ $5 <now>.',
    )
    write_report(empty, tmp_path / "r.pdf")
    text = " ".join(pypdf.PdfReader(tmp_path / "r.pdf").pages[0].extract_text().split())
    assert 'the "link" #1 [lost] *everything* _at_ $5 <now>' in text.replace("“", '"').replace("”", '"')
    assert "SIMULATED" not in text
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_analysed_from_a_file_has_no_time_and_a_report(run: Run) -> None:
    pdf = render_pdf(dataclasses.replace(run, started_at="", finished_at=""))
    text = pypdf.PdfReader(io.BytesIO(pdf)).pages[0].extract_text()
    assert "Kind" in text
    assert "Started" not in text


def test_a_time_that_is_none_is_refused(run: Run) -> None:
    with pytest.raises(BadInputError, match="'yesterday' is not a time"):
        render_pdf(dataclasses.replace(run, finished_at="yesterday"))
