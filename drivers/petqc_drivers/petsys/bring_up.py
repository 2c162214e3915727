"""From powered units to one clock, configured ASICs and running links, every field read back.

The order of steps and the waits are those of the vendor's initialisation; the reference below numbers them.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.5 and 5.2.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from petqc_drivers.clock import monotonic_s
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
from petqc_drivers.petsys.trigger_links import calibrate_trigger_links
from petqc_drivers.petsys.wire import PROTOCOL_VERSION, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.link import Address
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
SYNC_GENERATE: Final = 1
SYNC_ACCEPT: Final = 2
"""Values of the register `sync`: restart time (of all that accept it), and accept the trigger unit's."""
ASIC_TYPE: Final = 2
_N_CHANNELS: Final = 64
_CHANNEL_OFF: Final = 3
_TX_TRAINING, _TX_DATA = 1, 2
_LINKS: Final = {0: 0, 1: 1, 3: 2}
"""Register asic_links (links minus 1) -> field tx_nlinks."""
_LEGACY_MODULES: Final = (0x0001, 0x0011)
_ONE_K_BOARD: Final = 0x0002


@dataclass(frozen=True, slots=True)
class FebdSetUp:
    """A FEB/D to bring up.

    Attributes:
        board: The way to it.
        kind: What kind of board it is.
        settings: What its ASICs shall be set to.
    """

    board: Board
    kind: BoardKind
    settings: AsicSettings


@dataclass(frozen=True, slots=True)
class BoardBringUp:
    """What a bring-up found and set on one FEB/D.

    Attributes:
        chips: Chips in use, with their versions.
        globals: Global configuration of each, as read back.
        channels: Configuration of each (chip, channel), as read back.
    """

    chips: dict[int, AsicVersion]
    globals: dict[int, AsicConfiguration]
    channels: dict[tuple[int, int], AsicConfiguration]

    @property
    def mask(self) -> int:
        """Bit per chip in use."""
        return sum(1 << chip for chip in self.chips)

    def changes(
        self, chips: Mapping[int, Mapping[str, int]], channels: Mapping[tuple[int, int], Mapping[str, int]]
    ) -> dict[tuple[int, int | None], AsicConfiguration]:
        """Configurations that would differ with these fields, by chip and channel (None: the global one).

        Args:
            chips: Global configuration fields by chip.
            channels: Channel fields by (chip, channel).

        Raises:
            LocalProtocolError: If a chip is not in use, or a field does not exist, must not be set or does not fit.
        """
        absent = sorted({*chips, *(chip for chip, _ in channels)} - set(self.chips))
        reserved = sorted({name for fields in chips.values() for name in fields} & set(RESERVED_GLOBAL))
        if absent:
            raise LocalProtocolError(f"ASICs {absent} are not in use")
        if reserved:
            raise LocalProtocolError(f"ASIC field {reserved[0]} follows the board's links and cannot be set")
        found: dict[tuple[int, int | None], AsicConfiguration] = {}
        try:
            found.update({(chip, None): self.globals[chip].replace(fields) for chip, fields in chips.items()})
            found.update({place: self.channels[place].replace(fields) for place, fields in channels.items()})
        except WireError as error:
            raise LocalProtocolError(str(error)) from error
        except KeyError as error:
            raise LocalProtocolError(f"ASIC and channel {error.args[0]}: channels are 0..{_N_CHANNELS - 1}") from error
        return {place: wanted for place, wanted in found.items() if wanted != self._held(place)}

    def _held(self, place: tuple[int, int | None]) -> AsicConfiguration:
        chip, channel = place
        return self.globals[chip] if channel is None else self.channels[chip, channel]

    def with_changes(self, changes: Mapping[tuple[int, int | None], AsicConfiguration]) -> BoardBringUp:
        """The same bring-up with configurations that were changed, and read back, since."""
        return replace(
            self,
            globals={**self.globals, **{chip: new for (chip, channel), new in changes.items() if channel is None}},
            channels={
                **self.channels,
                **{(chip, channel): new for (chip, channel), new in changes.items() if channel is not None},
            },
        )


