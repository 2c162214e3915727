"""The audit log to syslog, over real sockets: every row in order, servers that are away, and nobody who waits."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.test_daemon_audit import PERSON

from petqcd.app import Daemon
from petqcd.config import ApiConfig, AuditConfig, DeviceConfig, PetqcConfig, load_config
from petqcd.errors import ConfigError
from petqcd.metrics import Metrics
from petqcd.security import syslog
from petqcd.security.audit import Audit, entries
from petqcd.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

DEADLINE_S = 20.0
MESSAGE = re.compile(
    rb"<(?P<pri>\d{1,3})>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<host>[!-~]{1,255}) petqcd \d+ "
    rb"(?P<id>[!-~]{1,32}) - (?P<row>\{.*\})"
)
"""The head of RFC 5424, with nil for structured data."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "EVERY_S", 0.02)
    monkeypatch.setattr(syslog, "BACK_OFF_S", (0.05, 0.1))
    monkeypatch.setattr(syslog, "DEADLINE_S", 0.5)


def row_of(text: bytes) -> dict[str, Any]:
    found = MESSAGE.fullmatch(text)
    assert found is not None, text
    row: dict[str, Any] = json.loads(found["row"])
    assert int(found["pri"]) >> 3 == 13
    assert found["id"].decode() == row["action"].replace(" ", "_")
    return row


@asynccontextmanager
async def exporting(folder: Path, address: str) -> AsyncIterator[tuple[Audit, Metrics]]:
    store, metrics = Store(folder), Metrics("bench", "board", simulated=True)
    audit = Audit(store, "1.0")
    task = asyncio.create_task(syslog.SyslogExport(address, store, metrics, "bench").run())
    try:
        yield audit, metrics
    finally:
        task.cancel()
        await asyncio.wait({task})
        await audit.aclose()
        store.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - another process or thread may do it
            await asyncio.sleep(0.01)


def value(metrics: Metrics, name: str) -> float:
    (line,) = [one for one in metrics.text().decode().splitlines() if one.startswith(f"{name}{{")]
    return float(line.rsplit(" ", 1)[1])


class TcpServer:
    """A syslog server on TCP that can go away and come again; rows by octet counting."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.rows: list[dict[str, Any]] = []
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._connections:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = await reader.readuntil(b" ")
                self.rows.append(row_of(await reader.readexactly(int(length))))
        self._connections.discard(writer)
        writer.close()

    @property
    def numbers(self) -> list[int]:
        return [row["number"] for row in self.rows]


def test_the_daemon_gives_its_rows_to_a_local_socket(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def work() -> None:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
            server.bind(str(path))
            server.setblocking(False)
            device = DeviceConfig(address="udp://127.0.0.1:9", configuration=tmp_path / "none.ini", simulated=True)
            config = PetqcConfig(
                device=(device,), api=ApiConfig(listen="127.0.0.1:0"), audit=AuditConfig(syslog=str(path))
            )
            async with Daemon(config, tmp_path / "state") as d, asyncio.timeout(DEADLINE_S):
                loop = asyncio.get_running_loop()
                started = row_of(await loop.sock_recv(server, 65_536))
                assert (started["action"], started["scanner"]) == ("start", "bench")
                await d.audit.note(PERSON, "energise", "hv", outcome="refused", error="a trip is latched")
                text = await loop.sock_recv(server, 65_536)
                assert text.startswith(b"<108>1 ")  # log audit, warning
                (stored,) = entries(d.store, limit=1)
                assert row_of(text) == stored | {"scanner": "bench"}
                await until(lambda: value(d.metrics, "petqc_audit_syslog_waiting_rows") == 0)

    asyncio.run(work())


def test_a_server_that_goes_away_gets_all_rows_in_order_and_holds_nobody_up(tmp_path: Path) -> None:
    async def work() -> None:
        server = TcpServer()
        await server.start()
        address = f"tcp://127.0.0.1:{server.port}"
        async with exporting(tmp_path, address) as (audit, metrics):
            await audit.note(PERSON, "first", "x")
            await until(lambda: server.numbers == [1])
            await server.stop()
            for number in range(30):
                async with audit.act(PERSON, "off", "hv", new=number, first=True):
                    pass
            await until(lambda: value(metrics, "petqc_audit_syslog_failures_total") > 1)
            assert value(metrics, "petqc_audit_syslog_waiting_rows") > 0
            assert len(entries(audit.store, limit=500)) == 61
            await server.start()
            await until(lambda: server.numbers[-1] == 61)
        # What came while nobody exported comes, too, and nothing from the beginning.
        store = Store(tmp_path)
        audit = Audit(store, "1.0")
        await audit.note(PERSON, "meanwhile", "x")
        await audit.aclose()
        store.close()
        async with exporting(tmp_path, address):
            await until(lambda: server.numbers[-1] == 62)
        assert server.numbers == list(range(1, 63))
        await server.stop()

    asyncio.run(work())


def test_a_server_that_takes_nothing_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def work() -> None:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
            server.bind(str(path))  # and never reads: its queue is full after some rows
            async with exporting(tmp_path / "state", str(path)) as (audit, metrics):
                for number in range(400):
                    audit._wait(audit._row(PERSON, "annotate", "x", "event", {"number_of": number, "text": "y" * 900}))
                await audit.flush()
                await until(lambda: value(metrics, "petqc_audit_syslog_failures_total") > 0)
                await audit.note(PERSON, "off", "hv")
                assert entries(audit.store, limit=1)[0]["action"] == "off"

    asyncio.run(work())


def test_a_datagram_each_over_udp_and_what_is_too_long_is_cut_to_what_matters(tmp_path: Path) -> None:
    async def work() -> None:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
            address = f"udp://127.0.0.1:{server.getsockname()[1]}"
            async with exporting(tmp_path, address) as (audit, _), asyncio.timeout(DEADLINE_S):
                name = replace(PERSON, name="a person\n<0>1 forged")
                await audit.note(name, "import", "run", text={str(n): "z" * 900 for n in range(50)})
                text = await asyncio.get_running_loop().sock_recv(server, 65_536)
                row = row_of(text)
                assert len(text) < syslog.LONGEST_BYTES
                assert (row["cut"], row["by"]["name"]) == (True, name.name)
                assert row["hash"] == entries(audit.store, limit=1)[0]["hash"]

    asyncio.run(work())


def test_what_is_no_address_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "petqc.toml"
    for address in ("log", "http://log.example", "tcp://", "udp://log.example:x"):
        path.write_text(f'[audit]\nsyslog = "{address}"\n')
        with pytest.raises(ConfigError, match="syslog"):
            load_config(path)
    path.write_text('[audit]\nsyslog = "tcp://[::1]:6514"\n')
    assert load_config(path).audit.syslog == "tcp://[::1]:6514"
