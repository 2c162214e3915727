"""The routes of bias sources and of alarms. Every command of them is in the audit log before its first byte is sent."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import Response  # noqa: TC002 - the routes' signatures are read at run time
from pydantic import BaseModel, ConfigDict, Field

from petqcd import clock
from petqcd.errors import RefusedError
from petqcd.interlocks.bias_control import Stored
from petqcd.interlocks.bias_curve import CurvePlan
from petqcd.interlocks.bypass import LONGEST_S
from petqcd.web.accounts import Nothing  # noqa: TC001 - likewise
from petqcd.web.gate import Who  # noqa: TC001 - likewise
from petqcd.web.json_answer import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from petqcd.app import Daemon

Volts = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Reason = Annotated[str, Field(min_length=1, max_length=1000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


Version = Annotated[str, Field(max_length=64)] | None
"""State of the source that the command is based on, as GET /api/v1/bias gave it; none: any."""


class Voltage(_Body):
    """Body of the commands that energise and set; the guard of the driver decides, not this."""

    volts: Volts
    version: Version = None
    reason: Annotated[str, Field(max_length=1000)] = ""


class Curve(_Body):
    """Body of the command that measures a curve; every point must be inside the operating limits."""

    from_v: Volts
    to_v: Volts
    step_v: Annotated[float, Field(ge=0.001, le=100, allow_inf_nan=False)] = 0.05
    settle_s: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.05
    version: Version = None
    reason: Annotated[str, Field(max_length=1000)] = ""


class Range(_Body):
    """Body of the command that changes operating limits."""

    v_min: Volts
    v_max: Volts
    version: Version = None
    reason: Reason


class Keep(_Body):
    """Body of the command that says what a supply keeps by itself, and stores what is named first."""

    volts: Volts | None = None
    at_degc: Annotated[float, Field(ge=-20, le=60, allow_inf_nan=False)] = 25.0
    mv_per_k: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 0.0
    mv_per_k2: Annotated[float, Field(ge=-40, le=40, allow_inf_nan=False)] = 0.0
    stays_off: bool = False
    reason: Reason


class NewBypass(_Body):
    """Body of the command that bypasses a permit."""

    permit: Annotated[str, Field(min_length=1, max_length=100)]
    seconds: Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]
    reason: Reason


class EndBypass(_Body):
    """Body of the command that ends a bypass."""

    permit: Annotated[str, Field(min_length=1, max_length=100)]


class Shelf(_Body):
    """Body of the command that shelves an alarm."""

    seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
    reason: Reason


class Service(_Body):
    """Body of the command that takes an alarm out of service; an empty reason puts it back."""

    reason: Annotated[str, Field(max_length=1000)] = ""


def versioned(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with the version of each: it is another one when somebody has commanded the source meanwhile."""
    return [{**source, "version": _version(source)} for source in sources]


def _version(source: dict[str, Any]) -> str:
    parts = [source[name] for name in ("bias", "commanded_v", "operating_limits", "trip")]
    parts.append([one["permit"] for one in source["bypasses"]])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def require_version(sources: list[dict[str, Any]], device: str, version: str | None) -> None:
    """Refuse a command that is based on how a source was before somebody else commanded it.

    Raises:
        RefusedError: it is another one now.
    """
    now = next((_version(source) for source in sources if source["name"] == device), None)
    if version is not None and now is not None and version != now:
        raise RefusedError(f"{device} was changed meanwhile: look at it again before you command it")


