"""Long answers in JSON are written in another thread: of many devices it takes its time, and others wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

from petqcd.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping


async def in_thread(document: Mapping[str, Any]) -> Response:
    """An answer of plain types; what is no `Response` already, FastAPI looks through value by value first."""
    return Response(await asyncio.to_thread(json_text, document), media_type="application/json")
