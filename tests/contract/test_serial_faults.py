"""Rows of the fault matrix on a serial line: see `serial_faults`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from tests.contract.clients import pty_parity
from tests.contract.serial_faults import STORIES

from petqc_drivers import instrument

if TYPE_CHECKING:
    from pathlib import Path

_ENDS: dict[str, BaseException | None] = {}
_LOG: list[tuple[str, str]] = []
LOSSES_OF = {"SER-01": 1, "SER-03": 1, "SER-04": 1}


@pytest.fixture
def ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> dict[str, BaseException | None]:
    """How every story ended, all told at once by the first test that asks."""
    if not _ENDS:
        pty_parity.apply(monkeypatch)
        monkeypatch.setattr(instrument, "QUIET_S", 0.06)
        monkeypatch.setattr(instrument, "_FIRST_BACK_OFF_S", 0.05)
        caplog.set_level(logging.INFO, "petqcd.instruments.supervisor")

        async def all_at_once() -> None:
            found = await asyncio.gather(
                *(story(name, tmp_path) for name, story in STORIES.items()), return_exceptions=True
            )
            _ENDS.update(zip(STORIES, found, strict=True))

        asyncio.run(all_at_once())
        _LOG.extend((one.levelname, one.message) for one in caplog.records)
    return _ENDS


@pytest.mark.parametrize("row", STORIES)
def test_a_row_ends_in_its_named_state(row: str, ends: dict[str, BaseException | None]) -> None:
    end = ends[row]
    if end is not None:
        raise end


@pytest.mark.parametrize("row", LOSSES_OF)
def test_a_loss_is_told_once_and_so_is_the_return(row: str, ends: dict[str, BaseException | None]) -> None:
    assert ends[row] is None
    lost = [told for level, told in _LOG if level == "WARNING" and told.startswith(row)]
    assert len(lost) == LOSSES_OF[row], lost
