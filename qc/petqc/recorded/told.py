"""What the analysis of a run was told beside its recordings and its configuration: context.json and inputs.json.

The context is of every run: limits, baselines, readings, account, times. The inputs are of its kind: what a scan was a
scan of, readings that were taken twice, and the run's own settings.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from petqc.errors import BadInputError
from petqc.formats.bundle import CONTEXT_JSON, INPUTS_JSON
from petqc.qc_input import RunContext
from petqc.results import EnvironmentReading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA: Final = "petqc-inputs/1"
_NOT_KEPT: Final = ("raw_files", "reference")
"""Fields of a context that files say: which there are, and what the configuration calls the scanner."""


def write_context(folder: Path, context: RunContext) -> None:
    """Keep what the analysis is told beside the events."""
    document = {f.name: getattr(context, f.name) for f in fields(context) if f.name not in _NOT_KEPT}
    document["environment"] = [reading.document() for reading in context.environment]
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False, default=dict) + "\n"
    (folder / CONTEXT_JSON).write_text(text, encoding="utf-8")


def read_context(path: Path) -> RunContext:
    """What write_context kept.

    Raises:
        BadInputError: it is missing or damaged.
    """
    try:
        document = json.loads(path.read_bytes())
        known = {f.name for f in fields(RunContext)} - set(_NOT_KEPT)
        kept = {name: value for name, value in document.items() if name in known}
        for name in ("notes", "coincident_modules", "source_mm", "crystal_mm"):
            kept[name] = tuple(kept[name]) if kept.get(name) is not None else None
        environment = tuple(EnvironmentReading(**reading) for reading in kept.pop("environment"))
        return RunContext(**kept, environment=environment)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInputError(f"is no context of a run ({type(error).__name__})", where=str(path)) from error


def write_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Keep what the analysis of this kind of run is told; inputs: JSON values."""
    text = json.dumps({"schema": SCHEMA, **inputs}, allow_nan=False, ensure_ascii=False) + "\n"
    (folder / INPUTS_JSON).write_text(text, encoding="utf-8")


def read_inputs(folder: Path) -> dict[str, Any]:
    """What write_inputs kept.

    Raises:
        BadInputError: it is missing or damaged.
    """
    path = folder / INPUTS_JSON
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise BadInputError(f"has schema {document['schema']!r}, not {SCHEMA}", where=str(path))
    except FileNotFoundError as error:
        raise BadInputError(
            f"has no {INPUTS_JSON}, which says what was measured: the run was cut, or is of a version that kept none",
            where=str(folder),
        ) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInputError(f"is no record of a run's inputs ({type(error).__name__})", where=str(path)) from error
    return dict(document)
