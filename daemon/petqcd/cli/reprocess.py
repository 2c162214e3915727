"""reprocess: months of recordings analysed again, on this machine or on a cluster."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, printable, say
from petqcd.cli.progress import Bar
from petqcd.errors import (
    EXIT_FAIL,
    EXIT_INVALID,
    EXIT_OK,
    ConfigError,
    DaemonError,
    NotFoundError,
    StoreError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from petqcd.config import PetqcConfig
    from petqcd.reprocess.places import Place
    from petqcd.reprocess.work import Calibration, Order, Outcome, State

STORE_PATIENCE_S = 60.0
"""For a history that another process has for a moment, or a daemon that is just starting."""
STORE_AGAIN_S = 1.0
NICE = 10
"""Of work on the machine of a daemon: it goes first."""
NICE_ASK_S = 2.0


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("reprocess")(reprocess)


def reprocess(
    *,
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="Recorded runs: folder, id, or URL (s3://…), all that match with *; or a folder of such folders.",
        ),
    ],
    calibration: Annotated[
        str | None,
        typer.Option(metavar="SET", help="Calibration set instead of the recordings' own: its id, folder or URL."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, tcp://… or tls://…. Default: this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine. Default: one less than it has cores.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=20, help="Further tries of a recording that could not be read.")
    ] = 2,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder or URL for whole results, a folder for each."),
    ] = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Analyse many recorded runs again, results into the history; what is there already is not computed again.

    Ends with 4 if a recording was not analysed or could not be measured, else with 1 if one fails, else with 0.
    """
    from petqcd.reprocess.places import Place

    if scheduler is not None and workers is not None:
        raise ConfigError("--workers is for this machine; how many a scheduler elsewhere has is said there")
    loaded, folder = configuration(config, state_dir)
    into = None if output is None else Place.of(output)
    with Bar("looking for recordings") as bar:
        todo = _Todo(_set(calibration, folder), into, _stored(loaded, folder))
        for number, given in enumerate(bundles):
            bar.update(number / len(bundles))
            todo.add(given, folder)
    if not todo.orders and all(one.state == "left out" for one in todo.outcomes):
        raise ConfigError("nothing to analyse again: " + "; ".join(f"{o.bundle}: {o.why}" for o in todo.outcomes))
    results = _Results(loaded, folder, list(todo.outcomes), len(todo.orders))
    try:
        with Bar("reprocessing", quiet=not todo.orders) as bar:
            results.bar = bar
            _do(todo.orders, scheduler, workers, retries, results)
    except (UnreachableError, StoreError) as error:
        results.give_up(todo.orders, str(error))
        _tell(results.outcomes, as_json=as_json)
        if as_json:
            say(f"petqc: {error}")
            raise typer.Exit(error.exit_code) from error
        raise
    _tell(results.outcomes, as_json=as_json)
    raise typer.Exit(_exit_code(results.outcomes))


@dataclass(slots=True)
class _Set:
    """The set that was asked for, and what a re-analysis with it says of its calibration."""

    calibration: Calibration | None = None
    ids: dict[str, str] | None = None


def _set(given: str | None, state_dir: Path) -> _Set:
    """The set by id, folder or URL, whole.

    Raises:
        BadInputError: there is none, or it is damaged.
    """
    if given is None:
        return _Set()
    from petqc.calibrate.sets import SET_JSON, find_set, read_set, set_config
    from petqc.file_hash import sha256_of
    from petqc.formats.petsys_config import load_config
    from petqcd.reprocess.places import Place, as_files
    from petqcd.reprocess.work import Calibration

    is_place = "://" in given or (Path(given) / SET_JSON).is_file()
    place = Place.of(given if is_place else str(find_set(state_dir / "sets", given)))
    with as_files(place, lambda _name: True) as folder:
        info = read_set(folder)
        ids = {**load_config(set_config(folder)).file_hashes, "set": info.id}
        return _Set(Calibration(place, info.id, sha256_of(folder / SET_JSON), info.scanner), ids)


