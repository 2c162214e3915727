"""Files of the history that are removed or replaced under the daemon: nothing acknowledged goes with them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.unit.histories import a_run, claim, claimed_and_stored

from petqcd.errors import StoreAwayError, StoreError
from petqcd.store import Store, writer

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MEND_FIRST_S", 0.02)
    monkeypatch.setattr(writer, "MEND_LATEST_S", 0.1)


def all_of(folder: Path, *run_ids: str) -> None:
    """A new start finds each of these, whole."""
    with closing(Store(folder)) as store:
        for run_id in run_ids:
            assert store.document(run_id) == a_run(run_id).document()
    with closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("gone", [("-wal",), ("-shm",), ("-wal", "-shm"), ("",), ("", "-wal", "-shm")])
def test_what_is_removed_while_it_is_open_is_there_again(
    tmp_path: Path, gone: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        for end in gone:
            (tmp_path / f"history.sqlite{end}").unlink()
        asyncio.run(claimed_and_stored(store, "b"))  # acknowledged, so it is in a file that has a name
        assert not store.trouble
        assert [line.run_id for line in store.history()] == ["b", "a"]
    assert "removed or replaced" in caplog.text
    all_of(tmp_path, "a", "b")
    assert (tmp_path / "history.sqlite").stat().st_mode & 0o077 == 0


def test_it_is_noticed_without_a_write_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_EVERY_S", 0.05)
    log = tmp_path / "history.sqlite-wal"
    with closing(Store(tmp_path)) as store:
        asyncio.run(claimed_and_stored(store, "a"))
        log.unlink()
        end_s = time.monotonic() + DEADLINE_S
        while not log.exists() or store.trouble:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        monkeypatch.setattr(writer, "CHECKPOINT_EVERY_S", 60.0)
        asyncio.run(claimed_and_stored(store, "b"))
        (tmp_path / "history.sqlite").unlink()
    all_of(tmp_path, "a", "b")


def test_another_file_under_its_name_is_not_overwritten_and_not_believed(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "old")) as store:
        asyncio.run(claimed_and_stored(store, "old"))
    with closing(Store(tmp_path)) as store:
        for run_id in ("a", "b"):
            asyncio.run(claimed_and_stored(store, run_id))
        shutil.move(tmp_path / "old" / "history.sqlite", tmp_path / "history.sqlite")
        with pytest.raises(StoreError, match="acknowledged records are gone") as refused:
            asyncio.run(claim(store, "c"))
        assert not isinstance(refused.value, StoreAwayError)
    ours = tmp_path / "history-replaced.sqlite"
    with closing(sqlite3.connect(ours)) as connection:
        # The last claim was written, and whoever asked for it was told that it is not.
        assert connection.execute("SELECT run_id FROM runs ORDER BY sequence").fetchall() == [("a",), ("b",), ("c",)]
    all_of(tmp_path, "old")
