"""Daemons killed in every phase of their work: nothing acknowledged is lost, nothing is half, all is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.system.killed import PHASES, campaign

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_twenty_kills_in_every_phase(tmp_path: Path) -> None:
    found = campaign(tmp_path, 20, seed=1)
    assert set(found["phases"]) == set(PHASES)
    assert found["kills"] == 20
    assert found["acknowledged"] >= 2
    assert found["interrupted"] >= 8
    assert found["recordings"] >= 2
    assert found["backups"] >= 5
