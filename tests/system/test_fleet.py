"""Several scanners as one fleet; `python -m tests.system.fleet --scanners 10` does the same with ten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.system.fleet import DEADLINE_S, fleet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_S)
def test_a_fleet_shares_a_server_and_a_centre_and_no_scanner_waits_for_another(tmp_path: Path) -> None:
    found = fleet(tmp_path, 2)
    assert found.sessions <= 3 * found.scanners  # at rest: one that writes, two that read
