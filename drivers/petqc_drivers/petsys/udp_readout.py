"""A readout of one front-end board, by gigabit UDP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.errors import WrongIdentityError
from petqc_drivers.petsys.readout import PetsysReadout
from petqc_drivers.petsys.settings import PetsysUdpSettings
from petqc_drivers.petsys.units import FoundUnit, look

if TYPE_CHECKING:
    from petqc_drivers.petsys.link import Address

__all__ = ["PetsysUdpReadout", "PetsysUdpSettings"]


class PetsysUdpReadout(PetsysReadout):
    """One front-end board on gigabit UDP."""

    def __init__(self, settings: PetsysUdpSettings) -> None:
        super().__init__(settings)

    def _known_febds(self) -> set[Address]:
        return {(0, 0)}

    async def _find_units(self) -> list[FoundUnit]:
        link = self._links[0, 0]
        await link.open()
        unit = await look(link, 0, 0)
        if not (unit.kind.is_febd and unit.kind.is_trigger):
            raise WrongIdentityError(
                f"firmware {unit.kind.firmware_variant:#018x} is not a FEB/D with internal trigger, which is needed",
                device=link.name,
            )
        if unit.has_next:
            raise WrongIdentityError("a further board is chained to it, which UDP cannot reach", device=link.name)
        return [unit]
