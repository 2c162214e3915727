"""An output that is configured no more and was last on: every off asks it, and a person may have it forgotten."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.contract.interlocked_bench import Supplies, bench
from tests.contract.served_instruments import served

from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqcd.off import outputs
from petqcd.security.audit import entries

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Stuck(CaenA7585dBoard):
    """One that nothing switches off."""

    def _put(self, register: int, value: float) -> None:
        if value or not self.is_on:
            super()._put(register, value)


PATH, WHY = "/api/v1/devices/old/forget", {"reason": "sold"}


def was_on(state_dir: Path, address: str) -> None:
    """As a daemon left it that had one more supply."""
    state_dir.mkdir(exist_ok=True)
    settings = {"name": "old", "address": address, "serial": 77, "reply_timeout_s": 0.3}
    outputs.write(
        state_dir, [outputs.Output(name="old", kind="caen-a7585d", settings=settings, state="on", volts=50.0)]
    )


def test_forgotten_only_when_it_is_off_or_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        old, state_dir = CaenA7585dBoard(77), tmp_path / "state"
        old.receive(b"AT+SET,2,50.000\r\nAT+SET,0,1.000\r\n")
        with ExitStack() as stack:
            was_on(state_dir, stack.enter_context(served(old)))
            async with bench(tmp_path, monkeypatch, Supplies()) as b:
                await b.until(lambda: b.alarms().get("retired-output") == "MAJOR ACTIVE_UNACK", "people are called")
                assert "is configured" in await b.refused("/api/v1/devices/hv/forget", **WHY)
                assert "nothing is kept" in await b.refused("/api/v1/devices/x/forget", **WHY)
                told = {one["device"]: one["state"] for one in (await b.post("/api/v1/off"))["devices"]}
                assert told["old"] == "IN_SAFE_STATE"
                assert not old.is_on
                await b.post(PATH, **WHY)
                await b.until(lambda: b.alarms()["retired-output"] == "MAJOR CLEARED_UNACK", "there is none any more")
                assert "old" not in {one["device"] for one in (await b.post("/api/v1/off"))["devices"]}
        assert "old" not in {one.name for one in outputs.read(state_dir).outputs}
        was_on(state_dir, "socket://127.0.0.1:9")
        async with bench(tmp_path, monkeypatch, Supplies()) as b:
            (old_one,) = [one for one in (await b.post("/api/v1/off"))["devices"] if one["device"] == "old"]
            assert old_one["state"] == "UNKNOWN"
            assert "petqc devices forget old" in old_one["told"]
            assert "old may be on" in await b.refused(PATH, **WHY)
            assert b.daemon.retired.documents()
            await b.post(PATH, **WHY, is_disconnected=True)
            assert b.daemon.retired.documents() == []
            said = await asyncio.to_thread(entries, b.daemon.store, limit=20)
            assert any(one["action"] == "forget-device" and one.get("reason") == "sold" for one in said)

    asyncio.run(story())


def test_what_answers_and_stays_on_is_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        old, state_dir = Stuck(77), tmp_path / "state"
        old.receive(b"AT+SET,2,50.000\r\nAT+SET,0,1.000\r\n")
        with ExitStack() as stack:
            was_on(state_dir, stack.enter_context(served(old)))
            async with bench(tmp_path, monkeypatch, Supplies()) as b:
                assert "is not disconnected" in await b.refused(PATH, **WHY, is_disconnected=True)
                assert [one["name"] for one in b.daemon.retired.documents()] == ["old"]

    asyncio.run(story())
