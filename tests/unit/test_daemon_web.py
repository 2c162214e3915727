"""The two listeners: what loopback may read, what it is refused, and what only the UNIX socket may do."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.run_documents import usual_run

from petqc_simulators.recording import write_recording
from petqcd.app import Daemon
from petqcd.client import Client
from petqcd.config import ApiConfig, DeviceConfig, PetqcConfig, QcConfig, SourceConfig, load_config
from petqcd.errors import BusyError, InvalidRequestError, NotFoundError, RefusedError, UnreachableError
from petqcd.interlocks.bias_limits import BiasLimits
from petqcd.metric_table import METRICS, reference_page
from petqcd.metrics import Metrics
from petqcd.progress import QUEUE_LENGTH, Bus, Event
from petqcd.web.actions import ACTIONS, ROLES, SOCKET_ONLY
from petqcd.web.api import make_app
from petqcd.web.gate import GatedRoute
from petqcd.web.guard import MAX_BODY_BYTES, MAX_DOCUMENT_BYTES, Guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
ANY_PORT = ApiConfig(listen="127.0.0.1:0")


@pytest.fixture(scope="session")
def board_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    return folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"]


@asynccontextmanager
async def daemon(state_dir: Path, board_config: Path, api: ApiConfig = ANY_PORT) -> AsyncIterator[Daemon]:
    """A daemon whose board is at an address where nobody answers."""
    device = DeviceConfig(
        address="udp://127.0.0.1:9",
        configuration=board_config,
        simulated=True,
        bias=BiasLimits(v_min=0, v_max=50, max_step_v=1, slew_v_per_s=10),
    )
    config = PetqcConfig(device=(device,), qc=QcConfig(source=SourceConfig(seconds=1)), api=api)
    async with Daemon(config, state_dir) as running:
        yield running


def ask(
    address: str, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_what_the_history_chooses_to_compare_is_of_one_kind(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            assert (await asyncio.to_thread(ask, d.http, "GET", "/runs"))[0] == 200
            for run_id, kind in (("s1", "source"), ("h1", "housekeeping"), ("s2", "source"), ("s3", "source")):
                run = usual_run(run_id=run_id, kind=kind)
                about = {"scanner": run.scanner, "simulated": True, "started_at": run.started_at, "config_hash": ""}
                await d.store.begin_run(run_id, kind=kind, **about)
                if run_id != "s3":  # which goes on
                    await d.store.finish_run(run)
            page = (await asyncio.to_thread(ask, d.http, "GET", "/runs"))[2].decode()
            assert re.findall(r'name="([ab])" value="(\w+)"[^>]* checked', page) == [("b", "s2"), ("a", "s1")]

    asyncio.run(work())


def test_loopback_reads_and_is_refused_everything_else(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            for path in ("/", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/openapi.json"):
                status, headers, _ = await asyncio.to_thread(ask, d.http, "GET", path)
                assert status == 200, path
                assert headers["x-content-type-options"] == "nosniff"
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert "unsafe" not in headers["content-security-policy"]
                assert "access-control-allow-origin" not in headers
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                for path in ("/api/v1/runs", "/api/v1/off", "/api/v1/abort", "/"):
                    json_header = {"Content-Type": "application/json"}
                    status, _, body = await asyncio.to_thread(ask, d.http, method, path, json_header, b"{}")
                    assert status == 405, (method, path)
                    assert json.loads(body)["code"] == "read-only"
            assert d.runs.progress is None
            assert d.store.history() == []

    asyncio.run(work())


def test_the_page_of_faults_is_of_a_simulated_readout_only(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            status, _, page = await asyncio.to_thread(ask, d.http, "GET", "/faults")
            assert status == 200
            assert b"no control socket of a simulator is known" in page  # nobody said where it is
            assert b"Simulator</a>" in page
            device = d.config.device[0].model_copy(update={"simulated": False})
            d.config = d.config.model_copy(update={"device": (device,)})
            status, _, page = await asyncio.to_thread(ask, d.http, "GET", "/faults")
            assert status == 404
            assert b"is no simulation" in page
            assert b"Simulator</a>" not in page

    asyncio.run(work())


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "petqcd", "localhost@evil.example"])
def test_a_wrong_host_is_refused_on_loopback_too(tmp_path: Path, board_config: Path, host: str) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            assert (await asyncio.to_thread(ask, d.http, "GET", "/api/v1/status", {"Host": host}))[0] == 421

    asyncio.run(work())


def test_good_hosts_and_foreign_origins(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            port = d.http.rpartition(":")[2]
            for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
                assert (await asyncio.to_thread(ask, d.http, "GET", "/healthz", {"Host": host}))[0] == 200
            foreign = {"Origin": "https://evil.example"}
            assert (await asyncio.to_thread(ask, d.http, "GET", "/api/v1/events", foreign))[0] == 403
            assert (await asyncio.to_thread(ask, d.http, "GET", "/healthz", {"Origin": "null"}))[0] == 403

    asyncio.run(work())


def test_commands_go_through_the_socket_and_errors_have_codes(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            client = Client(tmp_path)

            def talk() -> str:
                with pytest.raises(RefusedError, match="no run is going on"):
                    client.post("/api/v1/abort", {})
                with pytest.raises(RefusedError, match="no run of kind"):
                    client.post("/api/v1/runs", {"kind": "weekly"})
                with pytest.raises(NotFoundError):
                    client.get("/api/v1/runs/nothing")
                with pytest.raises(InvalidRequestError, match="Extra inputs"):
                    client.post("/api/v1/runs", {"kind": "source", "extra": 1})
                with closing(client.events()) as events:
                    assert next(events)[0] == "state"
                    run_id: str = client.post("/api/v1/runs", {"kind": "source"})["run_id"]
                    with pytest.raises(BusyError):
                        client.post("/api/v1/runs", {"kind": "source"})
                    for name, data in events:
                        if name == "finished":
                            assert data["run_id"] == run_id
                            assert data["verdict"] == "invalid"  # nobody answers at the board's address
                            break
                return run_id

            run_id = await asyncio.to_thread(talk)
            document = await asyncio.to_thread(client.get, f"/api/v1/runs/{run_id}")
            assert "127.0.0.1:9" in document["sentence"]
            assert (await asyncio.to_thread(client.get, "/api/v1/status"))["last_run"]["run_id"] == run_id
            status, headers, report = await asyncio.to_thread(ask, d.http, "GET", f"/api/v1/runs/{run_id}/report")
            assert status == 200
            assert headers["content-type"].startswith("text/html")
            assert run_id.encode() in report
            assert (await asyncio.to_thread(ask, d.http, "GET", "/api/v1/runs/nothing/report"))[0] == 404
            page = (await asyncio.to_thread(ask, d.http, "GET", f"/runs/{run_id}"))[2].decode()
            assert f"/api/v1/runs/{run_id}/report" in page
            assert "source: invalid" in page
            assert (await asyncio.to_thread(ask, d.http, "GET", "/runs/nothing"))[0] == 404

    asyncio.run(work())


def test_the_socket_is_its_owners_and_goes_with_the_daemon(tmp_path: Path, board_config: Path) -> None:
    state_dir = tmp_path / "state"

    async def work() -> None:
        async with daemon(state_dir, board_config):
            assert (state_dir / "petqcd.sock").stat().st_mode & 0o077 == 0
            assert state_dir.stat().st_mode & 0o077 == 0

    asyncio.run(work())
    assert not (state_dir / "petqcd.sock").exists()
    with pytest.raises(UnreachableError, match="petqc serve"):
        Client(state_dir).get("/api/v1/status")


def test_a_stale_socket_does_not_stand_in_the_way(tmp_path: Path, board_config: Path) -> None:
    import socket

    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "petqcd.sock"))
    stale.close()
    with pytest.raises(UnreachableError, match="petqc serve"):
        Client(tmp_path).get("/api/v1/status")

    async def work() -> None:
        async with daemon(tmp_path, board_config):
            assert (await asyncio.to_thread(Client(tmp_path).get, "/api/v1/status"))["process"] == os.getpid()

    asyncio.run(work())


def test_every_route_has_an_action(tmp_path: Path, board_config: Path) -> None:
    def routes(app: Any) -> set[tuple[str, str]]:
        assert isinstance(app, Guard)
        inner: Any = app._app
        assert all(isinstance(route, GatedRoute) for route in inner.routes)
        return {(m, r.path) for r in inner.routes for m in r.methods}

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            over_tcp, on_socket = routes(make_app(d, on_socket=False)), routes(make_app(d, on_socket=True))
            assert on_socket == set(ACTIONS)
            assert over_tcp == {route for route, action in ACTIONS.items() if action not in SOCKET_ONLY}

    asyncio.run(work())
    assert set(ROLES) == set(ACTIONS.values())


def call_guard(method: str, headers: dict[str, str], *, commands: bool, path: str = "/api/v1/runs") -> int:
    """Status that the guard gives; 200 stands for passed on."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the guard reads no bodies")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    asyncio.run(Guard(app, hosts={"petqcd"}, commands=lambda: commands)(scope, receive, send))
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json", "Content-Length": "2"}, 200),
        ({"Content-Type": "application/json; charset=utf-8", "Content-Length": "2"}, 200),
        ({"Content-Type": "text/plain", "Content-Length": "2"}, 415),
        ({"Content-Length": "2"}, 415),
        ({"Content-Type": "application/json"}, 411),
        ({"Content-Type": "application/json", "Content-Length": "-1"}, 411),
        ({"Content-Type": "application/json", "Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content-Type": "application/json", "Content-Length": "2", "Origin": "http://petqcd"}, 200),
        ({"Content-Type": "application/json", "Content-Length": "2", "Origin": "http://elsewhere"}, 403),
    ],
)
def test_what_a_command_must_look_like(headers: dict[str, str], status: int) -> None:
    assert call_guard("POST", {"Host": "petqcd", **headers}, commands=True) == status


