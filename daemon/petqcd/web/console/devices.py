"""Devices: the readout and the instruments, what they do, what is known of their bias, and how old that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

from petqcd.web.bias import versioned
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame

STALE_S = 10.0
"""A reading older than this looks old; instruments are read about once a second."""


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/devices", include_in_schema=False, response_class=PAGE)
    async def page(request: Request) -> HTMLResponse:
        daemon = frame.daemon
        status = daemon.status(await daemon.instruments.documents_in_turns())
        sources = versioned(await daemon.bias.documents_in_turns())
        return await frame.page(
            request,
            "devices.html",
            board=status["device"],
            missing=status["missing"],
            readout=status["readout_permits"],
            maintenance=status["maintenance"],
            devices=status["devices"],
            sources={source["name"]: source for source in sources},
            stale_s=STALE_S,
        )
