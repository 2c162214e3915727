"""The console: ONE file here = ONE page, with the template of the same name. All of it works without the internet.

A page is a module with `add(app, frame)`, which adds its route; the route needs its entry in `petqcd.web.actions`, and
a page of the menu its line in `MENU` of `frame.py`. Without scripts a page still shows all it says in words and tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.web.console import (
    alarms,
    audit,
    calibrations,
    compare,
    devices,
    faults,
    history,
    login,
    run,
    static,
    today,
    trends,
)
from petqcd.web.console.frame import Frame

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.app import Daemon

PAGES = (static, login, today, history, run, compare, trends, devices, alarms, calibrations, faults, audit)


def add_console(app: FastAPI, daemon: Daemon) -> None:
    """Add every page."""
    frame = Frame(daemon)
    for page in PAGES:
        page.add(app, frame)
