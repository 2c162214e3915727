"""Faults of a simulated readout that runs: what is asked goes on to its control socket, and nowhere else.

A readout that is not simulated has none, and what is asked of it is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from petqcd.client import SOCKET_PATH_MAX
from petqcd.errors import RefusedError, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 5.0
MOST_BYTES = 1 << 20
"""Of an answer."""


class SimulatorControl:
    """The control socket of one simulator.

    Attributes:
        path: of the socket; None: the readout is not simulated, its simulator has not begun yet, or nobody said where
            its socket is.
    """

    def __init__(self, *, is_simulated: bool, path: Path | None = None) -> None:
        self._is_simulated = is_simulated
        self.path = path

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; what they are: docs/reference/faults.md.

        Raises:
            RefusedError: the readout is not simulated, or the simulator refuses.
            UnreachableError: no simulator answers.
        """
        if not self._is_simulated:
            raise RefusedError("the readout is not simulated: no fault can be planted in it")
        path = self.path
        if path is None:
            raise UnreachableError("no control socket of a simulator is known: it has not begun, or is not configured")
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise UnreachableError(f"{path}: a socket path has at most {SOCKET_PATH_MAX} bytes")
        try:
            async with asyncio.timeout(DEADLINE_S):
                line = await _exchange(path, json.dumps(request).encode() + b"\n")
            said = json.loads(line)
        except (OSError, ValueError, asyncio.LimitOverrunError) as error:  # a TimeoutError is an OSError
            raise UnreachableError(f"the simulator at {path} does not answer: {str(error) or 'in time'}") from error
        if not isinstance(said, dict) or said.get("ok") is not True:
            why = said.get("error") if isinstance(said, dict) else None
            raise RefusedError(f"the simulator refuses: {why or 'it does not say why'}")
        return {name: value for name, value in said.items() if name != "ok"}


async def _exchange(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path, limit=MOST_BYTES)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
