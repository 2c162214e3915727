"""The data links from a board's ASICs: which receivers lock and understand what comes.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2 and 5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.boards.asics import TX_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from petqc_simulators.boards.asics import Asics
    from petqc_simulators.boards.registers import RegisterFile

_TX_LINKS = {1: 0, 2: 1, 4: 2}
"""What an ASIC is told that has so many data links."""


class AsicLinks:
    """All links of one board; ASICs by their place in `Asics.chips`.

    Args:
        asics: they.
        registers: the board's.
        links: data links of each ASIC.
        are_alive: whether the ASICs have power and are out of reset.
    """

    def __init__(self, asics: Asics, registers: RegisterFile, links: int, are_alive: Callable[[], bool]) -> None:
        self._asics, self._registers = asics, registers
        self._links, self._are_alive = links, are_alive

    def is_locked(self, chip: int) -> bool:
        """A receiver locks to a chip that sends on as many links, and at the rate, that the board expects."""
        return (
            self._are_alive()
            and self._asics.is_there(chip)
            and bool(self._registers.value("receiver_enable") >> self._asics.chips[chip] & 1)
            and self._asics.global_field(chip, "tx_nlinks") == _TX_LINKS[self._links]
            and self._asics.global_field(chip, "tx_ddr") == self._registers.value("asic_link_speed") & 1
        )

    def is_sending(self, chip: int) -> bool:
        """Whether data come that the receiver understands."""
        return self.is_locked(chip) and self._asics.global_field(chip, "tx_mode") == TX_DATA

    def sending(self) -> NDArray[np.bool_]:
        """(ASICs,) from which data come."""
        return np.array([self.is_sending(chip) for chip in range(self._asics.n_chips)])

    def locked_mask(self) -> int:
        """Receivers that are locked, by number of the ASIC."""
        return self._mask(self.is_locked)

    def decoded_mask(self) -> int:
        """Receivers that understand, by number of the ASIC."""
        return self._mask(self.is_sending)

    def _mask(self, holds: Callable[[int], bool]) -> int:
        return sum(1 << chip for place, chip in enumerate(self._asics.chips) if holds(place))

    def is_deaf(self, number: int) -> bool:
        """Whether the receiver of an ASIC, by its number, is enabled and hears nothing of what it expects."""
        if not self._registers.value("receiver_enable") >> number & 1:
            return False
        return number not in self._asics.chips or not self.is_locked(self._asics.chips.index(number))

    def selected_lane(self) -> tuple[int, int]:
        """Number of the ASIC, and lane, whose wrong codes are asked for."""
        return divmod(self._registers.value("code_error_select"), self._links)