@dataclass(frozen=True, slots=True)
class BringUp:
    """What a bring-up of all units came to.

    Attributes:
        boards: Of each FEB/D, by port and slave.
        trigger_ports: Of a clock and trigger unit, the trigger port each FEB/D is plugged to; none without one.
        synchronised_unix_s: When time tag and frame ids were at 0, seconds since 1970.
        synchronised_within_s: How well that is known.
        tries: Whole bring-ups it took.
        duration_s: How long it took.
    """

    boards: Mapping[Address, BoardBringUp]
    trigger_ports: Mapping[Address, int]
    synchronised_unix_s: float
    synchronised_within_s: float
    tries: int
    duration_s: float

    @property
    def board(self) -> BoardBringUp:
        """Of the only FEB/D.

        Raises:
            StateError: If there are several.
        """
        return only(self.boards)

    @property
    def chips(self) -> list[tuple[int, int, int]]:
        """Port, slave and chip of all chips in use, rising."""
        return sorted((*address, chip) for address, board in self.boards.items() for chip in board.chips)

    def with_boards(self, boards: Mapping[Address, BoardBringUp]) -> BringUp:
        """The same bring-up with boards whose configuration was changed since."""
        return replace(self, boards=boards)


T = TypeVar("T")


def only(of: Mapping[Address, T]) -> T:
    """The one entry of a mapping by unit.

    Raises:
        StateError: If there are several, or none.
    """
    if len(of) != 1:
        raise StateError(f"there are {len(of)} front-end boards, not one", do="say which by port and slave")
    return next(iter(of.values()))


class _HalfThereError(Exception):
    """Some of the signs of life of a chip are missing: worth another try."""

    def __init__(self, what: str, board: Board) -> None:
        super().__init__(what)
        self.board = board


async def bring_up(febds: Mapping[Address, FebdSetUp], trigger: Board | None, clock: Board) -> BringUp:
    """Reset, synchronise, power, configure and link up a system; its bias supplies must be off.

    Each step is done on all units before the next one begins, one command at a time.

    Args:
        febds: The FEB/Ds, by port and slave.
        trigger: The clock and trigger unit; None if the only FEB/D is that itself.
        clock: The unit whose time tag counts.

    Raises:
        StateError: If a bias supply is on.
        DeviceFaultError: If clock, trigger links, power, ASICs or data links do not come up.
        VerifyError: If a configuration reads back differently.
        LocalProtocolError: If a setting does not fit its field or its chip is not there.
    """
    started_s = monotonic_s()
    for attempt in range(1, TRIES + 1):
        try:
            for one in febds.values():
                await _quiet(one.board)
            if trigger is not None:
                await _quiet_trigger(trigger)
            ports, sync_s, within_s = await _synchronise(febds, trigger, clock)
            supplies = {address: await _power_modules(one.board, one.kind) for address, one in febds.items()}
            await _reset_asics([one.board for one in febds.values()])
            boards = await _configure(febds, supplies)
        except _HalfThereError as error:
            _LOG.warning("%s: bring-up %d of %d: %s", error.board.name, attempt, TRIES, error)
            if attempt == TRIES:
                raise DeviceFaultError(
                    f"{error}, in {TRIES} bring-ups",
                    device=error.board.name,
                    do="check seat and supply of the module these ASICs are on",
                ) from error
            continue
        return BringUp(
            boards=boards,
            trigger_ports=ports,
            synchronised_unix_s=sync_s,
            synchronised_within_s=within_s,
            tries=attempt,
            duration_s=monotonic_s() - started_s,
        )
    raise AssertionError("unreachable")


