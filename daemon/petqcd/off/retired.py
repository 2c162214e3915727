"""Outputs that are configured no more and were last known on: asked by every off, told, and forgotten by a person."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from petqc_drivers.errors import DriverError
from petqcd.errors import NotFoundError, RefusedError
from petqcd.off.outputs import READOUTS
from petqcd.off.safe_state import SafeOutcome, SafeState, outputs_off

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from petqcd.off.kept_outputs import KeptOutputs
    from petqcd.off.outputs import Output

ANSWER_S = 3.0
HOW_TO_FORGET = "it is not configured any more; once its output is off: petqc devices forget"


class Retired:
    """Everything is called from the event loop.

    Args:
        kept: what is written of outputs.
    """

    def __init__(self, kept: KeptOutputs) -> None:
        self._kept = kept

    def documents(self) -> list[dict[str, Any]]:
        """Each of them as plain types."""
        return [{"name": one.name, "kind": one.kind, "state": one.state, "at": one.at} for one in self._kept.retired()]

    def off(self) -> list[Coroutine[Any, Any, SafeOutcome]]:
        """What switches each of them off with nothing but its driver; what is read back as off is one no more."""
        return [self._off(one) for one in self._kept.retired()]

    async def _off(self, output: Output) -> SafeOutcome:
        (outcome,) = await outputs_off([output])
        self._kept.note(output.name, outcome.output.value, None, output.trip)
        return told_how_to_forget(outcome)

    async def forget(self, name: str, *, is_disconnected: bool) -> SafeOutcome:
        """Forget one: it is read back as off, or somebody has seen it disconnected and nobody answers in its place.

        Raises:
            NotFoundError: there is no such output.
            RefusedError: it is configured, or may be on.
        """
        found = self._kept[name]
        if found is None:
            raise NotFoundError(f"of {name!r} nothing is kept (petqc devices)")
        if not self._kept.is_retired(name):
            raise RefusedError(f"{name} is configured: take it out of petqc.toml, and start petqc again")
        (outcome,) = await outputs_off([found])
        if outcome.state is not SafeState.IN_SAFE_STATE:
            if not is_disconnected:
                raise RefusedError(
                    f"{name} may be on: {outcome.told}; if you have seen that its output is off by its own switch or "
                    "plug, say so (--disconnected)"
                )
            if await _answers(found):
                raise RefusedError(f"{name} answers at its address, so it is not disconnected: {outcome.told}")
        await self._kept.forget(name)
        return outcome


def told_how_to_forget(outcome: SafeOutcome) -> SafeOutcome:
    """The outcome of an output that is configured no more, with what to do where it could not be switched off."""
    if outcome.state is SafeState.IN_SAFE_STATE:
        return outcome
    return SafeOutcome(outcome.device, outcome.state, f"{outcome.told}; {HOW_TO_FORGET} {outcome.device}")


async def _answers(output: Output) -> bool:
    """Whether the device itself is there; of a readout, which needs no identity to be switched off, off has asked."""
    if output.kind in READOUTS:
        return False
    source = await asyncio.to_thread(output.source)
    try:
        async with asyncio.timeout(ANSWER_S):
            await source.connect()
    except (DriverError, OSError, TimeoutError):
        return False
    finally:
        await source.aclose()
    return True
