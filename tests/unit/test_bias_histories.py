"""Some generated histories of operator, device and time; `benchmarks/bias_histories.py` runs ten thousand."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from petqc_drivers.bias_source import BiasSource

if TYPE_CHECKING:
    import pytest

SPEC = spec_from_file_location("bias_histories", Path(__file__).parents[2] / "benchmarks" / "bias_histories.py")
assert SPEC is not None
assert SPEC.loader is not None
HISTORIES = module_from_spec(SPEC)
SPEC.loader.exec_module(HISTORIES)


def test_no_output_above_its_limit() -> None:
    happened, wrong = HISTORIES.campaign(100, 1)
    assert happened == 100 * HISTORIES.THINGS
    assert wrong == []


def test_a_ramp_in_one_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(self, target, since, _held):  # type: ignore[no-untyped-def]
        await self._set(self._guarded(target), since)

    monkeypatch.setattr(BiasSource, "_ramp_to", at_once)
    _, wrong = HISTORIES.campaign(100, 1)
    assert any("at once" in line for line in wrong)


def test_a_source_meter_that_was_restarted_is_told_no_voltage_by_a_ramp() -> None:
    _, wrong = HISTORIES.campaign(1, 21158)
    assert wrong == []
