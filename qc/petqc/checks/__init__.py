"""The checks: ONE file here = ONE check, found by itself.

A check is a pure function from what was counted to numbers with limits (`CheckOutput`), registered with its identity,
what it looks at, default limits and the source of its formula. `petqc.analysis` runs those of events (`QcInput`),
`petqc.dark_counts` those of dark counts (`DarkInput`), `petqc.housekeeping` those of readings (`HousekeepingInput`),
`petqc.test_pulse` those of test pulses (`PulseInput`), `petqc.mr_delta` those of the MR's influence (`MrDeltaInput`).
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from petqc.errors import BadInputError
from petqc.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from petqc.results import ChannelColumn, CheckResult, Spectrum

log = logging.getLogger(__name__)

Data: TypeAlias = Literal["source", "lutetium", "dark", "housekeeping", "test-pulse", "mr-delta"]
"""What there was to look at: events of a source, events of the crystals' own lutetium (both `QcInput`), dark counts
(`DarkInput`), readings of the hardware (`HousekeepingInput`), test pulses (`PulseInput`), or three measurements with
the MR idle, under stress and idle again (`MrDeltaInput`). A check of several of them uses only what `CheckInput`
has."""
Level: TypeAlias = Literal["scanner", "unit", "pair", "module", "asic", "bias", "channel"]


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """What one check found: results by node, one column over all channels, spectra worth looking at, remarks."""

    results: list[CheckResult] = field(default_factory=list)
    column: ChannelColumn | None = None
    spectra: list[Spectrum] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


CheckFunction: TypeAlias = "Callable[[Any], CheckOutput]"
F = TypeVar("F", bound=CheckFunction)


@dataclass(frozen=True, slots=True)
class Check:
    """One registered check.

    limits: default limits by level, in `unit`. relative: limits by level in per cent of the node's baseline; they
    replace the default ones at nodes that have a baseline. source: where formula and limits come from. order: place in
    the table that a person reads. data: the runs that it belongs to.
    """

    id: str
    title: str
    unit: str
    levels: tuple[Level, ...]
    limits: Mapping[Level, Limits]
    relative: Mapping[Level, Limits]
    source: str
    order: int
    data: tuple[Data, ...]
    function: CheckFunction

    def limits_at(self, level: Level, baseline: float | None, override: Mapping[str, float] | None) -> Limits:
        """Limits of one node: the default ones, or relative to its baseline, each side replaced by an override."""
        found = self.limits.get(level, Limits())
        share = self.relative.get(level)
        if share is not None and baseline is not None:
            scale = abs(baseline) / 100.0
            found = Limits(
                **{
                    side: None if value is None else baseline + value * scale
                    for side in ("fail_low", "warn_low", "warn_high", "fail_high")
                    for value in (getattr(share, side),)
                }
            )
        if override:
            unknown = set(override) - {"fail_low", "warn_low", "warn_high", "fail_high"}
            if unknown:
                raise BadInputError(
                    f"limit {min(unknown)!r} of {self.id}", do="use fail_low, warn_low, warn_high, fail_high"
                )
            found = replace(found, **override)
        return found


_REGISTRY: dict[str, Check] = {}


def check(
    id: str,  # noqa: A002 - the document's own word
    *,
    title: str,
    unit: str,
    levels: tuple[Level, ...],
    source: str,
    order: int,
    data: tuple[Data, ...] = ("source",),
    limits: Mapping[Level, Limits] | None = None,
    relative: Mapping[Level, Limits] | None = None,
) -> Callable[[F], F]:
    """Register a function as the check `id`."""

    def register(function: F) -> F:
        if id in _REGISTRY:
            raise ValueError(f"check {id!r} is registered twice")
        _REGISTRY[id] = Check(id, title, unit, levels, limits or {}, relative or {}, source, order, data, function)
        return function

    return register


@functools.cache
def _import_all() -> None:
    """Once: a run of a whole scanner asks thousands of times."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def all_checks() -> tuple[Check, ...]:
    """Every check of this folder, in the order in which a person reads them."""
    _import_all()
    return tuple(sorted(_REGISTRY.values(), key=lambda c: (c.order, c.id)))


def checks_of(data: Data) -> tuple[Check, ...]:
    """The checks of a kind of data, in the order in which a person reads them."""
    return tuple(c for c in all_checks() if data in c.data)


def get_check(id: str) -> Check:  # noqa: A002 - the document's own word
    """The check of that name.

    Raises:
        BadInputError: there is none.
    """
    _import_all()
    if id in _REGISTRY:
        return _REGISTRY[id]
    raise BadInputError(f"there is no check {id!r}", do="one of " + ", ".join(c.id for c in all_checks()))


def run_checks(
    checks: Sequence[Check], data: Any, *, at_once: int = 1, first: Sequence[str] = ()
) -> list[tuple[Check, CheckOutput]]:
    """What each check finds in the data, in their order. One that breaks has no number, says why, and the others go on.

    Args:
        checks: to be run.
        data: what they look at.
        at_once: how many run side by side; what they share must then stand being asked for by several.
        first: ids of those that are begun before the others, in that order.
    """
    by_id = {one.id: one for one in checks}
    order = [*(by_id[id_] for id_ in first if id_ in by_id), *(one for one in checks if one.id not in first)]
    with ThreadPoolExecutor(at_once, "petqc-check") as pool:
        begun = {one.id: pool.submit(_found, one, data) for one in order}
    return [(one, begun[one.id].result()) for one in checks]


def _found(one: Check, data: Any) -> CheckOutput:
    try:
        return one.function(data)
    except Exception as error:
        from petqc.channel_map import SCANNER
        from petqc.results import CheckResult

        log.exception("the check %s of run %s", one.id, data.context.run_id)
        reason = f"the check itself did not work ({type(error).__name__}: {error}); the log says where"
        return CheckOutput([CheckResult.missing(one.id, SCANNER, one.unit, 0, Limits(), reason)])
