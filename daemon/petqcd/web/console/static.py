"""The files that pages need: styles and scripts, all of them ours to ship."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fastapi.responses import Response

from petqcd.errors import NotFoundError
from petqcd.web.console.frame import WEB

if TYPE_CHECKING:
    from fastapi import FastAPI

    from petqcd.web.console.frame import Frame

_TYPES = {".css": "text/css", ".js": "text/javascript"}


def add(app: FastAPI, _frame: Frame) -> None:
    """Add the route."""

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        found = _file(name)
        if found is None:
            raise NotFoundError(f"there is no {name!r}")
        return Response(found[0], media_type=found[1], headers={"Cache-Control": "max-age=3600"})


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    folder = WEB / "static"
    return {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in folder.iterdir() if path.suffix in _TYPES}


def _file(name: str) -> tuple[bytes, str] | None:
    return _files().get(name)