async def _quiet(board: Board) -> None:
    """Steps 3 to 9 on a FEB/D: nothing pulses, gates, triggers or receives; the clock runs."""
    if await board.read("power") & POWER_BIAS:
        raise StateError(
            "configuring refused: the bias supply is on", device=board.name, do="switch the bias off first"
        )
    await _quiet_trigger(board, "receiver_enable")
    asic_type = await board.read("asic_type")
    if asic_type != ASIC_TYPE:
        raise WrongIdentityError(
            f"ASIC type {asic_type} instead of {ASIC_TYPE}", device=board.name, do="load a TOFPET2 firmware"
        )


async def _quiet_trigger(board: Board, *more: str) -> None:
    """What a trigger unit has of that."""
    for name in ("test_pulse", "gate_enable", "hardware_trigger", *more):
        await board.write(name, 0)
    if await board.read("clock_locked") != 1:
        raise DeviceFaultError("the system clock is not locked", device=board.name, do="check the clock source")


async def _synchronise(
    febds: Mapping[Address, FebdSetUp], trigger: Board | None, clock: Board
) -> tuple[dict[Address, int], float, float]:
    """Steps 10 to 13: time tags and frame ids of all units restart at 0, at the same moment.

    Returns the trigger ports, when that was (Unix time) and within what.
    """
    boards = {address: one.board for address, one in febds.items()}
    ports: dict[Address, int] = {}
    if trigger is None:
        generator = clock
    else:
        generator, ports = trigger, await calibrate_trigger_links(boards, trigger)
        for board in boards.values():
            await board.write("sync", SYNC_ACCEPT)
    before_s, unix_s = monotonic_s(), time.time()
    await generator.write("sync", SYNC_GENERATE)
    within_s = monotonic_s() - before_s
    await generator.write("sync", 0)
    await asyncio.sleep(SYNC_PAUSE_S)
    for board in boards.values():
        await board.write("sync", 0)
    for board in (*boards.values(), *([] if trigger is None else [trigger])):
        tag_s = await board.read("time_tag") / CLOCK_HZ
        wall_s = monotonic_s() - before_s
        if tag_s > wall_s + SYNC_TOLERANCE_S:
            raise DeviceFaultError(
                f"synchronisation failed: the time tag says {tag_s:.3f} s, {wall_s:.3f} s after it was restarted",
                device=board.name,
                do="check that nobody else uses this system, then connect again",
            )
    return ports, unix_s + within_s / 2, within_s / 2


async def _power_modules(board: Board, kind: BoardKind) -> TrimmedSupplies | None:
    """Steps 14 to 17: modules powered, ASICs out of reset. Returns supplies that are trimmed."""
    await board.write("asic_reset", 1)
    supplies = await TrimmedSupplies.power_up(board) if kind.has_trimmed_supplies else None
    if supplies is None:
        await _switch_on(board)
    await board.write("asic_reset", 0)
    if kind.base_pcb == _ONE_K_BOARD and kind.module in _LEGACY_MODULES:
        await _find_legacy_modules(board, kind)
    return supplies


async def _reset_asics(boards: Sequence[Board]) -> None:
    """Steps 18 and 19: ASICs at their power-on configuration."""
    await asyncio.sleep(LINK_SETTLE_S)
    for board in boards:
        await board.write("sync", 0)
        await board.write("asic_reset", 1)
        await board.write("asic_reset", 0)
        protocol = await board.read("protocol")
        if protocol != PROTOCOL_VERSION:
            raise WrongIdentityError(f"protocol {protocol:#x} instead of {PROTOCOL_VERSION:#x}", device=board.name)


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
    febds: Mapping[Address, FebdSetUp], supplies: Mapping[Address, TrimmedSupplies | None]
) -> dict[Address, BoardBringUp]:
    """Steps 20 to 27."""
    wanted = {address: await _wanted(one) for address, one in febds.items()}
    for address, one in febds.items():
        await _configure_for_training(one, wanted[address])
    boards = [one.board for one in febds.values()]
    for board in boards:
        await board.write("receiver_enable", (1 << 64) - 1)
        await board.write("receiver_calibration", 0)
        await board.write("receiver_calibration", 1)
    await asyncio.sleep(RECEIVER_CALIBRATION_S)
    for board in boards:
        await board.write("receiver_calibration", 0)
    for address, one in febds.items():
        per_module = one.kind.asics_per_module
        for chip, configuration in wanted[address].globals.items():
            await one.board.asic_write(chip, per_module, None, configuration)
            for channel in range(_N_CHANNELS):
                await one.board.asic_write(chip, per_module, channel, wanted[address].channels[chip, channel])
        trimmed = supplies[address]
        if trimmed is not None:
            await trimmed.refine()
    await asyncio.sleep(LINK_SETTLE_S)
    for address, one in febds.items():
        await _check_links(one.board, wanted[address])
    return wanted


