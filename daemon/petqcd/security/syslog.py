"""The audit log to a syslog server, row by row as RFC 5424: a copy that whoever rules this machine does not rule.

Rows are read from the history once they are on the disk, so nobody who acts ever waits for a server, and one that is
away gets them later. The last row that was given is kept in a small file: rows go on where they ended, and one may come
twice. The audit log itself stays the truth: syslog confirms nothing.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import socket
from typing import TYPE_CHECKING, Any

from petqcd import small_file
from petqcd.config.service import SYSLOG_SERVER
from petqcd.errors import ConfigError, StoreError
from petqcd.security.audit import newest, rows_after

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.metrics import Metrics
    from petqcd.store import Store

log = logging.getLogger(__name__)

FILE = "syslog.json"
EVERY_S = 1.0
AT_ONCE = 100
"""Rows that are read at once, and in memory."""
DEADLINE_S = 5.0
"""For a connection, and for each row to be taken."""
BACK_OFF_S = (1.0, 60.0)
LONGEST_BYTES = 8000
"""What servers take as a message; of a longer row its numbers, its hash and who did what are told."""
_LOG_AUDIT = 13
"""Facility. Source: RFC 5424, table 1."""
_WARNING, _NOTICE, _INFO = 4, 5, 6
"""Severities. Source: RFC 5424, table 2."""
_PORTS = {"udp": 514, "tcp": 601}
"""Source: RFC 5426, RFC 6587."""
_KEPT = ("number", "at", "phase", "by", "action", "target", "outcome", "of", "request", "hash", "previous")


class SyslogExport:
    """Gives the rows of the audit log to one server.

    Args:
        address: path of a local socket such as /dev/log, udp://HOST[:PORT] or tcp://HOST[:PORT].
        store: the history; its folder keeps how far the export has come.
        metrics: where it is published how many rows wait.
        scanner: its name, in each message.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, address: str, store: Store, metrics: Metrics, scanner: str) -> None:
        found = re.fullmatch(SYSLOG_SERVER, address)
        if found is None and not address.startswith("/"):
            raise ConfigError(f"[audit] syslog = {address}: /dev/log, udp://HOST:PORT or tcp://HOST:PORT")
        self._address, self._store, self._metrics, self._scanner = address, store, metrics, scanner
        self._way = "unix" if found is None else str(found["way"])
        self._host = "" if found is None else str(found["host"]).strip("[]")
        self._port = 0 if found is None else int(found["port"] or _PORTS[self._way])
        self._socket: socket.socket | None = None
        self._given: int | None = None
        self._is_away = False

    async def run(self) -> None:
        """Until cancelled; whatever the server does, tried again for ever."""
        self._metrics.set("petqc_audit_syslog_configured", 1)
        wait_s = BACK_OFF_S[0]
        try:
            while True:
                try:
                    await self._give_all()
                except (OSError, TimeoutError, StoreError) as error:
                    self._close()
                    if not self._is_away:  # once: an audit log must not fill the log of the service
                        self._is_away = True
                        log.warning("syslog %s: %s; rows of the audit log wait", self._address, _words(error))
                    self._metrics.add("petqc_audit_syslog_failures_total")
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, BACK_OFF_S[1])
                    continue
                if self._is_away:
                    self._is_away = False
                    log.warning("syslog %s: has every row again", self._address)
                wait_s = BACK_OFF_S[0]
                await asyncio.sleep(EVERY_S)
        finally:
            self._close()

    async def _give_all(self) -> None:
        """Every row that is stored and was not given yet."""
        path = self._store.state_dir / FILE
        head = (await asyncio.to_thread(newest, self._store)).number
        if self._given is None:
            self._given = await asyncio.to_thread(_kept, path, self._address, head)
        self._given = min(self._given, head)  # an older history was restored: its rows are new ones
        while True:
            self._metrics.set("petqc_audit_syslog_waiting_rows", max(head - self._given, 0))
            rows = await asyncio.to_thread(rows_after, self._store, self._given, AT_ONCE)
            if not rows:
                return
            before = self._given
            try:
                for row in rows:
                    await self._give(message(row, self._scanner))
                    self._given = int(row["number"])
            finally:
                if self._given != before:
                    document = {"address": self._address, "number": self._given}
                    await asyncio.to_thread(small_file.write, path, document)

    async def _give(self, text: bytes) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE_S):
            if self._socket is None:
                self._socket = await self._connected()
            if self._way == "tcp" and _has_ended(self._socket):
                raise ConnectionResetError(errno.ECONNRESET, "the server has closed the connection")
            # A stream has no end of a message: its length goes first. Source: RFC 6587, octet counting.
            await loop.sock_sendall(self._socket, b"%d %s" % (len(text), text) if self._way == "tcp" else text)

    async def _connected(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        where: Any = self._address
        if self._way == "unix":
            family, kind = socket.AF_UNIX, socket.SOCK_DGRAM
        else:
            kind = socket.SOCK_STREAM if self._way == "tcp" else socket.SOCK_DGRAM
            family, _, _, _, where = (await loop.getaddrinfo(self._host, self._port, type=kind))[0]
        found = socket.socket(family, kind)
        try:
            found.setblocking(False)
            await loop.sock_connect(found, where)
        except BaseException:
            found.close()
            raise
        return found

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def message(row: dict[str, Any], scanner: str) -> bytes:
    """One row as a message of RFC 5424: facility log audit, the action as its id, the row as JSON.

    Args:
        row: of the audit log, with its hash.
        scanner: its name.
    """
    refused = row.get("outcome") in ("refused", "failed", "cancelled") or "error" in row
    severity = _WARNING if refused else _INFO if row.get("phase") == "intent" else _NOTICE
    told = {**row, "scanner": scanner}
    text = _json(told)
    if len(text) > LONGEST_BYTES:
        text = _json({**{key: told[key] for key in _KEPT if key in told}, "scanner": scanner, "cut": True})
    host = _name(socket.gethostname(), 255)
    at = str(row["at"]).replace("+00:00", "Z")
    head = f"<{8 * _LOG_AUDIT + severity}>1 {at} {host} petqcd {os.getpid()} {_name(str(row['action']), 32)} - "
    return head.encode("ascii") + text


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _name(text: str, longest: int) -> str:
    """What a field of the head may be: printable ASCII without spaces, or - for nothing."""
    return re.sub(r"[^\x21-\x7e]", "_", text)[:longest] or "-"


def _kept(path: Path, address: str, head: int) -> int:
    """The last row that this server was given; for a new one the export begins with the newest row."""
    found = small_file.read(path)
    document = None if found is None else found.document
    if isinstance(document, dict) and document.get("address") == address and isinstance(document.get("number"), int):
        return int(document["number"])
    return max(head - 1, 0)


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other end has closed a stream: what is written to it then is lost without an error, at first."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"does not take a row within {DEADLINE_S:g} s"
    if isinstance(error, OSError) and error.errno == errno.EPROTOTYPE:
        return "the local socket is a stream: use tcp://HOST:PORT"
    return str(getattr(error, "strerror", None) or error)
