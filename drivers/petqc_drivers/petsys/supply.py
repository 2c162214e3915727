"""The bias supply of a board: on by a ramp behind the guard, off whatever happened before.

What is on is what was commanded: these mezzanines do not tell the voltage at their outputs.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.9.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from petqc_drivers.device import OutputState, Quality, Reading
from petqc_drivers.errors import DriverError, LimitError, OffUnconfirmedError, OvertakenError, StateError
from petqc_drivers.limits import SetOutput, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasKind, encode_bias, encode_supply_on
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from petqc_drivers.petsys.link import ReadoutLink
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
_ROUNDING_CODES: Final = 2


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


@dataclass(slots=True)
class _Round:
    """One step of each output on its way, and how long the step must last."""

    steps: list[tuple[BiasChannel, SetOutput]]
    seconds: float


class BiasSupply:
    """Outputs of the bias mezzanine of one board.

    Args:
        link: The way to the board.
        fresh_link: Makes another, unopened one.
        settings: The outputs that may be used.
        address: Port and slave of the board.
        settle_s: Wait after the last step of a ramp.
    """

    def __init__(
        self,
        link: ReadoutLink,
        fresh_link: Callable[[], ReadoutLink],
        settings: Mapping[BiasChannel, BiasSettings],
        *,
        address: tuple[int, int],
        settle_s: float,
    ) -> None:
        self._link = link
        self._fresh_link = fresh_link
        self._settings = dict(settings)
        self._address = address
        self._settle_s = settle_s
        self._kind: BiasKind | None = None
        self._slot = 0
        self._is_fem_on = False
        self._at: dict[BiasChannel, Volts | None] = {}
        self._off_task: asyncio.Task[OffReport] | None = None
        self._is_changing = False
        self.state = OutputState.UNKNOWN
        self.is_ours = False
        """Whether this driver switched the supply on."""

    @property
    def kind(self) -> BiasKind | None:
        """The mezzanine, once it is known."""
        return self._kind

    def identified(self, kind: BiasKind | None, slot: int) -> None:
        """Take note of which mezzanine is in which slot."""
        self._kind, self._slot = kind, slot

    async def observe(self, board: Board) -> None:
        """See whether the supply is on; changes nothing."""
        power = await board.read("power")
        self._is_fem_on = bool(power & POWER_FEM)
        self.state = OutputState.ADOPTED if power & POWER_BIAS else OutputState.OFF
        self._at.clear()

    def modules_powered(self) -> None:
        """Take note that the modules have their supply; switching the bias off will leave it on."""
        self._is_fem_on = True

    def readings(self) -> list[Reading]:
        """Commanded voltages of the outputs, none of them measured."""
        now_s, is_known = time.monotonic(), self.state in {OutputState.ON, OutputState.RAMPING}
        return [
            Reading(
                "bias_commanded",
                str(channel),
                volts.value if is_known and volts else None,
                "V",
                measured=False,
                quality=Quality.GOOD if is_known and volts else Quality.UNCERTAIN,
                at_monotonic_s=now_s,
                reason=None if is_known and volts else f"supply {self.state.value}",
            )
            for channel, volts in sorted(self._at.items())
        ]

    def _outputs(self, kind: BiasKind) -> list[BiasChannel]:
        return [BiasChannel(*self._address, self._slot, number) for number in range(kind.n_channels)]

    def _encode(self, kind: BiasKind, channel: BiasChannel, volts: Volts) -> SetOutput:
        settings = self._settings.get(channel)
        if settings is None:
            raise LimitError(f"{volts} refused: this output is not configured", device=str(channel))
        return encode_bias(kind, channel, volts, settings.limit, settings.curve)

    async def turn_on(self, targets: Mapping[BiasChannel, Volts]) -> None:
        """Bring outputs to voltages, by a ramp of guarded steps; the others stay where they are.

        The whole request is checked before anything is sent. If anything fails on the way, or the task is cancelled,
        everything is switched off.

        Raises:
            LimitError: If a target is refused; nothing has been sent then.
            StateError: If the mezzanine is not known, or outputs are on that this driver did not set.
            DriverError: Whatever failed on the way; the supply has been switched off then.
        """
        kind = self._kind
        if kind is None:
            raise StateError("no bias mezzanine that can be set was found", device=self._link.name)
        plan = self._plan(kind, targets)
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
        self._is_changing = True
        board = Board(self._link, since=self._link.epoch)
        try:
            if self.state is not OutputState.ON:
                await self._energise(board, kind)
            await self._ramp(board, plan)
        except OvertakenError:
            raise
        except BaseException:
            await self.turn_off()
            raise
        finally:
            self._is_changing = False

    async def _energise(self, board: Board, kind: BiasKind) -> None:
        """All outputs lowest, then the supply on."""
        outputs = self._outputs(kind)
        lowest = [encode_bias(kind, channel, None, None, None) for channel in outputs]
        for channel, output in zip(outputs, lowest, strict=True):
            await board.set_bias(output)
            self._at[channel] = None
        self.state, self.is_ours = OutputState.RAMPING, True
        await board.supply_on(encode_supply_on(kind, lowest))

    def _plan(self, kind: BiasKind, targets: Mapping[BiasChannel, Volts]) -> list[_Round]:
        """Every step of the way, encoded and guarded before the first is sent."""
        is_on = self.state is OutputState.ON
        at_v: dict[BiasChannel, float] = {}
        for channel, volts in targets.items():
            if (channel.port, channel.slave, channel.slot) != (*self._address, self._slot):
                raise LimitError(f"{volts} refused: there is no such output on this board", device=str(channel))
            self._encode(kind, channel, volts)
            known = self._at.get(channel) if is_on else None
            at_v[channel] = kind.nominal_volts(kind.lowest_code) if known is None else known.value
        plan: list[_Round] = []
        left = dict(targets)
        while left:
            this = _Round([], 0.0)
            for channel, target in list(left.items()):
                limit, here_v = self._settings[channel].limit, at_v[channel]
                wanted_v = target.value
                if wanted_v > here_v + limit.max_step_v:
                    wanted_v = here_v + limit.max_step_v
                elif wanted_v < here_v - limit.max_step_v:
                    # Encoding rounds down, so a step down is asked for a little shorter than allowed.
                    wanted_v = here_v - limit.max_step_v + kind.nominal_volts(_ROUNDING_CODES)
                output = self._encode(kind, channel, Volts(wanted_v))
                meant_v = output.commanded.value if output.commanded else here_v
                this.steps.append((channel, output))
                this.seconds = max(this.seconds, abs(meant_v - here_v) / limit.slew_v_per_s)
                if wanted_v == target.value:
                    del left[channel]
                elif abs(target.value - meant_v) >= abs(target.value - here_v):
                    raise LimitError(
                        f"a ramp in steps of {limit.max_step_v} V does not move: a step is less than the DAC can do",
                        device=str(channel),
                    )
                at_v[channel] = meant_v
            plan.append(this)
        return plan

    async def _ramp(self, board: Board, plan: list[_Round]) -> None:
        self.state = OutputState.RAMPING
        for this in plan:
            started_s = time.monotonic()
            for channel, output in this.steps:
                await board.set_bias(output)
                self._at[channel] = output.commanded
            await asyncio.sleep(max(0.0, started_s + this.seconds - time.monotonic()))
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
        task, cancelled = self._off_task, False
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                cancelled = True
        report = task.result()
        if cancelled:
            raise asyncio.CancelledError
        if report.state is OutputState.UNKNOWN:
            raise OffUnconfirmedError(
                "switching the bias off is not confirmed: " + "; ".join(report.failures[-OFF_ATTEMPTS:]),
                device=self._link.name,
                do="treat the outputs as live and use the hardware switch",
            )
        return report

    async def _turn_off(self) -> OffReport:
        off = _Off()
        for attempt in range(OFF_ATTEMPTS):
            off.attempts = attempt + 1
            link = self._link if attempt == 0 else self._fresh_link()
            try:
                await link.open_without_greeting()
                board = Board(link, tries=OFF_TRIES)
                await self._remove_voltage(board, off)
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
            _LOG.warning("%s: bias off: %s", self._link.name, "; ".join(off.failures))
        return OffReport(off.state, off.attempts, off.lowered, tuple(off.failures))

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

    async def _lower_set_points(self, board: Board, off: _Off) -> None:
        kind = self._kind
        if kind is None:
            return
        deadline_s = SILENT_ZERO_DEADLINE_S if off.state is OutputState.UNKNOWN else ZERO_DEADLINE_S
        try:
            async with asyncio.timeout(deadline_s):
                for channel in self._outputs(kind):
                    self._at[channel] = None
                    try:
                        await board.set_bias(encode_bias(kind, channel, None, None, None))
                    except DriverError as error:
                        off.failures.append(str(error))
                    else:
                        off.lowered += 1
        except TimeoutError:
            off.failures.append(f"{board.name}: bringing set-points down took longer than {deadline_s} s")
