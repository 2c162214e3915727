"""Alarms: what is wrong, since when, what to do; acknowledging, shelving, taking out of service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - the route's signature is read at run time
from fastapi.responses import HTMLResponse  # noqa: TC002

from petqcd import clock
from petqcd.interlocks.alarms import State
from petqcd.web.console.frame import UNSEEN
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame

_WORDS = {
    State.NORMAL: "normal",
    State.ACTIVE_UNACK: "active, not acknowledged",
    State.ACTIVE_ACK: "active, acknowledged",
    State.CLEARED_UNACK: "gone, not acknowledged",
}


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/alarms", include_in_schema=False, response_class=PAGE)
    async def page(request: Request) -> HTMLResponse:
        keeper = frame.daemon.alarms
        return await frame.page(
            request,
            "alarms.html",
            alarms=keeper.documents(),
            every=keeper.documents(every=True),
            states={str(state): word for state, word in _WORDS.items()},
            unseen=UNSEEN,
            now_unix_s=clock.unix_s(),
        )
