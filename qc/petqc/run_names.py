"""What a re-analysis is called: same recording, calibration and software, same name; and nothing else has it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from petqc.software import software as versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from petqc.formats.bundle import Bundle

RECORDING_ROLES: Final = {"source": "frames", "lutetium": "frames", "dark": "points"}
"""Kinds of run whose name is known from the manifest of their bundle, and the role of their recordings there."""
NEEDED: Final = (
    "frames", "frames-index", "frames-modes", "frames-manifest", "points", "configuration", "context", "inputs",
    "environment",
)  # fmt: skip
"""Roles of the files that a copy of a bundle needs to be analysed again, beside its manifest."""


def reanalysis_id(run_id: str, hashes: Iterable[str], ids: Mapping[str, str], made_by: Mapping[str, str]) -> str:
    """The run id of a re-analysis.

    Args:
        run_id: of the run that was recorded.
        hashes: SHA-256 of its recordings, in the order of its manifest.
        ids: of the calibrations that are used.
        made_by: versions that analyse, as `software_now`.
    """
    seen = hashlib.sha256(json.dumps([list(hashes), ids, made_by], sort_keys=True).encode())
    return f"{run_id}-again-{seen.hexdigest()[:8]}"


def software_now(then: Mapping[str, str]) -> dict[str, str]:
    """What analyses now, and the board that measured then."""
    return {**versions(), **{k: v for k, v in then.items() if k == "board"}}


def expected_id(bundle: Bundle, calibration_ids: Mapping[str, str] | None = None) -> str | None:
    """The run id that a re-analysis of a bundle by this program will have, from its manifest alone.

    Args:
        bundle: as its manifest tells it; its files are not looked at.
        calibration_ids: of what takes the place of the bundle's own calibration, with its `set`.

    None: the recording was never ended, so that the manifest has no hashes, or its kind of run is none of
    RECORDING_ROLES.
    """
    about = bundle.about
    role = RECORDING_ROLES.get(str(about.get("kind")))
    if role is None or bundle.state == "recording":
        return None
    hashes = [file.sha256 for file in bundle.files if file.role == role]
    ids = dict(about.get("calibration_ids", {})) if calibration_ids is None else calibration_ids
    return reanalysis_id(str(about.get("run_id")), hashes, ids, software_now(about.get("software", {})))