def _stored(config: PetqcConfig, state_dir: Path) -> dict[str, str]:
    """Verdicts of the re-analyses in the history, by run id."""
    from petqcd.store import database_of, read_only

    with suppress(NotFoundError), read_only(database_of(config.store, state_dir)) as reader:
        return reader.reanalyses()
    return {}


class _Todo:
    """What has to be analysed, and what became of the rest of what was asked for."""

    def __init__(self, with_set: _Set, output: Place | None, stored: dict[str, str]) -> None:
        from petqcd.reprocess.work import like_this

        self.orders: list[Order] = []
        self.outcomes: list[Outcome] = []
        self._set, self._output, self._stored = with_set, output, stored
        self._software = like_this()
        self._seen: set[str] = set()

    def add(self, given: str, state_dir: Path) -> None:
        """A bundle, or all bundles of a folder or a pattern. Those of a folder that are none are not spoken of."""
        from petqc.formats.bundle import BUNDLE_JSON
        from petqcd.cli.bundles import folder_of
        from petqcd.reprocess.places import Place

        named = given if "://" in given else str(folder_of(given, state_dir))
        try:
            found = Place.matching(named)
            if not found:
                self._refuse(Place.of(named), "nothing has a name like that")
            for place in found:
                if place.has(BUNDLE_JSON):
                    self._add_one(place)
                    continue
                inside = [one for one in place.folders() if one.has(BUNDLE_JSON)]
                if not inside:
                    self._add_none(place)
                for one in inside:
                    self._add_one(one)
        except DaemonError:
            raise
        except Exception as error:  # noqa: BLE001 - each store of objects has errors of its own kind
            self._refuse(Place.of(named), f"{type(error).__name__}: {error}")

    def _add_none(self, place: Place) -> None:
        if place.has("run.json"):
            self._refuse(place, "has no recording: a run that is composed of others, or was imported", is_fault=False)
        else:
            self._refuse(place, "is no bundle, and no folder of any")

    def _add_one(self, place: Place) -> None:
        from petqc.errors import BadInputError
        from petqc.formats.bundle import BUNDLE_JSON, read_bundle
        from petqc.run_names import CALIBRATES, RECORDINGS, expected_id
        from petqcd.reprocess.places import as_files
        from petqcd.reprocess.work import Order

        if place.url in self._seen:
            return
        self._seen.add(place.url)
        try:
            with as_files(place, BUNDLE_JSON.__eq__) as folder:
                bundle = read_bundle(folder)
        except BadInputError as error:
            self._refuse(place, str(error))
            return
        kind = bundle.about.get("kind")
        if kind not in RECORDINGS:
            self._refuse(place, f"runs of kind {kind} are not analysed again", is_fault=False)
            return
        if kind in CALIBRATES and self._set.calibration is not None:
            why = (
                f"runs of kind {kind} make a calibration, or tell of the one that was in use: another one says nothing"
            )
            self._refuse(place, why, is_fault=False)
            return
        run_id = expected_id(bundle, self._set.ids)
        if run_id is not None and run_id in self._stored and self._is_written(run_id):
            self._note(place, "there already", run_id=run_id, verdict=self._stored[run_id])
        else:
            self.orders.append(Order(place, self._software, self._set.calibration, self._output))

    def _is_written(self, run_id: str) -> bool:
        return self._output is None or (self._output / run_id).has("run.json")

    def _refuse(self, place: Place, why: str, *, is_fault: bool = True) -> None:
        self._note(place, "not analysed" if is_fault else "left out", why=why)

    def _note(self, place: Place, state: State, **about: str) -> None:
        from petqcd.reprocess.work import Outcome

        self.outcomes.append(Outcome(place.url, state, **about))


