"""What is answered when something is refused or fails: a status, a stable code and a reason; never a trace."""

from __future__ import annotations

from fastapi.responses import JSONResponse

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
