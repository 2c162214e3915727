"""Serving one instrument alone: announced, on the wire, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from petqc_drivers.caen_a5203.wire import CONTROL_PORT, DATA_PORT
from petqc_simulators.boards.caen_a5203 import CaenA5203Board
from petqc_simulators.control import control_path, serving
from petqc_simulators.device_faults import DeviceFaults
from petqc_simulators.faults import Fault
from petqc_simulators.instrument_server import InstrumentServer
from petqc_simulators.instruments import KINDS, TIMING_BOARD, finite, make_instrument
from petqc_simulators.link_faults import DEVICE, FaultySide, LinkFaults
from petqc_simulators.live_faults import LiveFaults
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.fast_outputs import FastOutputs
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.timing_board_server import TimingBoardServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from petqc_simulators.instrument_server import WireSide

FIRST_INPUT = 0
"""Input of the timing board that sees the fast output of the first module; the others follow."""


@dataclass(frozen=True, slots=True)
class InstrumentSettings:
    """What to serve and where.

    listen: tcp://HOST:PORT or pty:/PATH; of a timing board also tcp://HOST, with the ports of a real one. profile,
    seed: the detector that a timing board sees. state_dir: where state.json and the record of what it was told go, if
    anywhere. seconds: after which it ends by itself. faults: of its link and of itself.
    """

    device: str
    listen: str = "tcp://127.0.0.1:0"
    model: str | None = None
    serial: str | None = None
    profile: str = "bench"
    seed: int = 1
    speed: float = 1.0
    state_dir: Path | None = None
    seconds: float | None = None
    until_stdin_closes: bool = False
    as_json: bool = False
    faults: Sequence[str] = ()


def serve_instrument(settings: InstrumentSettings) -> int:
    """Serve it until a signal, the end of standard input or of the time; the exit code.

    Raises:
        ProfileError: There is no such instrument, or the address cannot be used.
        OSError: The state directory cannot be written.
    """
    if settings.state_dir is not None:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    if settings.device == TIMING_BOARD and settings.faults:
        raise ProfileError(f"a {TIMING_BOARD} alone has no faults to plant: take the profile bench-timing")
    if settings.device == TIMING_BOARD:
        return asyncio.run(_serve_timing_board(settings))
    instrument = make_instrument(
        settings.device, model=settings.model, serial=settings.serial, folder=settings.state_dir
    )
    started = time.monotonic()
    name = settings.device

    def now_s() -> float:
        return time.monotonic() - started

    links = LinkFaults(now_s, [name], has_readout=False)
    devices = DeviceFaults(now_s, {DEVICE + name: instrument})
    faults = [Fault.parse(text) for text in settings.faults]
    for fault in faults:
        if fault.kind.family == "detector":
            raise ProfileError(f"fault {fault}: an instrument alone has no detector")
        (links if fault.kind.family == "link" else devices).plant(fault)
    live = LiveFaults({"link": links, "device": devices}, faults)
    server = InstrumentServer(FaultySide(name, instrument, links, devices), settings.listen, speed=settings.speed)
    timer = None if settings.seconds is None else threading.Timer(settings.seconds, server.stop)
    try:
        with _told_to_end(server.stop), _controlled(settings, live) as where:
            _announce(settings, KINDS[settings.device].title, {"address": server.address, **where})
            if timer is not None:
                timer.start()
            server.run(
                watch=sys.stdin.fileno() if settings.until_stdin_closes else None,
                each_state=lambda: _write_state(settings, instrument),
            )
        _write_state(settings, instrument)
    finally:
        if timer is not None:
            timer.cancel()
        server.close()
    return 0


@contextlib.contextmanager
def _controlled(settings: InstrumentSettings, faults: LiveFaults) -> Iterator[dict[str, str]]:
    """The back door, in the state directory or one of its own."""
    with contextlib.ExitStack() as stack:
        folder = settings.state_dir
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="petqc-simulate-")))
        path = stack.enter_context(control_path(folder))
        yield {"control": str(stack.enter_context(serving(faults, path)))}


@contextlib.contextmanager
def served_beside(sides: Mapping[str, WireSide], first_port: int, speed: float) -> Iterator[dict[str, str]]:
    """Serve instruments on loopback, each in a thread of its own; the address of each.

    Args:
        sides: by name.
        first_port: the others follow; 0 for any free ones.
        speed: simulated seconds per second.
    """
    with contextlib.ExitStack() as stack:
        addresses = {}
        for number, (name, side) in enumerate(sides.items()):
            port = first_port + number if first_port else 0
            server = InstrumentServer(side, f"tcp://127.0.0.1:{port}", speed=speed)
            stack.callback(server.close)
            thread = threading.Thread(target=server.run, name=f"simulated {name}")
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.stop)
            addresses[name] = server.address
        yield addresses


@contextlib.contextmanager
def _told_to_end(stop: Callable[[], None]) -> Iterator[None]:
    previous = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _announce(settings: InstrumentSettings, title: str, where: dict[str, Any]) -> None:
    if settings.as_json:
        line = json.dumps({"ready": True, "device": settings.device, "title": title, **where})
    else:
        places = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in where.items())
        line = f"Simulated: {title} ({settings.device})\n  {places}\n\nCtrl-C ends it."
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _write_state(settings: InstrumentSettings, instrument: WireSide) -> None:
    if settings.state_dir is None:
        return
    path = settings.state_dir / "state.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(finite(instrument.state())) + "\n", "utf-8")
    part.replace(path)


def _timing_board_ports(port: int | None) -> tuple[int, int]:
    """Of control and data: those of the real board, which no program of its maker can change; or the one and the next.

    0: any free ones.
    """
    if port in {None, CONTROL_PORT}:
        return CONTROL_PORT, DATA_PORT
    return (port, port + 1) if port else (0, 0)


async def _serve_timing_board(settings: InstrumentSettings) -> int:
    parts = urlsplit(settings.listen)
    if parts.scheme != "tcp" or not parts.hostname:
        raise ProfileError(
            f"--listen {settings.listen!r}: a timing board has two TCP ports: write tcp://HOST for those of a real one "
            "or tcp://HOST:PORT for that one and the next"
        )
    profile = load_profile(settings.profile)
    detector = Detector(profile, settings.seed)
    detector.settle()
    outputs = FastOutputs(detector, {module: FIRST_INPUT + module for module in range(profile.geometry.modules)})
    board = CaenA5203Board() if settings.serial is None else CaenA5203Board(int(settings.serial))
    detector.advance()  # translates the kernels, for as long as which a board would stand still
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if settings.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), ended.set)
    async with TimingBoardServer(board, outputs, detector).serving(
        parts.hostname, *_timing_board_ports(parts.port)
    ) as server:
        where = {"host": parts.hostname, "control_port": server.control_port, "data_port": server.data_port}
        _announce(settings, "CAEN A5203 timing board, inputs of modules in their order", where)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.seconds):
                await ended.wait()
    return 0
