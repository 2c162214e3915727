"""The fault matrix of the links: every instrument, every transport, every fault, its named end; and the page of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.contract import fault_rows, service_fault_rows
from tests.contract.fault_matrix import ROWS, SUBJECTS, Row, Subject, allowed, ends_of, table
from tests.contract.test_fault_stories import STORIES

from petqc_drivers import instrument, registry
from petqc_drivers.julabo import wire as julabo_wire

_ENDS: dict[Subject, dict[str, str]] = {}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "fault-matrix.md"
LINKS = {"SER": 20, "TCP": 11, "UDP": 7, "SHM": 8}
SERVICE = {"MQ": 10, "WEB": 12, "DSK": 11, "CLK": 7, "PRC": 10, "MEM": 5}


@pytest.fixture
def ends(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of all faults of a device, tried at once by the first test that asks."""
    if subject not in _ENDS:
        monkeypatch.setattr(instrument, "QUIET_S", 0.03)
        monkeypatch.setattr(julabo_wire, "AFTER_IN_S", 0.0)
        _ENDS[subject] = asyncio.run(ends_of(subject, tmp_path))
    return _ENDS[subject]


@pytest.mark.parametrize(
    ("subject", "row"),
    [
        pytest.param(subject, row, id=f"{subject.name}-{subject.transport}-{row}")
        for subject in SUBJECTS
        for row in subject.rows()
    ],
)
def test_every_fault_ends_in_its_named_state(subject: Subject, row: Row, ends: dict[str, str]) -> None:
    assert ends[row.id] in allowed(subject, row)


def test_every_kind_of_device_is_in_the_matrix() -> None:
    assert {subject.name for subject in SUBJECTS} == set(registry.KINDS)


def test_the_page_says_what_is_tried() -> None:
    assert PAGE.read_text("utf-8") == table(), (
        "run: python -m tests.contract.fault_matrix docs/reference/fault-matrix.md"
    )


def test_the_page_of_the_service_says_what_is_tried() -> None:
    assert PAGE.with_name("service-faults.md").read_text("utf-8") == service_fault_rows.table(), (
        "run: python -m tests.contract.service_fault_rows docs/reference/service-faults.md"
    )


@pytest.mark.parametrize(("rows", "wanted"), [(fault_rows.ROWS, LINKS), (service_fault_rows.ROWS, SERVICE)])
def test_every_row_of_the_matrix_is_told_and_what_proves_it_is_there(
    rows: tuple[fault_rows.MatrixRow, ...], wanted: dict[str, int]
) -> None:
    assert [row.id for row in rows] == [f"{k}-{n:02}" for k, most in wanted.items() for n in range(1, most + 1)]
    columns = {row.id for row in ROWS}
    for row in rows:
        assert row.proof or row.note, row.id
        for proof in row.proof:
            file, _, name = proof.partition("::")
            if file == fault_rows.EACH:
                assert name in columns, proof
            elif file == fault_rows.STORY:
                assert any(story == name or story.startswith(f"{name}-") for story in STORIES), proof
            else:
                text = (PAGE.parents[2] / "tests" / file).read_text("utf-8")
                assert f"def {name}(" in text if name.startswith("test_") else name in text, proof
