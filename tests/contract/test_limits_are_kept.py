"""Operating limits that somebody gave hold after a restart, never wider than what the file says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.contract import interlocked_bench
from tests.contract.interlocked_bench import Supplies, bench

from petqcd.interlocks.operating_limits import FILE

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LOWER = {"v_min": 44.0, "v_max": 50.0, "reason": "this detector is old"}


def test_limits_that_were_given_hold_after_a_restart_and_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        supplies = Supplies()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            assert "inside the hard limit 41 to 57 V" in await b.refused(
                "/api/v1/bias/hv/limits", v_min=44.0, v_max=57.5, reason="more"
            )
            told = await b.post("/api/v1/bias/hv/limits", **LOWER)
            assert told["operating_limits"] == {"v_min": 44.0, "v_max": 50.0}
        async with bench(tmp_path, monkeypatch, supplies) as b:
            assert "operating limits 44 to 50 V" in await b.refused("/api/v1/bias/hv/on", volts=51.0)
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            await b.post("/api/v1/bias/hv/off")
        supplies.energise()  # 54 V: inside the hard limit, outside what somebody gave
        narrower = interlocked_bench.CONFIG.replace("v_min = 45\nv_max = 56", "v_min = 45\nv_max = 48")
        monkeypatch.setattr(interlocked_bench, "CONFIG", narrower)
        async with bench(tmp_path, monkeypatch, supplies) as b:
            assert "as it was found: 54.36 V refused" in await b.refused("/api/v1/bias/hv/confirm")
            assert b.daemon.instruments["hv"].state == "adopted"
            (hv, _) = b.daemon.bias.documents()
            assert hv["operating_limits"] == {"v_min": 45.0, "v_max": 48.0}  # the file was changed since: both hold
            assert b.supplies.raised() == []

    asyncio.run(story())


def test_what_is_damaged_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / FILE).write_text("{}")
        async with bench(tmp_path, monkeypatch) as b:
            assert "give them again" in await b.refused("/api/v1/bias/hv/on", volts=46.0)
            assert "give them again" in str(b.daemon.bias.documents()[0]["against"])
            await b.post("/api/v1/bias/hv/limits", **LOWER)
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            assert "give them again" in await b.refused("/api/v1/bias/caen/on", volts=46.0)
            assert (await b.post("/api/v1/bias/hv/off"))["state"] == "IN_SAFE_STATE"

    asyncio.run(story())
