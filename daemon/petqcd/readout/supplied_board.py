"""A readout whose detector is biased, wholly or in part, by supplies of the laboratory's own.

A supply with `run_v` is switched on by a run that needs bias, through the same permits and limits as by a person, and
switched off with the board's own outputs, before anything else, when the run ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from petqc_drivers.uninterrupted import uninterrupted
from petqcd.errors import DaemonError, RefusedError
from petqcd.instruments.state import InstrumentState
from petqcd.off.safe_state import SafeState, together
from petqcd.readout.petsys_board import PetsysBoard
from petqcd.readout.petsys_settings import bias_targets
from petqcd.readout.supervisor import BiasState
from petqcd.security.access import daemon_itself

if TYPE_CHECKING:
    from petqcd.instruments.collection import Instruments
    from petqcd.interlocks.bias_control import BiasControl
    from petqcd.off.safe_state import SafeOutcome
    from petqcd.security.audit import Audit


LOOK_EVERY_S = 0.25


class RunSupplies:
    """The supplies of one run: which it may use, and which it has switched on."""

    def __init__(self, instruments: Instruments, control: BiasControl, audit: Audit) -> None:
        self._instruments, self._control, self._audit = instruments, control, audit
        self._used: list[str] = []

    @property
    def volts(self) -> dict[str, float]:
        """Voltage for runs, by the name of the supply."""
        return self._instruments.run_volts

    async def on(self) -> None:
        """All of them to their voltage, at once; the first that fails ends it, and the run then switches off.

        Raises:
            DaemonError: what stands in the way, or what a supply said.
        """
        waiting = []
        for name, volts in self.volts.items():
            self._used.append(name)  # before: what may be on is switched off
            waiting.append(asyncio.create_task(self._on(name, volts), name=f"{name} on"))
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    async def _on(self, name: str, volts: float) -> None:
        by = daemon_itself("run")
        async with self._audit.act(by, "energise", name, new={"volts": volts}, reason="a run needs its voltage"):
            await self._control.on(name, volts)

    async def wait_failed(self) -> None:
        """Until one that is used is not on as the run wants it: tripped, off, lost, or set to another voltage.

        What follows the temperature ramps by itself; that is no failure.

        Raises:
            DaemonError: then, always; with nothing in use it waits for ever.
        """
        while True:
            for supply in (self._instruments[name] for name in self._used):
                if supply.state not in (InstrumentState.ON, InstrumentState.RAMPING):
                    raise DaemonError(
                        f"{supply.name} is {supply.state}" + (f": {supply.detail}" if supply.detail else "")
                    )
                if self._control.set_by_people.get(supply.name) != self.volts[supply.name]:
                    raise DaemonError(f"{supply.name}: somebody set it to another voltage while the run needed it")
            await asyncio.sleep(LOOK_EVERY_S)

    async def off(self) -> list[SafeOutcome]:
        """Those that were used, at once; what came of each."""
        return await together(self._instruments[name].off() for name in self._used)


class SuppliedBoard(PetsysBoard):
    """A readout and the supplies of its detector; see `PetsysBoard`.

    Args:
        arguments: of a `PetsysBoard`.
        supplies: of the run.
    """

    def __init__(self, *arguments: Any, supplies: RunSupplies) -> None:
        super().__init__(*arguments)
        self._supplies = supplies

    async def bias_on(self, overvoltage_share: float = 1.0) -> None:
        """The board's own outputs, if it has any, then the supplies."""
        volts = self._supplies.volts
        if volts and overvoltage_share != 1.0:
            raise RefusedError(
                f"{', '.join(volts)}: supplies have one voltage for runs (run_v), and {overvoltage_share:g} of the "
                "overvoltage was asked for: bias stays off"
            )
        if not volts or bias_targets(self._needed(), overvoltage_share):
            await super().bias_on(overvoltage_share)
        if volts:
            await self._supplies.on()

    async def wait_failed(self) -> None:
        """Until the link, the flow or a supply in use fails; raises what happened."""
        waiting = {
            asyncio.create_task(super().wait_failed(), name="watch the board"),
            asyncio.create_task(self._supplies.wait_failed(), name="watch the supplies"),
        }
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        for task in done:
            task.result()

    async def bias_off(self) -> BiasState:
        """All at once; whatever one of them says, the others are switched off."""

        async def both() -> tuple[BiasState | BaseException, list[SafeOutcome]]:
            of_board, outcomes = await asyncio.gather(
                super(SuppliedBoard, self).bias_off(), self._supplies.off(), return_exceptions=True
            )
            if isinstance(outcomes, BaseException):
                raise outcomes
            return of_board, outcomes

        of_board, outcomes = await uninterrupted(both(), name="board and supplies off")
        doubtful = [f"{one.device}: {one.told}" for one in outcomes if one.state is not SafeState.IN_SAFE_STATE]
        if isinstance(of_board, BaseException):
            doubtful.append(str(of_board))
        if doubtful:
            raise DaemonError("; ".join(doubtful)) from (of_board if isinstance(of_board, BaseException) else None)
        assert isinstance(of_board, BiasState)  # noqa: S101 - an exception was raised above; for the type checker
        return of_board
