"""Metrics for Prometheus: the values of the names in the table, and a text that a scrape reads at once.

Ages are timestamps of the last success, so a value that stopped being renewed cannot look fresh. Every known series
exists from the start. Labels are scanner, module, device, check and kind, never channels, crystals or run ids.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from petqcd import clock
from petqcd.metric_table import (
    CALIBRATIONS,
    CHECK_METRICS,
    DAILY,
    DEVICE,
    METRICS,
    QC_RUNS,
    STATUS_CODE,
    TO_BASE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.results import CheckResult, Run
    from petqcd.metric_table import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text. Source: Prometheus documentation, exposition formats, text-based format."""
_BIAS_UNKNOWN = 3
_VERDICT_COUNTER: Mapping[str, str] = {
    "pass": "petqc_runs_passed_total",
    "warn": "petqc_runs_warned_total",
    "fail": "petqc_runs_failed_total",
    "invalid": "petqc_runs_invalid_total",
    "missed": "petqc_runs_missed_total",
}


@dataclass(slots=True)
class _Series:
    """One line of the text: name and labels as they are written, and the value. line: of a value, as written last."""

    written: str
    value: float = 0.0
    line: tuple[float, str] | None = None

    def text(self) -> str:
        """The line. Values may be set meanwhile: what was written is known with the value that it is of."""
        value, known = self.value, self.line
        if known is None or known[0] != value:
            known = self.line = value, f"{self.written}{_number(value)}\n"
        return known[1]


@dataclass(slots=True)
class _Family:
    """All series of a name, by their label values. changes: how many; text: as written last, after so many."""

    metric: Metric
    head: str
    series: dict[tuple[str, ...], _Series] = field(default_factory=dict)
    changes: int = 0
    text: tuple[int, str] | None = None

    @classmethod
    def of(cls, metric: Metric) -> _Family:
        told = metric.help.replace("\\", r"\\").replace("\n", r"\n")
        return cls(metric, f"# HELP {metric.name} {told}\n# TYPE {metric.name} {metric.kind}\n")

    def child(self, values: tuple[str, ...]) -> _Series:
        """The series of these label values; made if there is none."""
        found = self.series.get(values)
        if found is None:
            pairs = sorted(zip(self.metric.labels, values, strict=True))
            written = ",".join(f'{label}="{_escaped(value)}"' for label, value in pairs)
            found = self.series[values] = _Series(f"{self.metric.name}{{{written}}} ")
            self.changes += 1
        return found

    def put(self, values: tuple[str, ...], value: float, *, adds: bool = False) -> None:
        """Give a series its value, or add to it; the same value is no change."""
        series = self.series.get(values) or self.child(values)
        value = series.value + value if adds else value
        if series.value != value:
            series.value = value
            self.changes += 1


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


class Gauge:
    """One series of a gauge that is set again and again: its labels are looked at once."""

    __slots__ = ("_family", "_lock", "_values")

    def __init__(self, family: _Family, values: tuple[str, ...], lock: threading.Lock) -> None:
        self._family, self._values, self._lock = family, values, lock

    def set(self, value: float) -> None:
        """Give it its value."""
        with self._lock:
            self._family.put(self._values, float(value))

    def clear(self) -> None:
        """Take it away, as it has no value that could be believed; it is back with the next `set`."""
        with self._lock:
            if self._family.series.pop(self._values, None) is not None:
                self._family.changes += 1


