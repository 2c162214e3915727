"""What one run records: its configuration always, and where everything is wanted, its wires and its environment."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from petqc.formats.bundle import ENVIRONMENT, PETQC_JSON, begin_bundle, is_bundle, seal_bundle
from petqc_drivers.transport.recording import recorded
from petqc_drivers.uninterrupted import uninterrupted
from petqcd import clock
from petqcd.json_text import json_text
from petqcd.measurement import keep_configuration
from petqcd.recording.wires import WireLogs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from petqc.analysis import RunContext
    from petqc_drivers.transport.recording import Tap
    from petqcd.procedure import Job, Procedure
    from petqcd.readout.board import ReadingLike

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
"""How often readings are looked at."""
FRAMES: Final = "frames"
EVERYTHING: Final = "everything"
_READOUT: Final = ("udp", "daqd")
"""Transports of readouts; all others lead to instruments."""


def begin(job: Job, context: RunContext, instruments: Sequence[Mapping[str, Any]] = ()) -> None:
    """Make the run's folder a bundle: configuration, what the analysis will be told, and a manifest that is open.

    instruments: what is said of each in petqc.toml, or by a simulator that brought it.

    Raises:
        OSError: the disk is full or fails.
    """
    from petqc.recorded.told import write_context

    keep_configuration(job.folder, job.board_config)
    (job.folder / PETQC_JSON).write_text(job.config.model_dump_json(exclude={"source_file"}), encoding="utf-8")
    write_context(job.folder, context)
    simulator = job.config.board.simulator
    about = {
        "run_id": job.run_id,
        "kind": job.kind,
        "scanner": context.scanner,
        "started_at": context.started_at,
        "simulated": context.simulated,
        "simulator": None if simulator is None else simulator.model_dump(mode="json"),
        "software": dict(context.software),
        "config_hash": context.config_hash,
        "calibration_ids": dict(context.calibration_ids),
        "recorded": wanted(job),
        "instruments": [dict(table) for table in instruments],
    }
    begin_bundle(job.folder, about)


def keep_told(procedure: Procedure, context: RunContext, *, is_whole: bool) -> None:
    """Keep what the analysis is told, now that all of it is known; the verdict does not depend on it.

    is_whole: everything was measured that was to be.
    """
    from petqc.recorded.told import write_context, write_inputs

    folder = procedure.job.folder
    try:
        write_context(folder, context)
        if is_whole and (inputs := procedure.inputs()):
            write_inputs(folder, inputs)
    except Exception:
        log.exception("what the analysis of %s was told could not be kept", folder.name)


def wanted(job: Job) -> str:
    """How much a run is to record."""
    return str(getattr(job.settings, "record", FRAMES))


def seal(folder: Path, truncated: str | None) -> None:
    """End the bundle of a run that is over; a manifest that cannot be written loses nothing and is told in the log."""
    if not is_bundle(folder):
        return  # it ended before it began to record, or is composed of others
    try:
        seal_bundle(folder, truncated)
    except Exception:
        log.exception("the manifest of the bundle %s could not be written", folder.name)


@asynccontextmanager
async def recording(
    procedure: Procedure, instruments: Callable[[], Sequence[ReadingLike]], kinds: Mapping[str, str]
) -> AsyncIterator[None]:
    """Record every wire and the environment while a run acquires, if that is wanted.

    Args:
        procedure: of the run.
        instruments: the last readings of what stands around the detector; asks nobody.
        kinds: kind of each instrument, by its name.

    Raises:
        OSError: the recording cannot be begun.
    """
    job = procedure.job
    if wanted(job) != EVERYTHING:
        yield
        return
    board = job.config.board

    def about(tap: Tap) -> dict[str, Any]:
        if tap.transport in _READOUT:
            return {"device": board.name, "kind": board.kind}
        name = tap.name if tap.name in kinds else tap.name.rpartition("-")[0]
        return {"device": name, "kind": kinds.get(name, "")}

    logs = await asyncio.to_thread(WireLogs, job.folder, about)
    with _environment(job.folder) as note:
        noting = asyncio.create_task(_note(note, procedure, instruments), name=f"environment of {job.run_id}")
        try:
            with recorded(logs):
                yield
        finally:
            noting.cancel()
            await asyncio.wait({noting})
            note([*instruments(), *procedure.acquired.readings])
            await uninterrupted(asyncio.to_thread(logs.close))
            procedure.acquired.remarks += logs.remarks


async def _note(
    note: Callable[[Sequence[ReadingLike]], None],
    procedure: Procedure,
    instruments: Callable[[], Sequence[ReadingLike]],
) -> None:
    while True:
        note([*instruments(), *procedure.acquired.readings])
        await asyncio.sleep(EVERY_S)


@contextmanager
def _environment(folder: Path) -> Iterator[Callable[[Sequence[ReadingLike]], None]]:
    """A file of readings; the function appends those that are new, at most one each second of each name and node."""
    known: dict[tuple[str, str], float] = {}
    file = os.open(folder / ENVIRONMENT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def note(readings: Sequence[ReadingLike]) -> None:
        offset_s = clock.unix_s() - clock.monotonic_s()
        lines = []
        for r in readings:
            if r.at_monotonic_s <= known.get((r.name, r.node), -1.0):
                continue
            known[r.name, r.node] = r.at_monotonic_s
            reading = {
                "unix_s": round(r.at_monotonic_s + offset_s, 3),
                "name": r.name,
                "node": r.node,
                "value": r.value,
                "unit": r.unit,
                "measured": r.measured,
                "quality": str(r.quality),
                "reason": r.reason,
            }
            lines.append(json_text(reading) + b"\n")
        try:
            os.write(file, b"".join(lines))
        except OSError as error:
            log.warning("%s: %s", folder / ENVIRONMENT, error)

    try:
        yield note
    finally:
        os.close(file)
