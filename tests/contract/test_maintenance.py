"""Nothing energises a device that somebody works at: begun, seen everywhere, held over a restart, ended by a person."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.contract.interlocked_bench import Supplies, bench

from petqc_drivers.hamamatsu_c11204 import wire
from petqcd import clock, small_file
from petqcd.interlocks.maintenance import FILE, SCANNER, InMaintenance

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HV = "/api/v1/devices/hv/maintenance"
WHY = {"seconds": 600.0, "reason": "a cable is changed"}


def test_what_somebody_works_at_is_not_energised_and_calls_nobody_who_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        supplies = Supplies()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            hv = b.supplies.hv
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            assert "its output is on: switch it off first" in await b.refused(HV, **WHY, is_disconnected=True)
            assert "there is no instrument 'x'" in await b.refused("/api/v1/devices/x/maintenance", **WHY)
            await b.post("/api/v1/bias/hv/off")
            assert "seconds" in await b.refused(HV, seconds=1e9, reason="long")
            await b.post(HV, **WHY)
            assert "hv is in maintenance until" in await b.refused("/api/v1/bias/hv/on", volts=46.0)
            await b.post("/api/v1/bias/caen/on", volts=50.0)  # nobody works at that one
            await b.until(lambda: b.daemon.instruments["hv"].state == "maintenance", "its state says so")
            await b.until(lambda: b.alarms().get("maintenance.hv") == "MINOR ACTIVE_UNACK", "and an alarm")
            assert b'petqc_maintenance{device="hv",scanner="bench"} 1.0' in b.daemon.metrics.text()
            assert [one["device"] for one in b.daemon.status()["maintenance"]] == ["hv"]
            hv.drops = set(wire.REQUEST_DIGITS)
            await b.until(lambda: "link.hv" in b.alarms(), "its cable is out")
            link = next(one for one in b.daemon.alarms.documents() if one["id"] == "link.hv")
            assert link["is_silent"]
            assert link["held_because"].startswith("hv is in maintenance")
            assert b.daemon.instruments["hv"].state == "maintenance"
            hv.drops = set()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            assert "hv is in maintenance" in await b.refused("/api/v1/bias/hv/on", volts=46.0)
            assert not b.supplies.hv.is_on
            work = b.daemon.watch.maintenance
            soon = clock.unix_s() + 601.0
            monkeypatch.setattr(clock, "unix_s", lambda: soon)
            await b.until(lambda: b.alarms().get("maintenance.hv") == "MAJOR ACTIVE_UNACK", "it should be over")
            assert "in maintenance" in await b.refused("/api/v1/bias/hv/on", volts=46.0)
            monkeypatch.undo()
            await b.post(f"{HV}/end")
            assert "hv is not in maintenance" in await b.refused(f"{HV}/end")
            await b.until(lambda: b.daemon.instruments["hv"].state == "off", "nobody works there any more")
            assert not b.supplies.hv.is_on  # its end energises nothing
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            assert work.all() == []
            said = await b.refused(f"/api/v1/devices/{SCANNER}/maintenance", **WHY, is_disconnected=True)
            assert "hv: its output is on" in said

    asyncio.run(story())


def test_found_on_while_somebody_works_there_is_told_and_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        supplies = Supplies()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            await b.post(f"/api/v1/devices/{SCANNER}/maintenance", **WHY, is_disconnected=True)
            assert "the whole scanner is in maintenance" in await b.refused(
                "/api/v1/runs", kind="housekeeping", parameters={}
            )
        supplies.energise()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            await b.until(lambda: "adopted.hv" in b.alarms(), "somebody switched it on by hand")
            adopted = next(one for one in b.daemon.alarms.documents() if one["id"] == "adopted.hv")
            assert not adopted["is_silent"]
            assert "the whole scanner is in maintenance" in await b.refused("/api/v1/bias/hv/confirm")
            assert b.supplies.hv.is_on  # whoever works there has it
            assert b.supplies.raised() == []
            assert {one["state"] for one in (await b.post("/api/v1/off"))["devices"][1:]} == {"IN_SAFE_STATE"}

    asyncio.run(story())


def test_a_damaged_file_is_maintenance_of_everything(tmp_path: Path) -> None:
    small_file.write(tmp_path / FILE, {"schema": "another", "devices": []})
    (work,) = InMaintenance(tmp_path).all()
    assert (work.device, work.is_overdue) == (SCANNER, True)
    (tmp_path / FILE).write_text("{")
    (work,) = InMaintenance(tmp_path).all()
    assert work.device == SCANNER
    assert InMaintenance(tmp_path / "nothing").all() == []
