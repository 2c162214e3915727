"""What stands in front of every request: Host, method, size, and headers that keep pages of elsewhere out.

Loopback TCP is not a credential, any local program or web page can reach it: without users everything there is
read-only. Who may do what is decided behind this, in `petqcd.web.gate`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping
    from typing import Any

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 32 << 20
"""Of what has the document of a run in it: hundreds of bytes for each check of each part of a scanner."""
MAX_UNKNOWN_BYTES = 4096
"""Of what anybody may send: a name and a password."""
_MAX_BYTES = {"/api/v1/imports": MAX_DOCUMENT_BYTES, "/api/v1/login": MAX_UNKNOWN_BYTES}
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
SOCKET_HOST = "petqcd"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_READING = ("GET", "HEAD")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        hosts: names that the Host header may carry, without ports.
        commands: asked at each request whether methods that change state are let through.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], commands: Callable[[], bool]) -> None:
        self._app = app
        self._hosts = frozenset(h.lower() for h in hosts)
        self._commands = commands

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with the headers added."""
        if scope["type"] != "http":
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refusal = self._refusal(scope["method"], scope["path"], headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        if _without_port(host).lower() not in self._hosts:
            return 421, "wrong-host", "this server is not called what the Host header says"
        origin = headers.get("origin")
        if origin is not None and _without_port(origin.partition("//")[2]).lower() not in self._hosts:
            return 403, "wrong-origin", "requests from pages of other servers are refused"
        if method in _READING:
            return None
        if not self._commands():
            return 405, "read-only", "this listener only reads until there is a user: petqc user add NAME --role ROLE"
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "not-json", "commands are application/json"
        length = headers.get("content-length", "")
        if not length.isdecimal() or "transfer-encoding" in headers:  # a body in chunks goes on for ever if it likes
            return 411, "no-length", "commands state their length"
        most = _MAX_BYTES.get(path, MAX_BODY_BYTES)
        if int(length) > most:
            return 413, "too-large", f"this command has at most {most} bytes"
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _add_headers(message: MutableMapping[str, Any]) -> None:
    present = {k.lower() for k, _ in message["headers"]}
    extra = [h for h in _HEADERS if h[0] not in present]
    if b"content-security-policy" not in present:
        extra.append((b"content-security-policy", PAGE_POLICY.encode()))
    message["headers"] = [*message["headers"], *extra]


async def _refuse(send: Send, status: int, code: str, error: str) -> None:
    body = json.dumps({"code": code, "error": error}).encode()
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }
    _add_headers(start)
    await send(start)
    await send({"type": "http.response.body", "body": body})
