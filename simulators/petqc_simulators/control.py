"""The back door of a simulator that runs: faults are planted and taken away over a UNIX socket.

One line of JSON is a request, one line the answer: `{"do": "list"}`, `{"do": "kinds"}`, `{"do": "add", "fault":
"F03=100"}`, `{"do": "remove", "number": 2}`, `{"do": "day", "day": 91}`. An answer has `ok`; where that is false,
`error` says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from petqc_simulators.days import Days
    from petqc_simulators.live_faults import LiveFaults

NAME = "control.sock"
MOST_BYTES = 4096
"""Of a request."""
MOST_CLIENTS = 8
_LOOK_S = 1.0
SILENT_S = 10.0
"""A client that sends no whole request for so long is closed."""
SOCKET_PATH_MAX = 107
"""Bytes of the path of a UNIX socket. Source: unix(7), sun_path has 108 with its end."""


def answer(faults: LiveFaults, line: bytes, days: Days | None = None) -> dict[str, Any]:
    """What is said to one request."""
    try:
        request = json.loads(line)
        match request:
            case {"do": "list", **rest} if not rest:
                return {"ok": True, "faults": faults.documents()}
            case {"do": "kinds", **rest} if not rest:
                return {"ok": True, "kinds": faults.kinds()}
            case {"do": "add", "fault": str(text), **rest} if not rest:
                return {"ok": True, "fault": faults.add(text)}
            case {"do": "day", "day": int(day) | float(day), **rest} if not rest:
                if days is None:
                    return {"ok": False, "error": "no scenario with days is played here"}
                return {"ok": True, "day": day, "faults": days.begin(float(day))}
            case {"do": "remove", "number": int(number), **rest} if not rest:
                return {"ok": True, "fault": faults.remove(number)}
            case _:
                return {"ok": False, "error": "a request is do: list, kinds, add (with fault) or remove (with number)"}
    except ProfileError as error:
        return {"ok": False, "error": str(error)}
    except ValueError:
        return {"ok": False, "error": "a request is a line of JSON"}


@contextlib.contextmanager
def control_path(folder: Path) -> Iterator[Path]:
    """Where the socket of a simulator goes: into its folder, or a short one if that has a path too long for it."""
    path = folder.absolute() / NAME
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="petqc-") as short:
        yield Path(short) / NAME


@contextlib.contextmanager
def serving(faults: LiveFaults, path: Path, days: Days | None = None) -> Iterator[Path]:
    """Answer on a socket, in a thread of its own, until the end of the block.

    Raises:
        ProfileError: the socket cannot be there.
    """
    server = _Server(faults, path, days)
    thread = threading.Thread(target=server.run, name="simulator control")
    thread.start()
    try:
        yield path
    finally:
        server.stop()
        thread.join()
        server.close()


class _Server:
    def __init__(self, faults: LiveFaults, path: Path, days: Days | None) -> None:
        self._faults = faults
        self._days = days
        self._path = path
        self._clients: dict[socket.socket, tuple[bytes, float]] = {}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)  # what a simulator left that was killed
            self._listening.bind(os.fspath(path))
            path.chmod(0o600)
        except OSError as error:
            self._listening.close()
            raise ProfileError(f"{path} cannot be used for the control socket: {error.strerror or error}") from error
        self._listening.listen(MOST_CLIENTS)
        self._listening.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()

    def stop(self) -> None:
        os.write(self._wake_write, b"x")

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._listening.close()
        self._path.unlink(missing_ok=True)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self) -> None:
        while True:
            by_number = {one.fileno(): one for one in self._clients}
            if len(self._clients) < MOST_CLIENTS:
                by_number[self._listening.fileno()] = self._listening
            readable, _, _ = select.select([self._wake_read, *by_number], [], [], _LOOK_S)
            if self._wake_read in readable:
                return
            now = time.monotonic()
            for source in (by_number[number] for number in readable):
                if source is self._listening:
                    with contextlib.suppress(OSError):
                        client, _ = self._listening.accept()
                        client.settimeout(1.0)
                        self._clients[client] = b"", now
                else:
                    self._read(source, now)
            for client, (_, since) in list(self._clients.items()):
                if now - since > SILENT_S:
                    self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        client.close()

    def _read(self, client: socket.socket, now: float) -> None:
        try:
            came = client.recv(MOST_BYTES)
        except OSError:
            came = b""
        if not came:
            self._drop(client)
            return
        *lines, rest = (self._clients[client][0] + came).split(b"\n")
        try:
            for line in lines:
                client.sendall(json.dumps(answer(self._faults, line, self._days)).encode() + b"\n")
        except OSError:
            self._drop(client)
            return
        if len(rest) > MOST_BYTES:
            self._drop(client)
            return
        self._clients[client] = rest, now