def _do(orders: Sequence[Order], scheduler: str | None, workers: int | None, retries: int, results: _Results) -> None:
    """Have all of them done, here or there."""
    if not orders:
        return
    from petqcd.reprocess.campaign import Campaign, local_cluster, scheduler_at

    with ExitStack() as stack:
        if scheduler is not None:
            client = stack.enter_context(scheduler_at(scheduler))
        else:
            _let_the_daemon_go_first(results.state_dir)
            count = min(workers or max((os.cpu_count() or 2) - 1, 1), len(orders))
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="petqc-reprocess-"))
            client = stack.enter_context(local_cluster(count, Path(folder)))
        Campaign(retries).run(client, orders, results)


def _let_the_daemon_go_first(state_dir: Path) -> None:
    from petqcd.client import Client

    with suppress(UnreachableError):
        Client(state_dir).alive(NICE_ASK_S)
        os.nice(NICE)


@dataclass(slots=True)
class _Results:
    """Takes outcomes as they come, and stores what was analysed at once: what is stored stays, whatever comes later."""

    config: PetqcConfig
    state_dir: Path
    outcomes: list[Outcome]
    total: int
    bar: Bar = field(default_factory=lambda: Bar("", quiet=True))
    done: int = 0

    def __call__(self, outcome: Outcome) -> None:
        """Store a result, and show where the campaign is.

        Raises:
            StoreError: the history takes nothing; there is no use in computing more.
        """
        from dataclasses import replace

        if outcome.state == "analysed":
            outcome = self._store(outcome)
        self.outcomes.append(replace(outcome, document=""))
        self.done += 1
        said = f"{outcome.run_id}: {outcome.verdict}" if outcome.run_id else f"{outcome.bundle}: {outcome.state}"
        self.bar.update(self.done / self.total, f"{self.done} of {self.total}", printable(said))

    def _store(self, outcome: Outcome) -> Outcome:
        import json
        from dataclasses import replace

        from petqc.results import Run
        from petqcd.cli.importing import import_runs

        run = Run.from_document(json.loads(outcome.document))
        end_s = time.monotonic() + STORE_PATIENCE_S
        while True:
            try:
                ((_, is_new),) = import_runs(self.config, self.state_dir, [run], quiet=self.done > 0)
            except (StoreError, UnreachableError):
                if time.monotonic() > end_s:
                    raise
                time.sleep(STORE_AGAIN_S)
            except DaemonError as error:
                return replace(outcome, state="not stored", why=str(error))
            else:
                return outcome if is_new else replace(outcome, state="there already")

    def give_up(self, orders: Sequence[Order], why: str) -> None:
        """Say of everything that nothing was said of why it was not done."""
        from petqcd.reprocess.work import Outcome

        told = {one.bundle for one in self.outcomes}
        self.outcomes += [Outcome(o.bundle.url, "not analysed", why=why) for o in orders if o.bundle.url not in told]


def _exit_code(outcomes: Sequence[Outcome]) -> int:
    if any(one.state.startswith("not ") or one.verdict in {"invalid", "missed"} for one in outcomes):
        return EXIT_INVALID
    return EXIT_FAIL if any(one.verdict == "fail" for one in outcomes) else EXIT_OK


def _tell(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        told = [{k: v for k, v in asdict(one).items() if k != "document"} for one in outcomes]
        give_json({"counts": dict(Counter(one.state for one in outcomes)), "bundles": told})
    else:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in _lines(outcomes)))


def _lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Why each one was not done; which do not pass; then the counts, which a person looks for at the end."""
    for state in ("left out", "not analysed", "not stored"):
        yield from (f"{state}: {one.bundle}: {one.why}" for one in outcomes if one.state == state)
    judged = [one for one in outcomes if one.verdict]
    yield from (f"{one.verdict}: {one.run_id}" for one in judged if one.verdict not in {"pass", "warn"})
    states = Counter(one.state for one in outcomes)
    verdicts = Counter(one.verdict for one in judged)
    counted = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    rest = "".join(
        f"; {states[state]} {state}" for state in ("left out", "not analysed", "not stored") if states[state]
    )
    there = f", {states['there already']} there already" if states["there already"] else ""
    yield f"{states['analysed']} analysed again{there}" + (f" ({counted})" if counted else "") + rest