def test_the_document_of_a_run_may_be_longer_than_a_command_but_has_an_end_too() -> None:
    def sent(length: int) -> int:
        headers = {"Host": "petqcd", "Content-Type": "application/json", "Content-Length": str(length)}
        return call_guard("POST", headers, commands=True, path="/api/v1/imports")

    assert (sent(MAX_BODY_BYTES + 1), sent(MAX_DOCUMENT_BYTES), sent(MAX_DOCUMENT_BYTES + 1)) == (200, 200, 413)


def test_a_listener_that_does_not_read_is_dropped_and_holds_up_nobody() -> None:
    async def work() -> None:
        bus = Bus()
        with bus.listen() as slow, bus.listen() as quick:
            for n in range(QUEUE_LENGTH + 5):
                bus.publish(Event("progress", {"n": n}))
                event = quick.get_nowait()
                assert event is not None
                assert event.data["n"] == n
            assert bus.dropped == 1
            last = None
            while slow.qsize():
                last = slow.get_nowait()
            assert last is None  # its stream has ended
        bus.close()
        with bus.listen() as late:
            assert late.get_nowait() is None

    asyncio.run(work())


def test_metrics_keep_the_rules_of_names_and_labels() -> None:
    for metric in METRICS:
        assert metric.name.startswith("petqc_")
        assert set(metric.labels) <= {"scanner", "module", "device", "check", "kind", "quantity", "permit", "alarm"}
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
    names = [m.name for m in METRICS]
    assert len(set(names)) == len(names)
    assert not any(name.endswith(("_ms", "_ps", "_kev", "_percent")) for name in names)


