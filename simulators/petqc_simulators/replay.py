"""A recording played back as hardware: boards that answer as simulated ones do, with frames that were recorded.

The recording is a .rawf of anybody's, or a bundle. Its configuration says which boards and bias outputs there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from petqc.errors import BadInputError
from petqc.formats.bundle import BUNDLE_JSON, PETQC_JSON, Bundle, is_bundle, read_bundle
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_manifest import read_manifest
from petqc_simulators.boards.scanner import require_boards
from petqc_simulators.faults import Fault
from petqc_simulators.instruments import TIMING_BOARD
from petqc_simulators.live_faults import DetectorFaults
from petqc_simulators.profile import Profile, ProfileError, load_profile
from petqc_simulators.recorded_detector import RecordedDetector
from petqc_simulators.recorded_frames import account_of
from petqc_simulators.recorded_instrument import TRANSPORTS, RecordedInstrument
from petqc_simulators.serving import Files, ServeSettings, ToldToEnd, serve_detector, state_folder
from petqc_simulators.telling import Replayed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_simulators.faults import FaultKind
    from petqc_simulators.recorded_frames import RecordingAccount

ONE_BOARD = "bench"
MANY_BOARDS = "ring-small"
CHIPS_OF_BOARD = 8
"""ASICs of a board of either profile."""
LOST_AT_START_S = 1.5
"""Of a recording, while a run goes from bias on to its first frame."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What to replay.

    config: config.ini of the recording, where it is not beside it. profile: its boards, where they are not those that
    the recording's channels suggest. loops: begin again at the end.
    """

    path: Path
    serve: ServeSettings
    config: Path | None = None
    profile: str | None = None
    loops: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Files of what is replayed: frames, configuration and, of a bundle, its manifest."""

    frames: Path
    config: Path
    bundle: Bundle | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.frames.name if self.bundle is None else f"{self.bundle.folder.name}/{self.frames.name}"


def find_source(path: Path, config: Path | None = None) -> Source:
    """What a path means: a bundle, or a recording with its configuration.

    Raises:
        ProfileError: there is no recording, or no configuration of it.
    """
    bundle = None
    if is_bundle(path if path.is_dir() else path.parent) and (path.is_dir() or path.name == BUNDLE_JSON):
        bundle = read_bundle(path if path.is_dir() else path.parent)
        recordings = [file for file in bundle.of_role("frames") if file.name.startswith("recording.rawf")]
        if not recordings:
            raise ProfileError(f"{bundle.folder}: this bundle has no recording of frames")
        path = recordings[0]
    elif path.is_dir():
        raise ProfileError(f"{path}: a folder without {BUNDLE_JSON} is no bundle; name its .rawf")
    if not path.name.endswith((".rawf", ".rawf.partial")):
        raise ProfileError(
            f"{path}: only frames can be replayed, a .rawf or a bundle; events have lost what boards send"
        )
    if not path.is_file():
        raise ProfileError(f"{path}: there is no such file")
    places = [config] if config is not None else [path.parent / "config" / "config.ini", path.parent / "config.ini"]
    for place in places:
        found = place / "config.ini" if place.is_dir() else place
        if found.is_file():
            return Source(path, found, bundle)
    raise ProfileError(f"{path}: no configuration at {' or '.join(map(str, places))}: name it with --config")


def fitting_profile(account: RecordingAccount, config: PetsysConfig) -> Profile:
    """Boards for the channels of a recording and of its configuration.

    Raises:
        ProfileError: none of the usual ones.
    """
    trigger = -1 if account.trigger_id is None else account.trigger_id
    chips = {int(chip) for chip in account.channels >> 6 if int(chip) >> 6 != trigger}
    for kind in ("channel_map", "disc_settings"):
        for row in config.tables.get(kind, ()):
            chips.add(int(row["port"]) << 11 | int(row["slave"]) << 6 | int(row["chip"]))
    if not chips:
        raise ProfileError("neither the recording nor its configuration has a channel")
    ports, slaves = max(chips) >> 11, max(chip >> 6 & 31 for chip in chips)
    if max(chip & 63 for chip in chips) >= CHIPS_OF_BOARD:
        raise ProfileError("its boards are none of the usual ones: name the profile of its scanner with --profile")
    if ports == slaves == 0:
        return load_profile(ONE_BOARD)
    ring = load_profile(MANY_BOARDS)
    boards, modules = (ports + 1) * (slaves + 1), 2 * (ports + 1) * (slaves + 1)
    return replace(
        ring,
        name=f"{boards}-boards",
        title=f"{boards} boards of 512 channels",
        geometry=replace(ring.geometry, modules=modules, across=modules),
        hardware=replace(ring.hardware, boards=boards, boards_per_port=slaves + 1),
    )


