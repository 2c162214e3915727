"""Faults of a simulated readout: what is planted, one more, one less. Of a real readout there is no such page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

from petqcd.errors import DaemonError
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""
    daemon = frame.daemon

    @app.get("/faults", include_in_schema=False, response_class=PAGE)
    async def page(request: Request) -> HTMLResponse:
        found: dict[str, Any] = {"faults": [], "kinds": [], "why_none": ""}
        if not daemon.config.board.is_simulated:
            why = f"{daemon.config.board.name} is no simulation: faults can be planted in a simulated readout only."
            return await frame.page(request, "faults.html", code=404, **{**found, "why_none": why})
        try:
            found |= await daemon.device.control.ask({"do": "list"})
            found |= await daemon.device.control.ask({"do": "kinds"})
        except DaemonError as error:
            found["why_none"] = str(error)
        return await frame.page(request, "faults.html", **found)
