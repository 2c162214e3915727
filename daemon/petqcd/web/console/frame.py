"""What every page has: the menu, who is logged in, what is simulated, and words for states and times."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from fastapi.responses import HTMLResponse

from petqc.report.text import age, measured, moment, plain, title_of, unit_text, with_commands
from petqcd import clock
from petqcd.interlocks.alarms import State
from petqcd.security.access import Proof
from petqcd.web.actions import may
from petqcd.web.gate import actor_of

if TYPE_CHECKING:
    from fastapi import Request

    from petqcd.app import Daemon
    from petqcd.security.access import Actor

WEB = Path(__file__).parent.parent
MENU = (
    ("/", "Today"),
    ("/runs", "History"),
    ("/trends", "Trends"),
    ("/devices", "Devices"),
    ("/alarms", "Alarms"),
    ("/calibrations", "Calibrations"),
    ("/faults", "Simulator"),
    ("/audit", "Audit"),
)
UNSEEN = (str(State.ACTIVE_UNACK), str(State.CLEARED_UNACK))
"""States of an alarm that nobody has acknowledged."""
SYMBOLS = {
    "pass": "✔",
    "warn": "▲",
    "fail": "✖",
    "invalid": "?",
    "missed": "–",
    "no-limits": "·",
}
"""A sign beside every word of a state: nothing is told by colour alone."""


class Frame:
    """Renders pages of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def page(self, request: Request, template: str, *, code: int = 200, **values: Any) -> HTMLResponse:
        """A page, from its template and what it is about: plain values, for it is written in another thread."""
        who = actor_of(request)
        users = self.daemon.accounts.users
        of_session = users.find(who.name) if who.proof is Proof.PASSWORD else None
        common = {
            "path": request.url.path,
            "menu": [(address, name) for address, name in MENU if address not in self._hidden(who)],
            "who": who,
            "is_logged_in": who.proof is Proof.PASSWORD,
            "is_idle": of_session is not None and of_session.role is not who.role,
            "has_users": bool(users),
            "may": lambda action: bool(users) and may(who, action),
            "alarms_unseen": sum(alarm["state"] in UNSEEN for alarm in self.daemon.alarms.documents()),
            "scanner": self.daemon.config.scanner.name,
            "simulated": self.daemon.config.board.is_simulated,
            "replays": self.daemon.config.board.replays,
            "version": self.daemon.version,
        }
        # A page of many devices takes tens of milliseconds, in which nobody else would be answered.
        text = await asyncio.to_thread(lambda: _environment().get_template(template).render(**common, **values))
        return HTMLResponse(text, status_code=code)

    def _hidden(self, who: Actor) -> set[str]:
        """Pages that are not in the menu: there is nothing on them for whoever asks."""
        hidden = set() if may(who, "audit") else {"/audit"}
        return hidden if self.daemon.config.board.is_simulated else hidden | {"/faults"}


def seconds_since(text: str) -> float:
    """How long ago a moment is; ISO 8601."""
    return clock.unix_s() - datetime.fromisoformat(text).timestamp()


def ago(text: str | None) -> str:
    """How long ago a moment is, in words."""
    if text is None:
        return "never"
    seconds = seconds_since(text)
    return f"{age(seconds)} ago" if seconds >= 1 else "now"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(moment=moment, ago=ago, age=age, plain=plain, title=title_of, measured=measured)
    environment.filters.update(unit=unit_text, commands=with_commands)
    environment.globals["symbols"] = SYMBOLS
    return environment
