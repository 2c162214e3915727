"""Permits that come from readings of instruments: those of [[permit]], and those that a device brings along.

A chiller that is configured must run for what it cools to be energised, within its [device.coolant] if that is given;
a bias source with [device.temperature] needs its own sensor to be within, and a source meter its interlock closed. What
a device brings along is left out only where its table says so, and that is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.config import BiasSourceConfig, JulaboConfig, KeithleySmuConfig
from petqcd.config.interlocks import PermitConfig
from petqcd.errors import NotFoundError
from petqcd.interlocks import permit_sources

if TYPE_CHECKING:
    from collections.abc import Iterable

    from petqc_drivers.device import Reading
    from petqcd.config import InstrumentConfig, PetqcConfig, TemperatureRange
    from petqcd.instruments.collection import Instruments
    from petqcd.interlocks.permits import Permit


def brought_along(config: InstrumentConfig) -> list[PermitConfig]:
    """What a configured instrument brings along for those that it is for."""
    name = config.name
    if isinstance(config, JulaboConfig) and config.cooling_permit:
        runs = PermitConfig(name=f"cooling by {name}", device=name, reading="coolant_running", low=1.0)
        return [runs, *_within(f"coolant of {name}", name, "temperature_coolant", config.coolant)]
    if isinstance(config, KeithleySmuConfig) and config.needs_interlock:
        why = f"interlock of {name}"
        return [PermitConfig(name=why, device=name, reading="interlock_closed", low=1.0, of=(name,), no_bypass=True)]
    if isinstance(config, BiasSourceConfig):
        return _within(f"temperature of {name}", name, "temperature_sipm", config.temperature, (name,))
    return []


def _within(
    name: str, device: str, reading: str, limits: TemperatureRange | None, of: tuple[str, ...] = ()
) -> list[PermitConfig]:
    if limits is None:
        return []
    return [PermitConfig(name=name, device=device, reading=reading, low=limits.low_degc, high=limits.high_degc, of=of)]


def left_out(configs: Iterable[InstrumentConfig]) -> list[str]:
    """What devices do not bring along because their tables say so or say nothing, for people."""
    found = []
    for one in configs:
        if isinstance(one, JulaboConfig) and not one.cooling_permit:
            found.append(f"{one.name}: cooling_permit = false: nobody's bias needs that it runs")
        if isinstance(one, KeithleySmuConfig) and one.can_energise and not one.needs_interlock:
            why = "interlock_permit = false" if one.interlock_permit is False else "no interlock_permit"
            found.append(f"{one.name}: {why}: its bias needs no closed interlock")
        if isinstance(one, BiasSourceConfig) and one.can_energise and one.temperature is None:
            found.append(f"{one.name}: no [device.temperature]: its bias needs no temperature to be within limits")
    return found


class Conditions:
    """Asked from the event loop, for each of many outputs several times a second; asks no device.

    Args:
        config: the daemon's.
        instruments: all supervisors; a simulator may tell of more at any time.
    """

    def __init__(self, config: PetqcConfig, instruments: Instruments) -> None:
        self._config, self._instruments = config, instruments
        self._along: dict[str, tuple[InstrumentConfig, list[PermitConfig]]] = {}
        self._configs = instruments.configs
        self._of: dict[str, list[PermitConfig]] = {}
        self._given: dict[int, tuple[PermitConfig, tuple[Reading, ...], Permit | None]] = {}

    def of(self, output: str) -> list[PermitConfig]:
        """Those that an output needs, by its name: a bias source, or the readout."""
        if self._configs is not self._instruments.configs:
            self._configs = self._instruments.configs
            self._of.clear()
            self._given.clear()
        known = self._of.get(output)
        if known is None:
            known = self._of[output] = self._found(output)
        return known

    def _found(self, output: str) -> list[PermitConfig]:
        found = [one for one in self._config.permit if not one.of or output in one.of]
        modules = self._modules(output)
        for supervisor in self._instruments:
            config = supervisor.config
            known = self._along.get(config.name)
            if known is None or known[0] is not config:
                known = self._along[config.name] = config, brought_along(config)
            if not known[1]:
                continue  # most bring nothing along, and there may be many
            is_for_it = not modules or not config.modules or bool(modules & set(config.modules))
            found += [one for one in known[1] if (output in one.of if one.of else is_for_it)]
        return found

    def given(self, conditions: Iterable[PermitConfig]) -> list[Permit]:
        """What is known of them now; of what is not among them nothing is known.

        One condition may be that of every output, so what the same readings said is not asked of them again.
        """
        found = []
        for one in conditions:
            try:
                asked = self._instruments[one.device]
            except NotFoundError:
                continue
            readings, known = asked.readings(), self._given.get(id(one))
            if known is None or known[0] is not one or known[1] is not readings:
                permit = permit_sources.of_reading(one, readings, asked.config.poll_s)
                known = self._given[id(one)] = one, readings, permit
            found += [] if known[2] is None else [known[2]]
        return found

    def _modules(self, output: str) -> set[str]:
        return set() if output == self._config.board.name else set(self._instruments[output].config.modules)
