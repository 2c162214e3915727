"""Requests that are made to break something: refused, nothing grows, and the next one is answered."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from argon2 import PasswordHasher
from tests.unit.test_daemon_access import PAGE, login, post, with_users
from tests.unit.test_daemon_web import ask, board_config, daemon

from petqcd.client import Client
from petqcd.config import ApiConfig
from petqcd.progress import Event
from petqcd.web.guard import MAX_BODY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.app import Daemon

__all__ = ["board_config"]

PATHS = ["/api/v1/login", "/api/v1/annotations", "/api/v1/runs"]
BODIES = {
    "deep": b"[" * 100_000,
    "deep and whole": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "keys": json.dumps({f"k{n}": n for n in range(60_000)}).encode(),
    "NaN": b'{"text": NaN, "kind": Infinity}',
    "twice": b'{"kind": "daily", "kind": "no-such-kind", "text": "a", "text": 1}',
    "huge": b'{"text": ' + b"9" * 500_000 + b', "kind": 1e999}',
    "bytes": b'{"text": "\xff\xfe\x00"}',
    "surrogate": b'{"text": 5, "name": "\\ud800", "password": "\\ud800", "kind": "\\ud800"}',
    "nothing": b"",
    "null": b"null",
}


def test_no_body_breaks_a_command(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            own = await login(d, "one-engineer")
            wrong = []
            for path in PATHS:
                for name, body in BODIES.items():
                    status, _, said = await asyncio.to_thread(ask, d.http, "POST", path, own, body)
                    if not 400 <= status < 500 or "code" not in json.loads(said) or len(said) > 2000:
                        wrong.append((path, name, status, said[:100]))
            assert wrong == []
            assert (await asyncio.to_thread(ask, d.http, "GET", "/healthz"))[0] == 200

    asyncio.run(work())


@pytest.mark.parametrize("path", ["/api/v1/login", "/api/v1/imports"])
def test_a_body_is_as_long_as_it_says_or_not_taken(tmp_path: Path, board_config: Path, path: str) -> None:
    """A body in chunks has no length that could be looked at, whatever stands beside it: without an end, and nobody
    has to be logged in for it."""
    head = "".join(f"{name}: {value}\r\n" for name, value in PAGE.items())
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

    def send(http: str) -> tuple[bytes, int]:
        """The beginning of the answer, and how much was taken until then."""
        sent, rest = 0, chunk
        with socket.create_connection((urlsplit(http).hostname, urlsplit(http).port), timeout=10) as client:
            client.sendall(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: 2\r\n".encode()
                + b"Transfer-Encoding: chunked\r\n\r\n"
            )
            while sent < 32 * MAX_BODY_BYTES:
                can_read, can_write, _ = select.select([client], [client], [], 10)
                if can_read:
                    return client.recv(100), sent
                if can_write:
                    n = client.send(rest)
                    sent, rest = sent + n, rest[n:] or chunk
        return b"nothing", sent

    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            answer, sent = await asyncio.to_thread(send, d.http)
            assert answer.startswith(b"HTTP/1.1 411"), sent

    asyncio.run(work())


def test_many_who_listen_and_do_not_read_are_dropped_and_the_others_hear_everything(
    tmp_path: Path, board_config: Path
) -> None:
    n_each, n_events = 20, 300

    async def listens(d: Daemon, *, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = urlsplit(d.http)
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096 if limit == 1 else 1 << 20)
        lazy.setblocking(False)
        await asyncio.get_running_loop().sock_connect(lazy, (where.hostname, where.port))
        reader, client = await asyncio.open_connection(sock=lazy, limit=limit)
        client.write(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return reader, client

    async def hears(reader: asyncio.StreamReader) -> None:
        await reader.readuntil(f'"n":{n_events - 1},'.encode())

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            lazy = [await listens(d, limit=1) for _ in range(n_each)]
            keen = [await listens(d, limit=1 << 24) for _ in range(n_each)]
            while len(d.bus._listeners) < 2 * n_each:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            hearing = [asyncio.create_task(hears(reader)) for reader, _ in keen]
            for n in range(n_events):
                d.bus.publish(Event("test", {"n": n, "text": "x" * 20_000}))
                await asyncio.sleep(0.001)
            async with asyncio.timeout(60):
                await asyncio.gather(*hearing)
            assert d.bus.dropped == n_each
            assert (await asyncio.to_thread(ask, d.http, "GET", "/healthz"))[0] == 200
            for _, client in lazy + keen:
                client.transport.abort()

    asyncio.run(work())


def test_however_many_hold_connections_and_listen_there_is_room_for_whoever_asks(
    tmp_path: Path, board_config: Path
) -> None:
    most = 10

    async def work() -> None:
        async with daemon(tmp_path, board_config, ApiConfig(listen="127.0.0.1:0", connections=most)) as d:
            where = urlsplit(d.http)
            listening, refused = [], 0
            for _ in range(most):
                reader, client = await asyncio.open_connection(where.hostname, where.port)
                client.write(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                refused += (await reader.readline()).startswith(b"HTTP/1.1 429")
                listening.append(client)
            assert refused == most // 2
            idle = [await asyncio.open_connection(where.hostname, where.port) for _ in range(10 * most)]
            assert (await asyncio.to_thread(ask, d.http, "GET", "/healthz"))[0] == 200
            for client in [*listening, *(writer for _, writer in idle)]:
                client.transport.abort()

    asyncio.run(work())


def test_many_wrong_passwords_are_refused_without_a_look_and_never_hashed_on_the_event_loop(
    tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    verify = PasswordHasher.verify

    def noted(*arguments: Any) -> Any:
        hashed.append(threading.get_ident())
        return verify(*arguments)

    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            monkeypatch.setattr(PasswordHasher, "verify", noted)
            body = {"name": "one-engineer", "password": "not this one at all"}
            said = [await post(d, "/api/v1/login", PAGE, body) for _ in range(60)]
            statuses = [status for status, _, _ in said]
            assert set(statuses) == {401, 429}
            assert statuses.count(429) > 50
            assert len(hashed) <= statuses.count(401)
            assert hashed
            assert threading.get_ident() not in hashed
            assert (await asyncio.to_thread(Client(tmp_path).get, "/api/v1/me"))["role"] == "engineer"

    asyncio.run(work())
