"""Rows of the fault matrix on serial lines and TCP, told as stories: see `serial_faults` and `tcp_faults`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from tests.contract import serial_faults, tcp_faults

from petqc_drivers import instrument
from petqc_drivers.transport import threaded

if TYPE_CHECKING:
    from pathlib import Path

    Ends = dict[str, BaseException | None]

STORIES = {**serial_faults.STORIES, **tcp_faults.STORIES}
_ENDS: Ends = {}
_LOG: list[tuple[str, str]] = []
TOLD_ONCE = ("SER-01", "SER-03", "SER-04", "TCP-05")


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Ends:
    """How every story ended, all told at once by the first test that asks."""
    if not _ENDS:
        monkeypatch.setattr(instrument, "QUIET_S", 0.06)
        monkeypatch.setattr(instrument, "_FIRST_BACK_OFF_S", 0.05)
        monkeypatch.setattr(threaded, "_GRACE_S", 0.25)
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
def test_a_row_ends_in_its_named_state(row: str, ends: Ends) -> None:
    end = ends[row]
    if end is not None:
        raise end


@pytest.mark.parametrize("row", TOLD_ONCE)
def test_a_loss_is_told_once_and_so_is_the_return(row: str, ends: Ends) -> None:
    assert ends[row] is None
    lost = [told for level, told in _LOG if level == "WARNING" and told.startswith(row)]
    assert len(lost) == 1, lost
