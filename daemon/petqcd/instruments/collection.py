"""The instruments around the detector, each with its supervisor; a simulated readout brings its own."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from petqc.channel_map import device_node
from petqc.check_input import INSTRUMENT_ANSWERS
from petqc_drivers.device import Reading
from petqcd import clock
from petqcd.config import BiasSourceConfig
from petqcd.errors import NotFoundError
from petqcd.instruments.supervisor import InstrumentSupervisor
from petqcd.progress import Event
from petqcd.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from petqcd.config import InstrumentConfig
    from petqcd.metrics import Metrics
    from petqcd.progress import Bus

log = logging.getLogger(__name__)

TICK_S = 1.0


class Instruments:
    """All supervisors by name, in the order of the configuration; everything is called from the event loop."""

    def __init__(self, configs: Iterable[InstrumentConfig], bus: Bus, metrics: Metrics) -> None:
        self._bus, self._metrics = bus, metrics
        self._configured = {config.name for config in configs}
        self._all = {config.name: InstrumentSupervisor(config, bus, metrics) for config in configs}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._of_place: dict[str, tuple[tuple[Reading, ...], tuple[Reading, ...]]] = {}
        self._is_running = False
        self.configs = self._told_of()
        """Of all of them now; another object as soon as a simulator tells of others."""

    def __iter__(self) -> Iterator[InstrumentSupervisor]:
        """Every supervisor."""
        return iter(self._all.values())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def __getitem__(self, name: str) -> InstrumentSupervisor:
        """The one of that name.

        Raises:
            NotFoundError: there is none.
        """
        found = self._all.get(name)
        if found is None:
            known = ", ".join(self._all) or "none"
            raise NotFoundError(f"there is no instrument {name!r} (configured: {known})")
        return found

    def has(self, supervisor: InstrumentSupervisor) -> bool:
        """Whether this one is still there: a simulator that begins again brings others."""
        return self._all.get(supervisor.name) is supervisor

    @property
    def bias_sources(self) -> list[InstrumentSupervisor]:
        """Those that have an output."""
        return [one for one in self if one.bias is not None]

    @property
    def run_volts(self) -> dict[str, float]:
        """The voltage for runs of each supply that has one, by name."""
        found = ((one.name, one.config.run_v) for one in self if isinstance(one.config, BiasSourceConfig))
        return {name: volts for name, volts in found if volts is not None}

    def readings(self) -> list[Reading]:
        """What a run is told of them: whether each answers, and its last readings, also those that are stale."""
        now_s = clock.monotonic_s()
        found = []
        for one in self:
            place = device_node(one.name)
            quality, reason = one.belief()
            answers = Reading(INSTRUMENT_ANSWERS, place, float(one.answers), "", True, quality, now_s, reason or None)
            found += [answers, *self._placed(one, place)]
        return found

    def _placed(self, one: InstrumentSupervisor, place: str) -> tuple[Reading, ...]:
        """Its readings, with it as their place where they have no other; the very same while nothing changed."""
        readings, known = one.readings(), self._of_place.get(one.name)
        if known is None or known[0] is not readings:
            placed = tuple(replace(r, node=place) if r.node == one.name else r for r in readings)
            known = self._of_place[one.name] = readings, placed
        return known[1]

    def documents(self) -> list[dict[str, Any]]:
        """What is known of each, as plain types."""
        return [one.document() for one in self]

    async def documents_in_turns(self, known: Mapping[str, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """The same, with turns for others in between, as thousands of readings take their time.

        known: documents that somebody has already, by name.
        """
        found, known, turns = [], known or {}, Turns()
        for one in list(self):
            found.append(known[one.name] if one.name in known else one.document())
            await turns.next()
        return found

    def told(self, configs: Iterable[InstrumentConfig]) -> None:
        """A simulator says where its instruments answer; those of an earlier one are forgotten."""
        configs = list(configs)
        for name in [name for name in self._all if name not in self._configured]:
            self._end(name)
        for config in configs:
            if config.name in self._configured:
                log.warning("%s: the simulator has one, and petqc.toml another: the latter is used", config.name)
                continue
            self._all[config.name] = InstrumentSupervisor(config, self._bus, self._metrics)
            if self._is_running:
                self._begin(config.name)
        self.configs = self._told_of()

    def _told_of(self) -> tuple[InstrumentConfig, ...]:
        return tuple(one.config for one in self._all.values())

    async def run(self) -> None:
        """Supervise until cancelled."""
        self._is_running = True
        try:
            for name in self._all:
                self._begin(name)
            while True:
                await asyncio.sleep(TICK_S)
                turns = Turns()
                for one in list(self):
                    try:
                        one.tick()
                    except Exception:
                        log.exception("%s could not be published; the others are", one.name)
                    await turns.next()
                if self._all and self._bus.has_listeners:
                    self._bus.publish(Event("readings", {"devices": await self.documents_in_turns()}))
        finally:
            self._is_running = False
            tasks = {*self._tasks.values(), *self._ending}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _begin(self, name: str) -> None:
        self._tasks[name] = asyncio.create_task(self._all[name].run(), name=f"supervisor of {name}")

    def _end(self, name: str) -> None:
        del self._all[name]
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