def test_known_series_exist_from_the_start_and_the_text_is_cached() -> None:
    metrics = Metrics("bench", "board", simulated=True)
    text = metrics.text().decode()
    assert 'petqc_runs_failed_total{scanner="bench"} 0.0' in text
    assert 'petqc_frames_dropped_total{device="board",scanner="bench"} 0.0' in text
    assert 'petqc_simulated{scanner="bench"} 1.0' in text
    assert 'petqc_bias_state{device="board",scanner="bench"} 3.0' in text  # unknown until something is known
    assert "_created" not in text
    assert metrics.text() is metrics.text()
    metrics.set("petqc_run_active", 1)
    assert 'petqc_run_active{scanner="bench"} 1.0' in metrics.text().decode()


def test_the_reference_page_is_the_table() -> None:
    written = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert written == reference_page(), "run: python -m petqcd.metric_table > docs/reference/metrics.md"


def test_promtool_accepts_the_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not on PATH, and without it nobody knows whether the metrics follow the rules")
        pytest.skip("promtool is not on PATH: ./petqc test installs it when run as root on Debian")
    text = Metrics("bench", "board", simulated=False).text()
    judged = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_scrapes_at_once_take_one_thread_and_get_nothing_older_than_their_question(
    tmp_path: Path, board_config: Path
) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            real, made, at_once, most = d.metrics.text, 0, 0, 0

            def slowly() -> bytes:
                nonlocal made, at_once, most
                made, at_once = made + 1, at_once + 1
                most = max(most, at_once)
                time.sleep(0.1)
                text = real()
                at_once -= 1
                return text

            d.metrics.text = slowly  # type: ignore[method-assign]

            async def scrape(number: int) -> None:
                d.metrics.set("petqc_run_progress_ratio", number)
                loop = asyncio.get_running_loop()
                said = (await loop.run_in_executor(clients, ask, d.http, "GET", "/metrics"))[2].decode()
                (line,) = [one for one in said.splitlines() if one.startswith("petqc_run_progress_ratio{")]
                assert float(line.rsplit(" ", 1)[1]) >= number

            with ThreadPoolExecutor(20) as clients:  # not those that the daemon needs
                await asyncio.gather(*(scrape(number) for number in range(20)))
            assert most == 1
            assert made < 20

    asyncio.run(work())


def test_while_every_device_hangs_everything_is_answered(tmp_path: Path, board_config: Path) -> None:
    """Six instruments, and all that is there takes connections and says nothing."""

    async def work() -> None:
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
            text = f'[[device]]\naddress = "udp://127.0.0.1:9"\nconfiguration = "{board_config}"\nsimulated = true\n'
            text += '[api]\nlisten = "127.0.0.1:0"\n'
            for n, one in enumerate(silent):
                text += f'[[device]]\nname = "chiller-{n}"\nkind = "julabo"\nmodel = "FL"\nsimulated = true\n'
                text += f'address = "socket://127.0.0.1:{one.getsockname()[1]}"\nreply_timeout_s = 1\n'
            path = tmp_path / "petqc.toml"
            path.write_text(text)
            async with Daemon(load_config(path), tmp_path / "state") as d:
                for _ in range(3):
                    for page in ("/metrics", "/healthz", "/api/v1/status", "/", "/devices"):
                        assert (await asyncio.to_thread(ask, d.http, "GET", page))[0] == 200
                    await asyncio.sleep(0.5)
                assert not any(one.answers for one in d.instruments)

    asyncio.run(work())
