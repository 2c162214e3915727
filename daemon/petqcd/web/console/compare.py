"""Two runs side by side: what moved, by how much, and whether that is more than both their uncertainties."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request
from fastapi.responses import HTMLResponse  # noqa: TC002 - the route's signature is read at run time

from petqcd.errors import NotFoundError
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.store import Store
    from petqcd.web.console.frame import Frame


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/compare", include_in_schema=False, response_class=PAGE)
    async def page(
        request: Request,
        a: Annotated[str, Query(max_length=100)] = "",
        b: Annotated[str, Query(max_length=100)] = "",
    ) -> HTMLResponse:
        try:
            one, other, found = await asyncio.to_thread(compared, frame.daemon.store, a, b)
        except NotFoundError as error:
            return await frame.page(request, "no_run.html", code=404, message=str(error))
        return await frame.page(request, "compare.html", a=one, b=other, found=found)


def compared(store: Store, a: str, b: str) -> Any:
    """Both runs, and what differs; reads the history."""
    from petqc.compare import compare
    from petqc.results import Run

    one, other = (Run.from_document(store.document(run_id)) for run_id in (a, b))
    return one, other, compare(one, other)
