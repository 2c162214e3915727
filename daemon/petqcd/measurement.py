"""One acquisition's data: the recording, the processing into histograms, the files of the run folder, the analysis."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from petqcd import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.analysis import RunContext
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.lutetium import LutetiumCounts
    from petqc.processing import Processed
    from petqc.qc_input import QcInput
    from petqc.results import RawFile, Run
    from petqcd.readout.board import TimeReference

log = logging.getLogger(__name__)

RECORDING = "recording"
CONFIG_COPY = "config"


class Measurement:
    """Recording and histograms of one run. `write` and `process` are called from one worker thread only.

    Args:
        folder: the run's folder, which exists.
        config: the board's configuration as read.
        calibration_ids: what the recording's manifest says about it; default: the hashes of its files.
        look: called with everything that became final, from the thread that calls `process`.
        use_kev: whether energies are made keV where the configuration has a table for it; else they stay charge.
        processing: settings of the processing that take the place of the configured ones.
        name: of the recording, without suffix; a run may have several.
    """

    def __init__(
        self,
        folder: Path,
        config: PetsysConfig,
        *,
        calibration_ids: dict[str, str] | None = None,
        look: Callable[[Processed], None] | None = None,
        use_kev: bool = True,
        processing: Mapping[str, Any] | None = None,
        name: str = RECORDING,
    ) -> None:
        from petqc.calibration import CalibrationSet
        from petqc.histograms import HistogramSettings, QcHistograms
        from petqc.processing import ProcessingSettings, Processor

        self._folder = folder
        self._name = name
        self._config = config
        self.calibration_ids = dict(config.file_hashes) if calibration_ids is None else calibration_ids
        used = (
            config if use_kev else replace(config, tables={k: t for k, t in config.tables.items() if k != "energy_kev"})
        )
        calibration = CalibrationSet.from_config(used)
        # A live stream brings every frame, empty ones too: a missing number is a lost frame.
        settings = replace(ProcessingSettings.from_config(used), compacted=False, **(processing or {}))
        self._settings = settings
        self._all_charge = calibration.acquisition == "qdc"
        self._mixed = calibration.acquisition == "mixed"
        self._calibration = calibration
        self._processor = Processor(calibration, settings)
        self.histograms = QcHistograms(
            calibration.topology,
            calibration.energy_unit,
            HistogramSettings.from_processing(settings, calibration.energy_unit),
            searched=calibration.searched_pairs(),
        )
        self._look = look
        self._writer: Any = None
        self._counts: dict[str, int] = {}

    def warm_up(self) -> None:
        """Compile, or load, everything that frames will need, by feeding noise to a processor that is thrown away."""
        from petqc.histograms import QcHistograms
        from petqc.processing import Processor

        processor = Processor(self._calibration, self._settings, trigger_id=None)
        h = self.histograms
        histograms = QcHistograms(h.topology, h.energy_unit, h.settings, searched=h.searched)
        histograms.add(processor.feed(noise_frames(h.topology.channels, np.random.default_rng(1))))
        histograms.add(processor.finish())

    def keep_configuration(self) -> None:
        """Copy the configuration beside the recording, which means nothing without it."""
        keep_configuration(self._folder, self._config)

    def open_recording(self, reference: TimeReference, about: dict[str, Any]) -> None:
        """Create the recording; frames may come from now on. about: JSON values for the manifest's first line."""
        from petqc.formats.petsys_raw import RawHeader, RawWriter
        from petqc.processing import Processor

        header = RawHeader(
            frequency_hz=reference.frequency_hz,
            all_charge=self._all_charge,
            sync_epoch_s=reference.sync_epoch_s,
            trigger_id=reference.trigger_id,
            mixed=self._mixed,
            created_time_tag=reference.time_tag,
        )
        modes = self._config.require("acquisition_mode") if self._mixed else None
        # On the clock of the wire logs, so that a replay knows what was on when frames came.
        context = {**about, "opened_monotonic_s": clock.monotonic_s(), "calibration_ids": self.calibration_ids}
        self._writer = RawWriter(self._folder / self._name, header, modes=modes, context=context)
        self._writer.start_step()
        self._processor = Processor(self._calibration, self._settings, trigger_id=reference.trigger_id)

    def write(self, words: NDArray[np.uint64]) -> None:
        """Append whole frames to the recording."""
        self._writer.write(words)

    def process(self, words: NDArray[np.uint64]) -> None:
        """Decode, pair and count whole frames."""
        self._add(self._processor.feed(words))
        account = self._processor.account
        self._counts = {
            "frames": account.frames,
            "hits": account.hits,
            "singles": account.singles,
            "prompts": account.prompts,
        }

    def counts(self) -> dict[str, int]:
        """What was seen so far, for people who watch."""
        return self._counts

    def close_recording(self, *, truncated: str | None) -> None:
        """Finalise the recording, with the reason if it ended early; safe to call when there is none."""
        if self._writer is not None:
            self._writer.close(truncated=truncated)

    @property
    def frames_recorded(self) -> int:
        """Frames that went to the recording, stored or compacted away."""
        return 0 if self._writer is None else int(self._writer.frames_in)

    def finish(self) -> None:
        """Decide what was still waiting for later frames."""
        self._add(self._processor.finish())

    def _add(self, processed: Processed) -> None:
        self.histograms.add(processed)
        if self._look is not None:
            self._look(processed)

    def account(self) -> dict[str, int | float]:
        """The processing's account as flat numbers."""
        return flat(asdict(self._processor.account))

    @property
    def live_time_s(self) -> float:
        """Time covered by frames that were not lost."""
        return float(self._processor.account.live_time_s)

    def raw_files(self) -> tuple[RawFile, ...]:
        """The recording with its hash."""
        from petqc.formats.petsys_manifest import read_manifest
        from petqc.results import RawFile

        manifest = read_manifest(self._folder / f"{self._name}.manifest.jsonl") if self._writer is not None else None
        if manifest is None or manifest.end is None:
            return ()
        return (RawFile(f"{self._name}.rawf", str(manifest.end["sha256"])),)

    def analyse(self, context: RunContext, lutetium: LutetiumCounts | None = None) -> Run:
        """Run every check that belongs to the run; lutetium: of a run without a source."""
        from petqc.analysis import analyse

        started_s = clock.monotonic_s()
        run = analyse(self.histograms, self.told(context), lutetium)
        log.info("analysed in %.2f s", clock.monotonic_s() - started_s)
        return run

    def told(self, context: RunContext) -> RunContext:
        """The same with what the board's configuration says; which source is in use is said by the daemon's own."""
        of_board = {name: value for name, value in self._config.petqc.context().items() if name != "source"}
        return replace(context, **of_board)

    def qc_input(self, context: RunContext) -> QcInput:
        """What checks are handed of this measurement alone."""
        from petqc.qc_input import QcInput

        return QcInput(self.histograms, replace(self.told(context), live_time_s=self.live_time_s))


