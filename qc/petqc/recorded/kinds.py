"""How the recordings of each kind of run become what its analysis is given: the same as the run itself gave it.

A calibration that is analysed again says what it found; it makes no calibration set, which only a run can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.bundle import CURVES, MR_RECORDINGS
from petqc.recorded.told import read_inputs
from petqc.results import EnvironmentReading, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.calibrate import Calibration, EventPoint
    from petqc.formats.bundle import Bundle
    from petqc.formats.counter_points import CounterReader
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.qc_input import RunContext
    from petqc.recorded import Asked, Filled, Progress

_NO_SET: Final = "A re-analysis makes no calibration set."


@dataclass(frozen=True, slots=True)
class Read:
    """What the recordings of a bundle give.

    files: which they are. said: fields of RunContext that they and the configuration say. conclude: from everything
    that is known of the run to its checks and verdict.
    """

    files: list[Path]
    said: dict[str, Any]
    notes: list[str]
    conclude: Callable[[RunContext], Run]


Reader: TypeAlias = "Callable[[Bundle, Path, Progress | None], Read]"


def _events(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    """Runs whose frames are decoded and paired."""
    from petqc.analysis import analyse
    from petqc.recorded import Asked

    files = _recordings(bundle, "frames")
    filled = _decoded(bundle, files, Asked(config, progress=progress, lutetium=bundle.about["kind"] == "lutetium"))
    return Read(
        files, filled.context, filled.notes, lambda context: analyse(filled.histograms, context, filled.lutetium)
    )


def _mr_delta(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    """Three recordings of frames, with the temperatures at the end of each."""
    from dataclasses import replace

    from petqc.formats.petsys_config import load_config
    from petqc.mr_delta import analyse_mr_delta
    from petqc.qc_input import QcInput
    from petqc.recorded import Asked

    degc = read_inputs(bundle.folder)["degc"]
    files = [bundle.folder / f"{name}.rawf" for name in MR_RECORDINGS]
    if len(degc) != len(files) or not all(path.is_file() for path in files):
        raise BadInputError(
            f"has not all of {', '.join(path.name for path in files)}: nothing can be compared",
            where=str(bundle.folder),
        )
    filled = [_decoded(bundle, [path], Asked(config, progress=progress)) for path in files]
    # Which source was there is said by the run, not by the configuration of the readout.
    of_board = {k: v for k, v in load_config(config).petqc.context().items() if k != "source"}

    def conclude(context: RunContext) -> Run:
        whole = replace(context, **of_board)
        phases = [
            QcInput(one.histograms, replace(whole, live_time_s=float(one.context["live_time_s"]))) for one in filled
        ]
        return analyse_mr_delta(phases, degc, whole)

    said = {
        "calibration_ids": filled[0].context["calibration_ids"],
        "account": summed(one.context["account"] for one in filled),
        "live_time_s": sum(one.context["live_time_s"] for one in filled),
    }
    return Read(files, said, [note for one in filled for note in one.notes], conclude)


def _housekeeping(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    """Readings of the hardware, taken twice."""
    from petqc.calibrate.ages import TableAge
    from petqc.calibrate.conclude import topology_of
    from petqc.housekeeping import analyse_housekeeping

    del progress
    inputs, loaded = read_inputs(bundle.folder), _load(config)
    first, last = ([EnvironmentReading(**one) for one in inputs[name]] for name in ("first", "last"))
    ages = [TableAge(**one) for one in inputs["ages"]]
    topology = topology_of(loaded, np.array(inputs["channels"], np.int32))
    return Read(
        [],
        _said(loaded, reference=None),
        [],
        lambda context: analyse_housekeeping(first, last, inputs["watched_s"], ages, topology, context),
    )


def _dark(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    """Counts at thresholds; they are few, so that there is no progress to tell."""
    from petqc.calibrate.conclude import topology_of
    from petqc.dark_counts import analyse_dark

    del progress
    reader, loaded = _counters(bundle), _load(config)
    topology = topology_of(loaded, reader.header.channels)
    return Read(
        [reader.path],
        _said(loaded),
        [f"{reader.path.name}: {damage}" for damage in reader.damages],
        lambda context: analyse_dark(reader.points, scanned_by(loaded, reader), topology, context),
    )


def _test_pulse(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    """Counted events of each train of pulses."""
    from petqc.calibrate.conclude import topology_of
    from petqc.test_pulse import Pulse, PulsedPoint, analyse_test_pulse

    del progress
    inputs, loaded = read_inputs(bundle.folder), _load(config)
    files, events = _counted_events(bundle, len(inputs["frames"]))
    pulses = [Pulse(**one) for one in inputs["pulses"]]
    groups = [np.array(channels, np.int32) for channels in inputs["groups"]]
    points = [
        PulsedPoint(pulses[number % len(pulses)], groups[number // len(pulses)], frames, one)
        for number, (one, frames) in enumerate(zip(events, inputs["frames"], strict=True))
    ]
    topology = topology_of(loaded, np.array(inputs["channels"], np.int32))
    return Read(
        files,
        _said(loaded),
        [],
        lambda context: analyse_test_pulse(points, loaded.require("tdc"), loaded.require("qdc"), topology, context),
    )


# -- calibrations: what was taken, and the fit ------------------------------------------------------------------------


def _tdc(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.tdc import fit

    del progress
    inputs, loaded = read_inputs(bundle.folder), _load(config)
    files, events = _counted_events(bundle, inputs["points"])
    return _calibrated(files, loaded, inputs, lambda: fit(events, np.array(inputs["calibrated"], np.int32)))


def _charge(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.charge import fit

    del progress
    inputs, loaded = read_inputs(bundle.folder), _load(config)
    files, events = _counted_events(bundle, inputs["points"])
    channels = np.array(inputs["calibrated"], np.int32)
    return _calibrated(files, loaded, inputs, lambda: fit(events, channels, loaded.require("tdc")))


def _threshold(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.threshold import fit

    del progress
    inputs, loaded, reader = read_inputs(bundle.folder), _load(config), _counters(bundle)
    _require_whole(bundle, len(reader.points), inputs["points"])
    trims = reader.header.of_channels
    return _calibrated(
        [reader.path], loaded, inputs, lambda: fit(reader.points, trims["baseline_t"], trims["baseline_e"])
    )


def _bias(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.bias import fit_gain
    from petqc.calibrate.bias_outputs import outputs_of_channels

    del progress
    inputs, loaded, reader = read_inputs(bundle.folder), _load(config), _counters(bundle)
    _require_whole(bundle, len(reader.points), inputs["points"])
    return _calibrated(
        [reader.path],
        loaded,
        inputs,
        lambda: fit_gain(
            reader.points,
            scanned_by(loaded, reader),
            outputs_of_channels(loaded.require("bias_map")),
            loaded.require("bias_settings"),
            largest_change_v=inputs["largest_change_v"],
        ),
    )


def _bias_iv(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.bias import fit_iv
    from petqc.calibrate.iv_curve import read_iv_file

    del progress
    inputs, loaded, path = read_inputs(bundle.folder), _load(config), bundle.folder / CURVES
    curves = read_iv_file(path)
    limit_v = inputs["largest_change_v"]
    return _calibrated(
        [path], loaded, inputs, lambda: fit_iv(curves, loaded.require("bias_settings"), largest_change_v=limit_v)
    )


def _energy(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.energy import ChargeSpectra, fit
    from petqc.calibration import CalibrationSet
    from petqc.recorded import Asked

    inputs, loaded = read_inputs(bundle.folder), _load(config)
    spectra = ChargeSpectra(CalibrationSet.from_config(loaded).topology.channels)
    files = _recordings(bundle, "frames")
    asked = Asked(config, progress=progress, lutetium=False, use_kev=False, look=lambda p: spectra.add(p.singles))
    filled = _decoded(bundle, files, asked)
    return _calibrated(
        files,
        loaded,
        inputs,
        lambda: fit(spectra, inputs["source"], loaded.tables.get("energy_kev")),
        filled.context,
        filled.notes,
    )


def _time_offsets(bundle: Bundle, config: Path, progress: Progress | None) -> Read:
    from petqc.calibrate.time_offsets import PairList, fit
    from petqc.calibration import CalibrationSet
    from petqc.recorded import Asked

    inputs, loaded = read_inputs(bundle.folder), _load(config)
    pairs = PairList(CalibrationSet.from_config(loaded).topology)
    files = _recordings(bundle, "frames")
    asked = Asked(config, progress=progress, lutetium=False, look=lambda p: pairs.add(p.prompts))
    filled = _decoded(bundle, files, asked)
    source_mm = inputs["source_mm"]
    return _calibrated(
        files,
        loaded,
        inputs,
        lambda: fit(
            pairs,
            loaded.tables.get("time_offset"),
            window_ps=float(filled.histograms.settings.coincidence_window_ps),
            source_mm=None if source_mm is None else tuple(source_mm),
            crystal_mm=inputs["crystal_mm"],
        ),
        filled.context,
        filled.notes,
    )


def _calibrated(
    files: list[Path],
    loaded: PetsysConfig,
    inputs: Mapping[str, Any],
    fit: Callable[[], Calibration],
    counted: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Read:
    """A calibration, judged as when it was taken; counted: context of frames that were decoded for it."""
    from petqc.calibrate.conclude import conclude

    said = _said(loaded, reference=None)
    said |= {k: v for k, v in (counted or {}).items() if k in {"account", "elapsed_s", "live_time_s"}}
    channels = np.array(inputs["channels"], np.int32)

    def judged(context: RunContext) -> Run:
        run = conclude(fit(), context, loaded, channels)
        run.notes.append(_NO_SET)
        return run

    return Read(files, said, list(notes), judged)


KINDS: Final[dict[str, Reader]] = {
    "source": _events,
    "lutetium": _events,
    "mr-delta": _mr_delta,
    "housekeeping": _housekeeping,
    "dark": _dark,
    "test-pulse": _test_pulse,
    "calibrate-tdc": _tdc,
    "calibrate-charge": _charge,
    "calibrate-threshold": _threshold,
    "calibrate-bias": _bias,
    "calibrate-bias-iv": _bias_iv,
    "calibrate-energy": _energy,
    "calibrate-time-offsets": _time_offsets,
}
"""Kinds of run that are analysed again. What is composed of others is not: its parts are."""


def _load(config: Path) -> PetsysConfig:
    from petqc.formats.petsys_config import load_config

    return load_config(config)


def _said(loaded: PetsysConfig, **instead: Any) -> dict[str, Any]:
    """What a configuration says of a run that decodes no frames."""
    return {
        "calibration_ids": dict(loaded.file_hashes),
        "reference": loaded.petqc.scanner,
        "account": {},
        **instead,
    }


def _recordings(bundle: Bundle, role: str) -> list[Path]:
    found = bundle.of_role(role)
    if not found:
        raise BadInputError("has no recording", where=str(bundle.folder))
    return found


def _decoded(bundle: Bundle, files: list[Path], asked: Asked) -> Filled:
    from petqc.recorded import raw_frames

    filled = raw_frames(files, asked)
    if not filled.context["account"]["frames"]:
        raise BadInputError("its recording has not one whole frame", where=str(bundle.folder))
    return filled


def _require_whole(bundle: Bundle, points: int, planned: int) -> None:
    if points != planned:
        raise BadInputError(
            f"{points} of {planned} points were taken, and a scan is analysed whole", where=str(bundle.folder)
        )


def _counters(bundle: Bundle) -> CounterReader:
    from petqc.formats.counter_points import CounterReader

    return CounterReader(next(p for p in _recordings(bundle, "points") if p.name == "points.jsonl"))


def _counted_events(bundle: Bundle, planned: int) -> tuple[list[Path], list[EventPoint]]:
    """The files of a scan that counts events, and its points."""
    from petqc.formats.petsys_calibration_raw import CalibrationReader

    path = bundle.folder / "points.rawf"
    points = list(CalibrationReader(path).points())
    _require_whole(bundle, len(points), planned)
    return [path, path.with_suffix(".idxf")], points


def scanned_by(loaded: PetsysConfig, reader: CounterReader) -> NDArray[np.void]:
    """Of a scan of dark counts: the discriminator calibration of the channels whose thresholds could be set."""
    table = loaded.require("disc_calibration")
    number = table["port"] << 17 | table["slave"] << 12 | table["chip"] << 6 | table["channel"]
    scanned = reader.header.channels[reader.header.of_channels["t1_baseline"] >= 0]
    return np.asarray(table[np.isin(number, scanned)])


def summed(accounts: Iterable[Mapping[str, int | float]]) -> dict[str, int | float]:
    """One account of several recordings of the same run."""
    total: dict[str, int | float] = {}
    for account in accounts:
        for name, value in account.items():
            total[name] = total.get(name, 0) + value
    return total
