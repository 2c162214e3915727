"""The routes of work at devices: maintenance begins and ends, a circulator is set, what is gone is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI  # noqa: TC002 - routes are read at run time
from pydantic import BaseModel, ConfigDict, Field

from petqcd.instruments.told import cool
from petqcd.interlocks.maintenance import LONGEST_S
from petqcd.web.accounts import Nothing  # noqa: TC001 - likewise
from petqcd.web.gate import Who  # noqa: TC001 - likewise

if TYPE_CHECKING:
    from petqcd.app import Daemon


class Work(BaseModel):
    """Body of the command that begins maintenance."""

    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]
    """Until it should be over."""
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    is_disconnected: bool = False
    """Somebody has seen that its output is off by its own switch or plug, where nothing can be read back."""


class Gone(BaseModel):
    """Body of the command that forgets an output which is configured no more."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    is_disconnected: bool = False
    """As of `Work`."""


class Cooling(BaseModel):
    """Body of the command that sets, starts or stops a circulator; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    set_degc: Annotated[float, Field(ge=-100, le=300, allow_inf_nan=False)] | None = None
    is_running: bool | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""


def add_maintenance(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes of this file."""
    keeper = daemon.watch.maintenance

    @app.get("/api/v1/retired")
    async def retired() -> dict[str, Any]:
        """Every output that is configured no more and was last known on."""
        return {"retired": daemon.retired.documents()}

    @app.post("/api/v1/devices/{device}/forget")
    async def forget(device: str, body: Gone) -> dict[str, Any]:
        """Forget such an output; it is switched off once more first, and refused while it may be on."""
        return (await daemon.retired.forget(device, is_disconnected=body.is_disconnected)).document()

    @app.post("/api/v1/devices/{device}/cool")
    async def cooling(device: str, body: Cooling) -> dict[str, Any]:
        """Set, start or stop a circulator; answered with what it then says."""
        return await cool(daemon.instruments, device, set_degc=body.set_degc, is_running=body.is_running)

    @app.get("/api/v1/maintenance")
    async def maintenance() -> dict[str, Any]:
        """Every device that somebody works at."""
        return {"maintenance": [one.document() for one in keeper.all()]}

    @app.post("/api/v1/devices/{device}/maintenance")
    async def begin(device: str, body: Work, who: Who) -> dict[str, Any]:
        """Nothing energises the device (`scanner`: any device) from now on, until somebody ends it."""
        return (
            await keeper.begin(
                device,
                seconds=body.seconds,
                reason=body.reason,
                by=who.name,
                is_disconnected=body.is_disconnected,
            )
        ).document()

    @app.post("/api/v1/devices/{device}/maintenance/end")
    async def end(device: str, _body: Nothing) -> dict[str, Any]:
        """The work is over; energises nothing."""
        return (await keeper.end(device)).document()
