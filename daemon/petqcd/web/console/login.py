"""Logging in, and giving the password again after a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/login", include_in_schema=False)
    async def login(request: Request) -> HTMLResponse:
        return await frame.page(request, "login.html")
