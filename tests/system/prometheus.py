"""A real Prometheus, a real Alertmanager and a webhook, as processes that a test starts and ends."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not on PATH, and without it nobody knows whether it can use what we give it")
        pytest.skip(f"{name} is not on PATH: ./petqc test installs it when run as root on Debian")
    return found


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(log: Path, *command: str) -> Iterator[None]:
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def impatient(text: str) -> str:
    """Configuration as we ship it, with every wait of a person's pace replaced by a second."""
    text = re.sub(r"\b(for|group_wait|group_interval|scrape_interval|evaluation_interval): \d+[smh]", r"\1: 1s", text)
    assert "1s" in text
    return text


@contextmanager
def watching(folder: Path, targets: list[str], webhook: str) -> Iterator[str]:
    """Our own configuration of Prometheus and Alertmanager, impatient, for some targets; gives Prometheus' address."""
    folder.mkdir()
    prometheus, alertmanager = free_address(), free_address()
    shipped = MONITORING / "prometheus"
    (folder / "petqc.rules.yml").write_text(impatient((shipped / "petqc.rules.yml").read_text()))
    config = impatient((shipped / "prometheus.yml").read_text())
    scraped = '", "'.join(target.removeprefix("http://") for target in targets)
    config = config.replace("127.0.0.1:8642", scraped).replace("127.0.0.1:9093", alertmanager)
    (folder / "prometheus.yml").write_text(config)
    config = impatient((shipped / "alertmanager.yml").read_text()).replace("http://127.0.0.1:9099/", webhook)
    (folder / "alertmanager.yml").write_text(config)
    with (
        running(
            folder / "prometheus.log",
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={prometheus}",
        ),
        running(
            folder / "alertmanager.log",
            program("prometheus-alertmanager"),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'silences'}",
            f"--web.listen-address={alertmanager}",
            "--cluster.listen-address=",
        ),
    ):
        yield f"http://{prometheus}"


@contextmanager
def centre_of_a_fleet(folder: Path, site: str) -> Iterator[str]:
    """Our own configuration of the Prometheus at the centre, impatient, for one site; gives its address."""
    folder.mkdir()
    address = free_address()
    shipped = MONITORING / "prometheus"
    (folder / "fleet.rules.yml").write_text(impatient((shipped / "fleet.rules.yml").read_text()))
    config = impatient((shipped / "fleet.yml").read_text()).replace("127.0.0.1:9090", site.removeprefix("http://"))
    (folder / "fleet.yml").write_text(config.replace("127.0.0.1:9093", free_address()))
    command = (
        program("prometheus"),
        f"--config.file={folder / 'fleet.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )
    with running(folder / "prometheus.log", *command):
        yield f"http://{address}"


class Webhook:
    """What a webhook was told: every alert, newest last."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        self._told = threading.Condition()

    def take(self, document: dict[str, Any]) -> None:
        with self._told:
            self.alerts.extend(document["alerts"])
            self._told.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], deadline_s: float = 30) -> dict[str, Any]:
        with self._told:
            self._told.wait_for(lambda: any(map(wanted, self.alerts)), deadline_s)
            found = [alert for alert in self.alerts if wanted(alert)]
            assert found, self.alerts
            return found[-1]


@contextmanager
def webhook() -> Iterator[tuple[str, Webhook]]:
    """A webhook that listens; gives its address and what it is told."""
    hook = Webhook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="webhook")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", hook
        finally:
            server.shutdown()
            thread.join()


def query(address: str, expression: str) -> list[dict[str, Any]]:
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of our own
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def wait_for(address: str, expression: str, deadline_s: float = 30) -> list[dict[str, Any]]:
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        try:
            found = query(address, expression)
        except OSError:  # still starting
            found = []
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{expression} has no result within {deadline_s} s")


@dataclass(frozen=True, slots=True)
class Panel:
    """A query of a dashboard as Grafana would send it with all scanners and modules chosen, and what came back."""

    name: str
    expression: str
    rows: list[dict[str, Any]]


def panels(address: str, dashboards: str = "*") -> list[Panel]:
    """Every query of the dashboards (a pattern of file names), asked."""
    found = []
    for path in sorted((MONITORING / "grafana" / "dashboards").glob(f"{dashboards}.json")):
        document = json.loads(path.read_text())
        asked = [(panel["title"], target["expr"]) for panel in document["panels"] for target in panel["targets"]]
        asked += [(one["name"], one["expr"]) for one in document["annotations"]["list"]]
        for variable in document["templating"]["list"]:
            known = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
            if known is not None:
                asked.append((variable["name"], f"group by ({known[2]}) ({known[1]})"))
        for title, expr in dict.fromkeys(asked):
            expression = expr.replace("$scanner", ".*").replace("$module", ".*")
            found.append(Panel(f"{path.stem}: {title}: {expr}", expression, query(address, expression)))
    return found


def panels_with_values(
    address: str, exported: set[str], dashboards: str = "*", deadline_s: float = 60.0
) -> list[Panel]:
    """The same, once each shows what is exported: rules are evaluated, and a centre asks, a second apart."""
    end_s = time.monotonic() + deadline_s
    while empty := empty_though(found := panels(address, dashboards), exported):
        assert time.monotonic() < end_s, empty
        time.sleep(0.5)
    return found


def empty_though(found: list[Panel], exported: set[str]) -> list[str]:
    """Panels that show nothing though all their metrics have values, and they ask for no rare condition."""
    return [
        panel.name
        for panel in found
        if not panel.rows
        and re.search(r" (>|==) \d+\b", panel.expression) is None
        and "_drift_" not in panel.expression
        and not set(re.findall(r"petqc_\w+", panel.expression)) - exported
    ]
