"""Serving a simulated scanner: drawn, written down, announced, on the wire until it is told to end."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petqc_drivers.petsys.daqd_wire import check_shared_memory_name
from petqc_drivers.petsys.wire import WireError
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.control import SOCKET_PATH_MAX, control_path
from petqc_simulators.control import serving as controlled
from petqc_simulators.days import Days
from petqc_simulators.device_faults import DeviceFaults
from petqc_simulators.faults import Fault
from petqc_simulators.instrument_serving import served_beside
from petqc_simulators.link_faults import DEVICE, FaultySide, LinkFaults
from petqc_simulators.live_faults import DetectorFaults, LiveFaults
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.recording import write_truth
from petqc_simulators.scenario import Scenario, load_scenario
from petqc_simulators.server import BoardServer, parse_listen
from petqc_simulators.telling import Announcement, Replayed, Status, StatusLine
from petqc_simulators.truth import compute_truth
from petqc_simulators.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from petqc_simulators.instrument_server import WireSide
    from petqc_simulators.physics.blocks import Block
    from petqc_simulators.profile import Profile

_WHY_NOT = {
    errno.EADDRINUSE: "is in use by another program: choose another port, or port 0 for any free one",
    errno.EADDRNOTAVAIL: "is not an address of this machine",
    errno.EACCES: "is not open to this user: ports below 1024 need root",
}


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What to serve, where, for how long, and how it is told.

    listen: udp://HOST:PORT for the board itself, port 0 takes any free one; unix:PATH for the daemon in front of it,
    whose ring gets the name shared_memory; None: what suits the profile. state_dir: where configuration and
    state go; None: a temporary folder that is removed in the end. tells_truth: the truth goes there, too; it takes
    seconds to compute.
    instruments_at: first TCP port of what stands beside the boards, 0 for any free ones.
    write_config: a folder for the configuration, instead of the one in the state directory. speed: simulated per wall
    second. seconds: wall time after which it ends by itself. as_json: lines of JSON instead of words. status_every_s:
    0 for no lines on how it goes. scenario: name or path of one; faults come on top of its own.
    """

    profile: str
    seed: int
    listen: str | None = None
    state_dir: Path | None = None
    tells_truth: bool = False
    speed: float = 1.0
    source: str | None = None
    faults: Sequence[str] = ()
    scenario: str | None = None
    until_stdin_closes: bool = False
    shared_memory: str | None = None
    write_config: Path | None = None
    instruments_at: int = 0
    seconds: float | None = None
    as_json: bool = False
    status_every_s: float = 0.0


def default_place(profile: Profile) -> tuple[str, str]:
    """Address and name of the frame ring that a profile is served at if nothing else is asked for.

    Never the places of the maker's daemon: who looks there means real hardware.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", profile.name)
    if profile.hardware.clock_trigger:
        return f"unix:{Path(tempfile.gettempdir(), f'petqc-{plain}.sock')}", f"/petqc-{plain}"
    return "udp://127.0.0.1:2000", f"/petqc-{plain}"


def open_server(
    scanner: Scanner,
    listen: str,
    shared_memory: str,
    speed: float = 1.0,
    links: LinkFaults | None = None,
    devices: DeviceFaults | None = None,
) -> tuple[BoardServer | DaqdServer, str]:
    """The server that was asked for, and the address at which it listens.

    Raises:
        ProfileError: the address is none, is taken, or is not one for a scanner of several units.
    """
    scheme, _, place = listen.partition(":")

    def before_tick() -> None:
        scanner.instruments.act_on(scanner.boards)
        if devices is not None:
            for node in scanner.board_nodes:
                devices.look(node)

    if scheme == "unix":
        daemon = _open_daemon(scanner, Path("/" + place.lstrip("/")), shared_memory, speed, links, before_tick)
        return daemon, daemon.address
    host, port = parse_listen(listen)
    if len(scanner.units) > 1:
        raise ProfileError(
            f"{scanner.profile.name} has {len(scanner.units)} units, and over UDP there is exactly one: "
            "write --listen unix:/PATH for the daemon in front of them"
        )
    try:
        server = BoardServer(
            scanner.boards[0],
            host,
            port,
            speed=speed,
            before_tick=before_tick,
            links=links,
        )
    except OSError as error:
        raise ProfileError(f"{listen} {_WHY_NOT.get(error.errno or 0, f'cannot be used: {error}')}") from error
    return server, f"udp://{server.address[0]}:{server.address[1]}"


def _open_daemon(
    scanner: Scanner,
    path: Path,
    shared_memory: str,
    speed: float,
    links: LinkFaults | None,
    before_tick: Callable[[], None],
) -> DaqdServer:
    def frames() -> list[Block]:
        before_tick()
        return scanner.advance_blocks()

    try:
        check_shared_memory_name(shared_memory)
    except WireError as error:
        raise ProfileError(f"--shared-memory: {error}") from error
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ProfileError(f"{path}: the path of a socket has at most {SOCKET_PATH_MAX} bytes")
    try:
        return DaqdServer(scanner.units, path, shared_memory, speed=speed, frames=frames, lag=scanner.lag, links=links)
    except FileExistsError as error:
        raise ProfileError(
            f"the shared memory {shared_memory} exists: a daemon or simulator has it, or one was killed and left "
            f"{error.filename}; if none runs remove that file, else choose another name with --shared-memory"
        ) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ProfileError(f"unix:{path} cannot be used: {error.strerror}") from error
        raise ProfileError(
            f"{path} exists: a daemon or simulator listens there, or one was killed and left it; if none runs remove "
            "the file, else choose another path with --listen"
        ) from error


def write_config_beside(folder: Path, written: Path) -> Path:
    """Copy a configuration into a folder in which no other one is; the path of its config.ini.

    Raises:
        ProfileError: a file of that name is there and says something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(written.parent.iterdir())
    for file in files:
        there = folder / file.name
        if there.exists() and there.read_bytes() != file.read_bytes():
            raise ProfileError(f"--write-config: {there} exists and is not of this detector: name another folder")
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return folder / written.name


