"""What is answered when something is refused or fails: a status, a stable code and a reason; never a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import HTMLResponse, JSONResponse

from petqc.errors import QcError
from petqcd.errors import (
    DaemonError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    StoreError,
    TooManyError,
    UnknownActorError,
    UnreachableError,
)

if TYPE_CHECKING:
    from fastapi import Response

_STATUS: dict[type[DaemonError], int] = {
    UnknownActorError: 401,
    NotAllowedError: 403,
    NotFoundError: 404,
    RefusedError: 409,
    InvalidRequestError: 422,
    TooManyError: 429,
    StoreError: 503,
    UnreachableError: 503,
}


def failure(error: DaemonError | QcError) -> JSONResponse:
    """The answer for an error."""
    if isinstance(error, QcError):
        return JSONResponse({"code": RefusedError.code, "error": str(error)}, status_code=409)
    headers = {"Retry-After": f"{error.wait_s:.0f}"} if isinstance(error, TooManyError) else None
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"code": error.code, "error": str(error)}, status_code=status, headers=headers)


_BROKEN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Page could not be made</title><link rel="stylesheet" href="/static/petqc.css"></head>
<body><main><h1>This page could not be made</h1>
<p>That is a fault of petqc. It says nothing about the scanner, and the service goes on.</p>
<ul><li>Verdicts and numbers: <a href="/">Today</a>, <a href="/runs">History</a>,
or <code>petqc show last</code> on its machine.</li>
<li>Bias off, at any time: <code>petqc off</code> there.</li>
<li>What happened is in its log: <code>journalctl -u petqcd</code>. Please report it with these lines.</li></ul>
</main></body></html>
"""
"""Made of nothing that could be what is broken."""


def unexpected(*, is_page: bool) -> Response:
    """The answer where nobody thought of what happened: the log has it, whoever asked is told what still works."""
    if is_page:
        return HTMLResponse(_BROKEN_PAGE, status_code=500)
    error = "petqc met a fault of its own; its log has it (journalctl -u petqcd). Bias can be switched off: petqc off"
    return JSONResponse({"code": "internal", "error": error}, status_code=500)
