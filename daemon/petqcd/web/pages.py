"""The page at `/`: what is, and every run with its report. No script, nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from petqc.report.text import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqcd.store import StoredRun

_HERE = Path(__file__).parent
_STATIC = {"petqc.css": "text/css"}
SYMBOLS = {"pass": "✔", "warn": "▲", "fail": "✖", "invalid": "?", "missed": "–"}


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    return environment.get_template("index.html")


def index(status: dict[str, Any], runs: Sequence[StoredRun]) -> str:
    """The page as text."""
    return _template().render(status=status, runs=runs, symbols=SYMBOLS)


@cache
def static(name: str) -> tuple[bytes, str] | None:
    """A file the page needs, with its type; None if there is no such file."""
    kind = _STATIC.get(name)
    return ((_HERE / "static" / name).read_bytes(), kind) if kind else None
