"""Energising, trips, permits, bypass and off through a real daemon; the supplies' own records are the judge."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.contract.interlocked_bench import Supplies, bench
from typer.testing import CliRunner

from petqc_drivers import instrument
from petqc_drivers.caen_a7585d import Register
from petqc_drivers.device import Quality
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.hamamatsu_c11204.wire import Function, code_below
from petqcd import clock, small_file
from petqcd.cli.commands import app
from petqcd.client import SOCKET_NAME
from petqcd.errors import DaemonError, StoreError
from petqcd.interlocks import alarm_keeper, bias_watch, permit_sources, permits
from petqcd.off import kept_outputs, outputs
from petqcd.readout.supervisor import BiasState
from petqcd.security.audit import entries

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_energise_set_trip_acknowledge_reset_energise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            assert "outside the operating limits 45 to 56 V" in await b.refused("/api/v1/bias/hv/on", volts=56.5)
            assert "invalid-request" in await b.refused("/api/v1/bias/hv/on", volts=float("nan"))
            assert not hv.is_on
            told = await b.post("/api/v1/bias/hv/on", volts=54.0)
            assert (told["state"], hv.is_on) == ("on", True)
            assert abs(hv.output_v - 54.0) < 0.01
            written = {one.name: one.may_be_on for one in outputs.read(b.daemon.state_dir).outputs}
            assert written == {"board": True, "hv": True, "caen": False}
            await b.post("/api/v1/bias/hv/set", volts=50.0)
            assert abs(hv.output_v - 50.0) < 0.01

            b.supplies.chiller.bath_degc = 25.0
            await b.until(lambda: not hv.is_on, "too warm a coolant switches off")
            assert "permit-missing" in await b.refused("/api/v1/bias/hv/on", volts=54.0)
            assert b.alarms()["trip.hv"] == "MAJOR ACTIVE_UNACK"
            assert "acknowledge it first" in await b.refused("/api/v1/bias/hv/reset")
            await b.post("/api/v1/bias/hv/acknowledge")
            assert "the cause is still there: cooling" in await b.refused("/api/v1/bias/hv/reset")
            b.supplies.chiller.bath_degc = 18.0
            await b.until(lambda: len(b.daemon.watch.against("hv")) == 1, "cold again")
            assert "no latched trip" in await b.refused("/api/v1/bias/hv/on", volts=54.0)
            assert not hv.is_on  # nothing re-arms by itself

            told = await b.post("/api/v1/bias/hv/reset")
            assert (told["trip"]["state"], hv.is_on) == ("armed", False)
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            await b.post("/api/v1/alarms/trip.hv/acknowledge")
            await b.until(lambda: "trip.hv" not in b.alarms(), "the alarm is over")
            assert (await b.post("/api/v1/off"))["devices"][1]["state"] == "IN_SAFE_STATE"

            said = await asyncio.to_thread(entries, b.daemon.store, limit=100)
            energised = [one for one in said[::-1] if one["target"] == "/api/v1/bias/hv/on"]
            assert [one["phase"] for one in energised[:2]] == ["intent", "result"]
            assert any(one["action"] == "trip" and "cooling" in one["cause"] for one in said)
            (path,) = (b.daemon.state_dir / "trips").glob("*-hv.json")
            found = small_file.read(path)
            assert found is not None
            assert "cooling" in found.document["cause"]
            assert {one["name"] for one in found.document["samples"]} >= {"bias_voltage", "bias_current"}

    asyncio.run(story())


def test_a_doubtful_permit_holds_for_a_while_and_a_bypass_is_seen_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv, caen = b.supplies.hv, b.supplies.caen
            await b.post("/api/v1/bias/hv/on", volts=54.0)
            await b.post("/api/v1/bias/caen/on", volts=50.0)
            why = {"seconds": 600, "reason": "chiller is being serviced"}
            assert "has no bypass" in await b.refused("/api/v1/bias/hv/bypass", permit="device-side limits", **why)
            assert "has no permit" in await b.refused("/api/v1/bias/caen/bypass", permit="cooling", **why)
            b.supplies.chiller.is_silent = True
            await b.until(lambda: "permit.hv" in b.alarms(), "doubt is told")
            assert hv.is_on
            await b.post("/api/v1/bias/hv/bypass", permit="cooling", **why)
            await b.until(lambda: "bypass.hv" in b.alarms(), "the bypass is told")
            assert b'petqc_permit_bypassed{device="hv",permit="cooling",scanner="bench"} 1.0' in b.daemon.metrics.text()
            assert [one["permit"] for one in b.daemon.status()["bypasses"]] == ["cooling"]
            assert b.daemon.watch.against("hv") == ()
            await b.post("/api/v1/bias/hv/bypass/end", permit="cooling")
            await b.until(lambda: not hv.is_on, "doubt that lasts switches off")
            assert caen.is_on  # it does not need the chiller
            assert b.alarms()["link.chiller"] == "MINOR ACTIVE_UNACK"

    asyncio.run(story())


def test_the_device_s_own_limits_must_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart of the device in operation: what it is limited to is not what was written."""

    async def story() -> None:
        monkeypatch.setattr(bias_watch, "LIMITS_EVERY_S", 0.2)
        async with bench(tmp_path, monkeypatch) as b:
            caen = b.supplies.caen
            await b.post("/api/v1/bias/caen/on", volts=50.0)
            assert (caen.values[Register.MOST_V], caen.values[Register.MOST_MA]) == (57.0, 1.0)
            caen.values[Register.MOST_V] = 85.0
            await b.until(lambda: not caen.is_on, "it is switched off")
            assert "its own limit is 85 V" in str(b.daemon.instruments["caen"].trip.causes)

    asyncio.run(story())


