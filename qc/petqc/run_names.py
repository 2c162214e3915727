"""What a re-analysis is called: same recording, calibration and software, same name; and nothing else has it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from petqc.formats.bundle import CURVES, MR_RECORDINGS
from petqc.software import software as versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from petqc.formats.bundle import Bundle

_FRAMES: Final = "frames"
_COUNTS: Final = ("points.jsonl",)
_EVENTS: Final = ("points.rawf", "points.idxf")
RECORDINGS: Final[dict[str, str | tuple[str, ...]]] = {
    "source": _FRAMES,
    "lutetium": _FRAMES,
    "mr-delta": tuple(f"{name}.rawf" for name in MR_RECORDINGS),
    "housekeeping": (),
    "dark": _COUNTS,
    "test-pulse": _EVENTS,
    "calibrate-tdc": _EVENTS,
    "calibrate-charge": _EVENTS,
    "calibrate-threshold": _COUNTS,
    "calibrate-bias": _COUNTS,
    "calibrate-bias-iv": (CURVES,),
    "calibrate-energy": _FRAMES,
    "calibrate-time-offsets": _FRAMES,
}
"""The recordings of each kind of run: their role in its bundle, in the order of the manifest, or their names."""
JUDGES_CALIBRATION: Final = "housekeeping"
"""The kind of run that tells of the calibration in use, and measures nothing with it."""
CALIBRATES: Final = frozenset({JUDGES_CALIBRATION, *(kind for kind in RECORDINGS if kind.startswith("calibrate-"))})
"""Kinds of run that make a calibration, or tell of the one in use: another one in its place says nothing."""
NEEDED: Final = (
    "frames", "frames-index", "frames-modes", "frames-manifest", "points", "configuration", "context", "inputs",
    "environment",
)  # fmt: skip
"""Roles of the files that a copy of a bundle needs to be analysed again, beside its manifest."""


def reanalysis_id(run_id: str, hashes: Iterable[str], ids: Mapping[str, str]) -> str:
    """The run id of a re-analysis by this program.

    Args:
        run_id: of the run that was recorded.
        hashes: SHA-256 of its recordings, in the order of its manifest.
        ids: of the calibrations that are used.
    """
    seen = hashlib.sha256(json.dumps([list(hashes), ids, versions()], sort_keys=True).encode())
    return f"{run_id}-again-{seen.hexdigest()[:8]}"


def expected_id(bundle: Bundle, calibration_ids: Mapping[str, str] | None = None) -> str | None:
    """The run id that a re-analysis of a bundle by this program will have, from its manifest alone.

    Args:
        bundle: as its manifest tells it; its files are not looked at.
        calibration_ids: of what takes the place of the bundle's own calibration, with its `set`.

    None: the recording was never ended, so that the manifest has no hashes, it misses one of them, or its kind of run
    is none of RECORDINGS.
    """
    about = bundle.about
    recordings = RECORDINGS.get(str(about.get("kind")))
    if recordings is None or bundle.state == "recording":
        return None
    if isinstance(recordings, str):
        hashes = [file.sha256 for file in bundle.files if file.role == recordings]
    else:
        of_name = {file.name: file.sha256 for file in bundle.files}
        if not all(name in of_name for name in recordings):
            return None
        hashes = [of_name[name] for name in recordings]
    ids = dict(about.get("calibration_ids", {})) if calibration_ids is None else calibration_ids
    return reanalysis_id(str(about.get("run_id")), hashes, ids)
