"""A daemon that serves: run, status, history, show, off through the command."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petqc.formats.petsys_config import load_config
from petqc_drivers.device import OutputState
from petqcd.config import BENCH_BIAS
from petqcd.readout.petsys_board import PetsysBoard
from petqcd.readout.supervisor import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable


def request(http_address: str, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(http_address.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, "{}" if method == "POST" else None, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_serve_and_everything_one_asks_of_it(tmp_path: Path, serve: Callable[..., Any]) -> None:
    with serve(tmp_path, seconds=3) as daemon:
        status = daemon.petqc("status", "--wait-ready", "--json").json()
        assert status["missing"] == []
        assert status["simulated"] is True
        assert status["run"] is None
        assert status["http"] == daemon.http

        ran = daemon.petqc("run", "daily", "--wait", "--json")
        assert ran.code in (0, 1), ran.err
        document = ran.json()
        assert document["verdict"] in ("pass", "warn", "fail")
        assert "daily QC: source, part 2 of 2: acquire" in ran.err
        assert "daily QC: so far, not a verdict, simulated: Singles rate" in ran.err

        history = daemon.petqc("history", "--json").json()["runs"]
        assert [r["kind"] for r in history] == ["source", "housekeeping", "daily"]
        assert history[-1]["run_id"] == document["run_id"]
        account = daemon.petqc("show", history[0]["run_id"], "--json").json()["account"]
        assert account["frames_recorded"] <= account["frames"]
        assert 0 <= account["frames_not_analysed_live"] <= account["frames_recorded"]
        shown = daemon.petqc("show", "last", "--json")
        assert shown.code == ran.code
        assert shown.json() == {k: v for k, v in document.items() if k != "where"}
        off = daemon.petqc("off")
        assert (off.code, off.out) == (0, "board: IN_SAFE_STATE: bias is off, read back from the board\n")
        assert daemon.petqc("abort").code == 2

        # What loopback gives to read, and what it refuses.
        code, page = request(daemon.http, "GET", "/")
        assert code == 200
        assert b"Simulated" in page
        assert document["run_id"].encode() in page
        for path in ("/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/runs", "/static/petqc.css"):
            assert request(daemon.http, "GET", path)[0] == 200, path
        code, report = request(daemon.http, "GET", f"/api/v1/runs/{document['run_id']}/report")
        assert code == 200
        assert report == (daemon.state_dir / "runs" / document["run_id"] / "report.html").read_bytes()
        for path in ("/api/v1/runs", "/api/v1/abort", "/api/v1/off"):
            assert request(daemon.http, "POST", path)[0] == 405, path
        assert request(daemon.http, "GET", "/api/v1/status", {"Host": "evil.example"})[0] == 421
        assert request(daemon.http, "GET", "/api/v1/events", {"Origin": "http://evil.example"})[0] == 403
        assert (daemon.state_dir / "petqcd.sock").stat().st_mode & 0o077 == 0

        # A second daemon on the same state is refused with the first one named.
        second = daemon.petqc("serve")
        assert second.code == 3
        assert f"process {daemon.process.pid}" in second.err

        # A reload is asked for, with a file that is broken by now: what runs goes on as it is, and says so.
        good = daemon.config.read_text()
        daemon.config.write_text("[device")
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.petqc("check-config").code == 2
        assert request(daemon.http, "GET", "/healthz")[0] == 200
        assert any("SIGHUP changes nothing" in line for line in daemon.log)
        daemon.config.write_text(good)


def test_wrong_use_has_its_exit_codes(tmp_path: Path, petqc: Callable[..., Any]) -> None:
    nothing = str(tmp_path / "nothing")
    assert petqc("run", "daily", "--wait", "--state-dir", nothing).code == 3
    assert petqc("status", "--state-dir", nothing).code == 3
    assert petqc("off", "--state-dir", nothing).code == 3
    assert petqc("serve", "--config", nothing).code == 2
    assert petqc("nonsense").code == 2
    assert petqc("analyse", str(tmp_path / "no.rawf")).code == 2
    wrong = tmp_path / "petqc.toml"
    wrong.write_text("[scanner]\nnmae = 'x'\n")
    done = petqc("check-config", str(wrong), "--json")
    assert done.code == 2
    assert done.json()["code"] == "config-error"
    assert "petqc.toml:2: scanner.nmae: unknown key" in done.err
    assert petqc("version").out.startswith("petqc ")
    assert petqc("version", "--json").json()["petqc"]


async def energised(ready: dict[str, Any], *, energise: bool) -> OutputState:
    """Connect to a board, energise it if wanted, say what is known about its outputs, and let go without a change."""
    board = PetsysBoard(
        Endpoint(ready["address"], Path(ready["config"])), load_config(Path(ready["config"])), BENCH_BIAS
    )
    try:
        await board.connect()
        if energise:
            await board.configure()
            await board.bias_on()
        return board._readout.bias_state
    finally:
        await board.aclose()


def test_off_works_with_the_daemon_down(tmp_path: Path, petqc: Callable[..., Any]) -> None:
    """A board of its own, left energised: `petqc off` alone makes it safe, and says so only if it is."""
    listen = ["--listen", "udp://127.0.0.1:0", "--state-dir", str(tmp_path / "board"), "--until-stdin-closes"]
    simulator = subprocess.Popen(
        [sys.executable, "-m", "petqc_simulators", "serve", "--json", "--profile", "bench", "--seed", "1", *listen],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert simulator.stdout is not None
    assert simulator.stdin is not None
    try:
        ready = json.loads(simulator.stdout.readline())
        config = tmp_path / "petqc.toml"
        config.write_text(
            f'[[device]]\naddress = "{ready["address"]}"\nconfiguration = "{ready["config"]}"\nsimulated = true\n'
        )
        assert asyncio.run(energised(ready, energise=True)) is OutputState.ON
        assert asyncio.run(energised(ready, energise=False)) is OutputState.ADOPTED
        done = petqc("off", "--config", str(config), "--state-dir", str(tmp_path / "state"))
        assert done.code == 0, done.err
        assert "board: IN_SAFE_STATE: off, read back after the command" in done.out
        assert asyncio.run(energised(ready, energise=False)) is OutputState.OFF
        simulator.kill()
        simulator.wait()
        gone = petqc("off", "--config", str(config), "--state-dir", str(tmp_path / "state"))
        assert gone.code == 3
        assert "UNKNOWN" in gone.out
        assert "hardware switch" in gone.out
    finally:
        simulator.kill()
        simulator.wait()
        simulator.stdin.close()
        simulator.stdout.close()


def test_faults_are_listed_for_people_and_for_programs(petqc: Any) -> None:
    told, listed = petqc("faults"), petqc("faults", "--json")
    assert (told.code, listed.code) == (0, 0)
    kinds = listed.json()
    assert {"F01", "F14"} <= {kind["id"] for kind in kinds}
    assert all(kind["noticed_by"] and kind["id"] in told.out for kind in kinds)
