"""Calibration sets and baselines: which there are, which runs use, and choosing others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

from petqcd.kinds import find_kind
from petqcd.metric_table import QC_RUNS
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/calibrations", include_in_schema=False, response_class=PAGE)
    async def page(request: Request) -> HTMLResponse:
        daemon = frame.daemon
        listing = await asyncio.to_thread(daemon.calibrations.listing)
        baselines = await asyncio.to_thread(daemon.baselines.listing)
        return await frame.page(
            request,
            "calibrations.html",
            listing=listing,
            in_use=daemon.calibrations.in_use,
            baselines=list(reversed(baselines)),
            holding=daemon.baselines.in_use(baselines),
            kinds=[kind for kind in QC_RUNS if not find_kind(kind).is_composed],
        )
