"""Today: may one scan? The verdict in one sentence and its age, its numbers, and starting a run."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

from petqcd.errors import NotFoundError
from petqcd.kinds import all_kinds
from petqcd.store import SOURCE
from petqcd.web import run_view
from petqcd.web.console.frame import seconds_since
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.store import Store, StoredRun
    from petqcd.web.console.frame import Frame

HOLDS_S = 24 * 3600.0
"""A verdict is about its day: after that it is shown as old and says nothing of today."""
_JUDGING = ("daily", "source")
"""Kinds whose verdict says whether to scan, the one that says most first."""
_WORDS = {
    "pass": "Pass",
    "warn": "Pass with warnings",
    "fail": "Fail",
    "invalid": "Could not be measured",
    "missed": "Missed",
}


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""
    daemon = frame.daemon

    @app.get("/", include_in_schema=False, response_class=PAGE)
    async def today(request: Request) -> HTMLResponse:
        found = await asyncio.to_thread(_latest, daemon.store)
        kinds = [kind for kind in all_kinds().values() if not kind.name.startswith("calibrate-")]
        status = daemon.status(devices=[])  # they are not on this page
        return await frame.page(
            request,
            "today.html",
            status=status,
            kinds=sorted(kinds, key=lambda kind: kind.name not in _JUDGING),
            words=_WORDS,
            **found,
        )


def _latest(store: Store) -> dict[str, Any]:
    """The run that says whether to scan, its numbers, and the newest run of every other kind; reads the history."""
    newest = {kind: line for kind, line in store.newest().items() if kind in all_kinds()}
    judging = [newest[kind] for kind in _JUDGING if kind in newest]
    # A run with a source may have been started by itself after the day's: the newer one holds.
    main = max(judging, key=lambda line: line.sequence) if judging else None
    if main is not None and main.part_of is not None:
        main = next((line for line in judging if line.sequence == main.part_of), main)
    return {
        "main": main,
        "is_old": main is not None and seconds_since(main.finished_at or main.started_at) > HOLDS_S,
        **_of(store, main),
        "others": [line for kind, line in sorted(newest.items()) if line is not main and kind != SOURCE],
        "trend_kind": SOURCE if main is not None and main.kind == "daily" else main and main.kind,
        "date": datetime.now().astimezone().strftime("%A, %d %B %Y"),
    }


def _of(store: Store, line: StoredRun | None) -> dict[str, Any]:
    """Numbers of a run, and what it suggests."""
    from petqc.diagnosis.masking import masking
    from petqc.report.tiles import tiles

    try:
        run = None if line is None else run_view.load(store, line.run_id)
    except NotFoundError:
        run = None
    if run is None:
        return {"tiles": [], "masking": None}
    return {"tiles": [tile for tile in tiles(run) if tile.number or tile.reason], "masking": masking(run)}