class Metrics:
    """The values, and the text of their last change. Every method may be called from any thread.

    The text is made here and not by prometheus_client, with which tests compare it: that library takes eight
    microseconds a series, all the while keeping the interpreter from everybody else, which a site of thousands of
    series feels in every other answer.
    """

    def __init__(self, scanner: str, device: str, *, simulated: bool) -> None:
        self._known = {"scanner": scanner, "device": device}
        self._lock = threading.Lock()
        self._families = {metric.name: _Family.of(metric) for metric in METRICS}
        self._making = threading.Lock()
        self._text: tuple[int, bytes] | None = None
        for metric in METRICS:
            is_of_board = metric.labels == DEVICE and not metric.name.startswith("petqc_instrument_")
            if (metric.labels == ("scanner",) or is_of_board) and "celsius" not in metric.name:
                self._families[metric.name].child(self._values(metric.name, {}))
        self.set("petqc_start_time_seconds", clock.unix_s())
        self.set("petqc_simulated", float(simulated))
        self.set("petqc_run_verdict", -1)
        self.set("petqc_bias_state", _BIAS_UNKNOWN)
        for name in QC_RUNS:
            self.set("petqc_qc_run_verdict", -1, kind=name)
            self.set("petqc_qc_run_last_finished_timestamp_seconds", 0, kind=name)
            self.set("petqc_qc_run_last_success_timestamp_seconds", 0, kind=name)
            self.set("petqc_qc_run_last_missed_timestamp_seconds", 0, kind=name)
            self.set("petqc_schedule_next_due_timestamp_seconds", 0, kind=name)
            self.set("petqc_schedule_overdue", 0, kind=name)
        for name in CALIBRATIONS:
            self.set("petqc_calibration_run_verdict", -1, kind=name)
            self.set("petqc_calibration_run_last_finished_timestamp_seconds", 0, kind=name)
            self.set("petqc_calibration_made_timestamp_seconds", 0, kind=name)

    def text(self) -> bytes:
        """The exposition text; only what changed is written anew. Takes its time, during which values may be set."""
        with self._making:
            changes = sum(family.changes for family in self._families.values())
            if self._text is None or self._text[0] != changes:
                self._text = changes, self._written().encode()
            return self._text[1]

    def _written(self) -> str:
        parts = []
        for family in self._families.values():
            changes = family.changes
            if family.text is None or family.text[0] != changes:
                with self._lock:
                    series = [*family.series.values()]
                family.text = changes, family.head + "".join([one.text() for one in series])
            parts.append(family.text[1])
        return "".join(parts)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """A series to set again and again; scanner and device are filled in. There is none before its first value."""
        return Gauge(self._families[name], self._values(name, labels), self._lock)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Give a gauge its value; scanner and device are filled in."""
        self.gauge(name, **labels).set(value)

    def clear(self, name: str, **labels: str) -> None:
        """Take a gauge away that has no value that could be believed; it is back with the next `set`."""
        self.gauge(name, **labels).clear()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Advance a counter."""
        with self._lock:
            self._families[name].put(self._values(name, labels), amount, adds=True)

    def run_stored(self, run: Run, *, finished_unix_s: float, duration_s: float) -> None:
        """Publish a run that is stored. A check without a number keeps its last value and that value's old time."""
        verdict = str(run.verdict)
        self.add(_VERDICT_COUNTER[verdict])
        if run.kind == DAILY:
            self.set("petqc_run_duration_seconds", duration_s)
        self.restore(run, finished_unix_s=finished_unix_s)

    def restore(self, run: Run, *, finished_unix_s: float) -> None:
        """Publish the newest stored run of a kind at start, with the times it had, without counting it again."""
        if self._calibrated(run, finished_unix_s):
            return
        if str(run.verdict) == "missed":
            self.set("petqc_qc_run_last_missed_timestamp_seconds", finished_unix_s, kind=run.kind)
        # What judges dark counts alone must not hide what the daily run said.
        stems: list[tuple[str, dict[str, str]]] = [("petqc_qc_run", {"kind": run.kind})]
        if run.kind == DAILY:
            stems.append(("petqc_run", {}))
        for stem, labels in stems:
            self.set(f"{stem}_verdict", STATUS_CODE[str(run.verdict)], **labels)
            if str(run.verdict) == "missed":
                continue  # nothing ended
            self.set(f"{stem}_last_finished_timestamp_seconds", finished_unix_s, **labels)
            if str(run.verdict) != "invalid":
                self.set(f"{stem}_last_success_timestamp_seconds", finished_unix_s, **labels)
        if run.parts:
            return  # its checks are those of its parts, which were published with their own times
        for result in run.checks:
            self._result(result, finished_unix_s)

    def _calibrated(self, run: Run, finished_unix_s: float) -> bool:
        """Publish a calibration run; False: it is none. What the last QC run found stands beside it."""
        if not run.is_calibration:
            return False
        kind = run.kind.removeprefix("calibrate-").removesuffix("-iv")  # from curves or from counts: the same table
        self.set("petqc_calibration_run_verdict", STATUS_CODE[str(run.verdict)], kind=kind)
        self.set("petqc_calibration_run_last_finished_timestamp_seconds", finished_unix_s, kind=kind)
        return True

    def _result(self, result: CheckResult, at_unix_s: float) -> None:
        module = _module_of(result.node)
        if module is None:
            return
        if str(result.status) in STATUS_CODE:  # a value without limits has none
            self.set("petqc_check_status", STATUS_CODE[str(result.status)], module=module, check=result.id)
        if result.value is None:
            return
        self.set("petqc_check_last_success_timestamp_seconds", at_unix_s, module=module, check=result.id)
        if result.is_chart and result.limits.warn_high:
            share = result.value / result.limits.warn_high
            self.set("petqc_chart_limit_ratio", share, module=module, check=result.id)
        name, factor = CHECK_METRICS.get(result.id), TO_BASE.get(result.unit)
        if name is not None and factor is not None:
            self.set(name, result.value * factor, module=module)

    def _values(self, name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        known, wanted = self._known, self._families[name].metric.labels
        return tuple([labels[label] if label in labels else known[label] for label in wanted])


def _module_of(node: str) -> str | None:
    """The module label of a node; None for nodes that metrics do not carry."""
    if node == "scanner":
        return node
    if node.startswith("module:") and " - " not in node:
        return node.removeprefix("module:")
    return None
