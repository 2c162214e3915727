"""A board on a UDP socket: one thread that answers commands and lets the board's time follow the wall clock."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from petqc_drivers.petsys.daqd_wire import check_shared_memory_name
from petqc_drivers.petsys.wire import WireError
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.faults import Fault
from petqc_simulators.physics.detector import BLOCK_S, Detector
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.recording import write_truth
from petqc_simulators.truth import compute_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from petqc_simulators.boards.petsys_febd import PetsysFebd

TICK_S = BLOCK_S / 2
LONGEST_STEP_S = 2 * BLOCK_S
"""Most simulated time that passes in one go. If the machine is busy the board's clock slips rather than send a burst
that nobody can take; time tag and frame ids slip together. At 2 Mhit/s two blocks are 0.2 MB, as much as a host's
socket holds if nobody asked for more."""
BREATH_DATAGRAMS = 12
BREATH_S = 0.0003
STATE_EVERY_S = 0.5
_COMMANDS_BEFORE_TICK = 64
_MAX_DATAGRAM = 65_536


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What to serve and where.

    listen: udp://HOST:PORT for the board itself, port 0 takes any free one; unix:PATH for the daemon in front of it,
    whose ring gets the name shared_memory. speed: simulated per wall second.
    """

    profile: str
    seed: int
    listen: str
    state_dir: Path
    speed: float = 1.0
    source: str | None = None
    faults: Sequence[str] = ()
    until_stdin_closes: bool = False
    shared_memory: str = "/daqd_shm"


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of udp://HOST:PORT.

    Raises:
        ProfileError: it is something else.
    """
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "udp" or not parts.hostname or port is None:
        raise ProfileError(f"--listen {text!r}: write udp://HOST:PORT, port 0 for any free one, or unix:/PATH")
    return parts.hostname, port


class BoardServer:
    """Serves one board until `stop` is called; not for several threads, but for `stop`.

    Attributes:
        address: host and port it listens on.
        slipped_s: simulated time that passed later than the wall clock asked for.
    """

    def __init__(self, board: PetsysFebd, host: str, port: int, *, speed: float = 1.0) -> None:
        self.board = board
        self.speed = speed
        self.slipped_s = 0.0
        self.unsent = 0
        self._until = time.monotonic()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._host: Any = None
        self._wake_read, self._wake_write = os.pipe()
        self.address: tuple[str, int] = self._socket.getsockname()

    def stop(self) -> None:
        """Make `run` return; safe from a signal handler or another thread, and more than once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def run(self, *, watch: int | None = None, each_state: Callable[[], None] | None = None) -> None:
        """Serve until `stop`, or until the file descriptor `watch` reaches its end."""
        self._until = ticked = state_due = time.monotonic()
        sources = [self._socket.fileno(), self._wake_read, *([] if watch is None else [watch])]
        while True:
            now = time.monotonic()
            wait = max(ticked + TICK_S - now, 0.0)
            readable, _, _ = select.select(sources, [], [], wait)
            if self._wake_read in readable:
                return
            if watch is not None and watch in readable and not os.read(watch, 4096):
                return
            if self._socket.fileno() in readable:
                self._answer()
            now = time.monotonic()
            if now - ticked >= TICK_S:
                self._let_pass(now)
                ticked = now
                self._send_data(self.board.advance())
            if each_state is not None and now >= state_due:
                state_due = now + STATE_EVERY_S
                each_state()

    def _answer(self) -> None:
        for _ in range(_COMMANDS_BEFORE_TICK):
            try:
                datagram, sender = self._socket.recvfrom(_MAX_DATAGRAM)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self._host = sender
            # A host holds the board's time tag against its own clock, and a tick is much longer than a command.
            self._let_pass(time.monotonic())
            answer = self.board.handle(datagram)
            if answer is not None:
                self._send(answer)

    def _let_pass(self, now: float) -> None:
        seconds, self._until = (now - self._until) * self.speed, now
        longest = LONGEST_STEP_S * max(self.speed, 1.0)
        if seconds > longest:
            self.slipped_s += seconds - longest
            seconds = longest
        self.board.let_pass(seconds)

    def _send_data(self, datagrams: Sequence[bytes]) -> None:
        """A link has a rate, a loopback has none: without a breath now and then a burst overruns the host's socket."""
        for k, datagram in enumerate(datagrams):
            if k and k % BREATH_DATAGRAMS == 0:
                time.sleep(BREATH_S)
            self._send(datagram)

    def _send(self, datagram: bytes) -> None:
        if self._host is None:
            return
        # A full or refused loopback is a lost datagram, as on any network.
        try:
            self._socket.sendto(datagram, self._host)
        except OSError:
            self.unsent += 1


