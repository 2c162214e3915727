"""The bias supply of a board: on by a ramp behind the guard, off whatever happened before.

What is on is what was commanded: these mezzanines do not tell the voltage at their outputs. One supply feeds the
mezzanines of all slots, so it is switched on only when every output of every slot is at its lowest; where outputs can
be told nothing before (BIAS_16P), only when what they start with is stated in the settings and inside every limit.

On and off share every piece of state and must be read together, so they stand in one long file; what outputs may be
told, and the steps of a ramp, are in `bias_outputs`.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.9.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from petqc_drivers.clock import monotonic_s
from petqc_drivers.device import OutputState, Quality, Reading
from petqc_drivers.errors import (
    DeviceFaultError,
    DriverError,
    OffUnconfirmedError,
    OvertakenError,
    StateError,
    WrongIdentityError,
    each_once,
)
from petqc_drivers.petsys.bias import (
    BiasChannel,
    converter_name,
    converter_target,
    encode_supply_on,
)
from petqc_drivers.petsys.bias_outputs import BoardOutputs, Ramp, Round
from petqc_drivers.petsys.bias_prom import TOLERANCE_V, check_mezzanine, identify_mezzanines
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.mezzanines import KINDS, interface_nibble, mezzanine_name
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, board_kind
from petqc_drivers.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from petqc_drivers.limits import SetOutput, UntoldOutputs, Volts
    from petqc_drivers.petsys.link import ReadoutLink
    from petqc_drivers.petsys.mezzanines import BiasKind
    from petqc_drivers.petsys.settings import BiasSettings

_LOG = logging.getLogger(__name__)

OFF_ATTEMPTS: Final = 3
"""The link at hand, then fresh ones."""
OFF_TRIES: Final = 2
"""How often the message that removes the voltage is sent in one attempt, so that all attempts fit in 2 s."""
ZERO_DEADLINE_S: Final = 1.5
"""For bringing set-points down once the voltage is gone; a board that answers needs a tenth of it."""
SILENT_ZERO_DEADLINE_S: Final = 0.75
"""For trying it with a board that did not even acknowledge the removal."""
LOWER_FIRST_DEADLINE_S: Final = 0.25
"""For bringing outputs down before the voltage is removed, where they cannot be told afterwards."""
FIRST_SETTING_DEADLINE_S: Final = 0.5
"""For bringing outputs down right after switching on, where they could not be told before."""


@dataclass(frozen=True, slots=True)
class OffReport:
    """What switching off came to.

    Attributes:
        state: OFF (read back), OFF_COMMANDED (acknowledged, not read back) or UNKNOWN.
        attempts: Links it took.
        set_points_lowered: Outputs whose DAC was brought down too.
        failures: What went wrong on the way, in order.
    """

    state: OutputState
    attempts: int
    set_points_lowered: int
    failures: tuple[str, ...]


@dataclass(slots=True)
class _Off:
    state: OutputState = OutputState.UNKNOWN
    attempts: int = 0
    lowered: int = 0
    failures: list[str] = field(default_factory=list)


class BiasSupply:
    """Outputs of the bias mezzanines of one board.

    Args:
        link: The way to the board.
        fresh_link: Makes another, unopened one.
        settings: The outputs that may be used.
        address: Port and slave of the board.
        settle_s: Wait after the last step of a ramp.
        starts_with: By slot, the highest voltage that outputs have when switched on that can be told nothing before.
        expected: By slot, the mezzanine that the settings are for.
        prom_tolerance_v: How far a configured calibration may be from that in the mezzanine's PROM.
    """

    def __init__(
        self,
        link: ReadoutLink,
        fresh_link: Callable[[], ReadoutLink],
        settings: Mapping[BiasChannel, BiasSettings],
        *,
        address: tuple[int, int],
        settle_s: float,
        starts_with: Mapping[int, Volts] | None = None,
        expected: Mapping[int, str] | None = None,
        prom_tolerance_v: float = TOLERANCE_V,
    ) -> None:
        self._link = link
        self._fresh_link = fresh_link
        self._outputs = BoardOutputs(address, settings)
        self._settle_s = settle_s
        self._starts_with = dict(starts_with or {})
        self._expected = dict(expected or {})
        self._prom_tolerance_v = prom_tolerance_v
        self._unknown: dict[int, str] = {}
        self._is_identified = False
        self._is_calibration_checked = False
        self._is_fem_on = False
        self._at: dict[BiasChannel, Volts | None] = {}
        self._converter_at: dict[int, Volts] = {}
        self._off_task: asyncio.Task[OffReport] | None = None
        self._is_changing = False
        self.state = OutputState.UNKNOWN
        self.is_ours = False
        """Whether this driver switched the supply on."""

    @property
    def kinds(self) -> Mapping[int, BiasKind]:
        """The mezzanines by slot, once they are known."""
        return self._outputs.kinds

    def identified(self, names: Sequence[str]) -> None:
        """Take note of what is in each slot.

        Raises:
            WrongIdentityError: If it is not what the settings are for, or outputs are configured that no mezzanine has.
            LimitError: If a configured calibration cannot be one of its mezzanine.
        """
        self._is_identified = True
        self._outputs.kinds = {slot: KINDS[name] for slot, name in enumerate(names) if name in KINDS}
        self._unknown = {slot: name for slot, name in enumerate(names) if name not in KINDS}
        self._is_calibration_checked = False
        for slot, name in sorted(self._expected.items()):
            found = names[slot] if slot < len(names) else "no place for a mezzanine"
            if found != name:
                raise WrongIdentityError(
                    f"bias slot {slot}: {found}, and the limits are made out for a {name}",
                    device=self._link.name,
                    do="correct the limits and the tables of bias, or the mezzanine",
                )
        for channel in sorted(self._outputs.settings):
            kind = self._outputs.kinds.get(channel.slot)
            if kind is None or channel.channel >= kind.n_channels:
                raise WrongIdentityError(
                    f"there is no output {channel}: bias mezzanines {', '.join(names) or 'none'}",
                    device=self._link.name,
                    do="leave bias out of the settings to use the board without",
                )
        for channel, one in self._outputs.settings.items():
            one.curve.check(self._outputs.kinds[channel.slot], str(channel))

    async def observe(self, board: Board) -> None:
        """See whether the supply is on; changes nothing."""
        power = await board.read("power")
        self._is_fem_on = bool(power & POWER_FEM)
        self.state = OutputState.ADOPTED if power & POWER_BIAS else OutputState.OFF
        self._at.clear()
        self._converter_at.clear()

    def modules_powered(self) -> None:
        """Take note that the modules have their supply; switching the bias off will leave it on."""
        self._is_fem_on = True

    def readings(self) -> list[Reading]:
        """Commanded voltages of the outputs, and of DC-DC converters, none of them measured."""
        set_points = [
            ("bias_commanded", str(channel), volts, self._outputs.kinds[channel.slot].shows_code)
            for channel, volts in sorted(self._at.items())
        ]
        set_points += [
            ("bias_converter_commanded", converter_name(*self._outputs.address, slot), volts, False)
            for slot, volts in sorted(self._converter_at.items())
        ]
        return [self._reading(*one) for one in set_points]

    def _reading(self, name: str, node: str, volts: Volts | None, is_shown: bool) -> Reading:  # noqa: FBT001
        is_known = self.state in {OutputState.ON, OutputState.RAMPING}
        reason = None
        if not is_known:
            volts, reason = None, f"supply {self.state.value}"
        elif volts is None:
            reason = "at the lowest it can do"
        elif not is_shown:
            reason = "sent and acknowledged; this DAC does not show what it took"
        return Reading(
            name,
            node,
            volts.value if volts else None,
            "V",
            measured=False,
            quality=Quality.GOOD if reason is None else Quality.UNCERTAIN,
            at_monotonic_s=monotonic_s(),
            reason=reason,
        )

    def check(self, targets: Mapping[BiasChannel, Volts]) -> None:
        """See whether a request would be refused; sends nothing.

        Raises:
            LimitError: If a target is refused.
            StateError: If the mezzanine is not known, or outputs are on that this driver did not set.
        """
        self._prepare(targets)

    def _prepare(self, targets: Mapping[BiasChannel, Volts]) -> tuple[Ramp, list[UntoldOutputs]]:
        if not self._outputs.kinds:
            raise StateError("no bias mezzanine that can be set was found", device=self._link.name)
        ramp = self._outputs.plan(targets, self._at if self.state is OutputState.ON else {})
        if self._is_changing or self.state not in {OutputState.OFF, OutputState.OFF_COMMANDED, OutputState.ON}:
            raise StateError(
                f"setting the bias refused: the supply is {self.state.value}",
                device=self._link.name,
                do="switch the bias off first",
            )
        if not self._is_fem_on:
            raise StateError(
                "setting the bias refused: the modules are not powered", device=self._link.name, do="configure first"
            )
        for slot, name in self._unknown.items():
            raise StateError(
                f"setting the bias refused: the supply also feeds bias slot {slot}, which holds: {name}",
                device=self._link.name,
                do="take it out or check its seat",
            )
        untold = self._outputs.untold(self._link.name, self._starts_with)
        for outputs in untold:
            outputs.check()
        return ramp, untold

    async def turn_on(self, targets: Mapping[BiasChannel, Volts]) -> None:
        """Bring outputs to voltages, by a ramp of guarded steps; the others stay where they are.

        The whole request is checked before anything is sent. If anything fails on the way, or the task is cancelled,
        everything is switched off.

        Raises:
            LimitError: If a target is refused; nothing has been sent then.
            StateError: If the mezzanine is not known, or outputs are on that this driver did not set.
            DriverError: Whatever failed on the way; the supply has been switched off then.
        """
        ramp, untold = self._prepare(targets)
        self._is_changing = True
        board = Board(self._link, since=self._link.epoch)
        try:
            if self.state is not OutputState.ON:
                await self._check_calibration(board)
                await self._energise(board, untold)
            for slot, output in ramp.converters.before.items():
                await self._set_converter(board, slot, output)
            await self._ramp(board, ramp.rounds)
            for slot, output in ramp.converters.after.items():
                await self._set_converter(board, slot, output)
        except OvertakenError:
            raise
        except BaseException:
            await self.turn_off()
            raise
        finally:
            self._is_changing = False

    async def _check_calibration(self, board: Board) -> None:
        """See, once for each connection, that the calibrations are those of the mezzanines."""
        if self._is_calibration_checked:
            return
        curves = {channel: one.curve for channel, one in self._outputs.settings.items()}
        for slot, kind in sorted(self._outputs.kinds.items()):
            if any(channel.slot == slot for channel in curves) and not await check_mezzanine(
                board, slot, kind, curves, self._prom_tolerance_v
            ):
                _LOG.info("%s: the %s in bias slot %d has no calibration of its own", board.name, kind.name, slot)
        self._is_calibration_checked = True

    async def _energise(self, board: Board, untold: Sequence[UntoldOutputs]) -> None:
        """All outputs lowest, then the supply on; those that hear nothing before then get their lowest at once."""
        hear = self._outputs.slots(hear=True)
        lowest: list[SetOutput] = []
        for slot in self._outputs.converters():
            lowest.append(self._outputs.converter(slot, None))
            await self._set_converter(board, slot, lowest[-1])
        for channel in self._outputs.of(hear):
            lowest.append(self._outputs.lowest(channel))
            await board.set_bias(lowest[-1])
            self._at[channel] = None
        n_outputs = sum(self._outputs.kinds[slot].n_set_before_supply for slot in hear)
        switch = encode_supply_on(n_outputs, lowest, untold)
        self.state, self.is_ours = OutputState.RAMPING, True
        await board.supply_on(switch)
        # Whether a converter's DAC heard it without the supply is not known: it shows nothing.
        for slot in self._outputs.converters():
            await self._set_converter(board, slot, self._outputs.converter(slot, None))
        if untold:
            try:
                async with asyncio.timeout(FIRST_SETTING_DEADLINE_S):
                    for channel in self._outputs.of(self._outputs.slots(hear=False)):
                        await board.set_bias(self._outputs.lowest(channel))
                        self._at[channel] = None
            except DriverError:
                raise
            except TimeoutError as error:
                raise DeviceFaultError(
                    f"outputs were not brought to their lowest within {FIRST_SETTING_DEADLINE_S} s of switching on",
                    device=board.name,
                ) from error

    async def _set_converter(self, board: Board, slot: int, output: SetOutput) -> None:
        await board.set_bias(output)
        self._converter_at[slot] = output.commanded or converter_target(None)

    async def _ramp(self, board: Board, rounds: list[Round]) -> None:
        self.state = OutputState.RAMPING
        for this in rounds:
            started_s = monotonic_s()
            for channel, output in this.steps:
                await board.set_bias(output)
                self._at[channel] = output.commanded
            await asyncio.sleep(max(0.0, started_s + this.seconds - monotonic_s()))
        await asyncio.sleep(self._settle_s)
        if self._link.epoch != board.since:
            raise OvertakenError("the ramp ended because switching off went first", device=self._link.name)
        self.state = OutputState.ON

    async def turn_off(self) -> OffReport:
        """Remove the voltage, then bring the set-points down; works in any state and is never interrupted half-way.

        Raises:
            OffUnconfirmedError: If no board acknowledged, or it says that the supply is still on.
        """
        if self._off_task is None or self._off_task.done():
            self._link.overtake()
            self._off_task = asyncio.create_task(self._turn_off(), name=f"bias-off {self._link.name}")
        report = await uninterrupted(self._off_task)
        if report.state is OutputState.UNKNOWN:
            raise OffUnconfirmedError(
                "switching the bias off is not confirmed",
                device=self._link.name,
                do="treat the outputs as live and use the hardware switch",
                causes=report.failures[-OFF_ATTEMPTS:],
            )
        return report

    async def look_again(self) -> None:
        """After switching off that was not confirmed: see whether the supply is off after all.

        Raises:
            DriverError: If the board does not answer, or says that it is still on.
        """
        board = Board(self._link, tries=1)
        found = await board.read("power")
        if found & POWER_BIAS:
            raise DeviceFaultError(f"the bias supply is still on (power {found:#x})", device=board.name)
        self.state, self.is_ours = OutputState.OFF, False

    async def _turn_off(self) -> OffReport:
        off = _Off()
        for attempt in range(OFF_ATTEMPTS):
            off.attempts = attempt + 1
            link = self._link if attempt == 0 else self._fresh_link()
            try:
                await link.open_without_greeting()
                if attempt == 0:
                    await self._lower_what_hears_nothing_later(Board(link, tries=1), off)
                await self._remove_voltage(Board(link, tries=OFF_TRIES), off)
                is_last = off.state is not OutputState.UNKNOWN or attempt == OFF_ATTEMPTS - 1
                self.state = off.state  # known from here on, whatever becomes of the set-points
                if is_last:
                    await self._lower_set_points(Board(link, tries=1), off)
            except DriverError as error:
                off.failures.append(str(error))
            finally:
                if link is not self._link:
                    await link.aclose()
            if off.state is not OutputState.UNKNOWN:
                break
        self.state = off.state
        if off.state is not OutputState.UNKNOWN:
            self.is_ours = False
        if off.failures:
            _LOG.warning("%s: bias off: %s", self._link.name, each_once(off.failures))
        return OffReport(off.state, off.attempts, off.lowered, tuple(off.failures))

    async def _look_for_what_hears_nothing_later(self, board: Board) -> None:
        """Whoever only switches off has identified nothing, and need not: a board says this much in three reads."""
        if not await board.read("power") & POWER_BIAS:
            return
        n_slots = board_kind(await board.read("base_pcb"), 0).bias_slots
        interface = await board.read("bias_interface")
        names = [mezzanine_name(interface_nibble(interface, slot), None) for slot in range(n_slots)]
        kinds = {slot: KINDS[name] for slot, name in enumerate(names) if name in KINDS}
        self._outputs.kinds = {slot: kind for slot, kind in kinds.items() if not kind.hears_without_supply}

    async def _remove_voltage(self, board: Board, off: _Off) -> None:
        wanted = POWER_FEM if self._is_fem_on else 0
        try:
            await board.write("power", wanted)
        except DriverError as error:
            off.failures.append(str(error))
            return
        off.state = OutputState.OFF_COMMANDED
        try:
            found = await board.read("power")
        except DriverError as error:
            off.failures.append(str(error))
            return
        if found & POWER_BIAS:
            off.state = OutputState.UNKNOWN
            off.failures.append(f"{board.name}: the board says that the bias supply is still on (power {found:#x})")
        else:
            off.state = OutputState.OFF

    async def _lower_what_hears_nothing_later(self, board: Board, off: _Off) -> None:
        """The only order in which such outputs start low the next time; given up at once if it does not go well."""
        if self.state is OutputState.OFF:
            return
        try:
            async with asyncio.timeout(LOWER_FIRST_DEADLINE_S):
                if not self._is_identified:
                    await self._look_for_what_hears_nothing_later(board)
                for channel in self._outputs.of(self._outputs.slots(hear=False)):
                    await board.set_bias(self._outputs.lowest(channel))
                    self._at[channel] = None
                    off.lowered += 1
        except DriverError as error:
            off.failures.append(f"{board.name}: bringing set-points down before removing the voltage: {error}")
        except TimeoutError:
            off.failures.append(f"{board.name}: bringing set-points down took longer than {LOWER_FIRST_DEADLINE_S} s")

    async def _lower_set_points(self, board: Board, off: _Off) -> None:
        deadline_s = SILENT_ZERO_DEADLINE_S if off.state is OutputState.UNKNOWN else ZERO_DEADLINE_S
        try:
            async with asyncio.timeout(deadline_s):
                if not self._is_identified and off.state is not OutputState.UNKNOWN:
                    names = await identify_mezzanines(board, board_kind(await board.read("base_pcb"), 0).bias_slots)
                    self._outputs.kinds = {slot: KINDS[name] for slot, name in enumerate(names) if name in KINDS}
                for channel in self._outputs.of(self._outputs.slots(hear=True)):
                    self._at[channel] = None
                    try:
                        await board.set_bias(self._outputs.lowest(channel))
                    except DriverError as error:
                        off.failures.append(str(error))
                    else:
                        off.lowered += 1
                for slot in self._outputs.converters():
                    await self._set_converter(board, slot, self._outputs.converter(slot, None))
        except DriverError as error:
            off.failures.append(str(error))
        except TimeoutError:
            off.failures.append(f"{board.name}: bringing set-points down took longer than {deadline_s} s")
