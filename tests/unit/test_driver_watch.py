"""Units on one clock: the check that finds the one which is not."""

from __future__ import annotations

import asyncio

import pytest

from petqc_drivers.errors import LinkLostError
from petqc_drivers.petsys.watch import IN_STEP_CLK, check_in_step

TAG_BITS = 46


class Unit:
    """A link whose unit tells one time tag after the other."""

    epoch = 0
    last_good_s = None

    def __init__(self, name: str, *tags: int) -> None:
        self.name = name
        self.tags = list(tags)

    async def exchange(self, function: int, payload: bytes, **_: object) -> bytes:
        assert (function, payload) == (0, bytes.fromhex("0005000302"))
        return b"\x00" + (self.tags.pop(0) % (1 << TAG_BITS)).to_bytes(6, "little") + b"\x00"


@pytest.mark.parametrize("clock", [10**9, (1 << TAG_BITS) - 5_000])
@pytest.mark.parametrize(
    ("off_by", "is_in_step"),
    [(0, True), (20_000, True), (-IN_STEP_CLK, True), (-IN_STEP_CLK - 1, False), (20_000 + 2 * IN_STEP_CLK, False)],
)
def test_a_unit_must_have_the_time_of_the_clock_also_when_it_wraps(clock, off_by, is_in_step):
    trigger = Unit("trigger", clock, clock + 20_000, clock + 30_000, clock + 50_000)
    units = [trigger, Unit("first", clock + 10_000), Unit("second", clock + 30_000 + off_by)]

    async def main() -> None:
        await check_in_step(trigger, units)  # type: ignore[arg-type]

    if is_in_step:
        asyncio.run(main())
    else:
        with pytest.raises(LinkLostError, match="second: it is not on the common clock any more"):
            asyncio.run(main())