async def _wanted(one: FebdSetUp) -> BoardBringUp:
    """Step 20: the chips of a board, and what each shall be set to."""
    board = one.board
    chips = await _find_chips(board, one.kind)
    _check_chips(board, one.settings, chips)
    links, speed = await board.read("asic_links"), await board.read("asic_link_speed")
    if links not in _LINKS:
        raise DeviceFaultError(f"{links + 1} links per ASIC; 1, 2 or 4 are possible", device=board.name)
    link_fields = {"tx_nlinks": _LINKS[links], "tx_ddr": speed & 1, "tdc_clk_div": speed >> 1}

    def settings() -> BoardBringUp:
        return BoardBringUp(
            chips=chips,
            globals={
                chip: one.settings.global_configuration(version).replace({**link_fields, "tx_mode": _TX_DATA})
                for chip, version in chips.items()
            },
            channels={
                (chip, channel): one.settings.channel_configuration(version, chip, channel)
                for chip, version in chips.items()
                for channel in range(_N_CHANNELS)
            },
        )

    return await asyncio.to_thread(settings)  # thousands of channels, during which nobody else would be answered


async def _configure_for_training(one: FebdSetUp, wanted: BoardBringUp) -> None:
    """Steps 21 and 22: chips send what receivers are calibrated with, no channel triggers."""
    board, per_module = one.board, one.kind.asics_per_module
    for chip, configuration in wanted.globals.items():
        training = configuration.replace({"tx_mode": _TX_TRAINING})
        await board.asic_write(chip, per_module, None, training)
        for channel in range(_N_CHANNELS):
            off = wanted.channels[chip, channel].replace({"trigger_mode_1": _CHANNEL_OFF})
            await board.asic_write(chip, per_module, channel, off)
        found = await board.asic_read(chip, per_module, None)
        if found != training.value:
            raise VerifyError(
                f"ASIC {chip}: global configuration changed while its channels were written",
                device=board.name,
                do="check the supply of this module",
            )


async def _find_chips(board: Board, kind: BoardKind) -> dict[int, AsicVersion]:
    """Step 20: chips at their power-on configuration, which also tells their version."""
    chips: dict[int, AsicVersion] = {}
    for chip in range(min(64, kind.modules * kind.asics_per_module)):
        value = await board.asic_probe(chip, kind.asics_per_module)
        if value is None:
            continue
        version = version_of(value)
        if version is None:
            raise _HalfThereError(f"ASIC {chip} answers with {value:046x} instead of its power-on configuration", board)
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


async def _check_links(board: Board, wanted: BoardBringUp) -> None:
    """Steps 26 and 27: data links up for exactly the chips that were found."""
    mask = wanted.mask
    locked, decoded = await board.read("deserialiser_locked"), await board.read("decoder_good")
    if locked != mask or decoded != mask:
        odd = [chip for chip in range(64) if ((locked ^ mask) | (decoded ^ mask)) >> chip & 1]
        raise _HalfThereError(
            f"ASICs {odd}: data links do not match what is there (found {mask:#x}, locked {locked:#x}, "
            f"decoded {decoded:#x})",
            board,
        )
    await board.write("receiver_enable", mask)
