"""Scenarios: what breaks when, as data. A scenario is a TOML file; it may include others, and its seed repeats it.

Faults have a time, a ramp, a rate, or days. Days pass between runs: a scenario with `days_per_run` says how many, so
that years of slow drift take as many runs as one likes.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_simulators.faults import EVERY_KIND, OF_CONFIGURATION, STEPWISE, Fault
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_INCLUDED = 20
MOST_EVENTS = 200
"""Of one fault at a rate."""
MOST_RUNS = 1000
_KEYS = frozenset({"title", "story", "profile", "seed", "source", "include", "days_per_run", "days", "fault"})
_OF_FAULT = frozenset({
    "kind", "size", "place", "at_s", "until_s", "ramp_s", "every_s", "lasts_s", "within_s", "at_day", "until_day",
    "ramp_days",
})  # fmt: skip
_OF_DAYS = ("at_day", "until_day", "ramp_days")


@dataclass(frozen=True, slots=True)
class DayFault:
    """A fault of days: it is there from at_day on, reaches its size ramp_days later, and ends at until_day."""

    fault: Fault
    at_day: float
    until_day: float = math.inf
    ramp_days: float = 0.0

    def size_at(self, day: float) -> float:
        """How large it is; 0: it is not there."""
        if not self.at_day <= day < self.until_day:
            return 0.0
        if not self.ramp_days:
            return self.fault.size
        return self.fault.size * min((day - self.at_day) / self.ramp_days, 1.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What breaks when. faults: by seconds. of_days: by days. days_per_run: 0: no days pass. days: how many in all."""

    name: str
    title: str
    story: str = ""
    profile: str | None = None
    seed: int | None = None
    source: str | None = None
    days_per_run: float = 0.0
    days: float = 0.0
    faults: tuple[Fault, ...] = ()
    of_days: tuple[DayFault, ...] = ()

    @property
    def runs(self) -> int:
        """How many runs its days take, the first one on day 0."""
        return 1 + math.floor(self.days / self.days_per_run) if self.days_per_run else 1

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "title": self.title,
            "story": self.story,
            "profile": self.profile,
            "seed": self.seed,
            "source": self.source,
            "days_per_run": self.days_per_run,
            "runs": self.runs,
            "faults": [str(fault) for fault in self.faults],
            "faults_of_days": [
                {
                    "fault": str(one.fault),
                    "at_day": one.at_day,
                    "until_day": one.until_day if math.isfinite(one.until_day) else None,
                    "ramp_days": one.ramp_days,
                }
                for one in self.of_days
            ],
        }


def scenario_names() -> list[str]:
    """Those that come with the simulators."""
    return sorted(p.name.removesuffix(".toml") for p in files("petqc_simulators").joinpath("scenarios").iterdir())


def load_scenario(name: str, seed: int | None = None) -> Scenario:
    """Read a scenario by name, or by the path of a .toml file.

    Args:
        name: of one that comes with the simulators, or a path.
        seed: takes the place of its own.

    Raises:
        ProfileError: it cannot be used, with file and key.
    """
    found = _read(name, (), seed)
    return found if seed is None else replace(found, seed=seed)


def _path(name: str, beside: Path | None) -> Path:
    if name.endswith(".toml"):
        return (beside.parent / name) if beside is not None else Path(name)
    path = Path(str(files("petqc_simulators").joinpath("scenarios", f"{name}.toml")))
    if not path.is_file():
        raise ProfileError(
            f"no scenario {name!r}; there is {', '.join(scenario_names())}, or a path that ends in .toml"
        )
    return path


def _read(name: str, above: tuple[Path, ...], seed: int | None) -> Scenario:
    path = _path(name, above[-1] if above else None)
    if path in above or len(above) >= MOST_INCLUDED:
        raise ProfileError(f"{path}: scenarios include each other: {', '.join(p.name for p in (*above, path))}")
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{path}: {error}") from error
    if unknown := sorted(set(document) - _KEYS):
        raise ProfileError(f"{path}: {unknown[0]}: unknown key; known are {', '.join(sorted(_KEYS))}")
    included = [_read(str(one), (*above, path), seed) for one in _list(document, "include", path)]
    own_seed = seed if seed is not None else _number(document, "seed", path, None)
    rng = np.random.default_rng([0 if own_seed is None else int(own_seed), 0x5CE4])
    faults: list[Fault] = [fault for one in included for fault in one.faults]
    of_days: list[DayFault] = [fault for one in included for fault in one.of_days]
    for number, table in enumerate(_list(document, "fault", path)):
        where = f"{path}: fault {number + 1}"
        if not isinstance(table, dict):
            raise ProfileError(f"{where}: write [[fault]]")
        by_seconds, by_days = _faults(table, where, rng)
        faults += by_seconds
        of_days += by_days
    days_per_run = _number(document, "days_per_run", path, max((one.days_per_run for one in included), default=0.0))
    days = _number(document, "days", path, max((one.days for one in included), default=0.0))
    assert days_per_run is not None  # noqa: S101 - they have defaults; for the type checker
    assert days is not None  # noqa: S101 - likewise
    if of_days and not days_per_run:
        raise ProfileError(f"{path}: a fault with days needs days_per_run: how many pass from run to run")
    if days_per_run and days / days_per_run >= MOST_RUNS:
        raise ProfileError(f"{path}: {days:g} days with {days_per_run:g} a run are more than {MOST_RUNS} runs")
    return Scenario(
        name=path.name.removesuffix(".toml"),
        title=str(document.get("title", path.stem)),
        story=str(document.get("story", "")).strip(),
        profile=_of_any(document, "profile", included),
        seed=None if own_seed is None else int(own_seed),
        source=_of_any(document, "source", included),
        days_per_run=days_per_run,
        days=days,
        faults=tuple(faults),
        of_days=tuple(of_days),
    )


