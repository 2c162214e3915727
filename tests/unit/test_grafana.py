"""Dashboards and provisioning against Grafana's own schema: its foundation SDK, generated for 11.6."""

from __future__ import annotations

import enum
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import Rule
from grafana_foundation_sdk.models.dashboard import Dashboard

from petqcd.metric_table import CHECK_METRICS, METRICS
from petqcd.monitoring.dashboards import dashboards
from petqcd.monitoring.grafana import FOLDER, SOURCE_UID, WIDTH
from petqcd.monitoring.grafana_alerts import alert_rules
from petqcd.monitoring.rules import RECORDINGS

GRAFANA = Path(__file__).resolve().parents[2] / "monitoring" / "grafana"
OF_PROMETHEUS = {"useValueForTime", "titleFormat", "textFormat"}
"""Of an annotation: read by the data source's own plugin, so the schema of dashboards has no word for them."""
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def known_panels() -> None:
    plugins.register_default_plugins()


def conforms(value: Any, hint: Any, where: str) -> list[str]:
    """What of a value read by the schema's classes is not of the type that they declare."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar):
        return []
    if origin in (typing.Union, types.UnionType):
        found = [conforms(value, one, where) for one in inside]
        return [] if any(not f for f in found) else min(found, key=len)
    if origin is typing.Literal:
        return [] if value in inside else [f"{where}: {value!r} is none of {inside}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [w for i, one in enumerate(value) for w in conforms(one, inside[0], f"{where}[{i}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        return [w for key, one in value.items() for w in conforms(one, inside[1], f"{where}.{key}")]
    if issubclass(hint, enum.Enum):
        return [] if value in list(hint) else [f"{where}: {value!r} is none of {[e.value for e in hint]}"]
    if isinstance(value, dict) and hasattr(hint, "from_json"):  # some classes keep a part as it came
        read = hint.from_json(value)
        return lost(value, json.loads(json.dumps(read, cls=JSONEncoder)), where) + conforms(read, hint, where)
    if hint is float:
        hint = (int, float)
    if not isinstance(value, hint):
        return [f"{where}: {value!r} is no {hint}"]
    if not hasattr(hint, "from_json"):
        return []
    scope = {**vars(typing), **vars(__import__(hint.__module__, fromlist=["*"]))}
    return [
        wrong
        for name, declared in typing.get_type_hints(hint, scope).items()
        for wrong in conforms(getattr(value, name), declared, f"{where}.{name}")
    ]


def lost(given: Any, read: Any, where: str = "") -> list[str]:
    """What the schema does not know: it is gone, or another value, after reading and writing again."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [
            w
            for key, value in given.items()
            for w in (lost(value, read[key], f"{where}.{key}") if key in read else [f"{where}.{key} is unknown"])
        ]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [w for i, (a, b) in enumerate(zip(given, read, strict=True)) for w in lost(a, b, f"{where}[{i}]")]
    return [] if given == read else [f"{where}: {given!r} became {read!r}"]


def judged(cls: Any, document: Any) -> list[str]:
    read = cls.from_json(document)
    return lost(document, json.loads(json.dumps(read, cls=JSONEncoder))) + conforms(read, cls, cls.__name__)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_dashboard_is_what_grafana_reads(path: Path) -> None:
    document = json.loads(path.read_text())
    for annotation in document["annotations"]["list"]:
        for key in OF_PROMETHEUS:
            del annotation[key]
    assert judged(Dashboard, document) == []


def test_the_schema_sees_what_is_wrong() -> None:
    document = json.loads(FILES[0].read_text())
    document["panels"][0]["gridPos"]["w"] = "wide"
    document["panels"][1]["fieldConfig"]["defaults"]["untis"] = "s"
    document["graphTooltip"] = 7
    document["templating"]["list"][1]["type"] = "querry"
    found = "\n".join(judged(Dashboard, document))
    for word in ("wide", "untis", "7", "querry"):
        assert word in found


def test_panels_lie_side_by_side_and_each_check_is_shown_once() -> None:
    shown: dict[str, int] = {}
    for dashboard in dashboards():
        taken: set[tuple[int, int]] = set()
        document = dashboard.document()
        assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
        for panel in document["panels"]:
            g = panel["gridPos"]
            assert g["x"] + g["w"] <= WIDTH
            cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells
            for target in panel["targets"]:
                for metric in re.findall(r"^(petqc_\w+){scanner=~.\$scanner.,module=~.\$module.}$", target["expr"]):
                    shown[metric] = shown.get(metric, 0) + 1
    for metric in CHECK_METRICS.values():
        assert shown.get(metric) == 1, metric


def test_queries_use_only_metrics_that_exist() -> None:
    known = {m.name for m in METRICS} | {r.record for group in RECORDINGS.values() for r in group}
    text = "".join(path.read_text() for path in FILES)
    names = {name for expr in re.findall(r'"expr": (".*")', text) for name in re.findall(r"petqc[_:][a-z0-9_:]+", expr)}
    assert len(names) > 40
    assert names <= known


def test_grafana_alerts_are_the_table_in_its_own_words() -> None:
    document = alert_rules()
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    for rule in rules:
        # A file leaves out what the interface needs, and counts seconds where it has a word for a span.
        data = [{key: value for key, value in one.items() if key != "relativeTimeRange"} for one in rule["data"]]
        assert judged(Rule, {**rule, "data": data}) == []
        assert len(rule["uid"]) <= 40
        assert "query" not in rule["annotations"]["summary"]
        assert "$value " not in rule["annotations"]["summary"]
    assert {one["data"][0]["datasourceUid"] for one in rules} == {SOURCE_UID}


def test_a_plain_server_finds_everything_by_the_provisioning() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/petqc.yaml").read_text())["datasources"]
    assert (source["uid"], source["type"]) == (SOURCE_UID, "prometheus")
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/petqc.yaml").read_text())["providers"]
    assert provider["folder"] == FOLDER
    assert provider["options"]["path"] == "$PETQC_GRAFANA/dashboards"
    rules = yaml.safe_load((GRAFANA / "provisioning/alerting/petqc.yaml").read_text())
    assert {group["folder"] for group in rules["groups"]} == {FOLDER}
    ini = (GRAFANA / "grafana.ini").read_text()
    home = re.search(r"default_home_dashboard_path = \$__env\{PETQC_GRAFANA\}/(.*)", ini)
    assert home is not None
    assert (GRAFANA / home[1]).is_file()
