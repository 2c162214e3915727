"""The instruments around the detector as a table: state, bias, and the last readings with their age."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from petqc.report.text import plain, unit_text
from petqcd.cli.show import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def print_devices(devices: Sequence[Mapping[str, Any]]) -> None:
    """One line each; nothing without any."""
    if not devices:
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("device", "state", "bias", "readings", "age"):
        table.add_column(name, overflow="fold", no_wrap=name in ("device", "age"))
    for one in devices:
        state = one["state"] + (f": {one['detail']}" if one["detail"] else "")
        name = one["name"] + (" (simulated)" if one["simulated"] else "")
        table.add_row(name, state, one["bias"] or "no output", _readings(one["readings"]), _age(one["readings"]))
    console().print(table)


def _readings(readings: Sequence[Mapping[str, Any]]) -> str:
    """Those that there is something to say of: no sensor that is not fitted. Without a value, by their reason."""
    told = [_reading(one) for one in readings if one["value"] is not None]
    without: dict[str, list[str]] = {}
    for one in readings:
        if one["value"] is None and one["quality"] != "absent":
            without.setdefault(one["reason"] or one["quality"], []).append(one["name"])
    told += [f"no value ({reason}): {', '.join(names)}" for reason, names in without.items()]
    return "; ".join(told) or "none yet"


def _reading(reading: Mapping[str, Any]) -> str:
    unit = unit_text(reading["unit"])
    doubt = "" if reading["quality"] == "good" else f" ({reading['quality']}: {reading['reason']})"
    return f"{reading['name']} {plain(reading['value'])} {unit}".rstrip() + doubt


def _age(readings: Sequence[Mapping[str, Any]]) -> str:
    """Of the oldest."""
    return f"{max(one['age_s'] for one in readings):.1f} s" if readings else "never"