class ToldToEnd:
    """Ctrl-C or SIGTERM: ends the server once there is one, and before that is only remembered.

    Attributes:
        is_told: it has come.
    """

    def __init__(self) -> None:
        self.is_told = False
        self._server: BoardServer | DaqdServer | None = None

    def _tell(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_told = True
        if self._server is not None:
            self._server.stop()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to both signals."""
        previous = {number: signal.signal(number, self._tell) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def ends(self, server: BoardServer | DaqdServer) -> Iterator[None]:
        """A signal ends this server."""
        self._server = server
        try:
            yield
        finally:
            self._server = None


def _state(server: BoardServer | DaqdServer, scanner: Scanner, faults: LiveFaults) -> dict[str, Any]:
    return {
        **scanner.state(),
        "slipped_s": round(server.slipped_s, 4),
        "unsent_datagrams": server.unsent,
        "faults": faults.documents(),
        **({"daqd": server.state()} if isinstance(server, DaqdServer) else {}),
    }


def _write_state(path: Path, state: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(state) + "\n", "utf-8")
    part.replace(path)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def state_folder(settings: ServeSettings) -> Iterator[Path]:
    """The state directory, or one that is removed in the end."""
    if settings.state_dir is None:
        with tempfile.TemporaryDirectory(prefix="petqc-simulate-") as name:
            yield Path(name)
        return
    folder = settings.state_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def serve(settings: ServeSettings) -> int:
    """Draw the detector, write configuration and, if asked for, truth, say what is there and serve it; the exit code.

    Raises:
        ProfileError: profile, fault or address that cannot be used.
        OSError: the state directory cannot be written.
    """
    profile = load_profile(settings.profile, source=settings.source)
    scenario = None if settings.scenario is None else load_scenario(settings.scenario, settings.seed)
    faults = [*(() if scenario is None else scenario.faults), *(Fault.parse(text) for text in settings.faults)]
    of_detector = [fault for fault in faults if fault.kind.family == "detector"]
    told = ToldToEnd()
    with told.heard(), state_folder(settings) as folder:
        detector = Detector(profile, settings.seed, of_detector)
        config = write_config_folder(folder / "config", detector.plan.configured(profile), detector.draw)
        truth = None
        if settings.tells_truth:
            truth = folder / "truth.json"
            write_truth(truth, compute_truth(profile, settings.seed, of_detector))
        warm_up(profile)
        again = shlex.join(["petqc", "simulate", "--profile", settings.profile, "--seed", str(settings.seed)])
        serve_detector(
            settings,
            told,
            folder,
            detector,
            DetectorFaults(detector),
            faults,
            Files(again, config, truth, scenario=scenario),
        )
    return 0


@dataclass(frozen=True, slots=True)
class Files:
    """What is told of a detector beside itself.

    again: the command that gives the same once more. config: its config.ini. truth: None: nobody knows it. replayed:
    what is replayed and how, if it is a recording. scenario: what is played, if any is.
    beside, tables: instruments by name, in addition to those of the profile, and their tables of petqc.toml.
    """

    again: str
    config: Path
    truth: Path | None
    replayed: Replayed | None = None
    scenario: Scenario | None = None
    beside: Mapping[str, WireSide] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def serve_detector(
    settings: ServeSettings,
    told: ToldToEnd,
    folder: Path,
    detector: Detector,
    of_detector: DetectorFaults,
    planted: Sequence[Fault],
    files: Files,
) -> None:
    """Boards, instruments and the back door of a detector, announced and on the wire until it is told to end.

    of_detector: who makes faults act on it. planted: all that are there from the start; it has its own already.
    """
    profile = detector.profile
    with contextlib.ExitStack() as stack:
        scanner = Scanner(profile, settings.seed, witness_folder=folder, detector=detector)
        stack.callback(scanner.close)
        scanner.run_ahead()
        listen, shared_memory = default_place(profile)
        listen = settings.listen or listen
        sides = scanner.instruments.wire_sides() | dict(files.beside)
        links = LinkFaults(
            lambda: detector.now_s, [*sides], is_behind_daemon=listen.startswith("unix:"), seed=settings.seed
        )
        boards = dict(zip(scanner.board_nodes, scanner.boards, strict=True))
        devices = DeviceFaults(lambda: detector.now_s, boards | {DEVICE + name: side for name, side in sides.items()})
        faults = LiveFaults({"detector": of_detector, "link": links, "device": devices}, planted)
        for fault in planted:
            if fault.kind.family != "detector":
                (links if fault.kind.family == "link" else devices).plant(fault)
        server, address = open_server(
            scanner, listen, settings.shared_memory or shared_memory, settings.speed, links, devices
        )
        stack.callback(server.close)
        sides = {name: FaultySide(name, side, links, devices) for name, side in sides.items()}
        instruments = stack.enter_context(served_beside(sides, settings.instruments_at, settings.speed))
        config = files.config
        if settings.write_config is not None:
            config = write_config_beside(settings.write_config.absolute(), config)
        control = stack.enter_context(control_path(folder))
        days = None
        if files.scenario is not None and files.scenario.of_days:
            days = Days(faults, files.scenario.of_days)
            days.begin(0.0)
        stack.enter_context(controlled(faults, control, days))
        announcement = Announcement(
            profile=profile,
            seed=settings.seed,
            again=files.again,
            address=address,
            shared_memory=server.ring.name if isinstance(server, DaqdServer) else None,
            config=config,
            truth=files.truth,
            control=control,
            faults=faults.documents(),
            instruments=[
                *scanner.instruments.device_tables(instruments),
                *({**table, "address": instruments[name]} for name, table in files.tables.items()),
            ],
            highest_start_v=math.ceil(100.0 * max(detector.draw.dac_offset_v.max(initial=0.0), 0.0)) / 100.0,
            replayed=files.replayed,
            scenario=files.scenario,
        )
        _say(json.dumps(announcement.document()) if settings.as_json else announcement.text())
        _serve_until_told(settings, told, scanner, server, folder / "state.json", faults)


def _serve_until_told(
    settings: ServeSettings,
    told: ToldToEnd,
    scanner: Scanner,
    server: BoardServer | DaqdServer,
    state_file: Path,
    faults: LiveFaults,
) -> None:
    """Serve, and tell how it goes, until a signal, the end of standard input or the end of the time that was given."""
    status = Status(server, scanner, faults)
    line = StatusLine(settings.status_every_s, as_json=settings.as_json)
    ends_at = None if settings.seconds is None else time.monotonic() + settings.seconds

    def each_state() -> None:
        _write_state(state_file, _state(server, scanner, faults))
        line.tell(status)
        if ends_at is not None and time.monotonic() >= ends_at:
            server.stop()

    with told.ends(server):
        if not told.is_told:
            server.run(watch=sys.stdin.fileno() if settings.until_stdin_closes else None, each_state=each_state)
    _write_state(state_file, _state(server, scanner, faults))
    line.end(status)
