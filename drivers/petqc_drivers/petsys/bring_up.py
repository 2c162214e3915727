"""From a powered board to configured ASICs with running links, every field read back.

The order of steps and the waits are those of the vendor's initialisation; the reference below numbers them.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.5 and 5.2.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import (
    DeviceFaultError,
    LocalProtocolError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.petsys.asic import AsicConfiguration, AsicVersion, version_of
from petqc_drivers.petsys.frames import CLOCK_HZ
from petqc_drivers.petsys.power_8k import TrimmedSupplies
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, POWER_GOOD_MASK
from petqc_drivers.petsys.sensors import find_adc
from petqc_drivers.petsys.settings import RESERVED_GLOBAL
from petqc_drivers.petsys.wire import PROTOCOL_VERSION, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.registers import BoardKind
    from petqc_drivers.petsys.settings import AsicSettings

_LOG = logging.getLogger(__name__)

TRIES: Final = 3
"""Whole bring-ups before a chip that is only half there is an error."""
SYNC_PAUSE_S: Final = 0.22
"""Covers the pause in which a board synchronises; not to be shortened without trying it on hardware (2.5)."""
POWER_SETTLE_S: Final = 0.02
LINK_SETTLE_S: Final = 0.1
RECEIVER_CALIBRATION_S: Final = 0.011
SYNC_TOLERANCE_S: Final = 0.05
ASIC_TYPE: Final = 2
_N_CHANNELS: Final = 64
_CHANNEL_OFF: Final = 3
_TX_TRAINING, _TX_DATA = 1, 2
_LINKS: Final = {0: 0, 1: 1, 3: 2}
"""Register asic_links (links minus 1) -> field tx_nlinks."""
_LEGACY_MODULES: Final = (0x0001, 0x0011)
_ONE_K_BOARD: Final = 0x0002


@dataclass(frozen=True, slots=True)
class BringUp:
    """What a bring-up found and set.

    Attributes:
        chips: Chips in use, with their versions.
        globals: Global configuration of each, as read back.
        channels: Configuration of each (chip, channel), as read back.
        synchronised_unix_s: When time tag and frame ids were at 0, seconds since 1970.
        synchronised_within_s: How well that is known.
        tries: Whole bring-ups it took.
        duration_s: How long it took.
    """

    chips: dict[int, AsicVersion]
    globals: dict[int, AsicConfiguration]
    channels: dict[tuple[int, int], AsicConfiguration]
    synchronised_unix_s: float
    synchronised_within_s: float
    tries: int
    duration_s: float

    @property
    def mask(self) -> int:
        """Bit per chip in use."""
        return sum(1 << chip for chip in self.chips)

    def changes(
        self, global_fields: Mapping[str, int], channels: Mapping[tuple[int, int], Mapping[str, int]]
    ) -> dict[tuple[int, int | None], AsicConfiguration]:
        """Configurations that would differ with these fields, by chip and channel (None: the global one).

        Raises:
            LocalProtocolError: If a chip is not in use, or a field does not exist, must not be set or does not fit.
        """
        absent = sorted({chip for chip, _ in channels} - set(self.chips))
        reserved = sorted(set(global_fields) & set(RESERVED_GLOBAL))
        if absent:
            raise LocalProtocolError(f"ASICs {absent} are not in use")
        if reserved:
            raise LocalProtocolError(f"ASIC field {reserved[0]} follows the board's links and cannot be set")
        found: dict[tuple[int, int | None], AsicConfiguration] = {}
        try:
            if global_fields:
                found.update({(chip, None): held.replace(global_fields) for chip, held in self.globals.items()})
            found.update({place: self.channels[place].replace(fields) for place, fields in channels.items()})
        except WireError as error:
            raise LocalProtocolError(str(error)) from error
        except KeyError as error:
            raise LocalProtocolError(f"ASIC and channel {error.args[0]}: channels are 0..{_N_CHANNELS - 1}") from error
        return {place: wanted for place, wanted in found.items() if wanted != self._held(place)}

    def _held(self, place: tuple[int, int | None]) -> AsicConfiguration:
        chip, channel = place
        return self.globals[chip] if channel is None else self.channels[chip, channel]

    def with_changes(self, changes: Mapping[tuple[int, int | None], AsicConfiguration]) -> BringUp:
        """The same bring-up with configurations that were changed, and read back, since."""
        return replace(
            self,
            globals={**self.globals, **{chip: new for (chip, channel), new in changes.items() if channel is None}},
            channels={
                **self.channels,
                **{(chip, channel): new for (chip, channel), new in changes.items() if channel is not None},
            },
        )


class _HalfThereError(Exception):
    """Some of the signs of life of a chip are missing: worth another try."""


async def bring_up(board: Board, kind: BoardKind, settings: AsicSettings) -> BringUp:
    """Reset, synchronise, power, configure and link up a board; the bias supply must be off.

    Raises:
        StateError: If the bias supply is on.
        DeviceFaultError: If clock, power, ASICs or links do not come up.
        VerifyError: If a configuration reads back differently.
        LocalProtocolError: If a setting does not fit its field or its chip is not there.
    """
    started_s = time.monotonic()
    for attempt in range(1, TRIES + 1):
        try:
            await _quiet(board)
            sync_s, within_s = await _synchronise(board)
            supplies = await _power_modules(board, kind)
            found = await _configure(board, kind, settings, supplies)
        except _HalfThereError as error:
            _LOG.warning("%s: bring-up %d of %d: %s", board.name, attempt, TRIES, error)
            if attempt == TRIES:
                raise DeviceFaultError(
                    f"{error}, in {TRIES} bring-ups",
                    device=board.name,
                    do="check seat and supply of the module these ASICs are on",
                ) from error
            continue
        chips, global_of, channel_of = found
        return BringUp(
            chips=chips,
            globals=global_of,
            channels=channel_of,
            synchronised_unix_s=sync_s,
            synchronised_within_s=within_s,
            tries=attempt,
            duration_s=time.monotonic() - started_s,
        )
    raise AssertionError("unreachable")


async def _quiet(board: Board) -> None:
    """Steps 3 to 9: nothing pulses, gates, triggers or receives; the clock runs."""
    if await board.read("power") & POWER_BIAS:
        raise StateError(
            "configuring refused: the bias supply is on", device=board.name, do="switch the bias off first"
        )
    await board.write("test_pulse", 0)
    await board.write("gate_enable", 0)
    await board.write("hardware_trigger", 0)
    await board.write("receiver_enable", 0)
    if await board.read("clock_locked") != 1:
        raise DeviceFaultError("the system clock is not locked", device=board.name, do="check the clock source")
    asic_type = await board.read("asic_type")
    if asic_type != ASIC_TYPE:
        raise WrongIdentityError(
            f"ASIC type {asic_type} instead of {ASIC_TYPE}", device=board.name, do="load a TOFPET2 firmware"
        )


async def _synchronise(board: Board) -> tuple[float, float]:
    """Steps 10 to 13: time tag and frame id restart at 0. Returns when that was (Unix time) and within what."""
    before_s, unix_s = time.monotonic(), time.time()
    await board.write("sync", 1)
    within_s = time.monotonic() - before_s
    await board.write("sync", 0)
    await asyncio.sleep(SYNC_PAUSE_S)
    await board.write("sync", 0)
    tag_s = await board.read("time_tag") / CLOCK_HZ
    wall_s = time.monotonic() - before_s
    if tag_s > wall_s + SYNC_TOLERANCE_S:
        raise DeviceFaultError(
            f"synchronisation failed: the time tag says {tag_s:.3f} s, {wall_s:.3f} s after it was restarted",
            device=board.name,
            do="check that nobody else uses this board, then connect again",
        )
    return unix_s + within_s / 2, within_s / 2


async def _power_modules(board: Board, kind: BoardKind) -> TrimmedSupplies | None:
    """Steps 14 to 19: modules powered, ASICs at their power-on configuration. Returns supplies that are trimmed."""
    await board.write("asic_reset", 1)
    supplies = await TrimmedSupplies.power_up(board) if kind.has_trimmed_supplies else None
    if supplies is None:
        await _switch_on(board)
    await board.write("asic_reset", 0)
    if kind.base_pcb == _ONE_K_BOARD and kind.module in _LEGACY_MODULES:
        await _find_legacy_modules(board, kind)
    await asyncio.sleep(LINK_SETTLE_S)
    await board.write("sync", 0)
    await board.write("asic_reset", 1)
    await board.write("asic_reset", 0)
    protocol = await board.read("protocol")
    if protocol != PROTOCOL_VERSION:
        raise WrongIdentityError(f"protocol {protocol:#x} instead of {PROTOCOL_VERSION:#x}", device=board.name)
    return supplies


async def _switch_on(board: Board) -> None:
    """Step 15 where the supplies need no trimming."""
    await board.write_verified("power", POWER_FEM)
    await asyncio.sleep(POWER_SETTLE_S)
    good = await board.read("power_good")
    if good & POWER_GOOD_MASK != POWER_GOOD_MASK:
        await board.write("power", 0)
        raise DeviceFaultError(
            f"a supply of the modules is not good (power_good {good:#04x}); switched off again",
            device=board.name,
            do="check the power supply and the modules for a short",
        )


async def _find_legacy_modules(board: Board, kind: BoardKind) -> None:
    """Step 17: a module whose ADC is silent may be of the older kind; the other mode is then tried."""
    for module in range(kind.modules):
        if await find_adc(board, module):
            continue
        mode = await board.read("legacy_modules")
        await board.write("legacy_modules", mode ^ 1 << module)
        if not await find_adc(board, module):
            await board.write("legacy_modules", mode)


async def _configure(
    board: Board, kind: BoardKind, settings: AsicSettings, supplies: TrimmedSupplies | None
) -> tuple[dict[int, AsicVersion], dict[int, AsicConfiguration], dict[tuple[int, int], AsicConfiguration]]:
    """Steps 20 to 27."""
    chips = await _find_chips(board, kind)
    _check_chips(board, settings, chips)
    links, speed = await board.read("asic_links"), await board.read("asic_link_speed")
    if links not in _LINKS:
        raise DeviceFaultError(f"{links + 1} links per ASIC; 1, 2 or 4 are possible", device=board.name)
    link_fields = {"tx_nlinks": _LINKS[links], "tx_ddr": speed & 1, "tdc_clk_div": speed >> 1}
    per_module = kind.asics_per_module

    wanted_globals = {
        chip: settings.global_configuration(version).replace({**link_fields, "tx_mode": _TX_DATA})
        for chip, version in chips.items()
    }
    wanted_channels = {
        (chip, channel): settings.channel_configuration(version, chip, channel)
        for chip, version in chips.items()
        for channel in range(_N_CHANNELS)
    }
    for chip, wanted in wanted_globals.items():
        training = wanted.replace({"tx_mode": _TX_TRAINING})
        await board.asic_write(chip, per_module, None, training)
        for channel in range(_N_CHANNELS):
            off = wanted_channels[chip, channel].replace({"trigger_mode_1": _CHANNEL_OFF})
            await board.asic_write(chip, per_module, channel, off)
        found = await board.asic_read(chip, per_module, None)
        if found != training.value:
            raise VerifyError(
                f"ASIC {chip}: global configuration changed while its channels were written",
                device=board.name,
                do="check the supply of this module",
            )
    await board.write("receiver_enable", (1 << 64) - 1)
    await board.write("receiver_calibration", 0)
    await board.write("receiver_calibration", 1)
    await asyncio.sleep(RECEIVER_CALIBRATION_S)
    await board.write("receiver_calibration", 0)
    for chip, wanted in wanted_globals.items():
        await board.asic_write(chip, per_module, None, wanted)
        for channel in range(_N_CHANNELS):
            await board.asic_write(chip, per_module, channel, wanted_channels[chip, channel])
    if supplies is not None:
        await supplies.refine()
    await asyncio.sleep(LINK_SETTLE_S)
    await _check_links(board, chips)
    return chips, wanted_globals, wanted_channels


async def _find_chips(board: Board, kind: BoardKind) -> dict[int, AsicVersion]:
    """Step 20: chips at their power-on configuration, which also tells their version."""
    chips: dict[int, AsicVersion] = {}
    for chip in range(min(64, kind.modules * kind.asics_per_module)):
        value = await board.asic_probe(chip, kind.asics_per_module)
        if value is None:
            continue
        version = version_of(value)
        if version is None:
            raise _HalfThereError(f"ASIC {chip} answers with {value:046x} instead of its power-on configuration")
        chips[chip] = version
    return chips


def _check_chips(board: Board, settings: AsicSettings, chips: dict[int, AsicVersion]) -> None:
    if not chips:
        raise DeviceFaultError("no ASIC found", device=board.name, do="check that modules are plugged and powered")
    if settings.expected_chips is not None and set(chips) != settings.expected_chips:
        missing = sorted(settings.expected_chips - set(chips))
        extra = sorted(set(chips) - settings.expected_chips)
        raise DeviceFaultError(
            f"ASICs missing: {missing or 'none'}; not expected: {extra or 'none'}",
            device=board.name,
            do="check the modules, or the channel map",
        )
    absent = sorted({chip for chip, _ in (*settings.per_channel, *settings.mode_of)} - set(chips))
    if absent:
        raise DeviceFaultError(
            f"there are settings for ASICs {absent}, which are not there",
            device=board.name,
            do="check the modules, or the settings tables",
        )


async def _check_links(board: Board, chips: dict[int, AsicVersion]) -> None:
    """Steps 26 and 27: data links up for exactly the chips that were found."""
    mask = sum(1 << chip for chip in chips)
    locked, decoded = await board.read("deserialiser_locked"), await board.read("decoder_good")
    if locked != mask or decoded != mask:
        odd = [chip for chip in range(64) if ((locked ^ mask) | (decoded ^ mask)) >> chip & 1]
        raise _HalfThereError(
            f"ASICs {odd}: data links do not match what is there (found {mask:#x}, locked {locked:#x}, "
            f"decoded {decoded:#x})"
        )
    await board.write("receiver_enable", mask)
