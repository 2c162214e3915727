"""monitoring/grafana/provisioning/alerting/: the table of alerts for a Grafana without Alertmanager."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from petqcd.monitoring.alerts import ALERTS, TITLE, VALUE, Alert
from petqcd.monitoring.grafana import FOLDER, SOURCE_UID

LOOK_BACK_S = 600


def alert_rules() -> dict[str, Any]:
    """The provisioning document."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": f"petqc-{group}",
                "folder": FOLDER,
                "interval": "1m",
                "rules": [_rule(alert) for alert in alerts],
            }
            for group, alerts in groupby(ALERTS, key=lambda alert: alert.group)
        ],
    }


def _rule(alert: Alert) -> dict[str, Any]:
    def asked(ref: str, source: str, model: dict[str, Any]) -> dict[str, Any]:
        span = {"from": LOOK_BACK_S, "to": 0}
        return {"refId": ref, "relativeTimeRange": span, "datasourceUid": source, "model": {"refId": ref, **model}}

    return {
        "uid": alert.name,
        "title": alert.name,
        "condition": "B",
        "data": [
            asked("A", SOURCE_UID, {"expr": alert.expr, "instant": True, "range": False}),
            # An expression gives a series for each thing that is wrong, whatever its value: 0 is a finding, too.
            asked("B", "__expr__", {"type": "math", "expression": "is_number($A)"}),
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": alert.hold,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": _summary(alert.summary), "runbook": alert.runbook},
        "isPaused": False,
    }


def _summary(template: str) -> str:
    """A Prometheus template in the words of Grafana, whose templates cannot ask for another series."""
    template = template.replace(TITLE, "{{ $labels.check }}").replace(VALUE, "")
    return re.sub(r"\$value\b", "$values.A.Value", template)
