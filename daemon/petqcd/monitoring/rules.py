"""monitoring/prometheus/petqc.rules.yml: what is recorded of the checks, and the table of alerts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from petqc.checks import all_checks
from petqcd.metric_table import CHECK_METRICS, with_metric
from petqcd.monitoring.alerts import ALERTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from petqc.checks import Check

_HOUR, _DAY = 3600, 86_400
MAX_AGE_S: Mapping[str, int] = {
    "source": 80 * _HOUR,
    "lutetium": 80 * _HOUR,
    "housekeeping": 80 * _HOUR,
    "dark": 35 * _DAY,
    "test-pulse": 35 * _DAY,
    "mr-delta": 100 * _DAY,
}
"""How old a check's number may get, by what it is measured in: a weekend without QC, a month, a quarter."""
UNITS: Mapping[str, str] = {
    "electronvolts": "eV", "seconds": "s", "hertz": "Hz", "celsius": "°C", "volts": "V", "kelvins": "K", "meters": "m",
}  # fmt: skip
"""How the unit in a metric's name is written after a number."""
HISTORY = "7d"
"""What a drift is taken from; a week of daily runs."""
LEAST_RENEWALS = 3
"""Renewals of a value within HISTORY before it has a drift: four measurements."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording rule."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


def unit_of(metric: str) -> str:
    """The unit that a metric's values have, as written after a number; empty for ratios and counts."""
    return UNITS.get(metric.rpartition("_")[2], "")


def max_age_s(check: Check) -> int:
    """How old the number of a check may get: the most patient of the runs that have it decides for the others, too."""
    return min(MAX_AGE_S[data] for data in check.data)


def _of_checks() -> Iterator[Recording]:
    for check in all_checks():
        yield Recording("petqc:check_info", "vector(1)", {"check": check.id, "title": check.title})
    for check in all_checks():
        yield Recording("petqc:check_max_age_seconds", f"vector({max_age_s(check)})", {"of": check.id})
    for check in all_checks():
        for one in with_metric(check.id):
            metric = CHECK_METRICS[one]
            yield Recording("petqc:check_value", metric, {"check": one, "unit": unit_of(metric)})


def _drift(metric: str, check: str, *, settled: str = "") -> str:
    renewed = f'changes(petqc_check_last_success_timestamp_seconds{{check="{check}"}}[{HISTORY}]) >= {LEAST_RENEWALS}'
    return f"deriv({metric}[{HISTORY}]) * {_DAY} and on (scanner, module) {renewed}{settled}"


def _of_drifts() -> Iterator[Recording]:
    calibrated = f" unless on (scanner) time() - petqc_calibration_made_timestamp_seconds{{kind=%s}} < {7 * _DAY}"
    yield Recording(
        "petqc:module_time_offset_drift_seconds_per_day",
        _drift(
            'petqc_module_time_offset_seconds{module!="scanner"}',
            "module_time_offset",
            settled=calibrated % '"time-offsets"',
        ),
    )
    yield Recording(
        "petqc:ctr_drift_seconds_per_day",
        _drift("petqc_ctr_fit_seconds", "ctr_fit", settled=calibrated % '"time-offsets"'),
    )
    yield Recording(
        "petqc:photopeak_drift_electronvolts_per_day",
        _drift("petqc_photopeak_electronvolts", "photopeak", settled=calibrated % '"energy"'),
    )
    yield Recording(
        "petqc:run_age_seconds", "time() - (petqc_run_last_success_timestamp_seconds > 0 or petqc_start_time_seconds)"
    )


RECORDINGS: Mapping[str, tuple[Recording, ...]] = {
    "petqc-values": tuple(_of_checks()),
    "petqc-trends": tuple(_of_drifts()),
}
"""Recording rules by group."""


def rules_file() -> str:
    """The file; every text in it is quoted, so that nothing in a rule can be taken for YAML."""
    lines = [
        "# Made by `python -m petqcd.monitoring` from the tables in daemon/petqcd/monitoring/: change those, not this.",
        "groups:",
    ]
    for group, recordings in RECORDINGS.items():
        lines += [f"- name: {group}", "  rules:"]
        for recording in recordings:
            lines += [f"  - record: {recording.record}", f"    expr: {_quoted(recording.expr)}"]
            if recording.labels:
                lines.append(f"    labels: {_quoted(dict(recording.labels))}")
    for group, alerts in groupby(ALERTS, key=lambda alert: alert.group):
        lines += [f"- name: petqc-{group}", "  rules:"]
        for alert in alerts:
            lines += [
                f"  - alert: {alert.name}",
                f"    expr: {_quoted(alert.expr)}",
                f"    for: {alert.hold}",
                f"    labels: {_quoted({'severity': alert.severity})}",
                "    annotations:",
                f"      summary: {_quoted(alert.summary)}",
                f"      runbook: {_quoted(alert.runbook)}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(value: str | dict[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False)
