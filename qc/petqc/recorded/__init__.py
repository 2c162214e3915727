"""QC of recorded files: what a file is decides how it becomes histograms; the checks that apply then run as ever."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from petqc.errors import BadInputError
from petqc.feeding import feed_step
from petqc.file_hash import sha256_of
from petqc.qc_input import RunContext
from petqc.results import RawFile
from petqc.software import software

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from petqc.formats.petsys_raw import RawReader
    from petqc.histograms import QcHistograms
    from petqc.lutetium import LutetiumCounts
    from petqc.processing import Processed, ProcessingAccount, Processor
    from petqc.recorded.channel_roles import ChannelRoles
    from petqc.results import Run, Spectrum

PathLike: TypeAlias = "str | os.PathLike[str]"
Progress: TypeAlias = "Callable[[int, int], None]"

_MOST_WAITING = 2  # blocks of events not counted yet: more would only take memory


@dataclass(slots=True)
class Filled:
    """What reading files gave: histograms, and what there is to know about the run that made them.

    context: fields of RunContext. spectra: further histograms worth showing. names: what people call the nodes.
    lutetium: beta-gamma pairs of a recording without a source.
    """

    histograms: QcHistograms
    context: dict[str, Any] = field(default_factory=dict)
    spectra: list[Spectrum] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lutetium: LutetiumCounts | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller gave besides the files.

    lutetium None: raw recordings are as their configuration says. use_kev False: energies of raw recordings stay
    charge. look: called with everything of a raw recording that became final.
    """

    config: Path | None = None
    descriptor: Path | None = None
    roles: ChannelRoles | None = None
    min_hits: int = 1
    progress: Progress | None = None
    lutetium: bool | None = None
    use_kev: bool = True
    look: Callable[[Processed], None] | None = None


def analyse_file(
    paths: PathLike | Iterable[PathLike],
    *,
    config: PathLike | None = None,
    descriptor: PathLike | None = None,
    channel_roles: PathLike | None = None,
    min_hits: int = 1,
    progress: Progress | None = None,
    lutetium: bool = False,
    **context: Any,
) -> Run:
    """QC of one recording, in one file or several of one kind.

    Raw recordings (.rawf) need the configuration with their calibrations. Processed events (.ldat or text) are taken
    as calibrated. List text needs a descriptor. Spectra (.spe), time tags (.ptu, .pt3) and Janus lists explain
    themselves. Checks that a kind of file has nothing for are absent, and a note says so.

    Args:
        paths: the file, or the files of one run.
        config: config.ini of the readout that recorded.
        descriptor: TOML that describes list text, or the name of a shipped one.
        channel_roles: YAML that tells time channels from energy channels (`time_channels: […]`,
            `energy_channels: […]`, indices within a module); a photon's energy is then the sum of its energy
            channels and its time that of its earliest hit.
        min_hits: photons of fewer hits are left out of energy spectra (processed events only).
        progress: called with bytes read so far and in all.
        lutetium: there was no source in the scanner; also if the configuration says so (raw recordings only).
        context: fields of RunContext that are known better than the file knows them.

    Raises:
        BadInputError: a file, the configuration or the descriptor cannot be used, or is missing.
    """
    from petqc.analysis import analyse
    from petqc.recorded.channel_roles import read_channel_roles

    files = [Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not files:
        raise BadInputError("no file to analyse", do="name at least one")
    for path in files:
        if not path.is_file():
            raise BadInputError("no such file", where=str(path))
    unknown = set(context) - set(RunContext.__dataclass_fields__)
    if unknown:
        raise BadInputError(f"a run has no {min(unknown)!r}", do=f"known: {', '.join(RunContext.__dataclass_fields__)}")
    asked = Asked(
        config=None if config is None else Path(config),
        descriptor=None if descriptor is None else Path(descriptor),
        roles=None if channel_roles is None else read_channel_roles(Path(channel_roles)),
        min_hits=min_hits,
        progress=progress,
        lutetium=lutetium or None,
    )
    if lutetium and files[0].suffix.lower() != ".rawf":
        raise BadInputError(
            "beta-gamma pairs need a window of their own, which processed events do not have",
            where=str(files[0]),
            do="give the raw recording, .rawf",
        )
    filled = _reader(files[0], asked)(files, asked)
    hashes = tuple(RawFile(path.name, sha256_of(path)) for path in files)
    known: dict[str, Any] = {
        "run_id": f"{files[0].stem}-{hashes[0].sha256[:12]}",
        "kind": "recorded",
        "raw_files": hashes,
        "software": software(),
        **filled.context,
    }
    notes = (*filled.notes, *context.get("notes", ()))
    run = analyse(filled.histograms, RunContext(**{**known, **context, "notes": notes}), filled.lutetium)
    run.spectra += filled.spectra
    return run


def _reader(path: Path, asked: Asked) -> Callable[[list[Path], Asked], Filled]:
    """By suffix where it is telling, else by content."""
    suffix = path.suffix.lower()
    if suffix == ".rawf":
        return raw_frames
    if asked.descriptor is not None:
        from petqc.recorded.lists import list_text

        return list_text
    if suffix == ".spe":
        from petqc.recorded.lists import spe

        return spe
    if suffix in {".ptu", ".pt3"}:
        from petqc.recorded.lists import time_tags

        return time_tags
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"//") and b"Janus" in start:
        from petqc.recorded.lists import janus

        return janus
    if suffix in {".ldat", ".tsv", ".txt", ".dat", ".text"}:
        from petqc.recorded.processed_events import processed_events

        return processed_events
    raise BadInputError(
        f"a file that ends in {suffix or 'nothing'} is of no known kind",
        where=str(path),
        do="known are .rawf, .ldat, .spe, .ptu, .pt3 and Janus lists; list text needs a descriptor",
    )


