"""The daemon in the command's own process: `petqc demo` and `petqc serve`. Imported only by them: it takes its time."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from petqcd import clock, notify, process_memory
from petqcd.app import Daemon
from petqcd.cli.common import VERDICT_EXIT, say
from petqcd.cli.progress import Bar
from petqcd.cli.service import give, where
from petqcd.errors import EXIT_UNREACHABLE
from petqcd.rehearsing import load_for_runs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from petqc.results import Run
    from petqcd.config import PetqcConfig

DAY_S = 86_400.0
SIMULATOR_DEADLINE_S = 130.0
"""Until a simulator answers: the first time on a machine, its kernels are compiled."""


def demo(config: PetqcConfig, state_dir: Path, *, once: bool, as_json: bool) -> int:
    """One daily run, its table, and unless `once` the daemon until it is told to stop; the exit code."""
    return asyncio.run(_demo(config, state_dir, once=once, as_json=as_json))


def serve(config: PetqcConfig, state_dir: Path, *, as_json: bool) -> None:
    """The daemon until it is told to stop."""
    process_memory.prepare()
    asyncio.run(_serve(config, state_dir, as_json=as_json))


async def _demo(config: PetqcConfig, state_dir: Path, *, once: bool, as_json: bool) -> int:
    async with Daemon(config, state_dir) as daemon:
        _end_on_signals(daemon)
        await daemon.device.endpoint(SIMULATOR_DEADLINE_S)
        run = await run_inside(daemon, "daily", "daily QC, simulated", source="petqc demo")
        if run is None:
            return EXIT_UNREACHABLE
        places = where(daemon.store.folder_of(run.run_id), run, daemon.http)
        give(run, places, as_json=as_json)
        if once:
            return VERDICT_EXIT[str(run.verdict)]
        say(f"serving on {daemon.http} until Ctrl-C")
        await daemon.run_until_stopped()
        return VERDICT_EXIT[str(run.verdict)]


def demo_of_days(
    config: PetqcConfig, state_dir: Path, scenario: Mapping[str, Any], *, once: bool, as_json: bool
) -> int:
    """The runs of a scenario in which days pass from one to the next; the last one's exit code.

    They are those with the source: housekeeping would find the calibration of today in its future.
    """
    return asyncio.run(_demo_of_days(config, state_dir, scenario, once=once, as_json=as_json))


async def _demo_of_days(
    config: PetqcConfig, state_dir: Path, scenario: Mapping[str, Any], *, once: bool, as_json: bool
) -> int:
    per_run, n = float(scenario["days_per_run"]), int(scenario["runs"])
    say(f"{scenario['title']}: {n} runs, {per_run:g} simulated days from one to the next; dates of runs are simulated")
    # The first day is as long ago as the days that pass, so that the last one is today.
    clock.let_pass(-DAY_S * per_run * (n - 1))
    async with Daemon(config, state_dir) as daemon:
        _end_on_signals(daemon)
        await daemon.device.endpoint(SIMULATOR_DEADLINE_S)
        run = await _run_of_day(daemon, 0.0)
        if run is not None:
            await _accept(daemon, run)
        for number in range(1, n):
            if run is None:
                break
            clock.let_pass(DAY_S * per_run)
            run = await _run_of_day(daemon, per_run * number)
        if run is None:
            return EXIT_UNREACHABLE
        give(run, where(daemon.store.folder_of(run.run_id), run, daemon.http), as_json=as_json)
        if not once:
            say(f"serving on {daemon.http} until Ctrl-C")
            await daemon.run_until_stopped()
        return VERDICT_EXIT[str(run.verdict)]


async def _accept(daemon: Daemon, run: Run) -> None:
    """The detector of the first day is what later ones are held against, as after an acceptance test."""
    from petqc.errors import BadInputError

    reason = "the first day of a scenario"
    try:
        await daemon.baselines.accept(
            run.kind, run_ids=[run.run_id], last=1, who="petqc demo", reason=reason, is_acceptance=True
        )
    except BadInputError as error:
        say(f"the first day is no acceptance baseline: {error}")


async def _run_of_day(daemon: Daemon, day: float) -> Run | None:
    await daemon.device.control.ask({"do": "day", "day": day})
    run = await run_inside(daemon, "source", f"day {day:g}", source="petqc demo")
    if run is not None:
        say(f"day {day:g} ({run.started_at[:10]}): {run.verdict}: {run.sentence}")
    return run


async def run_inside(daemon: Daemon, kind: str, title: str, *, source: str) -> Run | None:
    """One run of a daemon in this process, with a bar; None if it could not be stored."""
    from petqc.results import Run

    with daemon.bus.listen() as queue, Bar(title) as bar:
        waiting = asyncio.create_task(daemon.run_until_stopped(), name="watch the daemon")
        try:
            run_id = await daemon.runs.start(kind, source=source)
            while True:
                following = asyncio.create_task(queue.get(), name="next event")
                done, _ = await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if following not in done:
                    following.cancel()
                    await asyncio.wait({following})
                    waiting.result()
                    # Told to stop: the run ends as a record, and its verdict is what there is to tell.
                    await daemon.runs.aclose()
                    break
                event = following.result()
                if event is None:
                    break
                if event.name == "progress":
                    bar.document(event.data)
                elif event.name == "finished" and event.data["run_id"] == run_id:
                    break
                elif event.name == "lost":
                    say(f"the run could not be stored: {event.data['error']}")
                    return None
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})
    folder = daemon.store.folder_of(run_id)
    document = await asyncio.to_thread(daemon.store.document, run_id)
    with suppress(Exception):
        return await asyncio.to_thread(Run.load, folder)
    return Run.from_document(document)


async def _serve(config: PetqcConfig, state_dir: Path, *, as_json: bool) -> None:
    async with Daemon(config, state_dir) as daemon:
        _end_on_signals(daemon)
        if as_json:
            sys.stdout.write(json.dumps({"ready": True, "http": daemon.http, "state_dir": str(state_dir)}) + "\n")
            sys.stdout.flush()
        if daemon.own_configuration.problem:
            say(f"petqc: no run can start: {daemon.own_configuration.problem}; supplies and instruments are served")
        said = f"petqc {daemon.version} serves {daemon.http} · commands: {state_dir / 'petqcd.sock'}"
        say(said)
        load = partial(load_for_runs, daemon.config.board.configuration)
        house = process_memory.Housekeeping(lambda: daemon.runs.progress is None, load)
        daemon.runs.ended = house.run_ended
        keeping = asyncio.create_task(house.run(), name="memory")
        try:
            async with notify.serving(said, daemon.stuck):
                await daemon.run_until_stopped()
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
        say("stopping")


def _end_on_signals(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, daemon.stop)
    # Of a terminal that is closed it is the end; from anybody else it asks for what there is not.
    loop.add_signal_handler(signal.SIGHUP, daemon.stop if sys.stdin.isatty() else _no_reload)


def _no_reload() -> None:
    say("petqc: SIGHUP changes nothing: petqc.toml is read at the start; petqc check-config, then restart")
