"""Requests that are made to break something: refused, nothing grows, and the next one is answered."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests.unit.test_daemon_access import PAGE, login, with_users
from tests.unit.test_daemon_web import ask, board_config

from petqcd.web.guard import MAX_BODY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

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
