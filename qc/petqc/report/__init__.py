"""The report of a run: one self-contained HTML page made from a Run alone.

No network, no script, no external font; the same run gives the same bytes, whatever the machine, clock or locale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.results import Run

__all__ = ["content_security_policy", "render_html", "write_html", "write_report"]


def render_html(run: Run) -> str:
    """The whole page as text.

    Every string of the run is escaped; a run without spectra or channels gives a page that says so.
    """
    from petqc.report.page import render

    return render(run)


def write_html(run: Run, path: Path) -> None:
    """Write the page to `path` (UTF-8), replacing what is there only once the new page is complete.

    Raises:
        BadInputError: `path` is a folder or a device.
        OSError: the folder does not exist or cannot be written.
    """
    from petqc.output_files import partial_of

    partial = partial_of(path)
    partial.write_text(render_html(run), encoding="utf-8", newline="\n")
    partial.replace(path)


def write_report(run: Run, path: Path) -> None:
    """Write the report in the form that the name asks for: `.pdf`, everything else HTML.

    Raises:
        BadInputError: `path` is a folder or a device.
        OSError: the folder does not exist or cannot be written.
    """
    if path.suffix.lower() != ".pdf":
        write_html(run, path)
        return
    from petqc.output_files import partial_of
    from petqc.report.pdf import render_pdf

    partial = partial_of(path)
    partial.write_bytes(render_pdf(run))
    partial.replace(path)


def content_security_policy() -> str:
    """The policy the page carries in itself, for servers that also send it as a header."""
    from petqc.report.page import policy

    return policy()
