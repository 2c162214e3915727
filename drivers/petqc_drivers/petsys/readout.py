"""A TOFPET2 readout as a device, of one unit or of many: configure, bias, acquire, close.

Whatever the number of units, there is one clock, one acquisition, one account of it, and switching off reaches every
board. One instance belongs to one event loop and is the only one that writes to its units. Every wait has a deadline.

Connecting and reading are in `connected`, what one board does is in `febd`, what all do together in `bring_up`,
`boards_off` and `acquisition`, and the two ways to the units in `udp_readout` and `daqd_readout`.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 2.8 and 5.2 to 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import DeviceState, OutputState, Reading
from petqc_drivers.errors import (
    DeviceFaultError,
    DriverError,
    LocalProtocolError,
    OffUnconfirmedError,
    OvertakenError,
    StateError,
)
from petqc_drivers.petsys.acquisition import Acquisition
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.boards_off import merge, switch_off, together, unconfirmed
from petqc_drivers.petsys.bring_up import BringUp, FebdSetUp, bring_up
from petqc_drivers.petsys.connected import ConnectedReadout
from petqc_drivers.petsys.counters import CounterReading, collect_channel_counters, tag_channel_counters
from petqc_drivers.petsys.frames import CLOCKS_PER_FRAME
from petqc_drivers.petsys.hardware_trigger import switch, write_febd, write_trigger_unit
from petqc_drivers.petsys.settings import (
    AsicSettings,
    ReadoutSettings,
)
from petqc_drivers.petsys.test_pulse import OFF as PULSE_OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from petqc_drivers.limits import Volts
    from petqc_drivers.petsys.bias import BiasChannel
    from petqc_drivers.petsys.febd import Changes, FrontEndBoard
    from petqc_drivers.petsys.hardware_trigger import EnergyCalibration, TriggerSettings
    from petqc_drivers.petsys.link import Address
    from petqc_drivers.petsys.receive import ReceiveAccount
    from petqc_drivers.petsys.supply import BiasSupply, OffReport
    from petqc_drivers.petsys.test_pulse import TestPulse

_LOG = logging.getLogger(__name__)

LINK_CHECK_S: Final = 2.0
"""How long the data links may take to be up at the start of an acquisition."""
_LINK_CHECK_PAUSE_S: Final = 0.01


class PetsysReadout(ConnectedReadout):
    """One or more front-end boards on a common clock, whichever way leads to them.

    Places are named by port and slave of the unit, then chip and channel.
    """

    def __init__(self, settings: ReadoutSettings) -> None:
        super().__init__(settings)
        self._has_hardware_trigger = False
        self._acquisition: Acquisition | None = None

    async def _find_more_to_switch_off(self) -> list[DriverError]:
        """Take note of FEB/Ds that were not known; what went wrong on the way."""
        return []

    def _supplies(self, but: Collection[Address] = ()) -> list[BiasSupply]:
        return [febd.supply for address, febd in self._febds.items() if address not in but]

    # -- configuring ------------------------------------------------------------------------------------------------

    async def configure(self, settings: AsicSettings | Mapping[Address, AsicSettings]) -> BringUp:
        """Reset, synchronise and configure all boards, and read every ASIC field back. The bias must be off.

        Args:
            settings: Of each FEB/D, by port and slave; or of the only one.

        Raises:
            StateError: If it is not connected, acquires, or a bias is on.
            LocalProtocolError: If settings are missing or belong to no board.
            DriverError: Whatever did not come up.
        """
        self._require(DeviceState.IDENTIFIED, DeviceState.STAGED, to="configure", do="connect, or stop first")
        if self.identity is None:
            raise StateError("cannot configure what was not identified", device=self.name, do="connect first")
        by_board = self._settings_of_boards(settings)
        self.state, self._done = DeviceState.IDENTIFIED, None
        set_up = {a: FebdSetUp(febd.board(), febd.kind, by_board[a]) for a, febd in self._febds.items()}
        try:
            done = await bring_up(set_up, self._trigger_unit, self._clock_board("configure"))
        except DriverError:
            self.state = DeviceState.FAULTED
            raise
        for address, febd in self._febds.items():
            febd.supply.modules_powered()
            febd.configured = done.boards[address]
        self._has_hardware_trigger = False
        self._done, self.state = done, DeviceState.STAGED
        _LOG.info("%s: %d ASICs configured in %.2f s", self.name, len(done.chips), done.duration_s)
        return done

    def _settings_of_boards(
        self, settings: AsicSettings | Mapping[Address, AsicSettings]
    ) -> Mapping[Address, AsicSettings]:
        if isinstance(settings, AsicSettings):
            if len(self._febds) != 1:
                raise LocalProtocolError(
                    f"one set of ASIC settings for {len(self._febds)} FEB/Ds", device=self.name, do="give one for each"
                )
            return dict.fromkeys(self._febds, settings)
        for address in sorted(set(settings) ^ set(self._febds)):
            what = "no ASIC settings for FEB/D {}/{}" if address in self._febds else "there is no FEB/D {}/{}"
            raise LocalProtocolError(what.format(*address), device=self.name)
        return settings

    async def reconfigure(
        self,
        *,
        global_fields: Mapping[str, int] | None = None,
        chips: Mapping[tuple[int, int, int], Mapping[str, int]] | None = None,
        channels: Mapping[tuple[int, int, int, int], Mapping[str, int]] | None = None,
    ) -> int:
        """Change fields of the ASICs that are configured; only what differs is written, and all of that read back.

        Args:
            global_fields: Global configuration fields, of every chip.
            chips: Global configuration fields by (port, slave, chip).
            channels: Channel fields by (port, slave, chip, channel).

        Returns:
            How many configurations were written.

        Raises:
            StateError: If the boards are not configured.
            LocalProtocolError: If a field or place does not exist, follows the board's links, or a value does not fit;
                nothing was written then.
            DriverError: If a board or an ASIC does not take it; what the ASICs hold is not known then and the boards
                must be configured again.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="reconfigure", do="configure first")
        done = self.configured
        if done is None:
            raise StateError(
                "cannot reconfigure boards that are not configured", device=self.name, do="configure first"
            )
        by_chip: dict[Address, dict[int, Mapping[str, int]]] = {address: {} for address in self._febds}
        by_channel: dict[Address, dict[tuple[int, int], Mapping[str, int]]] = {address: {} for address in self._febds}
        for port, slave, chip in done.chips if global_fields else ():
            by_chip[port, slave][chip] = global_fields or {}
        for (port, slave, chip), fields in (chips or {}).items():
            at = by_chip[self._febd(port, slave).address]
            at[chip] = {**at.get(chip, {}), **fields}
        for (port, slave, chip, channel), fields in (channels or {}).items():
            by_channel[self._febd(port, slave).address][chip, channel] = fields
        changes: dict[Address, Changes] = {
            address: febd.changes(by_chip[address], by_channel[address]) for address, febd in self._febds.items()
        }
        try:
            for address, of_board in changes.items():
                await self._febds[address].write(of_board)
        except BaseException:
            if self.state is DeviceState.STAGED:
                self.state = DeviceState.IDENTIFIED
            raise
        self._done = done.with_boards({a: febd.configured for a, febd in self._febds.items() if febd.configured})
        return sum(map(len, changes.values()))

    async def set_test_pulse(self, pulse: TestPulse | None) -> None:
        """Start the test pulse generator of every FEB/D, or stop those of all units.

        Raises:
            StateError: If the boards are not configured; stopping needs only a connection.
            DriverError: If a unit does not answer.
        """
        if pulse is None:
            self._identity("stop the test pulse")
            for link in self._links.values():
                await Board(link).write("test_pulse", PULSE_OFF)
            return
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="set the test pulse", do="configure first")
        for febd in self._febds.values():
            await febd.board().write("test_pulse", pulse.to_word())

    async def set_hardware_trigger(
        self,
        settings: TriggerSettings | None,
        pairs: Iterable[tuple[int, int]] = (),
        calibrations: Mapping[tuple[int, int, int, int, int], EnergyCalibration] | None = None,
    ) -> None:
        """Let only coincidences pass from the next acquisition on, or everything again.

        Args:
            settings: Thresholds and windows; None lets everything pass.
            pairs: Regions that may be in coincidence.
            calibrations: Energy by (port, slave, chip, channel, buffer); None gives every hit the energy 1.

        Raises:
            StateError: If the boards are not configured, or acquire.
            LocalProtocolError: If a region does not exist or a calibration is missing; the trigger is off then.
            DriverError: If a unit does not answer.
        """
        self._require(DeviceState.STAGED, to="set the hardware trigger", do="configure first, or stop")
        trigger = self._trigger_unit
        self._has_hardware_trigger = False
        await self._hardware_trigger_off()
        if settings is None:
            return
        await write_trigger_unit(trigger or self._clock_board("set the hardware trigger"), settings, pairs)
        for address, febd in self._febds.items():
            own = None if calibrations is None else {p[2:]: c for p, c in calibrations.items() if p[:2] == address}
            await write_febd(febd.board(), settings, febd.chips, own)
        for febd in self._febds.values():
            await switch(febd.board(), is_febd=True, is_on=True)
        if trigger is not None:
            await switch(trigger, is_febd=False, is_on=True)
        self._has_hardware_trigger = True

    async def _hardware_trigger_off(self) -> None:
        for link in self._links.values():
            await Board(link).write("hardware_trigger", 0)

    # -- bias -------------------------------------------------------------------------------------------------------

    async def bias_on(self, targets: Mapping[BiasChannel, Volts]) -> None:
        """Bring bias outputs to voltages by guarded ramps; the outputs not named stay where they are.

        All boards ramp at the same time. Any failure on the way, on any board, switches all of them off before it is
        raised.

        Raises:
            LimitError: If the guard refuses; nothing was sent then.
            StateError: If the boards are not configured.
            DriverError: What failed.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="set the bias", do="configure first")
        of_board: dict[Address, dict[BiasChannel, Volts]] = {}
        for channel, volts in targets.items():
            of_board.setdefault(self._febd(channel.port, channel.slave).address, {})[channel] = volts
        for address, wanted in of_board.items():
            self._febds[address].supply.check(wanted)
        try:
            await together(self._febds[address].supply.turn_on(wanted) for address, wanted in of_board.items())
        except OvertakenError:
            raise
        except BaseException:
            await switch_off(self.name, self._supplies())
            raise

    async def bias_off(self) -> OffReport:
        """Remove the bias voltage of all boards; legal in any state, also unconnected, and goes before all that waits.

        Raises:
            OffUnconfirmedError: If it could not be confirmed for a board; all others were switched off all the same.
        """
        was_connected = self.state is not DeviceState.DISCONNECTED
        try:
            reports = await switch_off(self.name, self._supplies())
            if not was_connected:
                known = set(self._febds)
                failures = await self._find_more_to_switch_off()
                reports += await switch_off(self.name, self._supplies(but=known))
                reports += [unconfirmed(failures)] if failures else []
        finally:
            if not was_connected:
                await self._close_links()
        if not reports:
            reports = [unconfirmed([DeviceFaultError("no front-end board was found", device=self.name)])]
        dead = [failure for report in reports if report.state is OutputState.UNKNOWN for failure in report.failures]
        if dead:
            raise OffUnconfirmedError(
                "switching the bias off is not confirmed",
                device=self.name,
                do="treat the outputs as live and use the hardware switch",
                causes=dead,
            )
        return merge(reports)

    def bias_readings(self) -> list[Reading]:
        """Commanded voltages of the bias outputs of all boards."""
        return [reading for febd in self._febds.values() for reading in febd.supply.readings()]

    async def read_channel_counters(self, tag: int) -> dict[tuple[int, int, int], NDArray[np.int64]]:
        """Counts of all channels in use in a window that begins after this call.

        Args:
            tag: 0..255, another one than that of the reading before.

        Returns:
            (64,) int64 by (port, slave, chip).

        Raises:
            StateError: If the boards are not configured.
            DeviceFaultError: If a channel does not bring its count in time.
        """
        self._require(DeviceState.STAGED, DeviceState.RUNNING, to="read channel counters", do="configure first")
        for febd in self._febds.values():
            await tag_channel_counters(febd.board(), tag)
        counts: dict[tuple[int, int, int], NDArray[np.int64]] = {}
        for address, febd in self._febds.items():
            reading: CounterReading = await collect_channel_counters(febd.board(), febd.chips, tag)
            counts |= {(*address, chip): of_chip for chip, of_chip in reading.counts.items()}
        return counts

    # -- acquiring --------------------------------------------------------------------------------------------------

    async def start(self, sink: Callable[[NDArray[np.uint64]], None]) -> None:
        """Let frames flow into `sink` from the receive thread; returns once the first have come.

        Args:
            sink: Called with (n,) uint64, whole frames back to back, in order, about every 10 ms. The array is the
                sink's own. It must not block.

        Raises:
            StateError: If the boards are not configured or an acquisition runs.
            DeviceFaultError: If data links are not up.
            LinkLostError: If no frame comes within the no-data time.
        """
        self._require(DeviceState.STAGED, to="start", do="configure first, or stop the running acquisition")
        clock = self._clock_board("start")
        if not self._has_hardware_trigger:
            await self._hardware_trigger_off()
        for febd in self._febds.values():
            await self._wait_links(febd)
        # Frames older than the last configuration write are dropped by their id (2.8).
        min_frame = await clock.read("time_tag") // CLOCKS_PER_FRAME
        acquisition = Acquisition(clock.link, self._links.values(), self.settings.no_data_timeout_s, self._failed)
        await acquisition.begin(sink, min_frame)
        self._acquisition = acquisition
        self.state = DeviceState.RUNNING if acquisition.failure is None else DeviceState.FAULTED
        try:
            await acquisition.wait_flowing()
        except BaseException:
            await self.stop()
            raise
        if acquisition.failure is not None:
            await self.stop()
            raise acquisition.failure

    def _failed(self) -> None:
        self.state = DeviceState.FAULTED

    async def _wait_links(self, febd: FrontEndBoard) -> None:
        board, mask = febd.board(), sum(1 << chip for chip in febd.chips)
        deadline_s = monotonic_s() + LINK_CHECK_S
        while True:
            enabled = await board.read("receiver_enable")
            locked, decoded = await board.read("deserialiser_locked"), await board.read("decoder_good")
            if enabled == locked == decoded == mask:
                return
            if monotonic_s() > deadline_s:
                raise DeviceFaultError(
                    f"data links of ASICs not up after {LINK_CHECK_S} s: enabled {enabled:#x}, locked {locked:#x}, "
                    f"decoded {decoded:#x}, configured {mask:#x}",
                    device=febd.name,
                    do="configure again; if it stays, check the module's seat",
                )
            await asyncio.sleep(_LINK_CHECK_PAUSE_S)

    @property
    def _is_acquiring(self) -> bool:
        return self._acquisition is not None and not self._acquisition.is_over

    def _started(self) -> Acquisition:
        if self._acquisition is None:
            raise StateError("no acquisition was started", device=self.name)
        return self._acquisition

    async def _end_acquisition(self) -> None:
        if self._is_acquiring:
            await self.stop()

    async def wait_failed(self, timeout_s: float | None = None) -> None:
        """Wait until the running acquisition fails, and raise why; returns when it is stopped or the time is up.

        Raises:
            DriverError: What ended the acquisition.
            StateError: If nothing was started.
        """
        await self._started().wait_failed(timeout_s)

    async def account(self) -> ReceiveAccount:
        """The account of the acquisition: up to now while it runs, final once stopped.

        Raises:
            StateError: If nothing was started.
        """
        return await self._started().account()

    async def stop(self) -> ReceiveAccount:
        """End the flow and return the exact account; legal at any time after a start, also after a failure.

        The account's `failure` is what ended the acquisition early, None if it ran until now.

        Raises:
            StateError: If nothing was started.
            LinkLostError: If the sink blocks the receive thread, so that there is no account.
        """
        account = await self._started().stop()
        if self.state is DeviceState.RUNNING:
            self.state = DeviceState.STAGED if self.configured is not None else DeviceState.IDENTIFIED
        return account

    async def aclose(self) -> None:
        """Let go: stop, switch off every bias supply that this driver switched on, close. Legal at any time.

        Raises:
            OffUnconfirmedError: If a bias could not be switched off for certain; everything is closed all the same.
        """
        try:
            if self._is_acquiring:
                await self.stop()
        except DriverError as error:
            _LOG.warning("while closing: %s", error)
        finally:
            try:
                if self.settings.on_close == "off" and any(febd.supply.is_ours for febd in self._febds.values()):
                    await self.bias_off()
            finally:
                self.state = DeviceState.DISCONNECTED
                if self._acquisition is not None:
                    self._acquisition.abandon()
                await self._close_links()
