"""No bytes on the wire or in a file make a parser fail; what a campaign once found stays found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fuzz_targets import TARGETS, let_go, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

CRASHES = Path(__file__).parent / "crashes"


@pytest.fixture(autouse=True)
def closed(nothing_left_behind: None) -> Iterator[None]:
    yield
    let_go()


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once(name: str) -> None:
    for file in sorted((CRASHES / name).glob("*")):
        TARGETS[name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_good_input(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


@st.composite
def spoiled(draw: st.DrawFn, name: str) -> bytes:
    """Good input with a few bytes replaced, cut out or put in."""
    data = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_input(name: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(spoiled(name) | st.binary(max_size=600))
    def fuzz(data: bytes) -> None:
        TARGETS[name](data)

    fuzz()
