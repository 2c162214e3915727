"""The acceptance of the analysis: over a dozen detectors, deviations from the truth are as large as uncertainties say.

Pull = (measured - truth) / stated uncertainty. The seeds are fixed; the recordings are short, so that statistics and
not the model's last tenth of a per cent decides, as on any morning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.analysis import analyse_file
from petqc.limits import Status
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(1, 13)
SECONDS = 3.0
TRUTH_KEYS = {
    "photopeak": "photopeak_kev",
    "energy_resolution": "energy_resolution_percent",
    "ctr_fit": "ctr_fwhm_ps",
    "ctr_nema": "ctr_fwhm_ps",
    "module_time_offset": "time_offset_ps",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def pulls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Pulls by check and level (`photopeak`, `photopeak@module`, …), one row a seed."""
    found: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        folder: Path = tmp_path_factory.mktemp(f"seed{seed}")
        truth = write_recording(folder / "run", "bench", seed, SECONDS)
        run = analyse_file(truth["recording"], config=truth["config"])
        assert run.verdict in {Status.PASS, Status.WARN}, f"seed {seed}: {run.sentence}"
        (folder / "run.rawf").unlink()
        # Offsets are told against the mean of the modules in both.
        for check, key in TRUTH_KEYS.items():
            nodes = {"": {"scanner": truth["scanner"]}, "@module": truth["modules"], "@asic": truth["asics"]}
            for level, places in nodes.items():
                row = []
                for node, values in places.items():
                    result = run.find(check, node)
                    if result is None or result.value is None or result.uncertainty is None or key not in values:
                        continue
                    expected = values[key]
                    if check == "module_time_offset" and level == "@asic":
                        expected -= truth["modules"][_module_of(node)][key]
                    row.append((result.value - expected) / result.uncertainty)
                if row:
                    found.setdefault(check + level, []).append(row)
    return {name: np.array(rows) for name, rows in found.items()}


def _module_of(asic: str) -> str:
    port, slave, chip = asic.removeprefix("asic:").split(".")
    return f"module:{port}.{slave}.{int(chip) // 4}"


@pytest.mark.parametrize("check", ["photopeak", "energy_resolution", "ctr_fit"])
def test_pulls_of_the_scanner_over_all_seeds(pulls, check):
    values = pulls[check][:, 0]
    assert values.size == len(SEEDS)
    assert abs(values.mean()) < 0.5
    assert 0.8 < values.std(ddof=1) < 1.2


@pytest.mark.parametrize("name", ["photopeak@module", "energy_resolution@module", "module_time_offset@module"])
def test_pulls_of_modules(pulls, name):
    # The two modules share the systematic terms (and offsets are mirror images), so their mean is as uncertain as one.
    values = pulls[name].ravel()
    assert values.size == 2 * len(SEEDS)
    assert abs(values.mean()) < 0.5
    assert 0.65 < values.std(ddof=1) < 1.35


@pytest.mark.parametrize("name", ["photopeak@asic", "energy_resolution@asic", "module_time_offset@asic"])
def test_pulls_of_asics(pulls, name):
    values = pulls[name].ravel()
    assert values.size == 8 * len(SEEDS)
    assert abs(values.mean()) < 0.5
    assert 0.65 < values.std(ddof=1) < 1.35


def test_the_nema_rule_agrees_within_its_own_uncertainty(pulls):
    values = pulls["ctr_nema"][:, 0]
    assert abs(values.mean()) < 0.6
    assert 0.6 < values.std(ddof=1) < 1.4
