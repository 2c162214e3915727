"""The routes. Who may use each of them is in `petqcd.web.actions`; a route without an entry is refused."""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from petqc.errors import QcError
from petqc.report import content_security_policy
from petqc.vendor_reports import imported_run
from petqcd import clock
from petqcd.errors import DaemonError, NotFoundError, TooManyError
from petqcd.metrics import CONTENT_TYPE
from petqcd.off.safe_state import worst
from petqcd.progress import Event
from petqcd.web import run_view
from petqcd.web.accounts import Nothing, add_accounts, add_management
from petqcd.web.bias import add_bias
from petqcd.web.console import add_console
from petqcd.web.failures import failure, unexpected
from petqcd.web.faults import add_faults
from petqcd.web.gate import PAGE, Gate, GatedRoute, Who, signed
from petqcd.web.guard import LOCAL_HOSTS, SOCKET_HOST, Guard
from petqcd.web.json_answer import in_thread
from petqcd.web.maintenance import add_maintenance
from petqcd.web.results import add_results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import ASGIApp

    from petqc.baseline import AcceptedBaseline
    from petqcd.app import Daemon
    from petqcd.metrics import Metrics

HEARTBEAT_S = 5.0
"""A comment in a silent event stream, so that either end notices a dead one."""
MOST_RUNS = 500


Signature = Annotated[str, Field(min_length=1, max_length=100)] | None
"""Who signs; needed on the UNIX socket only, elsewhere it is whoever is logged in."""


class StartRun(BaseModel):
    """Body of the command that starts a run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str
    parameters: dict[str, Any] = {}
    """Settings of the kind, [qc.KIND], that take the place of the configured ones."""


class Accept(BaseModel):
    """Body of the command that accepts a calibration set; None: the device's own configuration."""

    model_config = ConfigDict(extra="forbid", strict=True)

    set_id: Annotated[str, Field(max_length=100)] | None
    who: Signature = None
    reason: Annotated[str, Field(max_length=1000)] = ""


class AcceptBaseline(BaseModel):
    """Body of the command that accepts a baseline: of named runs, or of the last ones."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Annotated[str, Field(max_length=100)]
    run_ids: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=200)] = []
    last: Annotated[int, Field(ge=1, le=200)] = 60
    is_acceptance: bool = False
    who: Signature = None
    reason: Annotated[str, Field(min_length=1, max_length=1000)]


class EndBaseline(BaseModel):
    """Body of the command that ends a baseline."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Annotated[str, Field(max_length=100)]
    is_acceptance: bool = False
    who: Signature = None
    reason: Annotated[str, Field(min_length=1, max_length=1000)]


class Import(BaseModel):
    """Body of the command that stores what another system measured: the document of a run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    document: dict[str, Any]


class Confirm(BaseModel):
    """Body of the command that tells a run that what it waits for is done."""

    model_config = ConfigDict(extra="forbid", strict=True)

    note: Annotated[str, Field(max_length=200)] = ""


def make_app(daemon: Daemon, *, on_socket: bool) -> ASGIApp:
    """The guarded application of one listener; on_socket: of the UNIX socket."""
    api = daemon.config.api
    app = FastAPI(
        title="petqc",
        version=daemon.version,
        docs_url=None,  # the page would load its code from elsewhere
        redoc_url=None,
        openapi_url=None,  # below, behind the gate
    )
    app.router.route_class = GatedRoute
    anonymous = api.is_loopback and api.anonymous
    gate = Gate(daemon, on_socket=on_socket, is_tls=api.tls_certificate is not None, anonymous=anonymous)
    app.state.gate = gate
    _add_reading(app, daemon)
    _add_commands(app, daemon)
    add_bias(app, daemon)
    add_faults(app, daemon)
    add_maintenance(app, daemon)
    add_accounts(app, daemon, gate)
    add_results(app, daemon)
    add_console(app, daemon)
    if on_socket:
        add_management(app, daemon)

    @app.exception_handler(DaemonError)
    async def failed(_request: Request, error: DaemonError) -> JSONResponse:
        return failure(error)

    @app.exception_handler(QcError)
    async def unfit(_request: Request, error: QcError) -> JSONResponse:
        return failure(error)

    @app.exception_handler(Exception)  # which also goes into the log
    async def broken(request: Request, _error: Exception) -> Response:
        return unexpected(is_page=getattr(request.scope.get("route"), "response_class", None) is PAGE)

    hosts = {SOCKET_HOST} if on_socket else LOCAL_HOSTS | set(api.hosts)
    return Guard(app, hosts=hosts, commands=lambda: on_socket or bool(daemon.accounts.users))


class _Exposition:
    """The text of the metrics for many who ask at once: made in one thread, one after the other.

    Thousands of series take a tenth of a second or more, so whoever asks while a text is being made shares the next
    one. Nobody gets values older than the question, and threads are left for everybody else.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._text, self._begun_s = b"", -math.inf

    async def text(self) -> bytes:
        asked_s = clock.monotonic_s()
        async with self._turn:
            if self._begun_s < asked_s:
                begun_s = clock.monotonic_s()
                self._text = await asyncio.to_thread(self._metrics.text)
                self._begun_s = begun_s
            return self._text