def test_what_is_found_on_is_adopted_and_what_is_above_its_limit_trips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        supplies = Supplies()
        supplies.energise()
        supplies.caen.receive(b"AT+SET,2,60.000\r\n")
        supplies.caen.output_v = 60.0
        supplies.caen.witness.lines.clear()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            hv, caen = b.supplies.hv, b.supplies.caen
            await b.until(lambda: not caen.is_on, "60 V are above the limit")
            assert b.daemon.instruments["hv"].state == "adopted"
            assert b.alarms()["adopted.hv"] == "MAJOR ACTIVE_UNACK"
            assert (hv.is_on, b.supplies.raised()) == (True, [])
            assert "while the output is adopted" in await b.refused("/api/v1/bias/hv/set", volts=55.0)
            told = await b.post("/api/v1/bias/hv/confirm")
            assert (told["state"], b.supplies.raised()) == ("on", [])
            assert "nothing to confirm" in await b.refused("/api/v1/bias/hv/confirm")
            await b.post("/api/v1/bias/hv/set", volts=50.0)
            assert max(b.supplies.raised()) < 54.4
            caen.witness.lines.clear()  # that it was found above its limit is the beginning of this story

    asyncio.run(story())


def test_without_a_store_nothing_goes_on_and_everything_goes_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be recorded is refused before its first byte; off is not."""

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv, caen = b.supplies.hv, b.supplies.caen
            await b.post("/api/v1/bias/hv/on", volts=54.0)

            async def broken(_work: object) -> None:
                raise StoreError("disk I/O error")

            monkeypatch.setattr(b.daemon.store, "write", broken)
            assert "store" in await b.refused("/api/v1/bias/caen/on", volts=50.0)
            assert not [line for line in caen.witness.lines if line["event"] == "supply" and line["on"]]
            assert (await b.post("/api/v1/bias/hv/off"))["state"] == "IN_SAFE_STATE"
            assert not hv.is_on
            monkeypatch.undo()

    asyncio.run(story())


def test_what_is_lost_while_on_is_said_and_off_as_soon_as_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        quick = tuple(replace(rule, doubt_s=0.3) for rule in permits.STANDARD)
        monkeypatch.setattr(permits, "STANDARD", quick)
        monkeypatch.setattr(permit_sources, "LINK_AGE_S", 0.5)
        monkeypatch.setattr(bias_watch, "AGAIN_S", 60.0)
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            await b.post("/api/v1/bias/hv/on", volts=54.0)
            hv.drops = set(wire.REQUEST_DIGITS)
            await b.until(lambda: b.daemon.instruments["hv"].state == "unknown", "it may be on, nobody knows")
            await b.until(lambda: {"trip.hv", "unsafe.hv", "link.hv"} <= set(b.alarms()), "it tripped, and is not off")
            assert b.alarms()["unsafe.hv"] == b.alarms()["link.hv"] == "MAJOR ACTIVE_UNACK"
            told = (await b.post("/api/v1/bias/hv/off"))["state"]
            assert (told, hv.is_on) == ("UNKNOWN", True)
            before = b.supplies.raised()
            hv.drops = set()
            await b.until(lambda: not hv.is_on, "it is back, and off")
            assert b.supplies.raised() == before
            assert b.daemon.instruments["hv"].trip is not None
            await b.until(lambda: b.daemon.instruments["hv"].state == "tripped", "and tripped")

    asyncio.run(story())


def test_a_trip_outlives_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        supplies = Supplies()
        async with bench(tmp_path, monkeypatch, supplies) as b:
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            supplies.chiller.bath_degc = 25.0
            await b.until(lambda: "trip.hv" in b.alarms(), "it tripped")
        supplies.chiller.bath_degc = 18.0
        async with bench(tmp_path, monkeypatch, supplies) as b:
            await b.until(lambda: b.daemon.instruments["hv"].state == "tripped", "it is, still")
            assert "before petqc was started: permit lost: cooling" in await b.refused("/api/v1/bias/hv/on", volts=46.0)
            assert not supplies.hv.is_on

    asyncio.run(story())


def test_nothing_goes_on_that_could_not_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            real = kept_outputs.outputs.write

            def full(*_: object) -> None:
                raise OSError(28, "no space left on device")

            monkeypatch.setattr(kept_outputs.outputs, "write", full)
            assert "does not take that it is on" in await b.refused("/api/v1/bias/hv/on", volts=54.0)
            assert not b.supplies.hv.is_on
            await b.until(lambda: "outputs-file" in b.alarms(), "it is told")
            assert (await b.post("/api/v1/bias/hv/off"))["state"] == "IN_SAFE_STATE"
            monkeypatch.setattr(kept_outputs.outputs, "write", real)

    asyncio.run(story())


def test_off_overtakes_a_ramp_and_everything_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            ramp = asyncio.create_task(b.refused("/api/v1/bias/hv/on", volts=55.0))
            await b.until(lambda: hv.is_on and hv.output_v > 42.0, "it is on its way")
            waits = [asyncio.create_task(b.refused("/api/v1/bias/hv/set", volts=50.0)) for _ in range(3)]
            told = await b.post("/api/v1/off")
            assert {one["device"]: one["state"] for one in told["devices"]} == {
                "board": "UNKNOWN", "hv": "IN_SAFE_STATE", "caen": "IN_SAFE_STATE",
            }  # fmt: skip
            assert not hv.is_on
            for said in [await ramp, *[await one for one in waits]]:
                assert "switching off went first" in said or "goes first" in said or "while the output" in said, said
            assert not hv.is_on

    asyncio.run(story())


def test_an_orderly_stop_does_what_it_was_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> tuple[bool, bool]:
        async with bench(tmp_path, monkeypatch, on_stop="ramp_off") as b:
            await b.post("/api/v1/bias/hv/on", volts=54.0)
            await b.post("/api/v1/bias/caen/on", volts=50.0)
            supplies = b.supplies
        document = json.loads((tmp_path / "state" / "outputs.json").read_text().rpartition("sha256 ")[0])
        assert {one["name"]: one["state"] for one in document["outputs"]} == {
            "board": "unknown", "hv": "off", "caen": "on",
        }  # fmt: skip
        steps = [line["volts"] for line in supplies.hv.witness.lines if line["event"] == "set" and line["supply"]]
        assert steps[-1] < 42.0
        assert sorted(steps[-4:], reverse=True) == steps[-4:]
        return supplies.hv.is_on, supplies.caen.is_on

    assert asyncio.run(story()) == (False, True)


def test_bias_follows_the_temperature_until_it_cannot_be_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(alarm_keeper.DELAY_S, "following", 0.5)

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            caen = b.supplies.caen

            def commanded() -> float:
                return b.daemon.instruments["caen"].driver.commanded.value  # type: ignore[attr-defined,no-any-return]

            await b.post("/api/v1/bias/caen/on", volts=50.0)
            b.supplies.degc = 28.0
            await b.until(lambda: abs(caen.output_v - 50.15) < 0.01, "it follows")
            b.supplies.degc = 85.0
            await b.until(lambda: "85" in str(b.daemon.following.document("caen")), "the sensor is not believed")
            await b.until(lambda: "following.caen" in b.alarms(), "and somebody is told")
            (told,) = [one["following"] for one in b.daemon.bias.documents() if one["name"] == "caen"]
            assert (told["correction_v"], told["mv_per_k"]) == (0.15, 50.0)
            assert "no temperature" in told["frozen"]
            assert [one["following"] for one in b.daemon.bias.documents() if one["name"] != "caen"] == [None]
            lines = b.daemon.metrics.text().decode().splitlines()
            (value,) = [one.split()[-1] for one in lines if one.startswith("petqc_bias_following{") and '"caen"' in one]
            assert float(value) == 0.0
            await asyncio.sleep(1.2)
            assert commanded() == 50.15
            said = await asyncio.to_thread(entries, b.daemon.store, limit=20)
            assert any(one["by"]["name"] == "temperature following" and one["phase"] == "intent" for one in said)

    asyncio.run(story())


def test_what_an_instrument_says_is_wrong_with_it_is_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(alarm_keeper.DELAY_S, "reading", 0.5)

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            assert b.alarms() == {}
            b.supplies.chiller.alarm = -1
            await b.until(lambda: "reading.chiller" in b.alarms(), "its alarm is ours")
            (told,) = [one for one in b.daemon.alarms.documents() if one["id"] == "reading.chiller"]
            assert (told["severity"], told["detail"]) == ("MINOR", "-01 LOW LEVEL ALARM")
            b.supplies.chiller.alarm = None
            await b.until(lambda: "CLEARED" in b.alarms()["reading.chiller"], "it is over, and nobody saw it")
            await b.post("/api/v1/alarms/reading.chiller/acknowledge")
            assert b.alarms() == {}

    asyncio.run(story())


def test_a_circulator_is_set_within_its_range_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            chiller, path = b.supplies.chiller, "/api/v1/devices/chiller/cool"
            state = ["--config", str(tmp_path / "petqc.toml"), "--state-dir", str(b.daemon.state_dir)]
            asked = ["devices", "cool", "chiller", "--set", "18.5", "--start", *state]
            done = await asyncio.to_thread(CliRunner().invoke, app, asked)
            assert done.exit_code == 0, done.output
            assert (chiller.set_degc, chiller.is_running) == (18.5, True)
            assert "outside the configured 5.0 to 35.0" in await b.refused(path, set_degc=40.0)
            assert "cools nothing" in await b.refused("/api/v1/devices/hv/cool", is_running=False)
            await b.post(path, is_running=False)
            assert (chiller.set_degc, chiller.is_running) == (18.5, False)
            chiller.is_remote = False
            assert "not in remote mode" in await b.refused(path, is_running=True)
            assert [command for command, _ in chiller.told] == ["out_sp_00", "out_mode_05", "out_mode_05"]

    asyncio.run(story())


def test_what_a_supply_keeps_is_told_and_stored_with_its_output_off_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv, path, why = b.supplies.hv, "/api/v1/bias/hv/stored", "new array"
            hv.functions |= Function.AUTO_RESTORE
            hv.stored = replace(hv.stored, voltage=code_below(70.0))
            assert "petqc bias stored" in await b.refused("/api/v1/bias/hv/on", volts=50.0)
            told = await b.post(path, reason=why)
            assert (round(told["volts"], 1), told["stays_off"]) == (70.0, False)
            set_ = {"volts": 45.0, "at_degc": 25.0, "mv_per_k": 54.0, "stays_off": True, "reason": why}
            assert "compensation can make" in await b.refused(path, **{**set_, "volts": 56.9})
            assert hv.stored.voltage == code_below(70.0)
            state = ["--config", str(tmp_path / "petqc.toml"), "--state-dir", str(b.daemon.state_dir)]
            asked = ["stored", "hv", "--volts", "45", "--mv-per-k", "54", "--stays-off", "--reason", why]
            done = await asyncio.to_thread(CliRunner().invoke, app, ["bias", *asked, *state])
            assert done.exit_code == 0, done.output
            assert "hv: wakes up with 44.999 V" in done.output
            assert "+53.97 mV/K +0.000 mV/K² above" in done.output
            assert "over-current leaves it off" in done.output
            assert hv.stored.voltage == code_below(45.0)
            assert Function.AUTO_RESTORE not in hv.functions
            await b.post("/api/v1/bias/hv/on", volts=50.0)
            before = hv.stored
            assert "only with the output off" in await b.refused(path, **set_)
            assert hv.stored == before
            assert "keeps nothing that petqc sets" in await b.refused("/api/v1/bias/caen/stored", reason=why)

    asyncio.run(story())


def test_of_two_who_set_one_output_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            await b.post("/api/v1/bias/hv/on", volts=46.0)
            sources = (await asyncio.to_thread(b.client.get, "/api/v1/bias"))["sources"]
            (version,) = [one["version"] for one in sources if one["name"] == "hv"]
            sets = [b.post("/api/v1/bias/hv/set", volts=volts, version=version) for volts in (54.0, 50.0)]
            told = await asyncio.gather(*sets, return_exceptions=True)
            (done,) = [one for one in told if isinstance(one, dict)]
            (refused,) = [one for one in told if isinstance(one, DaemonError)]
            assert (refused.code, "look at it again" in str(refused)) == ("refused", True)
            assert abs(hv.output_v - done["commanded_v"]) < 0.01

    asyncio.run(story())


def test_a_command_whose_client_is_gone_is_done_and_its_end_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv, body = b.supplies.hv, b'{"volts": 55.0}'
            head = f"POST /api/v1/bias/hv/on HTTP/1.1\r\nHost: petqcd\r\nContent-Length: {len(body)}\r\n"
            _, client = await asyncio.open_unix_connection(b.daemon.state_dir / SOCKET_NAME)
            client.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            await b.until(lambda: hv.is_on and hv.output_v > 42.0, "it is on its way")
            client.close()
            await client.wait_closed()
            rows: list[dict[str, Any]] = []
            while [one["phase"] for one in rows] != ["result", "intent"]:
                await asyncio.sleep(0.05)
                said = await asyncio.to_thread(entries, b.daemon.store, limit=100)
                rows = [one for one in said if one["target"] == "/api/v1/bias/hv/on"]
            assert rows[0]["outcome"] == "done"
            assert abs(hv.output_v - 55.0) < 0.01
            assert b.daemon.instruments["hv"].bias is BiasState.ON

    asyncio.run(story())


def test_a_calendar_that_leaps_by_years_changes_no_ramp_no_deadline_and_no_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    years_s = 10 * 365.25 * 86_400.0

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            ramp = asyncio.create_task(b.post("/api/v1/bias/hv/on", volts=54.0))
            await b.until(lambda: hv.is_on and hv.output_v > 42.0, "it is on its way")
            for ahead_s in (years_s, -years_s, 1.0, -1.0, 0.0):
                monkeypatch.setattr(clock, "_ahead_s", ahead_s)
                await asyncio.sleep(0.1)
                assert not [r for r in b.daemon.instruments["hv"].readings() if "stale" in (r.reason or "")]
            assert (await ramp)["state"] == "on"
            assert abs(hv.output_v - 54.0) < 0.01
            assert not [id_ for id_ in b.alarms() if id_.startswith(("trip", "lost", "fault"))], b.alarms()

    asyncio.run(story())


def test_a_daemon_that_stood_still_first_knows_nothing_and_then_commands_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stops a process from outside stops its event loop; the clock of ages goes on."""

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.daemon.instruments["hv"]
            await b.post("/api/v1/bias/hv/on", volts=50.0)
            monkeypatch.setattr(instrument, "STALE_AFTER_S", 1.0)
            told = {one.name: one.readings() for one in b.daemon.instruments}
            await b.until(lambda: all(one.readings() is not told[one.name] for one in b.daemon.instruments), "read")
            before = b.supplies.raised()
            time.sleep(1.1)  # noqa: ASYNC251 - that is the fault
            assert not any(r.quality is Quality.GOOD for r in hv.readings())
            # Asked when it stood still, its link is made anew, and what is found on is adopted.
            await b.until(lambda: any(r.quality is Quality.GOOD for r in hv.readings()), "it is read again")
            await b.until(lambda: hv.answers and hv.bias is BiasState.ON, "it is on")
            await asyncio.sleep(0.5)
            assert b.supplies.raised() == before
            assert b.supplies.hv.is_on

    asyncio.run(story())
