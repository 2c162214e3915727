"""A simulated scanner whose clock has stepped, watched by a real Prometheus and Alertmanager with our own files."""

from __future__ import annotations

import re
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.system.prometheus import (
    Webhook,
    centre_of_a_fleet,
    panels_with_values,
    program,
    wait_for,
    watching,
    webhook,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Watched:
    """A daemon after its first run, and who watches it."""

    daemon: Any
    prometheus: str
    hook: Webhook
    document: dict[str, Any]
    manager: socket.socket


@contextmanager
def service_manager(path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """Somebody who is told as systemd would be, and asks for a sign of life every three seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        yield manager, {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    from tests.system.conftest import serving

    folder = tmp_path_factory.mktemp("watched")
    with (
        webhook() as (url, hook),
        service_manager(folder / "notify") as (manager, told_to),
        serving(folder / "petqc", seconds=3, faults=("F14=300",), env=told_to) as daemon,
        watching(folder / "watching", [daemon.http], url) as prometheus,
    ):
        assert wait_for(prometheus, "petqc_run_verdict == -1")[0]["metric"]["scanner"] == "bench"
        wait_for(prometheus, 'ALERTS{alertname="PetqcSimulated"}')  # the rules are at work,
        # and once it is scraped nothing is wrong yet, whatever the disk of this machine says.
        wait_for(prometheus, 'absent(ALERTS{severity!="info", alertname!~"PetqcDisk.*", alarm!="disk"})')
        document = daemon.petqc("run", "daily", "--wait", "--json").json()
        yield Watched(daemon, prometheus, hook, document, manager)


def test_prometheus_has_what_the_run_measured(watched: Watched) -> None:
    finished = wait_for(watched.prometheus, "petqc_run_last_finished_timestamp_seconds > 0")
    assert abs(float(finished[0]["value"][1]) - time.time()) < 120
    ctr = next(c for c in watched.document["checks"] if (c["id"], c["node"]) == ("ctr_fit", "scanner"))
    (series,) = wait_for(watched.prometheus, 'petqc_ctr_fit_seconds{module="scanner"}')
    assert float(series["value"][1]) == pytest.approx(ctr["value"] * 1e-12)
    wait_for(watched.prometheus, "petqc_frames_received_total > 100000")
    wait_for(watched.prometheus, "up == 1")
    with urllib.request.urlopen(f"{watched.daemon.http}/metrics", timeout=5) as answer:  # noqa: S310 - an address of our own
        text = answer.read()
    judged = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_a_clock_that_stepped_reaches_a_person(watched: Watched) -> None:
    def of_the_module(alert: dict[str, Any]) -> bool:
        labels = alert["labels"]
        return labels["alertname"] == "PetqcCheckFailed" and labels["check"] == "module_time_offset"

    alert = watched.hook.wait_for(of_the_module)
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "critical"
    module = alert["labels"]["module"]
    said = next(
        c for c in watched.document["checks"] if (c["id"], c["node"]) == ("module_time_offset", f"module:{module}")
    )
    assert said["status"] == "fail"
    assert f"bench: Time offset of module {module} is outside its limits, " in alert["annotations"]["summary"]
    assert alert["annotations"]["summary"].endswith("ps")
    failed = watched.hook.wait_for(lambda a: a["labels"]["alertname"] == "PetqcQcFailed")
    assert failed["labels"]["kind"] in ("daily", "source")


def test_every_panel_has_data_where_the_daemon_has_it(watched: Watched) -> None:
    """One run does not fill every panel; those stay empty whose metric has no value yet, and no others."""
    wait_for(watched.prometheus, "petqc_run_last_finished_timestamp_seconds > 0")
    wait_for(watched.prometheus, "petqc:check_value")
    with urllib.request.urlopen(f"{watched.daemon.http}/metrics", timeout=5) as answer:  # noqa: S310 - an address of our own
        exported = set(re.findall(r"^(petqc_\w+)[{ ]", answer.read().decode(), re.MULTILINE))
    found = panels_with_values(watched.prometheus, exported)
    assert len(found) > 80
    assert sum(not panel.rows for panel in found) < len(found) / 2


def test_the_centre_of_a_fleet_sees_the_scanner_of_a_site(watched: Watched, tmp_path: Path) -> None:
    with centre_of_a_fleet(tmp_path / "fleet", watched.prometheus) as centre:
        (verdict,) = wait_for(centre, "petqc_run_verdict == 2")
        assert (verdict["metric"]["scanner"], verdict["metric"]["site"]) == ("bench", "here")
        assert verdict["metric"]["job"] == "petqc"
        wait_for(centre, 'ALERTS{alertname="PetqcCheckFailed",check="module_time_offset"}')
        wait_for(centre, 'petqc:scanners_by_verdict{verdict="2"} == 1')


def test_the_service_manager_is_told_that_it_is_ready_and_alive(watched: Watched) -> None:
    assert watched.manager.recv(4096).startswith(b"READY=1\nSTATUS=petqc ")
    for _ in range(3):
        assert watched.manager.recv(4096) == b"WATCHDOG=1"


def test_a_daemon_that_is_gone_reaches_a_person_and_what_was_bad_stays_bad(watched: Watched) -> None:
    watched.manager.setblocking(False)
    with suppress(BlockingIOError):
        while watched.manager.recv(4096):  # or its end would find no room
            pass
    watched.manager.settimeout(20)
    watched.daemon.process.terminate()
    watched.daemon.process.wait(30)
    gone = watched.hook.wait_for(lambda a: a["labels"]["alertname"] == "PetqcGone")
    assert gone["status"] == "firing"
    while (told := watched.manager.recv(4096)) == b"WATCHDOG=1":
        pass
    assert told.startswith(b"STOPPING=1\n")
    watched.hook.wait_for(lambda a: a["labels"]["alertname"] == "PetqcScannerVanished")
    assert all(a["status"] == "firing" for a in watched.hook.alerts if a["labels"]["alertname"] == "PetqcCheckFailed")
