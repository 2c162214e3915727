"""What the page of devices writes without a template: readings and permits, as they are, and harmless."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from petqcd.web.console.devices import STALE_S, permits, rows, summary, with_open

EVIL = '<script>alert("x")</script>&'


def reading(**given: Any) -> dict[str, Any]:
    return {
        "name": "bias_voltage",
        "node": "hv",
        "value": 53.217,
        "unit": "V",
        "measured": True,
        "quality": "good",
        "age_s": 0.44,
        "reason": None,
        **given,
    }


def cells(**given: Any) -> tuple[str, list[str]]:
    """Class of the row, and what its cells say."""
    (row,) = ET.fromstring(f"<t>{rows([reading(**given)])}</t>")  # noqa: S314 - our own
    return row.get("class", ""), ["".join(cell.itertext()).strip() for cell in row]


@pytest.mark.parametrize(
    ("given", "look", "said"),
    [
        ({}, "", ["bias_voltage", "53.22 V", "read", "0.4 s"]),
        ({"measured": False, "unit": "degC"}, "", ["bias_voltage", "53.22 °C", "commanded", "0.4 s"]),
        (
            {"quality": "uncertain", "reason": "above"},
            "",
            ["bias_voltage", "53.22 V", "read, uncertain above", "0.4 s"],
        ),
        ({"age_s": STALE_S + 0.1}, "stale", ["bias_voltage", "53.22 V", "read, old", "10.1 s"]),
        ({"value": None, "quality": "absent"}, "stale", ["bias_voltage", "– V", "absent", "0.4 s"]),
        ({"value": None, "quality": "bad", "age_s": 90.0}, "stale", ["bias_voltage", "– V", "bad, old", "1 min 30 s"]),
        ({"age_s": None}, "stale", ["bias_voltage", "53.22 V", "read, old", "–"]),
    ],
)
def test_a_reading(given: dict[str, Any], look: str, said: list[str]) -> None:
    for _ in range(2):  # what was written before is used again
        assert cells(**given) == (look, said)


@pytest.mark.parametrize("where", ["name", "unit", "quality", "reason"])
def test_what_a_device_says_stays_text(where: str) -> None:
    assert "<script" not in rows([reading(**{where: EVIL})])
    assert any(EVIL in cell for cell in cells(**{where: EVIL})[1])


def test_permits() -> None:
    given = {"name": "device link", "why_not": "", "to_energise": True, "to_stay": True, "bypassed": False}
    lost = {**given, "name": EVIL, "why_not": EVIL, "to_stay": False, "bypassed": True}
    first, second = ET.fromstring(f"<t>{permits([given, lost])}</t>")  # noqa: S314 - our own
    assert "".join(first.itertext()) == "✔ device link: given to energise and to stay on"
    assert "".join(second.itertext()) == f"✖ {EVIL}: {EVIL}, bypassed to energise"
    assert [one.tag for one in second] == ["span", "b", "small"]


def test_tables_of_many_devices_are_opened_and_closed_one_by_one() -> None:
    assert with_open((), "hv") == "/devices?open=hv"
    assert with_open(("hv",), "b & c") == "/devices?open=hv&open=b+%26+c"
    assert with_open(("hv", "chiller"), "hv") == "/devices?open=chiller"
    assert with_open(("hv",), "hv") == "/devices"


def test_what_is_not_shown_is_not_silent() -> None:
    absent = reading(value=None, quality="absent")
    assert summary([reading(), absent]) == ("2 readings", True)
    assert summary([reading()]) == ("1 reading", True)
    ill = [reading(age_s=STALE_S + 1), reading(age_s=None), reading(value=None, quality="bad")]
    assert summary([reading(), *ill]) == ("4 readings, 3 of them old or not good", False)
