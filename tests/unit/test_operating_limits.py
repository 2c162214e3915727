"""Operating limits that were given by command, over restarts and changes of the file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from petqc_drivers.limits import Volts
from petqcd import small_file
from petqcd.config.instruments import CaenA7585dConfig, OperatingRange, SupplyLimits
from petqcd.errors import RefusedError
from petqcd.interlocks.bias_control import is_raised
from petqcd.interlocks.operating_limits import KeptLimits, OperatingLimits

if TYPE_CHECKING:
    from pathlib import Path


def supply(v_max: float = 57.0, operating: OperatingRange | None = None) -> CaenA7585dConfig:
    limits = SupplyLimits(v_min=21, v_max=v_max, max_step_v=4, slew_v_per_s=20, most_current_ma=1)
    return CaenA7585dConfig(
        name="hv", kind="caen-a7585d", address="socket://h:1", serial=1, bias=limits, operating=operating
    )


def after_a_restart(folder: Path) -> list[str]:
    """Limits are lowered, and petqc is started again; what is wrong with what then holds."""
    asyncio.run(KeptLimits(folder).give(supply(), OperatingLimits(30.0, 50.0)))
    held = KeptLimits(folder).of(supply())
    return [] if held == OperatingLimits(30.0, 50.0) else [f"{held} holds after a restart"]


def test_they_hold_after_a_restart_inside_what_the_file_says_now(tmp_path: Path) -> None:
    assert KeptLimits(tmp_path).of(supply()) == OperatingLimits(21.0, 57.0)
    assert after_a_restart(tmp_path) == []
    kept = KeptLimits(tmp_path)
    assert kept.of(supply(v_max=45.0)) == OperatingLimits(30.0, 45.0)  # a lower hard limit
    assert kept.of(supply(operating=OperatingRange(v_min=40, v_max=56))) == OperatingLimits(40.0, 50.0)
    nowhere = kept.of(supply(operating=OperatingRange(v_min=51, v_max=56)))
    assert nowhere is not None
    with pytest.raises(RefusedError):
        nowhere.require("hv", 50.5)
    assert kept.of(supply().model_copy(update={"bias": None})) is None


def test_what_cannot_be_written_or_read_is_refused(tmp_path: Path) -> None:
    gone = KeptLimits(tmp_path / "nowhere")
    with pytest.raises(RefusedError, match="not written"):
        asyncio.run(gone.give(supply(), OperatingLimits(30.0, 50.0)))
    assert gone.of(supply()) == OperatingLimits(21.0, 57.0)
    (tmp_path / "limits.json").write_text("{}")
    with pytest.raises(RefusedError, match="give them again"):
        KeptLimits(tmp_path).of(supply())


def test_a_story_notices_limits_that_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_file, "write", lambda *_: None)
    assert "57" in str(after_a_restart(tmp_path))


@pytest.mark.parametrize(
    ("now", "target", "raised"),
    [
        (50.0, 49.0, False), (50.0, 50.0, False), (50.0, 0.0, False), (50.0, 51.0, True), (50.0, -50.0, True),
        (-50.0, -49.0, False), (-50.0, -51.0, True), (-50.0, 1.0, True), (0.0, -1.0, True), (None, 0.0, True),
    ],
)  # fmt: skip
def test_only_towards_zero_is_less(now: float | None, target: float, *, raised: bool) -> None:
    assert is_raised(None if now is None else Volts(now), Volts(target)) is raised
