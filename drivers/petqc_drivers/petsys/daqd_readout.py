"""A readout of all units behind the vendor's daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import DeviceFaultError, DriverError
from petqc_drivers.petsys.daqd_link import DaqdReadoutLink
from petqc_drivers.petsys.readout import PetsysReadout
from petqc_drivers.petsys.settings import PetsysDaqdSettings
from petqc_drivers.petsys.units import FoundUnit, discover, survey

if TYPE_CHECKING:
    from petqc_drivers.petsys.link import Address

__all__ = ["PetsysDaqdReadout", "PetsysDaqdSettings"]

SURVEY_DEADLINE_S: Final = 3.0
"""For finding boards to switch off."""


class PetsysDaqdReadout(PetsysReadout):
    """All units behind the vendor's daemon."""

    def __init__(self, settings: PetsysDaqdSettings) -> None:
        super().__init__(settings)

    def _known_febds(self) -> set[Address]:
        return {(channel.port, channel.slave) for channel in self.settings.bias} | (
            self.settings.expected_febds or set()
        )

    def _any_link(self) -> DaqdReadoutLink:
        link = self.settings.new_link()
        assert isinstance(link, DaqdReadoutLink)  # noqa: S101 - what these settings make; for the type checker
        return link

    async def _find_units(self) -> list[FoundUnit]:
        link = self._any_link()
        try:
            await link.open_daemon()
            return await discover(link)
        finally:
            await link.aclose()

    async def _find_more_to_switch_off(self) -> list[DriverError]:
        if self.settings.expected_febds is not None:
            return []
        link = self._any_link()
        try:
            async with asyncio.timeout(SURVEY_DEADLINE_S):
                await link.open_without_greeting()
                units, failures = await survey(link)
        except DriverError as error:
            return [error]
        except TimeoutError:
            return [DeviceFaultError(f"not all units were found within {SURVEY_DEADLINE_S} s", device=self.name)]
        finally:
            await link.aclose()
        for unit in units:
            if unit.kind.is_febd and unit.address not in self._febds:
                self._links.setdefault(unit.address, self.settings.new_link(unit.address))
                self._febds[unit.address] = self._new_febd(unit.address)
        return failures
