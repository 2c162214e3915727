"""The report as a PDF/A for the archive: one page that says it all, then the drill-down; the page's own drawings.

Typeset by typst with its built-in fonts only, so that the same run gives the same bytes on any machine. Nothing is
drawn twice: the drawings are those of the HTML page, with the page's style sheet resolved into them.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from petqc.errors import BadInputError
from petqc.report.page import style, view
from petqc.report.text import moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.results import Run

_STANDARD: Final = "a-2b"
_SKIPPED = ("style", "policy", "channel_rows", "channel_headings", "status_words")
"""Parts of the view that a page has and a print does not need; all channels are in the Parquet file."""
_FONT = "Libertinus Serif"
_HATCH = (
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0V5" class="hatching"/></pattern></defs>'
)
_RULE = re.compile(r"([^{}@]+)\{([^{}]*)\}")
_VARIABLE = re.compile(r"var\((--[a-z-]+)\)")
_DRAWN = ("fill", "stroke", "opacity", "font-size", "font-weight", "paint-order")
"""Properties that drawings use; everything else in the style sheet is about the page."""


def render_pdf(run: Run) -> bytes:
    """The report of a run. One without a time, as what is analysed from a file, is dated today: archives need a date.

    Raises:
        BadInputError: the run's time is none.
    """
    import typst

    try:
        at = datetime.fromisoformat(run.finished_at) if run.finished_at else datetime.now(UTC)
    except ValueError as error:
        raise BadInputError(f"run {run.run_id}: finished_at {run.finished_at!r} is not a time") from error
    given = {
        "year": at.year,
        "month": at.month,
        "day": at.day,
        "run": run.document(),
        "started": moment(run.started_at),
        "finished": moment(run.finished_at),
        **{name: _plain(value) for name, value in view(run).items() if name not in (*_SKIPPED, "run")},
    }
    template = resources.files("petqc.report").joinpath("templates/report.typ").read_text(encoding="utf-8")
    data = json.dumps(given, allow_nan=False, ensure_ascii=False)
    pdf = typst.compile(
        template.encode(), sys_inputs={"report": data}, pdf_standards=[_STANDARD], ignore_system_fonts=True
    )
    assert isinstance(pdf, bytes)  # noqa: S101 - one file without an output path; for the type checker
    return pdf


def _plain(value: Any) -> Any:
    """Plain types for JSON; a drawing becomes a picture of its own."""
    if isinstance(value, str):
        plain = str.__str__(value)  # Markup escapes whatever is done to it
        return _picture(plain) if plain.startswith("<svg") else plain
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _picture(svg: str) -> dict[str, Any]:
    """The drawing with its style sheet, and what it shows in words."""
    words = re.search(r'aria-label="([^"]*)"', svg)
    drawn = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    begin = drawn.index(">") + 1
    drawn = f"{drawn[:begin]}<style>{_drawing_style()}</style>{_HATCH}{drawn[begin:]}"
    return {"svg": drawn, "alt": words[1] if words else ""}


@cache
def _drawing_style() -> str:
    """The rules of the page's style sheet that drawings use, with its light colours in place of variables."""
    sheet, _, rest = style().partition("@media (prefers-color-scheme: dark)")
    rest = rest.partition("\n}\n")[2].partition("@media")[0]
    variables: Mapping[str, str] = dict(re.findall(r"(--[a-z-]+):\s*([^;]+);", sheet))
    rules = [f'text{{font-family:"{_FONT}";font-size:14px;fill:{variables["--soft"]}}}']
    for selector, body in _RULE.findall(re.sub(r"/\*.*?\*/", "", rest)):
        kept = [
            part.strip() for part in body.split(";") if part.strip().startswith(_DRAWN) and "currentColor" not in part
        ]
        if kept and "." in selector and ":" not in selector:
            rules.append(f"{selector.strip()}{{{';'.join(kept)}}}")
    return _VARIABLE.sub(lambda found: variables.get(found[1], "#000"), "".join(rules))
