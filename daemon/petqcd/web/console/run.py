"""One run: verdict, causes, every number, spectra and channels that can be asked, and the whole report."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

from petqcd.errors import NotFoundError
from petqcd.web import channel_view, run_view
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqc.results import Run
    from petqcd.app import Daemon
    from petqcd.store import StoredRun
    from petqcd.web.console.frame import Frame


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/runs/{run_id}", include_in_schema=False, response_class=PAGE)
    async def page(request: Request, run_id: str) -> HTMLResponse:
        try:
            line, run, values = await asyncio.to_thread(_read, frame.daemon, run_id)
        except NotFoundError as error:
            return await frame.page(request, "no_run.html", code=404, message=str(error))
        return await frame.page(request, "run.html", line=line, run=run, **values)


def _read(daemon: Daemon, run_id: str) -> tuple[StoredRun, Run, dict[str, Any]]:
    from petqc.diagnosis.masking import masking
    from petqc.report import tables, tiles
    from petqc.report.text import duration, title_of

    store = daemon.store
    line = store.line(run_id)
    run = run_view.load(store, line.run_id)
    rows = tables.check_table(run)
    attention, more = tables.attention(rows)
    flagged, more_flagged = channel_view.flagged(run)
    return line, run, {
        "tiles": tiles.tiles(run) if run.checks else [],
        "rows": rows,
        "attention": attention,
        "more_attention": more,
        "duration": duration(run.started_at, run.finished_at),
        "spectra": run_view.spectra(run),
        "modules": channel_view.modules(run),
        "has_ring": channel_view.has_ring(run),
        "flagged": flagged,
        "more_flagged": more_flagged,
        "module_of": channel_view.modules_of(run, [o.index for o in flagged]),
        "masking": masking(run),
        "ids": {(title_of(c.id), c.node): c.id for c in run.checks},
        "has_report": (store.state_dir / line.folder / "report.html").is_file(),
    }  # fmt: skip
