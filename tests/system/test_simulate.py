"""`petqc simulate`: a simulated scanner for anyone, announced, told about, and gone without a trace."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from petqc.formats.petsys_config import load_config
from petqc_drivers.petsys.wire import HANDSHAKE
from petqc_simulators import __main__ as command_line
from petqcd.config import PetqcConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
            process.wait(30)


@pytest.mark.parametrize("how", ["SIGINT", "stdin"])
def test_a_board_says_what_it_is_and_ends_when_told(tmp_path: Path, command: list[str], how: str) -> None:
    arguments = ["--json", "--listen", "udp://127.0.0.1:0", "--state-dir", str(tmp_path), "--status-every", "0.1"]
    arguments += ["--truth", "--fault", "F01=3", "--write-config", str(tmp_path / "mine")]
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


def test_a_timing_board_listens_where_the_makers_programs_look(command: list[str]) -> None:
    with simulating(command, "--device", "caen-a5203", "--listen", "tcp://127.0.59.3", "--json") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["control_port"], ready["data_port"]) == (9760, 9000)
        for port in (9760, 9000):
            with socket.create_connection(("127.0.59.3", port), timeout=10):
                pass


def test_a_scanner_of_several_units_is_told_in_words_and_leaves_nothing(
    tmp_path: Path, petqc: Callable[..., Any]
) -> None:
    profile = tmp_path / "two.toml"
    profile.write_text(
        'base = "ring-small"\nname = "two"\ntitle = "Two boards"\n[geometry]\nmodules = 4\nacross = 4\n'
        "[hardware]\nboards = 2\nboards_per_port = 1\n"
    )
    done = petqc(
        *("simulate", "--profile", str(profile), "--source", "none", "--for", "0.2", "--status-every", "0.1"),
        *("--shared-memory", "/petqc-test-simulate"),
        env={"TMPDIR": str(tmp_path)},
    )
    assert done.code == 0, done.err
    for words in (
        "Simulated: Two boards\n",
        "2 x FEB/D 1K (base PCB 0x0002), clock and trigger unit at port 2, slave 0",
        "4 x FEM-256 (0x0111), each 16 x 16 crystals, in a ring of 280 mm",
        "1024 on 16 ASICs TOFPET2 2C",
        f"unix:{tmp_path / 'petqc-two.sock'}\n",
        "/petqc-test-simulate (the daemon's ring of frames)",
        'kind = "petsys-daqd"',
        f"--profile {profile} --seed 1 --listen unix:/tmp/d.sock --shared-memory /daqd_shm",
    ):
        assert words in done.out
    assert "0 clients · bias off · no faults" in done.err
    assert "ended after" in done.err
    assert not Path("/dev/shm/petqc-test-simulate").exists()
    assert list(tmp_path.iterdir()) == [profile]


def test_what_cannot_be_done_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
            (("--truth",), ("--truth", "--state-dir")),
            (("--listen", in_use), (in_use, "is in use by another program")),
            (("--listen", f"unix:{tmp_path}/there.sock"), ("there.sock exists", "remove the file")),
            ((*free, "--write-config", str(tmp_path / "config")), ("config.ini exists and is not of this detector",)),
        ):
            assert command_line.main(["serve", "--json", *arguments]) == 2
            said = capsys.readouterr()
            assert said.err.startswith("petqc simulate: ")
            assert said.err.count("\n") == 1
            told = json.loads(said.out)
            assert told["code"] == "simulator-refused"
            assert all(word in told["error"] for word in words), told
    assert (tmp_path / "config" / "config.ini").read_text() == "[main]\n"
