"""A ramp that is held ends where it is, on; another one may begin from there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.contract import interlocked_bench
from tests.contract.interlocked_bench import STEP_V, bench

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SLOW = interlocked_bench.CONFIG.replace("slew_v_per_s = 100", "slew_v_per_s = 8")


def test_hold_on_the_way_up_and_on_the_way_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interlocked_bench, "CONFIG", SLOW)

    async def story() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            hv = b.supplies.hv
            assert "nothing to hold" in await b.refused("/api/v1/bias/hv/stop")
            ramp = asyncio.create_task(b.refused("/api/v1/bias/hv/on", volts=55.0))
            await b.until(lambda: hv.is_on and hv.output_v > 44.0, "it is on its way")
            told = await b.post("/api/v1/bias/hv/stop")
            at_v = hv.output_v
            assert (told["state"], hv.is_on) == ("on", True)
            assert 44.0 < at_v < 52.0
            measured = {one["name"]: one for one in told["readings"]}["bias_voltage"]
            assert measured["measured"]
            assert abs(measured["value"] - at_v) < 0.1
            assert "held at" in await ramp
            await asyncio.sleep(0.6)
            assert hv.output_v == at_v  # it goes no further

            ramp = asyncio.create_task(b.refused("/api/v1/bias/hv/set", volts=55.0))
            await b.until(lambda: hv.output_v > at_v + 1, "further up")
            await b.post("/api/v1/bias/hv/stop")
            assert "held at" in await ramp
            assert at_v < hv.output_v <= at_v + 2 * STEP_V
            await b.post("/api/v1/bias/hv/set", volts=46.0)
            assert abs(hv.output_v - 46.0) < 0.01
            assert (await b.post("/api/v1/bias/hv/off"))["state"] == "IN_SAFE_STATE"

    asyncio.run(story())
