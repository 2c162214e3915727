"""The files of monitoring/: what the tables give, on metrics that exist, for every check, and right by promtool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.run_documents import usual_run

from petqc.checks import all_checks
from petqc.limits import Limits
from petqc.results import CheckResult
from petqcd.metric_table import CHECK_METRICS, METRICS
from petqcd.metrics import Metrics
from petqcd.monitoring.__main__ import made_files
from petqcd.monitoring.alerts import ALERTS
from petqcd.monitoring.rules import RECORDINGS

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not on PATH, and without it nobody knows whether our rules do what they say")
        pytest.skip(f"{name} is not on PATH: ./petqc test installs it when run as root on Debian")
    return found


def judged(*command: str) -> None:
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", made_files())
def test_a_made_file_is_what_the_tables_give(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == made_files()[name], "python -m petqcd.monitoring"


def test_rules_use_only_metrics_that_exist() -> None:
    recorded = {r.record for group in RECORDINGS.values() for r in group}
    known = {m.name for m in METRICS} | recorded
    used = set()
    for path in PROMETHEUS.glob("*.yml"):
        text = path.read_text()
        if path.name == "fleet.rules.yml":
            known |= set(re.findall(r"record: (\S+)", text))
        used |= set(re.findall(r"\bpetqc[_:][a-z0-9_:]+[a-z]", text))
    assert len(used) > 40
    assert used - known == set()


def test_every_check_has_its_title_its_greatest_age_and_its_value() -> None:
    recorded = {(r.record, r.labels.get("check") or r.labels.get("of")) for g in RECORDINGS.values() for r in g}
    for check in all_checks():
        assert ("petqc:check_info", check.id) in recorded
        assert ("petqc:check_max_age_seconds", check.id) in recorded
    with_metric = {check for record, check in recorded if record == "petqc:check_value"}
    assert with_metric == set(CHECK_METRICS)
    assert {check.partition(".")[0] for check in with_metric} <= {check.id for check in all_checks()}


def test_every_alert_fires_in_a_test_and_says_what_to_do() -> None:
    tests = "".join(path.read_text() for path in PROMETHEUS.glob("*.test.yml"))
    fires = re.compile(
        r"alertname=\"(\w+)\".*value: 1}|alertname: (\w+)\n.*\n *exp_alerts:\n|"
        r"expr: count by .*alertname=\"(\w+)\".*\n.*\n *exp_samples:\n"
    )
    fired = {name for groups in fires.findall(tests) for name in groups if name}
    names = [alert.name for alert in ALERTS]
    assert len(set(names)) == len(names)
    for alert in ALERTS:
        assert alert.name in fired
        assert alert.action.endswith(".")
        assert alert.summary


@pytest.mark.parametrize("name", sorted(path.name for path in PROMETHEUS.glob("*.test.yml")))
def test_the_rules_do_what_their_tests_say(name: str) -> None:
    judged(tool("promtool"), "test", "rules", name)


def test_the_examples_are_taken_by_the_programs_they_are_for() -> None:
    for name in ("prometheus.yml", "fleet.yml"):
        judged(tool("promtool"), "check", "config", name)
    judged(tool("amtool"), "check-config", "alertmanager.yml")


def test_a_part_of_a_check_has_a_metric_of_its_own() -> None:
    metrics = Metrics("bench", "board", simulated=True)
    found = [
        CheckResult.measured(name, node, value, unit, 0.0, 0, Limits())
        for name, node, value, unit in (
            ("windows.coincidence", "scanner", 4.7, "ns"),
            ("windows.energy_low", "scanner", 435.0, "keV"),
            ("supply_voltage.vdd1", "module:0.0.1", 1.35, "V"),
            ("published.energy_resolution", "scanner", 10.5, "%"),
        )
    ]
    metrics.restore(usual_run(checks=found), finished_unix_s=1.0)
    lines = dict(line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line[0] != "#")
    for series, value in (
        ('petqc_coincidence_window_seconds{module="scanner",scanner="bench"}', 4.7e-9),
        ('petqc_energy_window_low_electronvolts{module="scanner",scanner="bench"}', 435e3),
        ('petqc_supply_vdd1_volts{module="0.0.1",scanner="bench"}', 1.35),
        ('petqc_compared_energy_resolution_ratio{module="scanner",scanner="bench"}', 0.105),
    ):
        assert float(lines[series]) == pytest.approx(value, rel=1e-12)
