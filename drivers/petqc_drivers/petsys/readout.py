"""A TOFPET2 front-end board as a device: connect, configure, bias, read, acquire, close.

One instance belongs to one event loop and is the only one that writes to its board. Every wait has a deadline.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4, 2.8, 5.1 to 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from petqc_drivers.device import DeviceState, OutputState, Reading
from petqc_drivers.errors import DeviceFaultError, DriverError, LinkLostError, StateError, WrongIdentityError
from petqc_drivers.petsys.bias_prom import identify_mezzanines
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.bring_up import BringUp, bring_up
from petqc_drivers.petsys.counters import CounterReading, read_channel_counters
from petqc_drivers.petsys.frames import CLOCK_HZ, CLOCKS_PER_FRAME
from petqc_drivers.petsys.link import ago
from petqc_drivers.petsys.link_counters import read_counters, read_power_good
from petqc_drivers.petsys.power_8k import read_supplies
from petqc_drivers.petsys.registers import BoardKind, board_kind
from petqc_drivers.petsys.sensors import ModuleSensors, read_temperatures
from petqc_drivers.petsys.settings import (
    AsicSettings,
    BiasSettings,
    ExpectedBoard,
    PetsysDaqdSettings,
    PetsysUdpSettings,
    ReadoutSettings,
)
from petqc_drivers.petsys.supply import BiasSupply, OffReport
from petqc_drivers.petsys.test_pulse import OFF as PULSE_OFF
from petqc_drivers.petsys.tmp104 import read_chain
from petqc_drivers.petsys.wire import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from petqc_drivers.limits import Volts
    from petqc_drivers.petsys.bias import BiasChannel
    from petqc_drivers.petsys.link import LinkAccount, ReadoutLink
    from petqc_drivers.petsys.module_eeprom import ModuleEeprom
    from petqc_drivers.petsys.receive import ReceiveAccount
    from petqc_drivers.petsys.test_pulse import TestPulse

__all__ = [
    "AsicSettings",
    "BiasSettings",
    "BoardIdentity",
    "ExpectedBoard",
    "PetsysDaqdReadout",
    "PetsysDaqdSettings",
    "PetsysReadout",
    "PetsysUdpReadout",
    "PetsysUdpSettings",
    "ReadoutSettings",
]

_LOG = logging.getLogger(__name__)

LINK_CHECK_S: Final = 2.0
"""How long the data links may take to be up at the start of an acquisition."""
_LINK_CHECK_PAUSE_S: Final = 0.01
_WATCH_FRACTION: Final = 0.1


@dataclass(frozen=True, slots=True)
class BoardIdentity:
    """What a board says about itself, on this connection."""

    kind: BoardKind
    protocol: int
    firmware_revision: int
    uptime_s: float
    mezzanines: tuple[str, ...]
    """Bias mezzanine of each slot."""

    def __str__(self) -> str:
        return (
            f"base board {self.kind.base_pcb:#06x}, firmware {self.kind.firmware_variant:#018x} revision "
            f"{self.firmware_revision:#x}, bias {', '.join(self.mezzanines) or 'none'}"
        )


class PetsysReadout:
    """One front-end board (FEB/D with internal trigger), whichever way leads to it.

    Attributes:
        settings: As given.
        state: Where it is in its life cycle.
        identity: Once connected.
        configured: Once configured.
    """

    reaches_chain: ClassVar[bool] = False
    """Whether further boards that are chained to this one can be reached, so that they may be there."""

    def __init__(self, settings: ReadoutSettings) -> None:
        self.settings = settings
        self.state = DeviceState.DISCONNECTED
        self.identity: BoardIdentity | None = None
        self.configured: BringUp | None = None
        self._link: ReadoutLink = settings.new_link()
        self._supply = BiasSupply(
            self._link,
            settings.new_link,
            settings.bias,
            address=(settings.port, settings.slave),
            settle_s=settings.settle_s,
            starts_with=settings.bias_starts_with,
            prom_tolerance_v=settings.prom_tolerance_v,
        )
        self._sensors: dict[int, ModuleSensors] = {}
        self._failure: DriverError | None = None
        self._over = asyncio.Event()
        self._flowing = asyncio.Event()
        self._watchdog: asyncio.Task[None] | None = None
        self._account: ReceiveAccount | None = None

    @property
    def name(self) -> str:
        """The board's name in messages."""
        return self._link.name

    @property
    def bias_state(self) -> OutputState:
        """What is known about the bias outputs."""
        return self._supply.state

    @property
    def link_account(self) -> LinkAccount:
        """How the commands went."""
        return self._link.link_account()

    @property
    def _address(self) -> str:
        return f"{self.settings.port}.{self.settings.slave}"

    def _board(self) -> Board:
        return Board(self._link)

    def _require(self, *states: DeviceState, to: str, do: str) -> None:
        if self.state not in states:
            raise StateError(f"cannot {to} while {self.state.value}", device=self.name, do=do)

    async def connect(self) -> BoardIdentity:
        """Reach the board and see that it is the right one; changes nothing on it.

        Raises:
            ConnectError: If nothing answers.
            WrongIdentityError: If it is another board, firmware or protocol.
        """
        if self.identity is not None and self.state in {
            DeviceState.IDENTIFIED,
            DeviceState.STAGED,
            DeviceState.RUNNING,
        }:
            return self.identity
        if self._watchdog is not None:
            await self.stop()
        self.state = DeviceState.CONNECTING
        self._failure, self.configured = None, None
        self._sensors.clear()
        try:
            await self._link.open()
            board = self._board()
            self.identity = await self._identify(board)
            await self._supply.observe(board)
        except BaseException:
            self.state = DeviceState.DISCONNECTED
            await self._link.aclose()
            raise
        self.state = DeviceState.IDENTIFIED
        _LOG.info("%s: %s; bias %s", self.name, self.identity, self._supply.state.value)
        return self.identity

    async def _identify(self, board: Board) -> BoardIdentity:
        protocol = await board.read("protocol")
        if protocol != PROTOCOL_VERSION:
            raise WrongIdentityError(
                f"protocol {protocol:#x}, this driver speaks {PROTOCOL_VERSION:#x}",
                device=self.name,
                do="load the matching firmware",
            )
        kind = board_kind(await board.read("base_pcb"), await board.read("firmware_variant"))
        revision = await board.read("firmware_revision")
        self._check_expected(kind, revision)
        if not (kind.is_febd and kind.is_trigger):
            raise WrongIdentityError(
                f"firmware {kind.firmware_variant:#018x} is not a FEB/D with internal trigger, which is needed",
                device=self.name,
            )
        if kind.modules == 0 or kind.asics_per_module == 0:
            raise WrongIdentityError(
                f"base board {kind.base_pcb:#06x} or module {kind.module:#06x} is not known", device=self.name
            )
        if await board.read("next_slave") and not self.reaches_chain:
            raise WrongIdentityError("a further board is chained to it, which UDP cannot reach", device=self.name)
        uptime_s = await board.read("uptime") / CLOCK_HZ
        mezzanines = await identify_mezzanines(board, kind.bias_slots)
        self._supply.identified(mezzanines)
        return BoardIdentity(kind, protocol, revision, uptime_s, mezzanines)

    def _check_expected(self, kind: BoardKind, revision: int) -> None:
        expected = self.settings.expected
        if expected.base_pcb is not None and kind.base_pcb != expected.base_pcb:
            raise WrongIdentityError(
                f"base board {kind.base_pcb:#06x} instead of {expected.base_pcb:#06x}", device=self.name
            )
        if expected.firmware_variant is not None and kind.firmware_variant != expected.firmware_variant:
            raise WrongIdentityError(
                f"firmware {kind.firmware_variant:#018x} instead of {expected.firmware_variant:#018x}",
                device=self.name,
            )
        if expected.firmware_revisions is not None:
            low, high = expected.firmware_revisions
            if not low <= revision <= high:
                raise WrongIdentityError(
                    f"firmware revision {revision:#x} is not within {low:#x} to {high:#x}", device=self.name
                )

    async def configure(self, settings: AsicSettings) -> BringUp:
        """Reset, synchronise and configure the board, and read every ASIC field back. The bias must be off.

        Raises:
            StateError: If it is not connected, acquires, or the bias is on.
            DriverError: Whatever did not come up.
        """
        self._require(DeviceState.IDENTIFIED, DeviceState.STAGED, to="configure", do="connect, or stop first")
        identity = self.identity
        if identity is None:
            raise StateError("cannot configure a board that was not identified", device=self.name, do="connect first")
        self.state, self.configured = DeviceState.IDENTIFIED, None
        try:
            done = await bring_up(self._board(), identity.kind, settings)
        except DriverError:
            self.state = DeviceState.FAULTED
            raise
        self._supply.modules_powered()
        self.configured, self.state = done, DeviceState.STAGED
        _LOG.info("%s: %d ASICs configured in %.2f s", self.name, len(done.chips), done.duration_s)
        return done

    async def reconfigure(
        self,
        *,
        global_fields: Mapping[str, int] | None = None,
        channels: Mapping[tuple[int, int], Mapping[str, int]] | None = None,
    ) -> int:
        """Change fields of the ASICs that are configured; only what differs is written, and all of that read back.

        Args:
            global_fields: Global configuration fields, of every chip.
            channels: Channel fields by (chip, channel).

        Returns:
            How many configurations were written.

        Raises:
            StateError: If the board is not configured.
            LocalProtocolError: If a field or chip does not exist, follows the board's links, or a value does not fit;
                nothing was written then.
            DriverError: If the board or an ASIC does not take it; what the ASICs hold is not known then and the board
                must be configured again.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="reconfigure", do="configure first")
        identity, configured = self._identity("reconfigure"), self.configured
        if configured is None:
            raise StateError(
                "cannot reconfigure a board that is not configured", device=self.name, do="configure first"
            )
        changes = configured.changes(global_fields or {}, channels or {})
        board = self._board()
        try:
            for (chip, channel), wanted in changes.items():
                await board.asic_write(chip, identity.kind.asics_per_module, channel, wanted)
        except DriverError:
            # Half of it may have been taken: what was read back before does not stand any more.
            self.configured = None
            if self.state is DeviceState.STAGED:
                self.state = DeviceState.IDENTIFIED
            raise
        self.configured = configured.with_changes(changes)
        return len(changes)

    async def set_test_pulse(self, pulse: TestPulse | None) -> None:
        """Start the test pulse generator, or stop it.

        Raises:
            StateError: If the board is not configured.
            DriverError: If the board does not answer.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="set the test pulse", do="configure first")
        await self._board().write("test_pulse", PULSE_OFF if pulse is None else pulse.to_word())

    async def read_channel_counters(self, tag: int) -> CounterReading:
        """Counts of all channels in use in a window that begins after this call.

        Raises:
            StateError: If the board is not configured.
            DeviceFaultError: If a channel does not bring its count in time.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="read channel counters", do="configure first")
        chips = sorted(self.configured.chips) if self.configured else []
        return await read_channel_counters(self._board(), chips, tag)

    async def bias_on(self, targets: Mapping[BiasChannel, Volts]) -> None:
        """Bring bias outputs to voltages by a guarded ramp; the outputs not named stay where they are.

        Any failure on the way switches everything off before it is raised.

        Raises:
            LimitError: If the guard refuses; nothing was sent then.
            StateError: If the board is not configured.
            DriverError: What failed.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="set the bias", do="configure first")
        await self._supply.turn_on(targets)

    async def bias_off(self) -> OffReport:
        """Remove the bias voltage; legal in any state, also unconnected, and goes before everything that waits.

        Raises:
            OffUnconfirmedError: If it could not be confirmed.
        """
        was_connected = self.state is not DeviceState.DISCONNECTED
        try:
            return await self._supply.turn_off()
        finally:
            if not was_connected:
                await self._link.aclose()

    def bias_readings(self) -> list[Reading]:
        """Commanded voltages of the bias outputs."""
        return self._supply.readings()

    async def read_temperatures(self) -> list[Reading]:
        """Temperatures of ASICs and SiPMs; of the modules in use, or before configuring of all.

        Raises:
            StateError: If it is not connected.
            DriverError: If the board does not answer.
        """
        identity = self._identity("read temperatures")
        modules: list[int] | range = range(identity.kind.modules)
        if self.configured is not None:
            modules = sorted({chip // identity.kind.asics_per_module for chip in self.configured.chips})
        return await read_temperatures(self._board(), identity.kind, self._address, modules, self._sensors)

    async def read_sensor_chain(self) -> list[float]:
        """Temperatures in degC of the serial chain of sensors that older boards have.

        Raises:
            StateError: If it is not connected.
            DriverError: If there is no chain, or the board does not answer.
        """
        self._identity("read the chain of sensors")
        return await read_chain(self._board())

    async def read_supplies(self) -> list[Reading]:
        """Supplies of the modules: whether they call themselves good, and where it is measured, their voltages.

        Raises:
            StateError: If it is not connected.
            DriverError: If the board does not answer.
        """
        identity, board = self._identity("read the supplies"), self._board()
        if identity.kind.has_trimmed_supplies:
            return await read_supplies(board, self._address)
        return await read_power_good(board, identity.kind, self._address)

    @property
    def module_eeproms(self) -> dict[int, ModuleEeprom]:
        """What the EEPROMs of modules say (type, serial number), of modules whose temperatures were read."""
        return {module: found.eeprom for module, found in self._sensors.items() if found.eeprom is not None}

    async def read_counters(self) -> list[Reading]:
        """Counters of the board's own links and of the links of the ASICs in use, lane by lane.

        Raises:
            StateError: If it is not connected.
            DriverError: If the board does not answer.
        """
        self._identity("read counters")
        chips = sorted(self.configured.chips) if self.configured else []
        return await read_counters(self._board(), self._address, chips)

    async def read_time_tag(self) -> int:
        """Clocks of 5 ns since the board was synchronised.

        Raises:
            StateError: If it is not connected.
        """
        self._identity("read the time tag")
        return await self._board().read("time_tag")

    def _identity(self, to: str) -> BoardIdentity:
        if self.identity is None or self.state in {DeviceState.DISCONNECTED, DeviceState.CONNECTING}:
            raise StateError(f"cannot {to} while {self.state.value}", device=self.name, do="connect first")
        return self.identity

    async def start(self, sink: Callable[[NDArray[np.uint64]], None]) -> None:
        """Let frames flow into `sink` from the receive thread; returns once the first have come.

        Args:
            sink: Called with (n,) uint64, whole frames back to back, in order, about every 10 ms. The array is the
                sink's own. It must not block.

        Raises:
            StateError: If the board is not configured or an acquisition runs.
            DeviceFaultError: If data links are not up.
            LinkLostError: If no frame comes within the no-data time.
        """
        self._require(DeviceState.STAGED, to="start", do="configure first, or stop the running acquisition")
        board = self._board()
        await board.write("hardware_trigger", 0)
        await self._wait_links(board)
        # Frames older than the last configuration write are dropped by their id (2.8).
        min_frame = await board.read("time_tag") // CLOCKS_PER_FRAME
        self._failure, self._account = None, None
        self._over.clear()
        self._flowing.clear()
        await self._link.start_data(sink, min_frame=min_frame, on_first=self._flowing.set, on_failure=self._fail)
        self.state = DeviceState.RUNNING
        self._watchdog = asyncio.create_task(self._watch(time.monotonic()), name=f"no-data watchdog {self.name}")
        try:
            await self._flowing.wait()  # the watchdog ends this wait
        except BaseException:
            await self.stop()
            raise
        if self._over.is_set():
            account = await self.stop()
            if account.failure is not None:
                raise account.failure

    async def _wait_links(self, board: Board) -> None:
        mask = self.configured.mask if self.configured else 0
        deadline_s = time.monotonic() + LINK_CHECK_S
        while True:
            enabled = await board.read("receiver_enable")
            locked, decoded = await board.read("deserialiser_locked"), await board.read("decoder_good")
            if enabled == locked == decoded == mask:
                return
            if time.monotonic() > deadline_s:
                raise DeviceFaultError(
                    f"data links of ASICs not up after {LINK_CHECK_S} s: enabled {enabled:#x}, locked {locked:#x}, "
                    f"decoded {decoded:#x}, configured {mask:#x}",
                    device=self.name,
                    do="configure again; if it stays, check the module's seat",
                )
            await asyncio.sleep(_LINK_CHECK_PAUSE_S)

    async def _watch(self, began_s: float) -> None:
        """The only thing that notices a board that falls silent: loss of data is not an event."""
        limit_s = self.settings.no_data_timeout_s
        while self._failure is None:
            last_s = self._link.last_frame_s
            silent_s = time.monotonic() - (last_s or began_s)
            if silent_s >= limit_s:
                self._fail(
                    LinkLostError(
                        f"no frame for {silent_s:.1f} s",
                        device=self.name,
                        last_good=f"{ago(self._link.last_good_s)}, last frame {ago(last_s)}",
                        do="check power and cable of the board, then connect again",
                    )
                )
                return
            await asyncio.sleep(min(_WATCH_FRACTION * limit_s, limit_s - silent_s))

    def _fail(self, error: DriverError) -> None:
        """The first failure is the one that is told."""
        if self._failure is None and self.state is DeviceState.RUNNING:
            self._failure = error
            self.state = DeviceState.FAULTED
            self._over.set()
            self._flowing.set()
            _LOG.warning("%s", error)

    async def wait_failed(self, timeout_s: float | None = None) -> None:
        """Wait until the running acquisition fails, and raise why; returns when it is stopped or the time is up.

        Raises:
            DriverError: What ended the acquisition.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._over.wait()
        except TimeoutError:
            return
        if self._failure is not None:
            raise self._failure

    async def account(self) -> ReceiveAccount:
        """The account of the acquisition: up to now while it runs, final once stopped.

        Raises:
            StateError: If there was none.
        """
        if self._account is not None:
            return self._account
        return await self._link.account()

    async def stop(self) -> ReceiveAccount:
        """End the flow and return the exact account; legal at any time after a start, also after a failure.

        The account's `failure` is what ended the acquisition early, None if it ran until now.

        Raises:
            StateError: If nothing was started.
            LinkLostError: If the sink blocks the receive thread, so that there is no account.
        """
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.wait({self._watchdog})
            self._watchdog = None
        if self._account is None:
            self._account = await self._link.stop_data(self._failure)
        if self.state is DeviceState.RUNNING:
            self.state = DeviceState.STAGED
        self._over.set()
        return self._account

    async def aclose(self) -> None:
        """Let go of the board: stop, switch the bias off if this driver switched it on, close. Legal at any time.

        Raises:
            OffUnconfirmedError: If the bias could not be switched off for certain; everything is closed all the same.
        """
        try:
            if self._watchdog is not None:
                await self.stop()
        except DriverError as error:
            _LOG.warning("while closing: %s", error)
        finally:
            try:
                if self._supply.is_ours and self.settings.on_close == "off":
                    await self._supply.turn_off()
            finally:
                self.state = DeviceState.DISCONNECTED
                self._over.set()
                await self._link.aclose()


class PetsysUdpReadout(PetsysReadout):
    """One front-end board on gigabit UDP."""

    def __init__(self, settings: PetsysUdpSettings) -> None:
        super().__init__(settings)


class PetsysDaqdReadout(PetsysReadout):
    """One front-end board behind the vendor's daemon."""

    reaches_chain = True

    def __init__(self, settings: PetsysDaqdSettings) -> None:
        super().__init__(settings)
