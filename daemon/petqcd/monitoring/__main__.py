"""Writes the files that are made from the tables, in the checkout that this module belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from petqcd.monitoring import alerts, dashboards, grafana, grafana_alerts, rules

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[3]


def made_files() -> Mapping[str, str]:
    """What each of the files must hold, by its path in the checkout."""
    folder = "monitoring/grafana"
    return {
        alerts.PAGE: alerts.reference_page(),
        "monitoring/prometheus/petqc.rules.yml": rules.rules_file(),
        # YAML reads JSON; the ending is what Grafana looks for.
        f"{folder}/provisioning/alerting/petqc.yaml": grafana.text(grafana_alerts.alert_rules()),
        **{f"{folder}/dashboards/{one.file}": grafana.text(one.document()) for one in dashboards.dashboards()},
    }


def main() -> None:
    """Write them."""
    for name, text in made_files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
