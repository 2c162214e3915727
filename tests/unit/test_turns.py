"""Long work lets others have their turn as often as it must, and not more often."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from petqcd import turns
from petqcd.turns import Turns

if TYPE_CHECKING:
    import pytest


def others_seen(turn_s: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After each of five steps of a piece of work: how many turns another task had so far."""
    monkeypatch.setattr(turns, "TURN_S", turn_s)

    async def session() -> list[int]:
        had, seen = 0, []

        async def other() -> None:
            nonlocal had
            while True:
                had += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        among = Turns()
        for _ in range(5):
            await among.next()
            seen.append(had)
        beside.cancel()
        await asyncio.wait({beside})
        return seen

    return asyncio.run(session())


def test_after_a_turn_that_was_long_enough_others_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert others_seen(0.0, monkeypatch) == [1, 2, 3, 4, 5]


def test_within_a_turn_nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert others_seen(math.inf, monkeypatch) == [0, 0, 0, 0, 0]