def _of_any(document: Mapping[str, Any], key: str, included: list[Scenario]) -> str | None:
    """Its own, or that of the first scenario it includes that has one."""
    of_included = [getattr(one, key) for one in included if getattr(one, key) is not None]
    return str(document[key]) if key in document else next(iter(of_included), None)


def _list(document: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise ProfileError(f"{path}: {key}: a list is wanted")
    return found


def _number(table: Mapping[str, Any], key: str, where: object, default: float | None) -> float | None:
    value = table.get(key, default)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf):
        return value
    raise ProfileError(f"{where}: {key}: {value!r} is no number of 0 or more")


def _faults(table: Mapping[str, Any], where: str, rng: np.random.Generator) -> tuple[list[Fault], list[DayFault]]:
    """What one table of a fault means."""
    if unknown := sorted(set(table) - _OF_FAULT):
        raise ProfileError(f"{where}: {unknown[0]}: unknown key; known are {', '.join(sorted(_OF_FAULT))}")
    kind = EVERY_KIND.get(str(table.get("kind")))
    if kind is None:
        raise ProfileError(f"{where}: kind: {table.get('kind')!r} is none of {', '.join(EVERY_KIND)}")
    numbers = {key: _number(table, key, where, None) for key in _OF_FAULT - {"kind", "place"}}
    size = numbers["size"] if numbers["size"] is not None else kind.default_size
    place = f":{table['place']}" if "place" in table else ""
    is_ramped = numbers["ramp_s"] is not None or numbers["ramp_days"] is not None
    if is_ramped and kind.id in STEPWISE:
        raise ProfileError(f"{where}: {kind.id} is there or not: it has no ramp")
    whole = Fault.parse(f"{kind.id}={size!r}{place}")
    if any(numbers[key] is not None for key in _OF_DAYS):
        if kind.family != "detector" or kind.id in OF_CONFIGURATION or any(numbers[k] is not None for k in _OF_SECONDS):
            raise ProfileError(f"{where}: days are for faults of the detector, and go without seconds")
        until = numbers["until_day"]
        at_day, ramp = numbers["at_day"] or 0.0, numbers["ramp_days"] or 0.0
        return [], [DayFault(whole, at_day, math.inf if until is None else until, ramp)]
    begin = numbers["at_s"] or 0.0
    end = math.inf if numbers["until_s"] is None else numbers["until_s"]
    if numbers["every_s"] is None:
        return [_timed(whole, begin, end, numbers["ramp_s"] or 0.0, where)], []
    return _at_rate(whole, numbers, begin, where, rng), []


_OF_SECONDS = ("at_s", "until_s", "ramp_s", "every_s", "lasts_s", "within_s")


def _timed(whole: Fault, begin: float, end: float, ramp: float, where: str) -> Fault:
    if not begin < end:
        raise ProfileError(f"{where}: it must end after it begins")
    return replace(whole, onset_s=begin, end_s=end, ramp_s=ramp)


def _at_rate(
    whole: Fault, numbers: Mapping[str, float | None], begin: float, where: str, rng: np.random.Generator
) -> list[Fault]:
    """The times at which a fault comes by chance, every so many seconds on average."""
    every, lasts, within = numbers["every_s"], numbers["lasts_s"], numbers["within_s"]
    if not every or not lasts or not within:
        raise ProfileError(f"{where}: a fault at a rate has every_s, lasts_s and within_s, all above 0")
    found: list[Fault] = []
    at = begin + float(rng.exponential(every))
    while at < begin + within:
        if len(found) == MOST_EVENTS:
            raise ProfileError(f"{where}: more than {MOST_EVENTS} times within {within:g} s")
        found.append(_timed(whole, round(at, 3), round(at + lasts, 3), numbers["ramp_s"] or 0.0, where))
        at += lasts + float(rng.exponential(every))
    return found
