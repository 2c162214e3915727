"""What was tripped, kept beside outputs that do not outlive the daemon: what cannot be believed counts as tripped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from petqcd import small_file
from petqcd.off.kept_outputs import KeptOutputs
from petqcd.places import TRIPPED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def torn(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


def gone(path: Path) -> None:
    path.unlink()


def torn_and_gone(path: Path) -> None:
    """As after an accident with both."""
    torn(small_file.previous(path))
    gone(path)


@pytest.fixture
def twice_written(tmp_path: Path) -> Path:
    """The generation before knows of one trip, the newest of two."""

    async def work() -> None:
        kept = KeptOutputs(tmp_path, [])
        for name in ("board", "hv"):
            kept.note(name, "off", None, "permit lost")
            await kept.commit()

    asyncio.run(work())
    return tmp_path


def test_trips_are_there_again(twice_written: Path) -> None:
    kept = KeptOutputs(twice_written, [])
    assert (kept.tripped("board"), kept.tripped("hv"), kept.tripped("other")) == ("permit lost", "permit lost", "")


@pytest.mark.parametrize("damage", [torn, gone, torn_and_gone])
def test_the_generation_before_does_not_speak_for_what_is_damaged(
    twice_written: Path, damage: Callable[[Path], None]
) -> None:
    damage(twice_written / TRIPPED)
    kept = KeptOutputs(twice_written, [])
    for name in ("board", "hv", "other"):
        assert "is damaged" in kept.tripped(name)


def test_where_nothing_was_ever_kept_nothing_is_tripped(tmp_path: Path) -> None:
    assert KeptOutputs(tmp_path, []).tripped("board") == ""
