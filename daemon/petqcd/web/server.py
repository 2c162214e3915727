"""The two listeners: TCP for people and programs, the UNIX socket for the command line."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import ssl
import struct
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import uvicorn

from petqcd.client import SOCKET_NAME, SOCKET_PATH_MAX
from petqcd.errors import ConfigError
from petqcd.web.certificate import expires_unix_s
from petqcd.web.slow_clients import ImpatientProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

GRACE_S = 3
MOST_CONNECTIONS = 100
_BACKLOG = 64


class Tls:
    """The certificate of a listener; a renewed file is taken without a restart.

    Raises:
        ConfigError: the files are no certificate and its key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._read_ns = self._changed_ns()
            self.context.load_cert_chain(certificate, key)
            self.expires_unix_s = expires_unix_s(certificate)
        except OSError as error:  # an error of TLS is one, too
            raise ConfigError(f"[api] tls_certificate = {certificate}, tls_key = {key}: {error}") from error

    def refresh(self) -> None:
        """Take files that have changed; those that are wrong are told of, and the old certificate stays."""
        try:
            changed_ns = self._changed_ns()
            if changed_ns != self._read_ns:
                self._read_ns = changed_ns
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
                self.context.load_cert_chain(*self._files)
                self.expires_unix_s = expires_unix_s(self._files[0])
                log.info("%s: a new certificate is in use", self._files[0])
        except (OSError, ConfigError) as error:
            log.error("the old certificate stays in use: %s: %s", self._files[0], error)  # noqa: TRY400 - says it all

    def _changed_ns(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._files)


class Connections:
    """Counts the connections of each source; beyond `most` a new one is closed at once.

    Loopback is many and is not counted: a proxy, Prometheus and a person at this machine have one address.

    Args:
        most: of one source.
        refused: called for each that is closed.
    """

    def __init__(self, most: int, refused: Callable[[], None]) -> None:
        self._most, self._refused = most, refused
        self._open: Counter[str] = Counter()

    def opened(self, source: str) -> bool:
        """Whether a connection may stay; if so it is counted until `closed`."""
        if not is_loopback(source):
            if self._open[source] >= self._most:
                self._refused()
                return False
            self._open[source] += 1
        return True

    def closed(self, source: str) -> None:
        """One that may stay has ended."""
        if self._open[source] > 1:
            self._open[source] -= 1
        else:
            self._open.pop(source, None)

    def protocol(self) -> type[ImpatientProtocol]:
        """HTTP that counts."""
        connections = self

        class Counted(ImpatientProtocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                self.is_counted = connections.opened(self.client[0] if self.client else "")
                if self.is_counted:
                    self.make_room()
                else:
                    transport.abort()

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                if self.is_counted:
                    connections.closed(self.client[0] if self.client else "")

        return Counted


def is_loopback(source: str) -> bool:
    """Whether an address is of this very host."""
    try:
        return ip_address(source).is_loopback
    except ValueError:
        return False


class PeerProtocol(ImpatientProtocol):
    """HTTP on the UNIX socket: who asks is what the kernel says, process and user in place of host and port."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        pid, uid, _ = struct.unpack("3i", raw)
        self.client = (str(pid), uid)
        self.make_room()


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


def make_server(
    app: ASGIApp, *, tls: Tls | None = None, connections: Connections | None = None, most: int = MOST_CONNECTIONS
) -> Server:
    """A server for one application.

    Args:
        app: the application.
        tls: None: not encrypted.
        connections: who counts those of one source; None: it listens on the UNIX socket.
        most: connections at once; of more, requests are answered 503.
    """
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=most,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=GRACE_S,
            http=PeerProtocol if connections is None else connections.protocol(),
            proxy_headers=False,  # anybody on this host could write them, and be somebody else for the limits
            ws="none",
            ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
            loop="none",
        )
    )


def tcp_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the port is taken, or the address is not one of this host.
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
        raise ConfigError(
            f"[api] listen = {host}:{port}: {error.strerror or error} (choose another port, or 0)"
        ) from error
    return listener


def unix_socket(state_dir: Path, group: str | None = None) -> socket.socket:
    """The command socket, for its owner and a group. The caller holds the state directory's lock: an old one is stale.

    Args:
        state_dir: where it is.
        group: whose members may ask, too, and have the role of their own group then; None: only the owner may.

    Raises:
        ConfigError: the path is too long for a socket, there is no such group, or this process may not give it away.
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
        if group is not None:
            _open_to(path, group)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _open_to(path: Path, group: str) -> None:
    """Let a group use the socket: mode 0660, and whoever is in it must be able to reach it."""
    try:
        number = grp.getgrnam(group).gr_gid
        os.chown(path, -1, number)
        path.chmod(0o660)
    except KeyError:
        raise ConfigError(f"[api] socket_group = {group}: there is no such group (groupadd --system {group})") from None
    except OSError as error:
        raise ConfigError(
            f"[api] socket_group = {group}: {error.strerror}: the daemon's user must be in that group"
        ) from error
    folder = path.parent.stat()
    if not (folder.st_mode & 0o001 or (folder.st_mode & 0o010 and folder.st_gid == number)):
        raise ConfigError(
            f"[api] socket_group = {group}: its members do not reach {path.parent}: chgrp {group} {path.parent} and "
            f"chmod g+x {path.parent}"
        )