def raw_frames(files: list[Path], asked: Asked) -> Filled:
    """Raw recordings, through the event processing.

    Raises:
        BadInputError: a recording or the configuration cannot be used, or the latter is missing.
    """
    from petqc.calibration import CalibrationSet, acquisition_of
    from petqc.formats.petsys_config import load_config
    from petqc.formats.petsys_frames import CLOCKS_PER_FRAME
    from petqc.formats.petsys_raw import RawReader
    from petqc.histograms import QcHistograms
    from petqc.lutetium import PROCESSING, LutetiumCounts
    from petqc.processing import ProcessingSettings, Processor

    if asked.config is None:
        raise BadInputError(
            "raw data mean nothing without their calibrations", where=str(files[0]), do="give the config.ini with them"
        )
    loaded = load_config(asked.config)
    used = (
        loaded
        if asked.use_kev
        else replace(loaded, tables={k: t for k, t in loaded.tables.items() if k != "energy_kev"})
    )
    total, before = sum(p.stat().st_size for p in files), 0
    is_lutetium = loaded.petqc.source == "none" if asked.lutetium is None else asked.lutetium
    own = PROCESSING if is_lutetium else {}
    counted: _Counted | None = None
    accounts: list[ProcessingAccount] = []
    notes: list[str] = [str(w) for w in loaded.warnings]
    elapsed_s, simulated = 0.0, False
    for path in files:
        with RawReader(path) as reader, _Counting() as counting:
            simulated |= reader.manifest is not None and reader.manifest.recording.get("simulated") is True
            settings = replace(ProcessingSettings.from_config(used), clock_hz=float(reader.header.frequency_hz), **own)
            calibration = CalibrationSet.from_config(used, acquisition=acquisition_of(reader.header, reader.modes))
            if counted is None:
                pairs = LutetiumCounts(calibration.topology) if is_lutetium else None
                counted = _Counted(QcHistograms.of(calibration, settings), pairs, asked.look)
            processor = Processor(calibration, settings, trigger_id=reader.header.trigger_id, look_ahead=True)
            for processed in events_of(reader, processor, notes):
                counting.add(counted, processed)
                if asked.progress is not None:
                    asked.progress(before + reader.bytes_read, total)
            notes += [f"{path.name}: {warning}" for warning in reader.warnings]
            accounts.append(processor.account)
            elapsed_s += processor.account.frames * CLOCKS_PER_FRAME / settings.clock_hz
        before += path.stat().st_size
    if counted is None:  # there is at least one file
        raise BadInputError("no file to analyse")
    account = flat_account(accounts)
    context = loaded.petqc.context()
    if loaded.petqc.scanner is not None:
        context["scanner"] = loaded.petqc.scanner.name
    return Filled(
        counted.histograms,
        {
            **context,
            **({"source": "none"} if is_lutetium else {}),
            **({"simulated": True} if simulated else {}),
            "config_hash": loaded.config_hash,
            "calibration_ids": dict(loaded.file_hashes),
            "account": account,
            "elapsed_s": elapsed_s,
            "live_time_s": float(account.get("live_time_s", 0.0)),
        },
        notes=notes,
        lutetium=counted.lutetium,
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """Where what became final goes."""

    histograms: QcHistograms
    lutetium: LutetiumCounts | None
    look: Callable[[Processed], None] | None

    def add(self, processed: Processed) -> None:
        """Count it."""
        self.histograms.add(processed)
        if self.lutetium is not None:
            self.lutetium.add(processed)
        if self.look is not None:
            self.look(processed)


def events_of(reader: RawReader, processor: Processor, notes: list[str]) -> Iterator[Processed]:
    """Everything in a recording, step by step, as it becomes final; what is damaged goes to the notes."""
    for number in range(len(reader.steps)):
        yield from feed_step(reader, number, processor.feed, processor.end_step)
        notes += [f"{reader.path.name}: {damage}" for damage in reader.damages]


class _Counting:
    """Fills histograms in a thread of its own, in the order given; a failure comes out of `add` or at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "petqc-count")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        while kind is None and self._waiting:
            self._waiting.popleft().result()

    def add(self, counted: _Counted, processed: Processed) -> None:
        """Count it soon."""
        self._waiting.append(self._thread.submit(counted.add, processed))
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft().result()


def flat_account(accounts: Iterable[ProcessingAccount]) -> dict[str, int | float]:
    """One account of several, by plain names: `frames`, `hits_dropped.not_mapped`, …; reasons without hits left out."""
    total: dict[str, int | float] = {}
    for account in accounts:
        for name in type(account).__dataclass_fields__:
            value = getattr(account, name)
            if name in {"first_frame", "last_frame"}:
                continue
            if isinstance(value, dict):
                for reason, count in value.items():
                    if count:
                        total[f"{name}.{reason}"] = total.get(f"{name}.{reason}", 0) + int(count)
            else:
                total[name] = total.get(name, 0) + value
    return total