def _add_reading(app: FastAPI, daemon: Daemon) -> None:
    store = daemon.store

    @app.get("/api/v1/openapi.json", include_in_schema=False)
    async def schema() -> dict[str, Any]:
        return app.openapi()

    exposition = _Exposition(daemon.metrics)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(await exposition.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        """The process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether a run could be started now, and if not, what is missing."""
        missing = daemon.readiness.missing()
        return JSONResponse({"ready": not missing, "missing": missing}, status_code=503 if missing else 200)

    @app.get("/api/v1/devices")
    async def devices() -> Response:
        """The readout, and every instrument with its state and its last readings; nothing is asked for it."""
        instruments = await daemon.instruments.documents_in_turns()
        return await in_thread({"readout": daemon.device.state.document(), "instruments": instruments})

    @app.get("/api/v1/devices/{name}")
    async def device(name: str) -> dict[str, Any]:
        """One instrument."""
        return daemon.instruments[name].document()

    @app.get("/api/v1/status")
    async def status() -> Response:
        """What is: the device, the run going on, the last run."""
        last = await asyncio.to_thread(_last, daemon)
        return await in_thread({**daemon.status(await daemon.instruments.documents_in_turns()), "last_run": last})

    @app.get("/api/v1/runs")
    async def runs(
        limit: Annotated[int, Query(ge=1, le=MOST_RUNS)] = 50,
        kind: str | None = None,
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    ) -> JSONResponse:
        """The history, newest first; page with `before` = the sequence of the last one seen."""
        lines = await asyncio.to_thread(store.history, limit, kind, before)
        return JSONResponse({"runs": [asdict(line) for line in lines]})

    @app.get("/api/v1/runs/{run_id}")
    async def run(run_id: str) -> JSONResponse:
        """The document of a run; `last` is the newest."""
        return JSONResponse(await asyncio.to_thread(store.document, run_id))

    @app.get("/api/v1/runs/{run_id}/report.html", include_in_schema=False)  # as reports link to each other
    @app.get("/api/v1/runs/{run_id}/report")
    async def report(run_id: str) -> HTMLResponse:
        """The report of a run as a page."""
        line = await asyncio.to_thread(store.line, run_id)
        path = store.state_dir / line.folder / "report.html"
        try:
            page = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise NotFoundError(f"run {line.run_id} has no report") from None
        return HTMLResponse(page, headers={"Content-Security-Policy": content_security_policy()})

    @app.get("/api/v1/calibrations")
    async def calibrations() -> dict[str, Any]:
        """Every calibration set, newest first, and the act that says which one is used."""
        return await asyncio.to_thread(daemon.calibrations.listing)

    @app.get("/api/v1/baselines")
    async def baselines() -> dict[str, Any]:
        """Every accepted baseline and every end of one, oldest first."""
        found = await asyncio.to_thread(daemon.baselines.listing)
        return {"baselines": [b.document() for b in found]}

    @app.get("/api/v1/so-far")
    async def so_far() -> dict[str, Any]:
        """Figures and spectra of the run that goes on, so far, not a verdict; `run` is null where there is none."""
        progress = daemon.runs.progress
        if progress is None or progress.so_far is None:
            return {"run": None, "spectra": []}
        spectra = [run_view.drawn(spectrum) for spectrum in daemon.runs.spectra_so_far()]
        return {"run": progress.document(), "spectra": spectra}

    streams: set[object] = set()

    @app.get("/api/v1/events")
    async def events() -> StreamingResponse:
        """Live events: `state` first, then `progress`, `device`, `finished`, `lost` as they come, else `alive`."""
        if len(streams) >= (most := daemon.config.api.connections // 2):
            raise TooManyError(f"{most} listen already, half of [api] connections: the others are for whoever asks")
        return StreamingResponse(_events(daemon, streams), media_type="text/event-stream")


def _add_commands(app: FastAPI, daemon: Daemon) -> None:
    @app.post("/api/v1/runs", status_code=201)
    async def start(body: StartRun, who: Who) -> dict[str, str]:
        """Start a run; answered once its claim is stored."""
        return {"run_id": await daemon.runs.start(body.kind, source=who.signature, parameters=body.parameters)}

    @app.post("/api/v1/calibrations/accept")
    async def accept(body: Accept, actor: Who) -> dict[str, Any]:
        """Make a calibration set the one that later runs use."""
        act = await daemon.calibrations.accept(body.set_id, who=signed(actor, body.who), reason=body.reason)
        return act.document()

    @app.post("/api/v1/baselines/accept", status_code=201)
    async def accept_baseline(body: AcceptBaseline, actor: Who) -> dict[str, Any]:
        """Make a baseline of runs; later runs of the kind are judged against it."""
        found: AcceptedBaseline = await daemon.baselines.accept(
            body.kind,
            run_ids=body.run_ids,
            last=body.last,
            who=signed(actor, body.who),
            reason=body.reason,
            is_acceptance=body.is_acceptance,
        )
        return found.document()

    @app.post("/api/v1/baselines/end", status_code=201)
    async def end_baseline(body: EndBaseline, actor: Who) -> dict[str, Any]:
        """End the baseline of a kind of run."""
        found: AcceptedBaseline = await daemon.baselines.end(
            body.kind, who=signed(actor, body.who), reason=body.reason, is_acceptance=body.is_acceptance
        )
        return found.document()

    @app.post("/api/v1/imports")
    async def import_run(body: Import) -> dict[str, Any]:
        """Store a report of the scanner's own software, or a re-analysis; imported false: it is there already."""
        run = imported_run(body.document)
        return {"run_id": run.run_id, "imported": await daemon.store.import_run(run)}

    @app.get("/api/v1/backups")
    async def backups() -> dict[str, Any]:
        """Every verified backup, oldest first."""
        return {"backups": [one.document() for one in await asyncio.to_thread(daemon.backups.listing)]}

    @app.post("/api/v1/backups", status_code=201)
    async def back_up(_body: Nothing) -> dict[str, Any]:
        """Make a backup now; answered once it is verified."""
        return (await daemon.backups.make()).document()

    @app.post("/api/v1/abort")
    async def abort(_body: Nothing) -> dict[str, str]:
        """Stop the run that is going on: bias off first; it becomes an invalid record, unless everything was taken."""
        progress = daemon.runs.progress
        run_id = daemon.runs.abort()
        return {"run_id": run_id, "told": "is being stopped" if progress is None else progress.stopping}

    @app.post("/api/v1/confirm")
    async def confirm(body: Confirm) -> dict[str, str]:
        """Tell the run that is going on that what it waits for is done."""
        run_id, what = daemon.runs.confirm(body.note)
        return {"run_id": run_id, "confirmed": what}

    @app.post("/api/v1/off")
    async def off(_body: Nothing) -> dict[str, Any]:
        """Every bias output off, now; overtakes a run."""
        outcomes = await daemon.off()
        return {"state": str(worst(outcomes)), "devices": [one.document() for one in outcomes]}


def _last(daemon: Daemon) -> dict[str, Any] | None:
    try:
        return asdict(daemon.store.line("last"))
    except NotFoundError:
        return None


async def _events(daemon: Daemon, streams: set[object]) -> AsyncIterator[str]:
    with daemon.bus.listen() as queue, _counted(queue, streams):
        yield _told(Event("state", daemon.status()))
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    event = await queue.get()
            except TimeoutError:
                yield _told(Event("alive", {}))
                continue
            if event is None:
                return
            yield _told(event)


@contextmanager
def _counted(one: object, among: set[object]) -> Iterator[None]:
    among.add(one)
    try:
        yield
    finally:
        among.discard(one)


def _told(event: Event) -> str:
    return f"event: {event.name}\ndata: {event.json}\n\n"
