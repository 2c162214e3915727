"""Devices: the readout and the instruments, what they do, what is known of their bias, and how old that is."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.responses import HTMLResponse  # noqa: TC002 - the route's signature is read at run time
from markupsafe import Markup, escape
from pydantic import Field

from petqc.report.text import age, plain, unit_text
from petqcd.web.bias import versioned
from petqcd.web.gate import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame

STALE_S = 10.0
"""A reading older than this looks old; instruments are read about once a second."""
MANY = 500
"""Readings of all devices together beyond which the page has the tables of those only that somebody opens."""
Name = Annotated[str, Field(max_length=200)]


def add(app: FastAPI, frame: Frame) -> None:
    """Add the route."""

    @app.get("/devices", include_in_schema=False, response_class=PAGE)
    async def page(
        request: Request, opened: Annotated[tuple[Name, ...], Query(alias="open", max_length=1000)] = ()
    ) -> HTMLResponse:
        daemon = frame.daemon
        sources = {one["name"]: one for one in versioned(await daemon.bias.documents_in_turns())}
        status = daemon.status(await daemon.instruments.documents_in_turns(sources))
        are_many = sum(len(device["readings"]) for device in status["devices"]) > MANY
        return await frame.page(
            request,
            "devices.html",
            board=status["device"],
            missing=status["missing"],
            readout=status["readout_permits"],
            maintenance=status["maintenance"],
            devices=status["devices"],
            sources=sources,
            stale_s=STALE_S,
            rows=rows,
            permits=permits,
            opened=opened if are_many else None,
            with_open=with_open,
            summary=summary,
        )


def with_open(opened: tuple[str, ...], name: str) -> str:
    """Address of the page with the table of one device more; of one that is open, without it."""
    others = tuple(one for one in opened if one != name)
    shown = others if name in opened else (*others, name)
    return "/devices" + ("?" + urlencode({"open": shown}, doseq=True) if shown else "")


def summary(readings: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """What is said of readings whose table is not shown, and whether all of them are well."""
    ill = sum(one["quality"] not in {"good", "absent"} or _is_old(one["age_s"]) for one in readings)
    said = f"{len(readings)} reading{'s' if len(readings) != 1 else ''}"
    return (f"{said}, {ill} of them old or not good", False) if ill else (said, True)


def _is_old(age_s: float | None) -> bool:
    return age_s is None or age_s > STALE_S


def rows(readings: Sequence[Mapping[str, Any]]) -> Markup:
    """The rows of the table of readings, see `reading_document`.

    Thousands of rows are written here in a tenth of the time of a template, which looks at every value for itself.
    """
    found = []
    for one in readings:
        value, age_s = one["value"], one["age_s"]
        is_old = _is_old(age_s)
        about = one["name"], one["unit"], one["measured"], one["quality"], one["reason"]
        before, between = _around(about, is_old=is_old, has_value=value is not None)
        shown, old = "–" if value is None else plain(value), "–" if age_s is None else _age(round(age_s, 1))
        found.append(f"{before}{shown}{between}{old}</td></tr>\n")
    return Markup("".join(found))  # noqa: S704 - what comes from devices is escaped in _around


def permits(of_source: Sequence[Mapping[str, Any]]) -> Markup:
    """The items of the list of permits, see `BiasControl.documents`; written here for the same reason."""
    found = [
        _permit(one["name"], one["why_not"], one["to_energise"], one["to_stay"], one["bypassed"]) for one in of_source
    ]
    return Markup("".join(found))  # noqa: S704 - escaped in _permit


@lru_cache(maxsize=8192)
def _permit(name: str, why_not: str, to_energise: bool, to_stay: bool, is_bypassed: bool) -> str:  # noqa: FBT001
    bypassed = ", <b>bypassed</b>" if is_bypassed else ""
    needed = " and ".join([*(["to energise"] if to_energise else []), *(["to stay on"] if to_stay else [])])
    return (
        f'<li><span aria-hidden="true">{"✖" if why_not else "✔"}</span> {escape(name)}: {escape(why_not or "given")}'
        f"{bypassed} <small>{needed}</small></li>\n"
    )


_age = lru_cache(maxsize=1024)(age)


@lru_cache(maxsize=8192)
def _around(about: tuple[str, str, bool, str, str | None], *, is_old: bool, has_value: bool) -> tuple[str, str]:
    """What stands before the number and between it and its age; the same from one look to the next."""
    name, unit, is_measured, quality, reason = about
    known = ["read" if is_measured else "commanded"] if has_value else []
    said = ", ".join(known + ([] if quality == "good" else [quality]) + (["old"] if is_old else []))
    because = f" <small>{escape(reason)}</small>" if reason else ""
    stale = ' class="stale"' if is_old or not has_value else ""
    return (
        f'<tr{stale}><th scope="row">{escape(name)}</th><td class="n">',
        f' {escape(unit_text(unit))}</td><td>{escape(said)}{because}</td><td class="n">',
    )
