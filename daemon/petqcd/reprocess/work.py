"""What a worker does: one bundle, analysed again, to one document. It stores nothing and decides nothing."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from petqc.errors import BadInputError, QcError
from petqc.file_hash import sha256_of
from petqcd.errors import ConfigError
from petqcd.reprocess.places import as_files, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from petqc.formats.bundle import Bundle
    from petqc.reanalyse import Other
    from petqcd.reprocess.places import Place


@dataclass(frozen=True, slots=True)
class Calibration:
    """The set that takes the place of the bundles' own. digest: SHA-256 of its set.json, which has those of its files.

    scanner: whose it is; empty: it does not say.
    """

    place: Place
    id: str
    digest: str
    scanner: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """A bundle, and how it is analysed. software: versions that this has to be done with. output: of all results."""

    bundle: Place
    software: dict[str, str]
    calibration: Calibration | None = None
    output: Place | None = None


State = Literal["analysed", "there already", "left out", "not analysed", "not stored"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a bundle.

    document: of the run, as JSON, as `Run.to_json` writes it; empty: there is none. why: where it was not analysed.
    """

    bundle: str
    state: State
    run_id: str = ""
    verdict: str = ""
    why: str = ""
    document: str = ""


def analyse_one(order: Order) -> Outcome:
    """Analyse a bundle again; what is wrong with it is an outcome, and is the same however often it is tried.

    Raises:
        OSError: it could not be fetched or written; another try may do it.
        RuntimeError: this worker is not like the one who asked; another one may be.
    """
    from petqc.formats.bundle import is_bundle, read_bundle
    from petqc.reanalyse import reanalyse

    _refuse_unlike(order.software)
    try:
        with as_files(order.bundle, _is_needed) as folder:
            if is_bundle(folder):
                _refuse_other_scanner(read_bundle(folder), order.calibration)
            with _other(order) as other:
                run = reanalyse(folder, other)
        if order.output is not None:
            with scratch() as made:
                run.save(made)
                (order.output / run.run_id).put(made, last="run.json")
    except (QcError, ConfigError) as error:
        return Outcome(order.bundle.url, "not analysed", why=str(error))
    return Outcome(order.bundle.url, "analysed", run.run_id, str(run.verdict), document=run.to_json())


def _is_needed(name: str) -> bool:
    from petqc.formats.bundle import BUNDLE_JSON, role_of
    from petqc.run_names import NEEDED

    return name == BUNDLE_JSON or role_of(name) in NEEDED


def like_this() -> dict[str, str]:
    """What has to be the same wherever a campaign computes, so that the same bundle gives the same bytes."""
    from petqc.software import software

    # More threads add in another order: see petqcd.cli. A worker has this from Dask's nanny, or from who starts it.
    return {**software(), "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "not set")}


def _refuse_unlike(asked: dict[str, str]) -> None:
    here = like_this()
    other = [f"{name} {here.get(name)}, not {version}" for name, version in asked.items() if here.get(name) != version]
    if other:
        raise RuntimeError(f"a worker on {os.uname().nodename} has {', '.join(other)}: its results would be others")


@contextmanager
def _other(order: Order) -> Iterator[Other]:
    """The calibration set as files, every one of them held against its hash."""
    from petqc.calibrate.sets import SET_JSON, set_config
    from petqc.reanalyse import Other

    given = order.calibration
    if given is None:
        yield Other()
        return
    with as_files(given.place, lambda _name: True) as folder:
        try:
            digest = sha256_of(folder / SET_JSON)
        except FileNotFoundError as error:
            raise BadInputError(f"has no {SET_JSON}", where=given.place.url) from error
        if digest != given.digest:
            raise BadInputError("is another set here than where it was named", where=given.place.url)
        yield Other(set_config(folder), given.id)


def _refuse_other_scanner(bundle: Bundle, given: Calibration | None) -> None:
    """A set of one scanner says nothing of another one."""
    scanner = bundle.about.get("scanner", "")
    if given is not None and given.scanner and scanner and scanner != given.scanner:
        raise BadInputError(f"is a run of {scanner}, and calibration set {given.id} is of {given.scanner}")
