"""The routes of faults in a simulated readout: the daemon passes them on to the simulator, and does nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path
from pydantic import BaseModel, ConfigDict, Field

from petqcd.web.accounts import Nothing  # noqa: TC001 - the routes' signatures are read at run time

if TYPE_CHECKING:
    from petqcd.app import Daemon


class NewFault(BaseModel):
    """Body of the command that plants a fault: ID[=size][:place][@begin[-end]][~ramp], times in seconds from now on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    fault: Annotated[str, Field(min_length=3, max_length=200)]
    reason: Annotated[str, Field(max_length=1000)] = ""


def add_faults(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes of this file."""
    control = daemon.device.control

    @app.get("/api/v1/faults")
    async def planted() -> dict[str, Any]:
        """What is planted in the simulated readout, and whether it acts now."""
        return await control.ask({"do": "list"})

    @app.get("/api/v1/faults/kinds")
    async def kinds() -> dict[str, Any]:
        """Every kind of fault: size, its unit and default, what should notice it, and why it cannot be had here."""
        return await control.ask({"do": "kinds"})

    @app.post("/api/v1/faults")
    async def plant(body: NewFault) -> dict[str, Any]:
        """Plant one more fault, from now on, in the simulated readout."""
        return await control.ask({"do": "add", "fault": body.fault})

    @app.post("/api/v1/faults/{number}/remove")
    async def remove(number: Annotated[int, Path(ge=1, le=10**6)], _body: Nothing) -> dict[str, Any]:
        """Take a fault away, for good."""
        return await control.ask({"do": "remove", "number": number})
