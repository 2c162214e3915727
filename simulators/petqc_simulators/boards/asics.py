"""The ASICs' configuration as the board keeps it, and what it means for the detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys.asic import (
    POWER_ON_CHANNEL,
    POWER_ON_GLOBAL,
    AsicVersion,
    Field,
    fields,
)
from petqc_drivers.petsys.wire import CHANNEL_BITS, GLOBAL_BITS, AsicCommand, AsicStatus, asic_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_simulators.profile import Profile

CHANNELS = 64
TX_DATA = 2
_VERSIONS = {"2B": AsicVersion.V2B, "2C": AsicVersion.V2C}


class Asics:
    """All chips of a board: two configurations that only bits can change.

    Attributes:
        per_module: chips of a module.
        chips: numbers of their places on the board; everything else here is in the order of this list.
        absent: numbers of places whose chip is missing. Settable.
        failing: status that a chip answers with instead of doing anything, by number of its place. Settable, a defect.
        globals: one integer per chip.
        channels: 64 integers per chip.
        changed: set when something was written; whoever looks clears it.
        mode, vth, baseline, is_charge, integration, counter: what the detector reads, kept up to date channel by
            channel ((n,), (n, 3), (n, 2), (n,), (n,), (n, 2) counter_mode and trigger_mode_2_b).
    """

    def __init__(self, profile: Profile) -> None:
        self.per_module = profile.geometry.asics_per_module
        self._version = _VERSIONS[profile.hardware.asic_version]
        self.chips = profile.board_chips
        self.n_chips = len(self.chips)
        self.absent: set[int] = set()
        self.failing: dict[int, int] = {}
        n = CHANNELS * self.n_chips
        self._place = {chip: place for place, chip in enumerate(self.chips)}
        self._channel_fields: Mapping[str, Field] = fields("channel", self._version)
        self._global_fields: Mapping[str, Field] = fields("global", self._version)
        self.globals = [0] * self.n_chips
        self.channels = [[0] * CHANNELS for _ in range(self.n_chips)]
        self.mode = np.zeros(n, np.int64)
        self.vth = np.zeros((n, 3), np.int64)
        self.baseline = np.zeros((n, 2), np.int64)
        self.is_charge = np.zeros(n, np.bool_)
        self.integration = np.zeros(n, np.int64)
        self.counter = np.zeros((n, 2), np.int64)
        self.changed = True
        self.reset()

    def reset(self) -> None:
        """Back to the power-on strings."""
        self.globals = [POWER_ON_GLOBAL[self._version]] * self.n_chips
        self.channels = [[POWER_ON_CHANNEL] * CHANNELS for _ in range(self.n_chips)]
        self._look_at(0, 0)
        for array in (self.mode, self.vth, self.baseline, self.is_charge, self.integration, self.counter):
            array[:] = array[0]
        self.changed = True

    def _look_at(self, chip: int, channel: int) -> None:
        value, index = self.channels[chip][channel], CHANNELS * chip + channel
        get = self._channel_fields

        self.mode[index] = get["trigger_mode_1"].get(value)
        self.vth[index] = [get[name].get(value) for name in ("vth_t1", "vth_t2", "vth_e")]
        self.baseline[index] = [get[name].get(value) for name in ("baseline_t", "baseline_e")]
        self.is_charge[index] = get["qdc_mode"].get(value) != 0
        self.integration[index] = get["min_intg_time"].get(value)
        self.counter[index] = [get[name].get(value) for name in ("counter_mode", "trigger_mode_2_b")]

    def global_field(self, chip: int, name: str) -> int:
        """A field of a chip's global configuration."""
        return self._global_fields[name].get(self.globals[chip])

    def is_there(self, chip: int) -> bool:
        """Whether there is a chip in one of the places."""
        return self.chips[chip] not in self.absent

    def is_as_switched_on(self, chip: int) -> bool:
        """Whether a chip still has the global configuration that it is switched on with."""
        return self.globals[chip] == POWER_ON_GLOBAL[self._version]

    def chip_of(self, address: int) -> int | None:
        """Which of the chips is at an address (module in the high byte, place in the module in the low one), if any."""
        module, place = address >> 8, address & 0xFF
        found = self._place.get(module * self.per_module + place) if place < self.per_module else None
        return found if found is not None and self.is_there(found) else None

    def answer(self, command: AsicCommand, *, is_alive: bool) -> bytes:
        """Do a read or write; a place without a chip, or without power, does not acknowledge."""
        chip = self.chip_of(command.address)
        if chip is None or not is_alive:
            return asic_reply(AsicStatus.BAD_ACKNOWLEDGE_0)
        if self.chips[chip] in self.failing:
            return asic_reply(self.failing[self.chips[chip]])
        if command.value is None:
            if command.channel is None:
                return asic_reply(AsicStatus.OK, value=self.globals[chip], n_bits=GLOBAL_BITS)
            return asic_reply(AsicStatus.OK, value=self.channels[chip][command.channel], n_bits=CHANNEL_BITS)
        if command.channel is None:
            self.globals[chip] = command.value
        else:
            self.channels[chip][command.channel] = command.value
            self._look_at(chip, command.channel)
        self.changed = True
        return asic_reply(AsicStatus.OK)