def instruments_of(source: Source) -> tuple[dict[str, RecordedInstrument], dict[str, dict[str, Any]]]:
    """The instruments whose wires a bundle has, by name, and what petqc.toml said of each.

    Raises:
        ProfileError: a wire log cannot be used.
    """
    if source.bundle is None:
        return {}, {}
    folder = source.bundle.folder
    configured: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        devices = json.loads((folder / PETQC_JSON).read_bytes())["device"]
        configured = {str(table["name"]): table for table in (*source.bundle.about.get("instruments", ()), *devices)}
    manifest = read_manifest(source.frames.with_name(f"{source.frames.name.split('.')[0]}.manifest.jsonl"))
    opened_s = None if manifest is None else manifest.recording.get("opened_monotonic_s")
    frames_at_s = opened_s if isinstance(opened_s, float) else None
    sides: dict[str, RecordedInstrument] = {}
    tables: dict[str, dict[str, Any]] = {}
    for wire in source.bundle.wires:
        if wire.transport not in TRANSPORTS or wire.kind == TIMING_BOARD:
            continue  # the readout's boards answer themselves; a timing board's data are no answers
        try:
            sides[wire.device] = RecordedInstrument(wire.device, folder / wire.file, wire.kind, frames_at_s)
        except BadInputError as error:
            raise ProfileError(str(error)) from error
        of_day = {key: value for key, value in configured.get(wire.device, {}).items() if value is not None}
        of_day.pop("address", None)
        tables[wire.device] = {**of_day, "name": wire.device, "kind": wire.kind, "simulated": True}
    return sides, tables


def without_instruments(profile: Profile) -> Profile:
    """The same boards with nothing simulated beside them: in a replay, instruments are the recorded ones or none."""
    hardware = replace(profile.hardware, bias_supply="", timing_board="", clock_counter="")
    return replace(profile, hardware=hardware, environment=replace(profile.environment, chiller=""))


class RecordedFaults(DetectorFaults):
    """Faults that act on recorded hits."""

    def __init__(self, detector: RecordedDetector) -> None:
        super().__init__(detector)
        self._recorded = detector

    def why_not(self, kind: FaultKind) -> str:
        """Whether recorded data can have it."""
        return self._recorded.why_not(kind.id) or super().why_not(kind)


def replay(settings: ReplaySettings) -> int:
    """Serve a recording until told to end; the exit code.

    Raises:
        ProfileError: what cannot be replayed.
        OSError: the state directory cannot be written.
    """
    serve = settings.serve
    source = find_source(settings.path, settings.config)
    told = ToldToEnd()
    try:
        config = load_config(source.config)
        named = _named_profile(settings, source)
        account = account_of(source.frames)
        profile = without_instruments(named or fitting_profile(account, config))
        beside, tables = instruments_of(source)
        faults = [Fault.parse(text) for text in serve.faults]
        with told.heard(), state_folder(serve) as folder:
            of_hits = [fault for fault in faults if fault.kind.family == "detector"]
            detector = RecordedDetector(
                profile,
                _seed(source),
                source.frames,
                config,
                of_hits,
                loops=settings.loops,
                beside=beside.values(),
            )
            files = Files(
                again=shlex.join(["petqc", "replay", str(settings.path)]),
                config=source.config.absolute(),
                truth=None,
                replayed=_told(source, account, settings, serve.speed),
                beside=beside,
                tables=tables,
            )
            try:
                _require(detector, of_hits)
                serve_detector(serve, told, folder, detector, RecordedFaults(detector), faults, files)
            finally:
                detector.close()
    except BadInputError as error:
        raise ProfileError(str(error)) from error
    return 0


def _named_profile(settings: ReplaySettings, source: Source) -> Profile | None:
    """Boards that somebody named, or that the bundle names; refused, if so, before a long recording is read."""
    simulator = None if source.bundle is None else source.bundle.about.get("simulator")
    name = settings.profile or (simulator.get("profile") if isinstance(simulator, dict) else None)
    if not isinstance(name, str):
        return None
    profile = load_profile(name)
    require_boards(profile)
    return profile


def _seed(source: Source) -> int:
    simulator = None if source.bundle is None else source.bundle.about.get("simulator")
    seed = simulator.get("seed") if isinstance(simulator, dict) else None
    return seed if isinstance(seed, int) else 1


def _require(detector: RecordedDetector, faults: Sequence[Fault]) -> None:
    for fault in faults:
        why = detector.why_not(fault.kind.id)
        if why:
            raise ProfileError(f"fault {fault}: {why}")


def _told(source: Source, account: RecordingAccount, settings: ReplaySettings, speed: float) -> Replayed:
    digest = hashlib.sha256()
    with source.frames.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return Replayed(
        name=source.name,
        sha256=digest.hexdigest(),
        seconds=account.seconds,
        hits=account.hits,
        loops=settings.loops,
        measures_s=max(account.seconds - LOST_AT_START_S * max(speed, 1.0), 0.5),
    )
