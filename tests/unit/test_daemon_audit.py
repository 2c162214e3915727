"""The audit log: intent before the act, result after it, a chain that shows every change; off waits for nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from petqcd.errors import RefusedError, StoreError
from petqcd.security.access import Actor, Proof, Role
from petqcd.security.audit import Audit, Head, entries, verify
from petqcd.store import Store, read_only

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PERSON = Actor("physicist-1", Role.PHYSICIST, Proof.PASSWORD, "127.0.0.1")


def with_audit(folder: Path, work: Callable[[Audit], Awaitable[None]]) -> None:
    """Do something with an audit log, and close it as the daemon does."""

    async def run() -> None:
        store = Store(folder)
        audit = Audit(store, "1.0")
        try:
            await work(audit)
        finally:
            await audit.aclose()
            store.close()

    asyncio.run(run())


def rows(folder: Path) -> list[dict[str, Any]]:
    with read_only(folder) as reader:
        return entries(reader)[::-1]


def test_the_intent_is_stored_before_the_act_and_the_result_after(tmp_path: Path) -> None:
    async def work(audit: Audit) -> None:
        async with audit.act(PERSON, "energise", "board", old=0.0, new=31.5, reason="daily QC") as act:
            (intent,) = entries(audit.store)
            assert intent["phase"] == "intent"
            assert (intent["old"], intent["new"], intent["reason"]) == (0.0, 31.5, "daily QC")
            assert intent["by"]["name"] == "physicist-1"
            assert intent["by"]["proof"] == "password"
            act.result = {"reached_v": 31.5}

    with_audit(tmp_path, work)
    intent, result = rows(tmp_path)
    assert result["of"] == intent["number"]
    assert (result["outcome"], result["result"]) == ("done", {"reached_v": 31.5})


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RefusedError("a trip is latched"), "refused"),
        (ValueError("x"), "failed"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_what_does_not_work_is_recorded_and_still_raised(tmp_path: Path, error: BaseException, outcome: str) -> None:
    async def work(audit: Audit) -> None:
        with pytest.raises(type(error)):
            async with audit.act(PERSON, "energise", "board"):
                raise error

    with_audit(tmp_path, work)
    assert [row.get("outcome") for row in rows(tmp_path)] == [None, outcome]


def test_nothing_is_done_that_cannot_be_recorded_but_off_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    async def work(audit: Audit) -> None:
        async def full(_write: Any) -> None:
            raise StoreError("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(Store, "write", lambda _self, write: full(write))
            with pytest.raises(StoreError, match="full"):
                async with audit.act(PERSON, "energise", "board"):
                    done.append("energise")
            async with audit.act(PERSON, "off", "board", first=True):
                done.append("off")
        assert entries(audit.store) == []
        await audit.note(PERSON, "login", "console")  # the store takes rows again, those that wait too

    with_audit(tmp_path, work)
    assert done == ["off"]
    assert [(row["action"], row["phase"]) for row in rows(tmp_path)] == [
        ("off", "intent"), ("off", "result"), ("login", "event"),
    ]  # fmt: skip


def fill(folder: Path, count: int = 4) -> Head:
    async def work(audit: Audit) -> None:
        for n in range(count):
            await audit.note(PERSON, "login", f"{n}")

    with_audit(folder, work)
    with read_only(folder) as reader:
        return verify(reader)


def test_a_whole_log_is_verified_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    early = fill(tmp_path)
    late = fill(tmp_path)
    assert (early.number, late.number) == (4, 8)
    with read_only(tmp_path) as reader:
        assert verify(reader, known=early) == late
        with pytest.raises(StoreError, match="not the one"):
            verify(reader, known=Head(4, late.hash))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET document = replace(document, 'physicist-1', 'physicist-2') WHERE number = 2",
        "UPDATE audit SET hash = 'x' WHERE number = 2",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit WHERE number = 1",
        "UPDATE audit SET number = 9 WHERE number = 4",
    ],
)
def test_every_tampering_is_found(tmp_path: Path, tampering: str) -> None:
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as file:
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            file.execute(tampering)
        for (name,) in file.execute(
            "SELECT name FROM sqlite_master WHERE name LIKE 'audit_%' AND type = 'trigger'"
        ).fetchall():
            file.execute(f"DROP TRIGGER {name}")
        file.execute(tampering)
        file.commit()
    with read_only(tmp_path) as reader, pytest.raises(StoreError, match="broken"):
        verify(reader)


def test_a_cut_end_is_found_by_whoever_noted_it(tmp_path: Path) -> None:
    head = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as file:
        file.execute("DROP TRIGGER audit_kept")
        file.execute("DELETE FROM audit WHERE number = 4")
        file.commit()
    with read_only(tmp_path) as reader:
        assert verify(reader).number == 3  # a chain that ends early is still a chain
        with pytest.raises(StoreError, match="cut off"):
            verify(reader, known=head)


def test_what_callers_send_neither_breaks_nor_fills_the_log(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(50):
        deep = [deep]

    async def work(audit: Audit) -> None:
        async with audit.act(
            PERSON, "start-run", "x" * 10_000, new={"v": float("nan"), "deep": deep, "s": "\ud800\x00\n"}
        ):
            pass

    with_audit(tmp_path, work)
    intent, _ = rows(tmp_path)
    assert len(intent["target"]) == 1001
    assert intent["new"]["v"] == "nan"
    assert intent["new"]["s"] == "\ud800\x00\n"
    with read_only(tmp_path) as reader:
        verify(reader)
