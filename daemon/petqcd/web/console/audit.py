"""The audit log: who did what; engineers see all of it, others what they did themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request
from fastapi.responses import HTMLResponse  # noqa: TC002 - the route's signature is read at run time

from petqcd.web.accounts import read_audit
from petqcd.web.gate import PAGE, Who

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame

ROWS = 100


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/audit", include_in_schema=False, response_class=PAGE)
    async def page(
        request: Request, who: Who, before: Annotated[int | None, Query(ge=1, lt=2**63)] = None
    ) -> HTMLResponse:
        rows = await read_audit(frame.daemon, who, limit=ROWS, before=before)
        older = rows[-1]["number"] if len(rows) == ROWS else None
        return await frame.page(request, "audit.html", rows=rows, older=older)
