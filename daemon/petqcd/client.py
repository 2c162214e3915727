"""How the command speaks to the daemon: HTTP over the UNIX socket in the state directory, standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

from petqcd.errors import (
    BusyError,
    DaemonError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    PermitError,
    RefusedError,
    StoreError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKET_NAME = "petqcd.sock"
SOCKET_PATH_MAX = 107
"""Bytes that a UNIX socket's path may have. Source: unix(7), sun_path of 108 bytes with its closing zero."""
DEADLINE_S = 10.0
EVENTS_DEADLINE_S = 30.0
"""The daemon sends a comment every few seconds, so a longer silence is a dead daemon."""

_BY_CODE: dict[str, type[DaemonError]] = {
    e.code: e
    for e in (
        BusyError,
        InvalidRequestError,
        NotAllowedError,
        NotFoundError,
        PermitError,
        RefusedError,
        StoreError,
        UnreachableError,
    )
}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("petqcd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        if len(str(self._path).encode()) > SOCKET_PATH_MAX:
            raise UnreachableError(f"{self._path}: a socket path has at most {SOCKET_PATH_MAX} bytes")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class Client:
    """Requests to the daemon whose socket is in a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / SOCKET_NAME

    def get(self, path: str, deadline_s: float = DEADLINE_S) -> Any:
        """Answer to a GET, decoded."""
        return self._request("GET", path, None, deadline_s)

    def post(self, path: str, body: dict[str, Any], deadline_s: float = DEADLINE_S) -> Any:
        """Answer to a POST, decoded."""
        return self._request("POST", path, body, deadline_s)

    def alive(self, deadline_s: float) -> None:
        """Make sure that a daemon answers.

        Raises:
            UnreachableError: none does.
        """
        self._answer("GET", "/healthz", None, deadline_s)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events as they come: the first is always `state`. Ends when the daemon closes the stream."""
        connection = _UnixConnection(self.path, EVENTS_DEADLINE_S)
        try:
            connection.request("GET", "/api/v1/events", headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _error(response.status, response.read())
            name = ""
            for raw in response:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _request(self, method: str, path: str, body: dict[str, Any] | None, deadline_s: float) -> Any:
        return json.loads(self._answer(method, path, body, deadline_s))

    def _answer(self, method: str, path: str, body: dict[str, Any] | None, deadline_s: float) -> bytes:
        connection = _UnixConnection(self.path, deadline_s)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise _error(response.status, data)
        return data

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return UnreachableError(f"no daemon answers at {self.path} (start one with: petqc serve)")
        if isinstance(error, TimeoutError):
            return UnreachableError(f"the daemon at {self.path} did not answer in time")
        return UnreachableError(f"the daemon at {self.path} does not answer: {error}")


def _error(status: int, data: bytes) -> DaemonError:
    try:
        said = json.loads(data)
        kind, message = _BY_CODE.get(said["code"], DaemonError), str(said["error"])
    except (ValueError, KeyError, TypeError):
        kind, message = DaemonError, f"the daemon answered {status}: {data[:200].decode(errors='replace')}"
    return kind(message)
