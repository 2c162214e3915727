"""How Grafana writes a dashboard: panels, their place, variables, annotations. What they show is `dashboards.py`'s."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SOURCE_UID = "petqc-prometheus"
FOLDER = "petqc"
WIDTH = 24
"""Columns of Grafana's grid."""
SCHEMA_VERSION = 41
"""Of Grafana 11.6; later ones read it."""
_SOURCE = {"type": "prometheus", "uid": "${source}"}
SCANNER = '{scanner=~"$scanner"}'
NODE = '{scanner=~"$scanner",module=~"$module"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its kind, what it asks, and how large it is in columns and rows of the grid."""

    title: str
    queries: tuple[tuple[str, str], ...]
    """(PromQL, legend)"""
    kind: str = "timeseries"
    unit: str = "short"
    said: str = ""
    """What a person should know of it."""
    names: Mapping[int, tuple[str, str]] | None = None
    """Value -> word and colour."""
    limit: float | None = None
    """From here on it is red."""
    width: int = 12
    height: int = 7

    @property
    def is_instant(self) -> bool:
        """Whether it shows what is now, rather than a course."""
        return self.kind in ("stat", "table", "bargauge")

    def document(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana has it."""
        defaults: dict[str, Any] = {"unit": self.unit, "noValue": "nothing measured"}
        if self.names is not None:
            options = {str(value): {"text": word, "color": colour} for value, (word, colour) in self.names.items()}
            defaults["mappings"] = [{"type": "value", "options": options}]
        if self.limit is not None:
            steps = [{"color": "green", "value": None}, {"color": "red", "value": self.limit}]
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
            defaults["color"] = {"mode": "thresholds"}
        form = "table" if self.kind == "table" else "time_series"
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            **({"description": self.said} if self.said else {}),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "datasource": _SOURCE,
            "targets": [
                {
                    "refId": chr(ord("A") + i),
                    "datasource": _SOURCE,
                    "expr": expr,
                    "legendFormat": legend,
                    "instant": self.is_instant,
                    "range": not self.is_instant,
                    "format": form,
                }
                for i, (expr, legend) in enumerate(self.queries)
            ],
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": _OPTIONS[self.kind],
            **({"transformations": _TABLE} if self.kind == "table" else {}),
        }


_OPTIONS: Mapping[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background", "graphMode": "none", "textMode": "auto",
    },
    "bargauge": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "displayMode": "basic", "orientation": "horizontal",
    },
    "state-timeline": {
        "mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.8,
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}  # fmt: skip
_HIDDEN = ("Time", "__name__", "instance", "job", "alertstate")
_TABLE = [{"id": "organize", "options": {"excludeByName": dict.fromkeys(_HIDDEN, True)}}]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    said: str
    panels: tuple[Panel, ...]
    span: str = "now-30d"
    by_module: bool = True

    @property
    def file(self) -> str:
        """Its name in monitoring/grafana/dashboards/."""
        return f"{self.uid}.json"

    def document(self) -> dict[str, Any]:
        """As Grafana has it."""
        variables = [
            {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus",
             "current": {"text": SOURCE_UID, "value": SOURCE_UID}},
            _variable("scanner", "Scanner", "label_values(petqc_start_time_seconds, scanner)"),
        ]  # fmt: skip
        if self.by_module:
            variables.append(
                _variable(
                    "module", "Module", f"label_values(petqc_check_last_success_timestamp_seconds{SCANNER}, module)"
                )
            )
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.said,
            "tags": ["petqc"],
            "timezone": "browser",
            "editable": True,
            "graphTooltip": 1,
            "schemaVersion": SCHEMA_VERSION,
            "refresh": "1m",
            "time": {"from": self.span, "to": "now"},
            "templating": {"list": variables},
            "annotations": {"list": [_annotation(*one) for one in _ANNOTATIONS]},
            "links": [
                {"title": "petqc", "type": "dashboards", "tags": ["petqc"], "asDropdown": True, "includeVars": True,
                 "keepTime": True, "icon": "external link", "targetBlank": False, "tooltip": "", "url": ""},
            ],
            "panels": list(_placed(self.panels)),
        }  # fmt: skip


def _placed(panels: Iterable[Panel]) -> Iterable[dict[str, Any]]:
    """Left to right, then the next row."""
    x = y = row = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, row = 0, y + row, 0
        yield panel.document(number, x, y)
        x, row = x + panel.width, max(row, panel.height)


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query", "name": name, "label": label, "datasource": _SOURCE, "query": query, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


_ANNOTATIONS = (
    ("Daily QC", "green", f"petqc_run_last_finished_timestamp_seconds{SCANNER} > 0", "daily QC"),
    ("Calibration", "blue", f"petqc_calibration_made_timestamp_seconds{SCANNER} > 0", "{{kind}}"),
    ("Baseline", "orange", f"petqc_reference_accepted_timestamp_seconds{SCANNER} > 0", "{{kind}}"),
)
"""Name, colour, query whose value is a time in seconds, text."""


def _annotation(name: str, colour: str, expr: str, text: str) -> dict[str, Any]:
    return {
        "name": name, "datasource": _SOURCE, "enable": True, "hide": False, "iconColor": colour,
        "expr": f"({expr}) * 1000", "useValueForTime": True, "titleFormat": name, "textFormat": text,
    }  # fmt: skip


def text(document: Any) -> str:
    """JSON as the files have it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
