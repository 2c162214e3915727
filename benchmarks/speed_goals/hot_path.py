"""From raw words to coincidences and histograms on one core, against parts of it and a plain copy."""

# ruff: noqa: SLF001 - stages of the pipeline are timed apart
from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from figures import Figure, in_turn
from one_loop import decode_and_count

from petqc.calibration import CalibrationSet
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_tables import QDC, TOT
from petqc.histograms import HistogramSettings, QcHistograms
from petqc.jit import kernel
from petqc.processing import ProcessingSettings, Processor
from petqc_simulators.config_files import write_config_folder
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from figures import Size
    from numpy.typing import NDArray

PROFILES = {"bench": "512 channels", "signa": "20 160 channels"}
BIN = 4.0
BINS = 256


@kernel
def count(energy: NDArray[np.float32], channel: NDArray[np.int32], n: int, counts: NDArray[np.uint32]) -> None:
    """Energies into histograms, as a loop of its own."""
    for i in range(n):
        k = np.int64(energy[i] / np.float32(BIN))
        if 0 <= k < BINS:
            counts[channel[i], k] += np.uint32(1)


def recorded(name: str, hits: int) -> tuple[CalibrationSet, ProcessingSettings, list[NDArray[np.uint64]]]:
    profile = load_profile(name, source="na22")
    detector = Detector(profile, 1, stream_name="speed")
    detector.settle()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(write_config_folder(Path(folder), profile, detector.draw))
    blocks: list[NDArray[np.uint64]] = []
    n = 0
    while n < hits:
        blocks.append(detector.advance().words.copy())
        n += blocks[-1].size
    joined = np.concatenate(blocks)
    cuts = _whole_frames(joined, 1 << 17)
    return CalibrationSet.from_config(config), ProcessingSettings.from_config(config), np.split(joined, cuts)


def _whole_frames(words: NDArray[np.uint64], about: int) -> list[int]:
    """Where to cut so that each part holds whole frames, as a reader gives them."""
    cuts, at, due = [], 0, about
    while at < words.size:
        if at >= due:
            cuts.append(at)
            due = at + about
        at += 2 + int(words[at + 1] & np.uint64(0x7FFF))
    return cuts


def full(calibration: CalibrationSet, settings: ProcessingSettings, parts: Iterable[NDArray[np.uint64]]) -> Processor:
    processor = Processor(calibration, settings)
    counted = QcHistograms(calibration.topology, calibration.energy_unit, HistogramSettings())
    for words in parts:
        counted.add(processor.feed(words))
    counted.add(processor.finish())
    return processor


def decoded(
    calibration: CalibrationSet,
    settings: ProcessingSettings,
    parts: list[NDArray[np.uint64]],
    counts: NDArray[np.uint32] | None,
) -> None:
    pipeline: Any = Processor(calibration, settings)._pipeline
    for words in parts:
        for n_frames, n_hits in pipeline._walk.blocks(words):
            pipeline._decode(words, n_frames, n_hits, pipeline._hits)
            hits = pipeline._hits
            if counts is not None:
                count(hits["energy"], hits["channel"], hits.n, counts)
            hits.n = 0


def in_one_loop(
    calibration: CalibrationSet,
    settings: ProcessingSettings,
    parts: list[NDArray[np.uint64]],
    counts: NDArray[np.uint32],
) -> None:
    pipeline: Any = Processor(calibration, settings)._pipeline
    for words in parts:
        for n_frames, n_hits in pipeline._walk.blocks(words):
            hits, table = pipeline._hits, pipeline._table
            hits.reserve(n_hits)
            decode_and_count(
                words,
                pipeline._walk.position,
                pipeline._walk.frame_id,
                n_frames,
                pipeline._period_ps,
                pipeline._chip_row,
                table.rows,
                table.shift_ps,
                calibration.curves.cubics,
                hits["time_ps"],
                hits["energy"],
                hits["channel"],
                counts,
                BIN,
            )


def figures(size: Size) -> Iterator[Figure]:
    for name, what in PROFILES.items():
        charge, settings, parts = recorded(name, size.hits)
        tot = replace(
            charge, mode=np.where(charge.mode == QDC, TOT, charge.mode).astype(charge.mode.dtype), kev=charge.kev[:0]
        )
        settings_tot = replace(settings, coincidence_energy=None)
        counts = np.zeros((charge.channel.size, BINS), np.uint32)
        ways = {
            "copy": lambda parts=parts: [p.copy() for p in parts],
            "charge": lambda c=charge, s=settings, p=parts: full(c, s, p),
            "tot": lambda c=tot, s=settings_tot, p=parts: full(c, s, p),
            "decode": lambda c=charge, s=settings, p=parts: decoded(c, s, p, None),
            "apart": lambda c=charge, s=settings, p=parts, k=counts: decoded(c, s, p, k),
            "one loop": lambda c=charge, s=settings, p=parts, k=counts: in_one_loop(c, s, p, k),
        }
        hits = full(charge, settings, parts).account.hits
        spent = in_turn(ways, size.repeats)
        for mode in ("charge", "tot"):
            rate = hits / spent[mode] / 1e6
            yield Figure(
                f"{mode}-{name}",
                f"full pass, {mode}, {what}",
                rate,
                "Mhit/s a core",
                "raw words to singles, coincidences and all histograms; processor time of one thread",
            )
        yield Figure(
            f"full-of-decode-{name}",
            f"full pass against decoding alone, {what}",
            spent["decode"] / spent["charge"],
            "of its speed",
            "the same words, the same run",
            0.25,
        )
        yield Figure(
            f"fused-{name}",
            f"loops over a block against one loop, {what}",
            spent["one loop"] / spent["apart"],
            "×",
            "decoding, then counting, block by block, against counting inside one loop of decoding",
            2.0,
        )
        yield Figure(
            f"copy-{name}",
            f"full pass against a copy of the words, {what}",
            spent["charge"] / spent["copy"],
            "× its time",
            "numpy copy of the same words",
        )
