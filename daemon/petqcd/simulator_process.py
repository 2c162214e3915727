"""A simulated board: another process, started by its module name and spoken to only over the wire.

The process ends with its standard input, so it cannot outlive a daemon that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from petqcd.errors import EXIT_USAGE, SimulatorError, SimulatorRefusedError

if TYPE_CHECKING:
    from petqcd.config import SimulatorConfig

log = logging.getLogger(__name__)

READY_DEADLINE_S = 30.0
"""Start of the interpreter and drawing the detector take about two seconds; a cold, loaded machine takes longer."""
STOP_DEADLINE_S = 5.0
"""From SIGTERM to SIGKILL."""
MODULE = "petqc_simulators"
LINE_LIMIT = 65_536
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Ready:
    """What a simulator says once it answers on the wire."""

    address: str
    config: Path
    truth: Path
    profile: str
    seed: int


def command(settings: SimulatorConfig, state_dir: Path, listen: str = "udp://127.0.0.1:0") -> list[str]:
    """The command line of a simulator with these settings."""
    return [
        sys.executable,
        "-m",
        MODULE,
        "serve",
        "--profile",
        settings.profile,
        "--seed",
        str(settings.seed),
        "--listen",
        listen,
        "--state-dir",
        str(state_dir),
        "--speed",
        f"{settings.speed:g}",
        "--source",
        settings.source,
        *(argument for fault in settings.faults for argument in ("--fault", fault)),
        "--until-stdin-closes",
    ]


class SimulatorProcess:
    """One simulator process. `start` waits for its ready line, `stop` ends it, both within deadlines."""

    def __init__(self, settings: SimulatorConfig, state_dir: Path) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._process: asyncio.subprocess.Process | None = None
        self._drains: list[asyncio.Task[None]] = []
        self._last_lines: list[str] = []

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, deadline_s: float = READY_DEADLINE_S) -> Ready:
        """Start the process and wait until it answers on the wire.

        Raises:
            SimulatorError: it ended, or said nothing usable before the deadline.
        """
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *command(self._settings, self._state_dir),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # Ctrl-C at the terminal is for the daemon, which ends the simulator in order
        )
        assert self._process.stdout is not None  # noqa: S101 - asked for above; for the type checker
        assert self._process.stderr is not None  # noqa: S101 - asked for above; for the type checker
        self._drains = [asyncio.create_task(self._drain(self._process.stderr), name="simulator stderr")]
        try:
            async with asyncio.timeout(deadline_s):
                ready = await self._ready_line(self._process.stdout)
        except TimeoutError as error:
            await self.stop()
            raise SimulatorError(f"the simulator was not ready after {deadline_s:g} s{self._tail()}") from error
        except BaseException:
            await self.stop()
            raise
        self._drains.append(asyncio.create_task(self._drain(self._process.stdout), name="simulator stdout"))
        log.info("simulator %s (seed %d) answers at %s", ready.profile, ready.seed, ready.address)
        return ready

    async def wait_ended(self) -> SimulatorError:
        """Wait until the process ends by itself; the error says how."""
        if self._process is None:
            raise SimulatorError("the simulator was not started")
        code = await self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return SimulatorError(f"the simulator {how}{self._tail()}")

    async def stop(self) -> None:
        """End the process; safe to call at any time, any number of times."""
        process = self._process
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                try:
                    async with asyncio.timeout(STOP_DEADLINE_S):
                        await process.wait()
                except TimeoutError:
                    log.warning("the simulator did not end within %g s and is killed", STOP_DEADLINE_S)
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        for task in self._drains:
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        self._drains = []

    async def _ready_line(self, stdout: asyncio.StreamReader) -> Ready:
        try:
            line = await stdout.readline()
        except ValueError as error:  # longer than any ready line
            raise SimulatorError(f"the simulator said over {LINE_LIMIT} bytes where its ready line belongs") from error
        if not line:
            assert self._process is not None  # noqa: S101 - called by start only
            code = await self._process.wait()
            await asyncio.gather(*self._drains, return_exceptions=True)  # its last words are in there
            if code == EXIT_USAGE:
                raise SimulatorRefusedError(f"the simulator does not take its settings{self._tail()}")
            raise SimulatorError(f"the simulator ended with code {code} before it was ready{self._tail()}")
        try:
            said = json.loads(line)
            return Ready(
                str(said["address"]), Path(said["config"]), Path(said["truth"]), str(said["profile"]), int(said["seed"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SimulatorError(f"the simulator said {line[:200]!r} where its ready line belongs") from error

    async def _drain(self, stream: asyncio.StreamReader) -> None:
        """Read what the process says, so that it never blocks on a full pipe; the last lines explain its end."""
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the limit: readline threw it away, the next one may be shorter
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            log.debug("simulator: %s", text)
            self._last_lines = [*self._last_lines[-_KEPT_LINES + 1 :], text]

    def _tail(self) -> str:
        return ": " + " | ".join(self._last_lines[-3:]) if self._last_lines else ""
