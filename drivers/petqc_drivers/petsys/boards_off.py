"""Switching off many boards: all at the same time, so that none waits for one that is dead."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from petqc_drivers.device import OutputState
from petqc_drivers.errors import DriverError, OffUnconfirmedError
from petqc_drivers.petsys.supply import OffReport
from petqc_drivers.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from petqc_drivers.petsys.supply import BiasSupply

_LOG = logging.getLogger(__name__)

_WORST_FIRST: Final = (
    OutputState.UNKNOWN,
    OutputState.RAMPING,
    OutputState.ON,
    OutputState.ADOPTED,
    OutputState.OFF_COMMANDED,
    OutputState.OFF,
)


def worst(states: Iterable[OutputState]) -> OutputState:
    """What must be said of several boards together; off if there are none."""
    found = set(states)
    return next((state for state in _WORST_FIRST if state in found), OutputState.OFF)


def merge(reports: Sequence[OffReport]) -> OffReport:
    """Of several boards together: as good as the worst."""
    return OffReport(
        state=worst(report.state for report in reports),
        attempts=max((report.attempts for report in reports), default=0),
        set_points_lowered=sum(report.set_points_lowered for report in reports),
        failures=tuple(failure for report in reports for failure in report.failures),
    )


def unconfirmed(failures: Sequence[DriverError]) -> OffReport:
    """Of a board of which nothing is known."""
    told = [one.causes if isinstance(one, OffUnconfirmedError) and one.causes else (str(one),) for one in failures]
    return OffReport(OutputState.UNKNOWN, 0, 0, tuple(cause for causes in told for cause in causes))


async def switch_off(name: str, supplies: Iterable[BiasSupply]) -> list[OffReport]:
    """Switch off all of them; never interrupted half-way. What could not be confirmed is in its report."""
    return await uninterrupted(_all_off(list(supplies)), name=f"bias off of {name}")


async def _all_off(supplies: list[BiasSupply]) -> list[OffReport]:
    found = await asyncio.gather(*(supply.turn_off() for supply in supplies), return_exceptions=True)
    reports: list[OffReport] = []
    for supply, one in zip(supplies, found, strict=True):
        if isinstance(one, OffReport):
            reports.append(one)
            continue
        if not isinstance(one, DriverError):
            raise one
        report = unconfirmed([one])
        if len(supplies) > 1:  # it may only have waited too long, behind boards that are dead
            try:
                await supply.look_again()
            except DriverError as error:
                _LOG.warning("%s", error)
            else:
                report = OffReport(OutputState.OFF, 0, 0, report.failures)
        reports.append(report)
    return reports


async def together(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all of it at the same time; the first failure ends the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
