"""A current-voltage curve as a command: through permits and limits, off in the end, of use to a calibration."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.served_instruments import served
from typer.testing import CliRunner

from petqc.calibrate.iv_curve import read_iv_file
from petqc_simulators.boards.keithley_smu import KeithleySmu as KeithleyBoard
from petqc_simulators.boards.witness import judge
from petqc_simulators.physics.leakage import SipmLoad
from petqcd.app import Daemon
from petqcd.cli.commands import app
from petqcd.client import Client
from petqcd.config import load_config
from petqcd.errors import DaemonError
from petqcd.interlocks import bias_watch
from petqcd.security.audit import entries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CURVE = "/api/v1/bias/smu/curve"
CONFIG = """\
[[device]]
name = "board"
address = "udp://127.0.0.1:9"
configuration = "config.ini"

[[device]]
name = "smu"
kind = "keithley-smu"
address = "TCPIP::{host}::{port}::SOCKET"
model = "2450"
serial = "04425111"
simulated = true
poll_s = 0.2
[device.bias]
v_min = 0
v_max = 58
max_step_v = 10
slew_v_per_s = 100
most_current_ma = {most_ma}
[device.operating]
v_min = 20
v_max = 57

[api]
listen = "127.0.0.1:0"
"""


@asynccontextmanager
async def bench(
    folder: Path, monkeypatch: pytest.MonkeyPatch, board: KeithleyBoard, most_ma: float = 0.1
) -> AsyncIterator[Daemon]:
    """A daemon with a source meter; the meter's own record judges in the end."""
    monkeypatch.setattr(bias_watch, "TICK_S", 0.05)
    with served(board, speed=5.0) as address:
        host, _, port = address.removeprefix("socket://").rpartition(":")
        (folder / "petqc.toml").write_text(CONFIG.format(host=host, port=port, most_ma=most_ma))
        async with Daemon(load_config(folder / "petqc.toml"), folder / "state") as daemon:
            await until(lambda: daemon.instruments["smu"].answers)
            yield daemon
    assert judge(board.witness.lines, highest_v=57.0, lowest_code=0, largest_step_v=None) == []


async def until(holds: Any) -> None:
    async with asyncio.timeout(20.0):
        while not holds():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)


async def refused(daemon: Daemon, **body: Any) -> str:
    with pytest.raises(DaemonError) as caught:
        await asyncio.to_thread(Client(daemon.state_dir).post, CURVE, body, 60.0)
    return f"{caught.value.code}: {caught.value}"


def test_it_shows_the_breakdown_and_is_a_file_for_the_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = KeithleyBoard(SipmLoad(breakdown_v=53.0))

    async def story() -> None:
        async with bench(tmp_path, monkeypatch, board) as daemon:
            path = tmp_path / "curve.csv"
            given = ["smu", "51.5", "55", "--output", "0.0.0.3", "-o", str(path), "--reason", "new array"]
            state = ["--config", str(tmp_path / "petqc.toml"), "--state-dir", str(daemon.state_dir)]
            done = await asyncio.to_thread(CliRunner().invoke, app, ["bias", "curve", *given, *state])
            assert done.exit_code == 0, done.output
            assert "71 points (simulated)" in done.output
            found = float(done.output.partition("  breakdown ")[2].split()[0])
            assert abs(found - 53.0) < 0.2
            assert "  leakage 2." in done.output
            assert not board.is_on
            assert daemon.bias.documents()[0]["state"] == "off"
            said = await asyncio.to_thread(entries, daemon.store, limit=100)
            assert {one["phase"] for one in said if one["target"] == CURVE} == {"intent", "result"}
        assert path.read_text().splitlines()[1].startswith("# simulated curve of smu at ")
        ((output, (volts, amperes)),) = read_iv_file(path).items()
        assert (".".join(map(str, output)), volts.size) == ("0.0.0.3", 71)
        assert amperes[-1] > 100 * amperes[0]

    asyncio.run(story())


def test_refused_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = KeithleyBoard(SipmLoad())

    async def story() -> None:
        async with bench(tmp_path, monkeypatch, board) as daemon:
            for from_v, to_v, words in (
                (19.0, 50.0, "19 V refused: outside the operating limits 20 to 57 V"),
                (50.0, 57.5, "57.5 V refused: outside the operating limits"),
                (20.0, 57.0, "a curve of 37001 points would take about"),
            ):
                assert words in await refused(daemon, from_v=from_v, to_v=to_v, step_v=0.001)
            assert "invalid-request" in await refused(daemon, from_v=50.0, to_v=51.0, step_v=0.0)
            board.interlock_is_closed = False
            await until(lambda: any("interlock" in why for why in daemon.watch.against("smu")))
            assert "permit-missing" in await refused(daemon, from_v=50.0, to_v=51.0)
            assert board.told_v == []
            assert not board.is_on

    asyncio.run(story())


def test_a_permit_that_goes_ends_it_and_off_overtakes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = KeithleyBoard(SipmLoad(is_open=True))

    async def story() -> None:
        async with bench(tmp_path, monkeypatch, board) as daemon:
            going = asyncio.create_task(refused(daemon, from_v=30.0, to_v=50.0, settle_s=0.1, step_v=0.2))
            await until(lambda: board.level_v > 32.0)
            await asyncio.to_thread(Client(daemon.state_dir).post, "/api/v1/off", {}, 30.0)
            assert not board.is_on
            assert "switching off" in await going
            going = asyncio.create_task(refused(daemon, from_v=30.0, to_v=50.0, settle_s=0.1, step_v=0.2))
            await until(lambda: board.is_on and board.level_v > 32.0)
            board.interlock_is_closed = False
            await until(lambda: not board.is_on)
            await going
            assert "interlock" in daemon.bias.documents()[0]["trip"]["causes"][0]["cause"]
            told = len(board.told_v)
            await asyncio.sleep(0.5)
            assert board.told_v[told:] == []

    asyncio.run(story())


def test_one_that_meets_the_current_limit_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = KeithleyBoard(SipmLoad(breakdown_v=53.0))

    async def story() -> None:
        async with bench(tmp_path, monkeypatch, board, most_ma=1e-3) as daemon:
            body = {"from_v": 52.0, "to_v": 57.0, "step_v": 0.5, "settle_s": 0.01}
            told = await asyncio.to_thread(Client(daemon.state_dir).post, CURVE, body, 60.0)
            assert [one["is_limiting"] for one in told["points"]] == [False] * (len(told["points"]) - 1) + [True]
            assert told["points"][-1]["volts"] < 56.5
            assert (told["breakdown"], told["leakage"]) == (None, None)
            assert "at least 20 wanted" in told["why_no_breakdown"]
            assert not board.is_on

    asyncio.run(story())