def add_bias(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes of this file."""
    _add_voltage(app, daemon)
    _add_interlocks(app, daemon)
    _add_alarms(app, daemon)


def _add_voltage(app: FastAPI, daemon: Daemon) -> None:
    bias = daemon.bias
    going_on: Counter[str] = Counter()

    @contextmanager
    def based_on(device: str, version: str | None) -> Iterator[None]:
        """Of two commands on one state, the one that came first is done: the other's state will not be when it ends."""
        require_version(bias.documents(), device, version)
        if version is not None and going_on[device]:
            raise RefusedError(f"{device} is being commanded at this moment: look at it again before you command it")
        going_on[device] += 1
        try:
            yield
        finally:
            going_on[device] -= 1

    @app.get("/api/v1/bias")
    async def sources() -> Response:
        """Every bias source: output, trip, limits, permits, and what stands in the way of energising."""
        found = versioned(await bias.documents_in_turns())
        return await in_thread({"sources": found, "readout": daemon.readout_watch.document()})

    @app.post("/api/v1/bias/{device}/on")
    async def on(device: str, body: Voltage) -> dict[str, Any]:
        """Switch on and ramp, if every permit is given; answered once it is there and has settled."""
        with based_on(device, body.version):
            return await bias.on(device, body.volts)

    @app.post("/api/v1/bias/{device}/set")
    async def set_(device: str, body: Voltage) -> dict[str, Any]:
        """Ramp what is on to another voltage."""
        with based_on(device, body.version):
            return await bias.set(device, body.volts)

    @app.post("/api/v1/bias/{device}/curve")
    async def curve(device: str, body: Curve) -> dict[str, Any]:
        """Measure a current-voltage curve with a source meter: on, along its points, off; answered with all of it."""
        plan = CurvePlan(from_v=body.from_v, to_v=body.to_v, step_v=body.step_v, settle_s=body.settle_s)
        with based_on(device, body.version):
            return await bias.curve(device, plan)

    @app.post("/api/v1/bias/{device}/stop")
    async def stop(device: str, _body: Nothing) -> dict[str, Any]:
        """End a ramp where it is; answered with what is measured then."""
        return await bias.hold(device)

    @app.post("/api/v1/bias/{device}/confirm")
    async def confirm(device: str, _body: Nothing) -> dict[str, Any]:
        """Take over an output that was found on."""
        return await bias.confirm(device)

    @app.post("/api/v1/bias/{device}/off")
    async def off(device: str, _body: Nothing) -> dict[str, Any]:
        """One output off, now."""
        return (await bias.off(device)).document()


def _add_interlocks(app: FastAPI, daemon: Daemon) -> None:
    bias = daemon.bias

    @app.post("/api/v1/bias/{device}/acknowledge")
    async def acknowledge(device: str, _body: Nothing) -> dict[str, Any]:
        """Somebody saw the trip; nothing else changes."""
        return bias.acknowledge(device)

    @app.post("/api/v1/bias/{device}/reset")
    async def reset(device: str, _body: Nothing) -> dict[str, Any]:
        """Clear an acknowledged trip whose cause is gone; energises nothing."""
        return await bias.reset(device)

    @app.post("/api/v1/bias/{device}/limits")
    async def limits(device: str, body: Range) -> dict[str, Any]:
        """Give other operating limits, inside the hard limit; they hold after a restart too."""
        require_version(bias.documents(), device, body.version)
        return await bias.limit(device, body.v_min, body.v_max)

    @app.post("/api/v1/bias/{device}/stored")
    async def stored(device: str, body: Keep) -> dict[str, Any]:
        """What a supply keeps by itself; with its output off, what is named is stored anew first."""
        wanted = Stored(
            volts=body.volts,
            at_degc=body.at_degc,
            mv_per_k=body.mv_per_k,
            mv_per_k2=body.mv_per_k2,
            stays_off=body.stays_off,
        )
        return await bias.stored(device, wanted)

    @app.post("/api/v1/bias/{device}/bypass")
    async def bypass(device: str, body: NewBypass, who: Who) -> dict[str, Any]:
        """Let one permit count as given, for a time."""
        return bias.bypass(device, body.permit, seconds=body.seconds, reason=body.reason, by=who.name)

    @app.post("/api/v1/bias/{device}/bypass/end")
    async def end_bypass(device: str, body: EndBypass) -> dict[str, Any]:
        """End a bypass before its time."""
        return bias.end_bypass(device, body.permit)


def _add_alarms(app: FastAPI, daemon: Daemon) -> None:
    keeper = daemon.alarms

    @app.get("/api/v1/alarms")
    async def alarms(*, every: Annotated[bool, Query()] = False) -> Response:
        """Alarms that are not normal, the worst first; `every`: all that are defined."""
        return await in_thread({"alarms": keeper.documents(every=every)})

    @app.post("/api/v1/alarms/{alarm}/acknowledge")
    async def acknowledge(alarm: str, _body: Nothing, who: Who) -> dict[str, Any]:
        """Somebody saw it."""
        found = keeper.alarms.acknowledge(alarm, who.name, clock.unix_s())
        await keeper.flush()
        return found.document()

    @app.post("/api/v1/alarms/{alarm}/shelve")
    async def shelve(alarm: str, body: Shelf, who: Who) -> dict[str, Any]:
        """Let it be silent until a time."""
        found = keeper.alarms.shelve(
            alarm, seconds=body.seconds, reason=body.reason, by=who.name, unix_s=clock.unix_s()
        )
        await keeper.flush()
        return found.document()

    @app.post("/api/v1/alarms/{alarm}/service")
    async def service(alarm: str, body: Service, who: Who) -> dict[str, Any]:
        """Take it out of service, with a reason; without one, back into service."""
        found = keeper.alarms.put_out_of_service(alarm, reason=body.reason, by=who.name, unix_s=clock.unix_s())
        await keeper.flush()
        return found.document()
