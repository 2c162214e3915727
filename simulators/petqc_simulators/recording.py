"""Recordings of a simulated scanner in the readout vendor's own files, as fast as it goes."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from petqc.formats.petsys_raw import RawHeader, RawWriter
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.faults import Fault
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.photons_ahead import PhotonsAhead
from petqc_simulators.profile import load_profile
from petqc_simulators.truth import compute_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from petqc_simulators.physics.controls import Controls
    from petqc_simulators.profile import Profile


def write_truth(path: Path, truth: dict[str, Any]) -> None:
    """Write a truth document; the same truth gives the same bytes."""
    path.write_text(json.dumps(truth, indent=1, allow_nan=False) + "\n", "utf-8")


def write_recording(
    prefix: Path,
    profile: str | Profile = "bench",
    seed: int = 1,
    seconds: float = 15.0,
    *,
    faults: Sequence[str | Fault] = (),
    source: str | None = None,
    config_folder: Path | None = None,
    truth_seconds: float | None = None,
    sync_epoch_s: float = 0.0,
    events_name: str = "events",
    change_controls: Callable[[Controls], Controls] | None = None,
    prepare: Callable[[Detector], None] | None = None,
) -> dict[str, Any]:
    """Write PREFIX.rawf, .idxf, a configuration directory and truth.json beside it; the same physics as on the wire.

    Args:
        prefix: path without suffix; its folder is made if need be.
        profile: a profile or its name.
        seed: the detector's seed.
        seconds: length, rounded up to whole blocks of 1024 frames.
        faults: as Fault.parse reads them.
        source: replaces the profile's source kind.
        config_folder: where the configuration goes; default `config` beside the recording.
        truth_seconds: simulated time that the truth is built from; None: as compute_truth chooses; 0: no truth.
        sync_epoch_s: Unix time of the synchronisation, for the file header.
        events_name: another name gives other events of the same detector.
        change_controls: changes what the readout would set.
        prepare: given the detector before its first frame: what else looks at it, or is the matter with it.

    Returns:
        The truth document, with `recording` (path), `config` (path), `frames`, `hits` and `seconds` added.

    Raises:
        ProfileError: profile or fault that cannot be used.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a recording of {seconds} s")
    chosen = load_profile(profile, source=source) if isinstance(profile, str) else profile
    planted = [Fault.parse(f) if isinstance(f, str) else f for f in faults]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    detector = Detector(chosen, seed, planted, stream_name=events_name)
    if change_controls is not None:
        detector.set(change_controls(detector.controls))
    if prepare is not None:
        prepare(detector)
    detector.settle()
    configured = detector.plan.configured(chosen)
    blocks = math.ceil(seconds / BLOCK_S)
    header = RawHeader(all_charge=True, trigger_id=chosen.hardware.trigger_id, sync_epoch_s=sync_epoch_s)
    hits = 0
    with (
        ThreadPoolExecutor(1, "configuration") as beside,
        RawWriter(prefix, header, context={"simulated": True}) as writer,
        PhotonsAhead() as detector.ahead,
    ):
        configuring = beside.submit(
            write_config_folder, config_folder or prefix.parent / "config", configured, detector.draw
        )
        writer.start_step()
        for _ in range(blocks):
            if configuring.done():
                configuring.result()  # what is wrong there is told at once
            block = detector.advance()
            writer.write(block.words)
            hits += block.words.size - 2 * (block.starts.size - 1)
        writer.end_step(last_frame=blocks * BLOCK_FRAMES - 1)
        config = configuring.result()
    truth = {} if truth_seconds == 0 else compute_truth(chosen, seed, planted, seconds=truth_seconds)
    if truth:
        write_truth(prefix.parent / "truth.json", truth)
    return {
        **truth,
        "recording": str(prefix) + ".rawf",
        "config": str(config),
        "frames": blocks * BLOCK_FRAMES,
        "hits": hits,
        "seconds": blocks * BLOCK_S,
    }
