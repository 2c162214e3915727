"""Bundles of the simulated bench, as a run with a source leaves them, without the run."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

from petqc.formats.bundle import begin_bundle, seal_bundle
from petqc.formats.petsys_config import load_config
from petqc.qc_input import RunContext
from petqc.software import software
from petqc_simulators.recording import write_recording

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 0.3


def bundle_of(folder: Path, seed: int = 1, kind: str = "source") -> Path:
    """Make a bundle whose run has the name of its folder."""
    write_recording(folder / "recording", "bench", seed, SECONDS, truth_seconds=0)
    ids = dict(load_config(folder / "config" / "config.ini").file_hashes)
    context = RunContext(
        run_id=folder.name,
        kind=kind,
        scanner="bench",
        started_at=f"2026-01-{seed:02d}T06:00:00+00:00",
        simulated=True,
        software=software(),
        calibration_ids=ids,
        elapsed_s=SECONDS,
    )
    about = ("run_id", "kind", "scanner", "started_at", "simulated", "software", "calibration_ids")
    begin_bundle(folder, {**{name: getattr(context, name) for name in about}, "simulator": None, "recorded": "frames"})
    told = {f.name: getattr(context, f.name) for f in fields(context) if f.name not in {"raw_files", "reference"}}
    (folder / "context.json").write_text(json.dumps(told, default=dict))
    seal_bundle(folder)
    return folder