def keep_configuration(folder: Path, config: PetsysConfig) -> None:
    """Copy a configuration into a run's folder."""
    target = folder / CONFIG_COPY
    target.mkdir(exist_ok=True)
    for path in {config.path, *config.paths.values()}:
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def count_frames(words: NDArray[np.uint64]) -> int:
    """Number of frames in an array of whole frames."""
    from petqc.formats.petsys_frames import FRAMES, N_WALK
    from petqc.formats.petsys_kernels import walk_frames

    result = np.zeros(N_WALK, np.int64)
    walk_frames(words, result)
    return int(result[FRAMES])


def noise_frames(channels: NDArray[np.int32], random: np.random.Generator) -> NDArray[np.uint64]:
    """Whole frames of meaningless events on existing channels; enough of them for every stage of the processing."""
    n_frames, n_events = 4096, 8
    words = random.integers(0, 1 << 42, (n_frames, n_events + 2), np.uint64)
    if channels.size:
        words[:, 2:] |= random.choice(channels, (n_frames, n_events)).astype(np.uint64) << np.uint64(42)
    words[:, 0] = np.arange(n_frames, dtype=np.uint64) | np.uint64(n_events + 2) << np.uint64(36)
    words[:, 1] = n_events
    return words.reshape(-1)


def flat(counts: dict[str, Any]) -> dict[str, int | float]:
    """Numbers of a nested account with joined names; reasons that never happened are left out."""
    found: dict[str, int | float] = {}
    for name, value in counts.items():
        if isinstance(value, dict):
            found.update({f"{name}_{reason}": n for reason, n in value.items() if n})
        elif isinstance(value, int | float):
            found[name] = value
    return found