def open_server(scanner: Scanner, settings: ServeSettings) -> tuple[BoardServer | DaqdServer, str]:
    """The server that was asked for, and the address at which it listens.

    Raises:
        ProfileError: the address is none, or not one for a scanner of several units.
        OSError: it is taken.
    """
    scheme, _, place = settings.listen.partition(":")
    if scheme == "unix":
        try:
            check_shared_memory_name(settings.shared_memory)
        except WireError as error:
            raise ProfileError(f"--shared-memory: {error}") from error
        path = Path("/" + place.lstrip("/"))
        daemon = DaqdServer(
            scanner.units, path, settings.shared_memory, speed=settings.speed, frames=scanner.advance_blocks
        )
        return daemon, daemon.address
    host, port = parse_listen(settings.listen)
    if len(scanner.units) > 1:
        raise ProfileError(
            f"{scanner.profile.name} has {len(scanner.units)} units, and over UDP there is exactly one: "
            "write --listen unix:/PATH for the daemon in front of them"
        )
    server = BoardServer(scanner.boards[0], host, port, speed=settings.speed)
    return server, f"udp://{server.address[0]}:{server.address[1]}"


def _state(server: BoardServer | DaqdServer, scanner: Scanner, truth: dict[str, Any]) -> dict[str, Any]:
    return {
        **scanner.state(),
        "slipped_s": round(server.slipped_s, 4),
        "unsent_datagrams": server.unsent,
        "faults": truth["faults"],
        **({"daqd": server.state()} if isinstance(server, DaqdServer) else {}),
    }


def _write_state(path: Path, state: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(state) + "\n", "utf-8")
    part.replace(path)


def serve(settings: ServeSettings) -> int:
    """Draw the detector, write configuration and truth, say ready on stdout and serve; the exit code.

    Raises:
        ProfileError: profile, fault or address that cannot be used.
        OSError: the address is taken, or the state directory cannot be written.
    """
    profile = load_profile(settings.profile, source=settings.source)
    faults = [Fault.parse(text) for text in settings.faults]
    folder = settings.state_dir
    folder.mkdir(parents=True, exist_ok=True)
    scanner = Scanner(profile, settings.seed, faults, witness_folder=folder)
    try:
        server, address = open_server(scanner, settings)
    except BaseException:
        scanner.close()
        raise

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        config = write_config_folder(folder / "config", profile, scanner.detector.draw)
        truth = compute_truth(profile, settings.seed, faults)
        write_truth(folder / "truth.json", truth)
        # Compiled now, so that the first frames are not late.
        warm = Detector(profile, settings.seed)
        warm.settle()
        warm.advance()
        ready = {
            "ready": True,
            "address": address,
            **({"shared_memory": server.ring.name} if isinstance(server, DaqdServer) else {}),
            "config": str(config),
            "truth": str(folder / "truth.json"),
            "profile": profile.name,
            "seed": settings.seed,
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        watch = sys.stdin.fileno() if settings.until_stdin_closes else None
        server.run(watch=watch, each_state=lambda: _write_state(folder / "state.json", _state(server, scanner, truth)))
        _write_state(folder / "state.json", _state(server, scanner, truth))
    finally:
        server.close()
        scanner.close()
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
    return 0
