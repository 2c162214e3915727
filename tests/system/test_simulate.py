"""`petqc simulate`: a simulated scanner for anyone, announced, told about, and gone without a trace."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from petqc.formats.petsys_config import load_config
from petqc_drivers.petsys.wire import HANDSHAKE
from petqcd.config import PetqcConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY = Path("/dev/shm")


def left_behind(folder: Path) -> list[str]:
    mine = ("petqc-simulate-", "petqc-test-simulate")
    places = [*Path(tempfile.gettempdir()).iterdir(), *MEMORY.iterdir(), *folder.glob("*.sock")]
    return [str(path) for path in places if path.name.startswith(mine) or path.suffix == ".sock"]


@contextmanager
def simulating(command: list[str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*command, "simulate", "--source", "none", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        killer = signal.SIGKILL
        try:
            yield process
            killer = signal.SIGTERM
        finally:
            process.send_signal(killer)
            process.communicate(timeout=30)


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "stdin"])
def test_a_board_says_what_it_is_and_ends_when_told(tmp_path: Path, command: list[str], how: str) -> None:
    arguments = ["--json", "--listen", "udp://127.0.0.1:0", "--state-dir", str(tmp_path), "--status-every", "0.1"]
    arguments += ["--fault", "F01=3", "--write-config", str(tmp_path / "mine")]
    if how == "stdin":
        arguments.append("--until-stdin-closes")
    with simulating(command, *arguments) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["ready"] is True
        assert (ready["boards"], ready["modules"], ready["channels"]) == (1, 2, 512)
        assert Path(ready["config"]) == tmp_path / "mine" / "config.ini"
        assert load_config(Path(ready["config"])).warnings == ()
        assert json.loads(Path(ready["truth"]).read_text())["source"] == "none"
        device = PetqcConfig.model_validate(tomllib.loads(ready["petqc_toml"])).board
        assert device.is_simulated
        assert (device.address, device.configuration) == (ready["address"], Path(ready["config"]))
        host, port = ready["address"].removeprefix("udp://").split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((host, int(port)))
            client.settimeout(10)
            client.send(HANDSHAKE)
            assert client.recv(100) == HANDSHAKE
        status: dict[str, Any] = {"clients": 0}
        while not status["clients"]:
            status = json.loads(process.stdout.readline())["status"]
        assert status["bias_supply_on"] is False
        assert status["faults"] == ["F01"]
        if how == "stdin":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(20) == 0
        assert list(json.loads(process.stdout.read().splitlines()[-1])) == ["ended"]
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["bias_supply_on"] is False
    assert max(state["highest_output_v"]) == 0


def test_a_scanner_of_several_units_is_told_in_words_and_leaves_nothing(
    tmp_path: Path, petqc: Callable[..., Any]
) -> None:
    place = f"unix:{tmp_path / 'scanner.sock'}"
    before = left_behind(tmp_path)
    done = petqc(
        *("simulate", "--profile", "ring-small", "--source", "none", "--for", "0.2", "--status-every", "0.1"),
        *("--listen", place, "--shared-memory", "/petqc-test-simulate"),
    )
    assert done.code == 0, done.err
    for words in (
        "Small TOFPET2 ring, 16 boards of 512 channels",
        "16 x FEB/D 1K (base PCB 0x0002), clock and trigger unit at port 4, slave 0",
        "32 x FEM-256 (0x0111), each 16 x 16 crystals, in a ring of 280 mm",
        "8192 on 128 ASICs TOFPET2 2C",
        f"{place}\n",
        "/petqc-test-simulate (the daemon's ring of frames)",
        'kind = "petsys-daqd"',
        "--profile ring-small --seed 1 --listen unix:/tmp/d.sock --shared-memory /daqd_shm",
    ):
        assert words in done.out
    assert "0 clients · bias off · no faults" in done.err
    assert "ended after" in done.err
    assert left_behind(tmp_path) == before


def test_what_cannot_be_done_is_one_line_and_code_2(tmp_path: Path, petqc: Callable[..., Any]) -> None:
    odd = tmp_path / "odd.toml"
    odd.write_text('name = "odd"\n[geometri]\n')
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.ini").write_text("[main]\n")
    (tmp_path / "there.sock").touch()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        in_use = f"udp://127.0.0.1:{taken.getsockname()[1]}"
        free = ("--listen", "udp://127.0.0.1:0")
        for arguments, words in (
            (("--profile", "bnch"), ("there is no profile 'bnch'", "bench, ")),
            (("--profile", str(odd)), (str(odd), "'geometri'")),
            (("--fault", "F99"), ("'F99' is not known", "F01")),
            (("--listen", in_use), (in_use, "is in use by another program")),
            (("--listen", f"unix:{tmp_path}/there.sock"), ("there.sock exists", "remove the file")),
            ((*free, "--write-config", str(tmp_path / "config")), ("config.ini exists and is not of this detector",)),
        ):
            done = petqc("simulate", "--json", *arguments)
            assert done.code == 2, done.err
            assert done.err.startswith("petqc simulate: ")
            assert done.err.count("\n") == 1
            said = json.loads(done.out)
            assert said["code"] == "simulator-refused"
            assert all(word in said["error"] for word in words), said
    assert (tmp_path / "config" / "config.ini").read_text() == "[main]\n"
