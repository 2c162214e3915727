"""Trends: any quantity at any node, with its limits, its baseline and what happened in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request
from fastapi.responses import HTMLResponse  # noqa: TC002 - the route's signature is read at run time

from petqc.limits import Limits
from petqc.report.text import limits_text
from petqcd.errors import NotFoundError
from petqcd.kinds import all_kinds
from petqcd.store import SOURCE
from petqcd.store.annotations import AnnotationKind
from petqcd.web import trends
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.app import Daemon
    from petqcd.web.console.frame import Frame

FIRST = ("ctr_fit", "photopeak", "energy_resolution")
"""Shown where nothing is asked for; the first that there is."""


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/trends", include_in_schema=False, response_class=PAGE)
    async def page(
        request: Request,
        kind: Annotated[str, Query(max_length=100)] = SOURCE,
        check: Annotated[str, Query(max_length=100)] = "",
        node: Annotated[str, Query(max_length=100)] = "",
        scanner: Annotated[str, Query(max_length=100)] = "",
    ) -> HTMLResponse:
        values = await asyncio.to_thread(_read, frame.daemon, kind, check, node, scanner)
        stored = await asyncio.to_thread(frame.daemon.store.kinds)
        kinds = [name for name in dict.fromkeys([*all_kinds(), *stored]) if not name.startswith("calibrate-")]
        return await frame.page(request, "trends.html", kind=kind, kinds=kinds, about=list(AnnotationKind), **values)


def _read(daemon: Daemon, kind: str, check: str, node: str, scanner: str) -> dict[str, Any]:
    found = trends.quantities(daemon.store, kind)
    checks = sorted({q.check for q in found})
    if not check and checks:
        check = next((c for c in FIRST if c in checks), checks[0])
    nodes = [q.node for q in found if q.check == check]
    if node not in nodes and nodes:
        node = nodes[0]
    trend, limits = None, ""
    if check in checks and node in nodes:
        try:
            trend = trends.trend(daemon, kind=kind, check=check, node=node, scanner=scanner)
            limits = limits_text(Limits(**trend["limits"]))
        except NotFoundError:
            trend = None  # only runs of another scanner gave it
    return {
        "checks": checks,
        "nodes": nodes,
        "check": check,
        "node": node,
        "trend": trend,
        "limits": limits,
        "whose": trends.whose(daemon, kind, scanner)[0] if trend is None else trend["scanner"],
        "scanners": sorted({name for name, _ in daemon.store.scanners(kind)}),
    }
