"""Bringing outputs to off, all at once, each with its own deadline, and saying truly what came of it.

Off needs no permit, no audit, no store and no other device. What is known afterwards has three names: in its safe
state (read back after the command), commanded (sent, but nothing can be read back), unknown.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petqc_drivers.device import OutputState
from petqc_drivers.errors import DriverError
from petqc_drivers.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from petqcd.off.outputs import Output, Source

log = logging.getLogger(__name__)

OFF_DEADLINE_S = 10.0
"""For one device: three tries with fresh connections. Source: every fault ends in a named state within 10 s."""
RAMP_DEADLINE_S = 60.0
"""For a ramp down before it; what is not at its lowest by then is switched off where it is."""
CLOSE_DEADLINE_S = 2.0
HARDWARE_SWITCH = "treat its output as live: use its hardware switch or pull its plug"


class SafeState(enum.StrEnum):
    """What is known after a command to switch off."""

    IN_SAFE_STATE = "IN_SAFE_STATE"
    """Off, read back after the command."""
    SAFE_COMMANDED = "SAFE_COMMANDED"
    """Off was sent and acknowledged, and nothing can be read back."""
    UNKNOWN = "UNKNOWN"
    """Treat it as live."""


_OF: Mapping[OutputState, SafeState] = {
    OutputState.OFF: SafeState.IN_SAFE_STATE,
    OutputState.OFF_COMMANDED: SafeState.SAFE_COMMANDED,
}


@dataclass(frozen=True, slots=True)
class SafeOutcome:
    """What became of one device; told: for a person, with what to do if there is something to do."""

    device: str
    state: SafeState
    told: str

    @property
    def output(self) -> OutputState:
        """The same, as drivers say it."""
        return next((output for output, state in _OF.items() if state is self.state), OutputState.UNKNOWN)

    def document(self) -> dict[str, str]:
        """Plain types for JSON."""
        return {"device": self.device, "state": str(self.state), "told": self.told}


def of_documents(documents: Iterable[Mapping[str, str]]) -> list[SafeOutcome]:
    """Outcomes as another process told them."""
    return [SafeOutcome(one["device"], SafeState(one["state"]), one["told"]) for one in documents]


def worst(outcomes: Iterable[SafeOutcome]) -> SafeState:
    """The state that speaks for all; no device at all is safe."""
    rising = list(SafeState)
    return rising[max((rising.index(one.state) for one in outcomes), default=0)]


async def brought_to_off(device: str, off: Callable[[], Awaitable[OutputState]], deadline_s: float) -> SafeOutcome:
    """Switch one device off; never raises but for a cancellation."""
    try:
        async with asyncio.timeout(deadline_s):
            state = await off()
    except DriverError as error:
        return SafeOutcome(device, SafeState.UNKNOWN, f"{error.what} ({error.do or HARDWARE_SWITCH})")
    except Exception as error:
        log.warning("switching %s off", device, exc_info=error)
        why = str(error) or f"no answer within {deadline_s:g} s"
        return SafeOutcome(device, SafeState.UNKNOWN, f"off could not be confirmed: {why} ({HARDWARE_SWITCH})")
    known = _OF.get(state, SafeState.UNKNOWN)
    told = {
        SafeState.IN_SAFE_STATE: "off, read back after the command",
        SafeState.SAFE_COMMANDED: "off was commanded and acknowledged; it has no read-back of its outputs",
        SafeState.UNKNOWN: f"its outputs are {state.value} after the command ({HARDWARE_SWITCH})",
    }[known]
    return SafeOutcome(device, known, told)


async def outputs_off(outputs: Iterable[Output], *, ramp: bool = False) -> list[SafeOutcome]:
    """Switch outputs off with nothing but their drivers. ramp: down first, where its policy says so."""
    return await together(_output_off(one, ramp=ramp and one.on_daemon_loss == "ramp_off") for one in outputs)


async def together(work: Iterable[Coroutine[Any, Any, SafeOutcome]]) -> list[SafeOutcome]:
    """Switch several devices off at once; none waits for another or ends with it, a cancellation waits for all."""

    async def all_of_it() -> list[SafeOutcome]:
        tasks = [asyncio.create_task(one) for one in work]
        if tasks:
            await asyncio.wait(tasks)
        return [task.result() for task in tasks]

    return await uninterrupted(all_of_it(), name="off")


async def _output_off(output: Output, *, ramp: bool) -> SafeOutcome:
    try:
        source = await asyncio.to_thread(output.source)  # imports the driver
    except Exception as error:  # noqa: BLE001 - a device that cannot even be addressed is unknown
        return SafeOutcome(output.name, SafeState.UNKNOWN, f"cannot be addressed: {error} ({HARDWARE_SWITCH})")
    try:
        if ramp:
            await _ramp_down(source)
        return await brought_to_off(output.name, source.off, OFF_DEADLINE_S)
    finally:
        await _closed(source)


async def _ramp_down(source: Source) -> None:
    """Down and off, as far as it goes; the off that follows is the one that counts."""
    try:
        async with asyncio.timeout(RAMP_DEADLINE_S):
            await source.connect()
            await source.ramp_off()
    except Exception as error:  # noqa: BLE001 - whatever it was, off is next
        log.warning("ramp down: %s", error)


async def _closed(source: Source) -> None:
    try:
        async with asyncio.timeout(CLOSE_DEADLINE_S):
            await source.aclose()
    except Exception as error:  # noqa: BLE001 - closing is the last thing done with it
        log.warning("closing: %s", error)
