"""The routes of results beyond their documents: trends, spectra, channels, comparisons, annotations."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from petqcd import clock
from petqcd.store.annotations import AnnotationKind, annotate, read_annotations
from petqcd.web import channel_view, run_view, trends
from petqcd.web.console.compare import compared
from petqcd.web.gate import Who, signed

if TYPE_CHECKING:
    from petqcd.app import Daemon

Word = Annotated[str, Query(max_length=100)]


class NewAnnotation(BaseModel):
    """Body of the command that writes a remark. at: the time it is about; none: now."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=500)]
    kind: AnnotationKind = AnnotationKind.REMARK
    at: (
        Annotated[AwareDatetime, Field(ge=datetime(1990, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))] | None
    ) = None
    who: Annotated[str, Field(min_length=1, max_length=100)] | None = None


def add_results(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    store = daemon.store

    @app.get("/api/v1/quantities")
    async def quantities(kind: Word = "source") -> dict[str, Any]:
        """Every check and node that runs of a kind gave numbers for."""
        return {"quantities": await asyncio.to_thread(trends.quantity_documents, store, kind)}

    @app.get("/api/v1/trends")
    async def trend(
        check: Word, node: Word = "scanner", kind: Word = "source", scanner: Annotated[str, Query(max_length=100)] = ""
    ) -> dict[str, Any]:
        """One quantity over the runs of a kind, with its limits, baseline and what happened in between.

        scanner: whose; default: the daemon's own, and where that has no such run the one with the newest.
        """
        return await asyncio.to_thread(trends.trend, daemon, kind=kind, check=check, node=node, scanner=scanner)

    @app.get("/api/v1/annotations")
    async def list_annotations() -> dict[str, Any]:
        """Remarks in the trends, oldest first."""
        found = await asyncio.to_thread(read_annotations, store)
        return {"annotations": [one.document() for one in found]}

    @app.post("/api/v1/annotations", status_code=201)
    async def write_annotation(body: NewAnnotation, actor: Who) -> dict[str, Any]:
        """Write a remark into the trends; it stays."""
        at = clock.utc_text(None if body.at is None else body.at.timestamp())
        who = signed(actor, body.who)
        return (await annotate(store, at=at, kind=body.kind, text=body.text, who=who)).document()

    @app.get("/api/v1/runs/{run_id}/spectra")
    async def spectra(run_id: str) -> dict[str, Any]:
        """Which spectra a run has."""
        run = await asyncio.to_thread(run_view.load, store, run_id)
        return {"spectra": run_view.spectra(run)}

    @app.get("/api/v1/runs/{run_id}/spectrum")
    async def spectrum(run_id: str, id: Word, node: Word = "scanner") -> dict[str, Any]:  # noqa: A002 - the run's word
        """One spectrum of a run, with the fit through it."""
        run = await asyncio.to_thread(run_view.load, store, run_id)
        return await asyncio.to_thread(run_view.spectrum, run, id, node)

    @app.get("/api/v1/runs/{run_id}/channels")
    async def channels(run_id: str, module: Word) -> dict[str, Any]:
        """The channels of one module of a run: places, values, statuses."""
        run = await asyncio.to_thread(run_view.load, store, run_id)
        return await asyncio.to_thread(channel_view.module_map, run, module)

    @app.get("/api/v1/runs/{run_id}/ring")
    async def ring(run_id: str, quantity: Word = "") -> dict[str, Any]:
        """One quantity of every channel of a ring, unrolled; none named: the first there is."""
        run = await asyncio.to_thread(run_view.load, store, run_id)
        return await asyncio.to_thread(channel_view.ring_map, run, quantity)

    @app.get("/api/v1/runs/{run_id}/channel")
    async def channel(run_id: str, node: Word) -> dict[str, Any]:
        """One channel of a run: its numbers, its neighbours, and its spectrum as it was counted."""
        run = await asyncio.to_thread(run_view.load, store, run_id)
        return await asyncio.to_thread(channel_view.channel, store, run, node)

    @app.get("/api/v1/compare")
    async def compare(a: Word, b: Word) -> dict[str, Any]:
        """What moved from run a to run b."""
        one, other, found = await asyncio.to_thread(compared, store, a, b)
        differences = [{**asdict(d), "sigmas": d.sigmas, "has_moved": d.has_moved} for d in found.differences]
        return {"a": one.run_id, "b": other.run_id, "differences": differences, "remarks": found.remarks}
