"""A simulated readout: another process, started by its module name and spoken to only over the wire.

The process ends with its standard input, so it cannot outlive a daemon that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petqcd.client import SOCKET_PATH_MAX
from petqcd.errors import EXIT_USAGE, SimulatorError, SimulatorRefusedError

if TYPE_CHECKING:
    from petqcd.config import InstrumentConfig, SimulatorConfig

log = logging.getLogger(__name__)

READY_DEADLINE_S = 120.0
"""A bench is ready in two seconds, a ring of 8192 channels in 20; a cold, loaded machine takes longer."""
STOP_DEADLINE_S = 5.0
"""From SIGTERM to SIGKILL."""
MODULE = "petqc_simulators"
SHARED_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
LINE_LIMIT = 65_536
SIMULATED_PLACES = ("socket://127.0.0.1:", "tcp://127.0.0.1", "TCPIP::127.0.0.1::")
"""Where a simulator's instruments can be: its word for limits must never reach a real one."""
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Ready:
    """What a simulator says once it answers on the wire."""

    address: str
    config: Path
    profile: str
    seed: int
    shared_memory: str | None = None
    """Name of the frame ring of a simulated daemon."""
    instruments: tuple[InstrumentConfig, ...] = ()
    """What it serves beside the readout."""
    control: Path | None = None
    """Its control socket."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a simulator shall answer.

    listen: address. socket, shared_memory: of a simulated daemon; nobody else uses these names.
    """

    listen: str
    socket: Path | None = None
    shared_memory: str | None = None

    @classmethod
    def of(cls, kind: str, state_dir: Path) -> Place:
        """A place of its own for the simulator of a device.

        Raises:
            SimulatorRefusedError: the path of its socket would be too long.
        """
        if kind != "petsys-daqd":
            return cls("udp://127.0.0.1:0")
        path = state_dir.absolute() / "d.sock"
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise SimulatorRefusedError(f"{path}: a socket path has at most {SOCKET_PATH_MAX} bytes")
        name = f"/petqc-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
        return cls(f"unix:{path}", path, name)

    def clear(self) -> None:
        """Remove what a simulator left that was killed; nothing while one answers."""
        if self.socket is None or self.shared_memory is None or _answers(self.socket):
            return
        self.socket.unlink(missing_ok=True)
        (SHARED_MEMORY_FOLDER / self.shared_memory[1:]).unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except TimeoutError:
            return True
        except OSError:
            return False
        return True


def command(settings: SimulatorConfig, state_dir: Path, place: Place) -> list[str]:
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
        place.listen,
        *(("--shared-memory", place.shared_memory) if place.shared_memory is not None else ()),
        "--state-dir",
        str(state_dir),
        "--speed",
        f"{settings.speed:g}",
        "--source",
        settings.source,
        *(("--scenario", settings.scenario) if settings.scenario else ()),
        *(argument for fault in settings.faults for argument in ("--fault", fault)),
        "--json",
        "--status-every",
        "0",
        "--until-stdin-closes",
    ]


async def end(process: asyncio.subprocess.Process) -> None:
    """End a simulator, and see it ended: told, or killed if it does not listen; safe when it has ended."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is not None:
        return
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


class SimulatorProcess:
    """One simulator process. `start` waits for its ready line, `stop` ends it, both within deadlines."""

    def __init__(self, settings: SimulatorConfig, state_dir: Path, kind: str = "petsys-udp") -> None:
        self._settings = settings
        self._kind = kind
        self._place: Place | None = None
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
        place = self._place = Place.of(self._kind, self._state_dir)
        place.clear()
        self._process = await asyncio.create_subprocess_exec(
            *command(self._settings, self._state_dir, place),
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
            try:
                async with asyncio.timeout(deadline_s):
                    ready = await self._ready_line(self._process.stdout)
            finally:  # ready or not: to asyncio, a process whose pipe is full and read by nobody never ends
                self._drains.append(asyncio.create_task(self._drain(self._process.stdout), name="simulator stdout"))
        except TimeoutError as error:
            await self.stop()
            raise SimulatorError(f"the simulator was not ready after {deadline_s:g} s{self._tail()}") from error
        except BaseException:
            await self.stop()
            raise
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
            await end(process)
            if self._place is not None:
                self._place.clear()
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
                str(said["address"]),
                Path(said["config"]),
                str(said["profile"]),
                int(said["seed"]),
                None if said.get("shared_memory") is None else str(said["shared_memory"]),
                tuple(_simulated(table) for table in said.get("devices", ())),
                None if said.get("control") is None else Path(said["control"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            if b'"simulator-refused"' in line:
                raise SimulatorRefusedError(f"the simulator does not take its settings: {_refusal(line)}") from error
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


def _simulated(table: dict[str, Any]) -> InstrumentConfig:
    """An instrument that a simulator serves: of this machine, and never taken for a real one.

    Raises:
        ValueError: it is none, or elsewhere.
    """
    from petqcd.config import instrument_config

    found = instrument_config({**table, "simulated": True})
    if not found.address.startswith(SIMULATED_PLACES):
        raise ValueError(f"{found.name}: a simulated instrument at {found.address}")
    return found


def _refusal(line: bytes) -> str:
    """What a simulator says that it cannot do as asked."""
    try:
        return str(json.loads(line)["error"])
    except (ValueError, KeyError, TypeError):
        return line.decode(errors="replace").strip()
