"""What becomes of energised supplies when the daemon is killed, hangs, is started again, or is gone for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tests.contract.interlocked_bench import Supplies, write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READY_DEADLINE_S = 60.0


@contextmanager
def daemon(command: list[str], config: Path, state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """`petqc serve`, which the test ends as it likes."""
    process = subprocess.Popen(
        [*command, "serve", "--json", "--config", str(config), "--state-dir", str(state_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PETQC_")},
    )
    killer = threading.Timer(READY_DEADLINE_S, process.kill)
    killer.start()
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["ready"]
        killer.cancel()
        yield process
    finally:
        killer.cancel()
        killer.join()
        process.kill()
        process.wait()
        process.stdout.close()


def safe(state_dir: Path) -> tuple[int, Any]:
    """What `petqc-safe` does."""
    done = subprocess.run(
        [sys.executable, "-m", "petqcd.off.petqc_safe", "--state-dir", str(state_dir), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_killed_started_again_hung_and_gone(tmp_path: Path, command: list[str], petqc: Callable[..., Any]) -> None:
    supplies, state_dir = Supplies(), tmp_path / "state"
    with ExitStack() as stack:
        config = write_config(tmp_path, supplies.serve(stack))
        where = ["--config", str(config), "--state-dir", str(state_dir)]

        def on() -> tuple[bool, bool]:
            return supplies.hv.is_on, supplies.caen.is_on

        with daemon(command, config, state_dir) as process:
            for name, volts in (("hv", "54"), ("caen", "50")):
                until_s = time.monotonic() + 20.0
                while (told := petqc("bias", "on", name, volts, "--json", *where)).code:  # permits need readings first
                    assert time.monotonic() < until_s, told.err
                assert told.json()["state"] == "on"
            assert safe(state_dir)[0] == 2  # it does not work against a daemon that is there
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert on() == (True, True)
        before = supplies.raised()

        with daemon(command, config, state_dir) as process:
            until_s = time.monotonic() + 20.0
            while not {one["id"] for one in petqc("alarms", "list", "--json", *where).json()["alarms"]} >= {
                "adopted.hv",
                "adopted.caen",
            }:
                assert time.monotonic() < until_s
            told = petqc("bias", "confirm", "hv", "--json", *where)
            assert (told.code, told.json()["state"]) == (0, "on"), told.err
            assert supplies.raised() == before  # nothing was raised, nothing was set
            process.send_signal(signal.SIGSTOP)
            off = petqc("off", "--json", *where)
            assert {one["device"]: one["state"] for one in off.json()["devices"]} == {
                "board": "UNKNOWN",
                "hv": "IN_SAFE_STATE",
                "caen": "IN_SAFE_STATE",
            }
            assert (off.code, on()) == (3, (False, False))  # nobody answers for the board

            supplies.energise()
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert on() == (True, True)
        code, told = safe(state_dir)
        assert {one["device"]: one["state"] for one in told["devices"]} == {
            "board": "UNKNOWN",
            "hv": "IN_SAFE_STATE",
            "caen": "IN_SAFE_STATE",
        }
        assert (code, on()) == (3, (False, False))
        ramped = [line["volts"] for line in supplies.hv.witness.lines if line["event"] == "set" and line["supply"]]
        assert len(ramped) >= 3
        assert ramped == sorted(ramped, reverse=True)
        assert not [line for line in supplies.caen.witness.lines if line["event"] == "set" and line["supply"]]
    assert supplies.judged() == []
