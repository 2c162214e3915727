"""The two listeners: loopback TCP for reading, the UNIX socket for commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

import uvicorn

from petqcd.client import SOCKET_NAME, SOCKET_PATH_MAX
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

GRACE_S = 3
MOST_CONNECTIONS = 100
_BACKLOG = 64


class Server(uvicorn.Server):
    """A server whose process belongs to somebody else: signals are the daemon's. `ready` is set once it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say so."""
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(app: ASGIApp) -> Server:
    """A server for one application."""
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=GRACE_S,
            http="h11",
            ws="none",
            loop="none",
        )
    )


def tcp_socket(host: str, port: int) -> socket.socket:
    """A listening socket on loopback.

    Raises:
        ConfigError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"[api] listen = {host}:{port}: {error.strerror} (choose another port, or 0)") from error
    return listener


def unix_socket(state_dir: Path) -> socket.socket:
    """The command socket, for its owner only. The caller holds the state directory's lock, so an old one is stale.

    Raises:
        ConfigError: the path is too long for a socket.
    """
    path = state_dir / SOCKET_NAME
    if len(str(path).encode()) > SOCKET_PATH_MAX:
        raise ConfigError(f"{path}: a socket path has at most {SOCKET_PATH_MAX} bytes (choose a shorter directory)")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # the socket must never exist with wider permissions, not for a moment
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
