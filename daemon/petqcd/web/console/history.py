"""History: every run, newest first, and two of them chosen for a comparison."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request
from fastapi.responses import HTMLResponse  # noqa: TC002 - the route's signature is read at run time

from petqcd.kinds import all_kinds
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame

RUNS = 50


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/runs", include_in_schema=False, response_class=PAGE)
    async def history(
        request: Request,
        kind: Annotated[str, Query(max_length=100)] = "",
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    ) -> HTMLResponse:
        lines = await asyncio.to_thread(frame.daemon.store.history, RUNS + 1, kind or None, before)
        return await frame.page(
            request,
            "history.html",
            runs=lines[:RUNS],
            kind=kind,
            kinds=list(dict.fromkeys([*all_kinds(), *await asyncio.to_thread(frame.daemon.store.kinds)])),
            older=lines[RUNS - 1].sequence if len(lines) > RUNS else None,
            is_first=before is None,
        )
