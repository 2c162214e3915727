"""Posts a run to a QATrack+ server: one request, a deadline, and an answer in words."""

from __future__ import annotations

import json
import ssl
import stat
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from petqc.exports.qatrack import PATH, performed_test_list
from petqcd.errors import ConfigError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.results import Run
    from petqcd.config import QatrackConfig

DEADLINE_S = 30.0
MAX_ANSWER_BYTES = 1 << 20


def post(settings: QatrackConfig, run: Run) -> dict[str, Any]:
    """Perform the test list; posting a run again changes nothing, its id is the server's key.

    Raises:
        ConfigError: the token file cannot be used.
        RefusedError: the server refused, and why.
        UnreachableError: no answer within the deadline.
    """
    body = performed_test_list(run, unit_test_collection=settings.unit_test_collection, tests=settings.tests)
    request = urllib.request.Request(  # noqa: S310 - the configuration admits http and https only
        f"{settings.url.rstrip('/')}/{PATH}",
        data=json.dumps(body, allow_nan=False).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Token {_token(settings.token_file)}"},
    )
    context = ssl.create_default_context(cafile=settings.ca_file) if settings.url.startswith("https:") else None
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S, context=context) as response:  # noqa: S310 - see above
            status, data = response.status, response.read(MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            status, data = error.code, error.read(MAX_ANSWER_BYTES)
    except OSError as error:
        raise UnreachableError(f"{settings.url} does not answer: {error}") from error
    text = data.decode("utf-8", errors="replace")
    if status == HTTPStatus.CREATED:
        return {"uploaded": True, "told": f"performed on the server{_page(text)}"}
    if status == HTTPStatus.BAD_REQUEST and "user_key" in text:
        return {"uploaded": False, "told": "is there already, nothing was changed"}
    raise RefusedError(f"{settings.url} refused with {status}: {text[:500].strip() or 'no reason given'}")


def _token(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[qatrack] token_file {path}: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"[qatrack] token_file {path}: others may read it; chmod 600 it")
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"[qatrack] token_file {path}: does not hold one line with a token")
    return token


def _page(text: str) -> str:
    try:
        return f": {json.loads(text)['site_url']}"
    except (ValueError, KeyError, TypeError):
        return ""
