"""One acquisition's data: the recording, the processing into histograms, the files of the run folder, the analysis."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from petqcd import clock
from petqcd.acquisition import STOP_DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.analysis import RunContext
    from petqc.calibration import CalibrationSet
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.histograms import QcHistograms
    from petqc.lutetium import LutetiumCounts
    from petqc.processing import ProcessingSettings
    from petqc.qc_input import QcInput
    from petqc.results import RawFile, Run, Spectrum
    from petqcd.live import Live, Look
    from petqcd.readout.board import TimeReference

log = logging.getLogger(__name__)

RECORDING = "recording"
CONFIG_COPY = "config"
LOOK_DEADLINE_S = 2.0
"""For the analysis to come to the end of a block of frames."""


class Measurement:
    """Recording and histograms of one run. `write` and `process` are called from one worker thread only.

    What is recorded is also analysed while it comes, in a thread of its own (`petqcd.live`). If that left anything out,
    `finish` makes the histograms from the recording instead: they are the same, bit for bit, only later.

    Args:
        folder: the run's folder, which exists.
        config: the board's configuration as read.
        calibration_ids: what the recording's manifest says about it; default: the hashes of its files.
        look: called with the channels whenever counting begins (also when it begins anew, from the recording); what it
            returns is called with everything that becomes final, from the thread that analyses.
        use_kev: whether energies are made keV where the configuration has a table for it; else they stay charge.
        processing: settings of the processing that take the place of the configured ones.
        name: of the recording, without suffix; a run may have several.
        live_queue_mib: frames that may wait for the analysis before it leaves them out.

    Attributes:
        spectra_so_far: of the whole scanner, as `look` found them last.
    """

    def __init__(
        self,
        folder: Path,
        config: PetsysConfig,
        *,
        calibration_ids: dict[str, str] | None = None,
        look: Look | None = None,
        use_kev: bool = True,
        processing: Mapping[str, Any] | None = None,
        name: str = RECORDING,
        live_queue_mib: int = 64,
    ) -> None:
        from petqc.calibration import CalibrationSet
        from petqcd.live import Counting

        self._folder = folder
        self._name = name
        self._config = config
        self.calibration_ids = dict(config.file_hashes) if calibration_ids is None else calibration_ids
        used = (
            config if use_kev else replace(config, tables={k: t for k, t in config.tables.items() if k != "energy_kev"})
        )
        calibration = CalibrationSet.from_config(used)
        self._settings = live_settings(used, processing)
        self._all_charge = calibration.acquisition == "qdc"
        self._mixed = calibration.acquisition == "mixed"
        self._calibration = calibration
        self._look = look
        self._live_queue_bytes = live_queue_mib << 20
        self._counting = Counting(calibration, self._settings, look=look)
        self._live: Live | None = None
        self._is_whole = True
        self._so_far: dict[str, Any] | None = None
        self.spectra_so_far: list[Spectrum] = []
        self._writer: Any = None
        self._trigger_id: int | None = None

    @property
    def histograms(self) -> QcHistograms:
        """What was counted; while frames come it belongs to the thread that analyses."""
        return self._counting.histograms

    def warm_up(self) -> None:
        """Compile, or load, everything that frames and their analysis will need; what comes of it is thrown away."""
        from petqc.rehearsal import rehearse

        count_noise(self._calibration, self._settings)
        try:
            rehearse()
        except Exception:
            log.exception("the analysis could not be rehearsed; the run does not depend on it")

    def keep_configuration(self) -> None:
        """Copy the configuration beside the recording, which means nothing without it."""
        keep_configuration(self._folder, self._config)

    def open_recording(self, reference: TimeReference, about: dict[str, Any]) -> None:
        """Create the recording; frames may come from now on. about: JSON values for the manifest's first line."""
        from petqc.formats.petsys_raw import RawHeader, RawWriter
        from petqcd.live import Counting, Live

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
        self._trigger_id = reference.trigger_id
        self._counting = Counting(self._calibration, self._settings, trigger_id=self._trigger_id, look=self._look)
        self._live = Live(self._counting, count_frames, queue_bytes=self._live_queue_bytes)

    def write(self, words: NDArray[np.uint64]) -> None:
        """Append whole frames to the recording."""
        self._writer.write(words)

    def process(self, words: NDArray[np.uint64]) -> None:
        """Hand whole frames on to the analysis, which takes them as it can; never waits."""
        if self._live is not None:
            self._live.offer(words)

    def counts(self) -> dict[str, int]:
        """What was seen so far, for people who watch."""
        return {} if self._live is None else self._live.counts

    def look(self, context: RunContext) -> None:
        """Make new figures of what was counted so far; takes its time.

        Args:
            context: source and kind of scanner; what the board's configuration says of them is added here.
        """
        from petqc.so_far import NO_VERDICT, so_far

        found = None if self._live is None else self._live.summed(LOOK_DEADLINE_S)
        if self._live is None or found is None:
            return
        summed, live_time_s = found
        shown = so_far(summed, replace(self.told(context), live_time_s=live_time_s))
        self.spectra_so_far = shown.spectra
        self._so_far = {
            "remark": NO_VERDICT,
            "simulated": context.simulated,
            "live_time_s": round(live_time_s, 3),
            "frames_not_analysed": self._live.frames_left_out,
            "figures": [figure.document() for figure in shown.figures],
        }

    @property
    def so_far(self) -> dict[str, Any] | None:
        """The figures that `look` made last, as plain types for JSON; None: there are none yet.

        remark: that they are no verdict. simulated: whether the detector is. live_time_s: of the frames in them.
        frames_not_analysed: frames that are not in them, because the analysis could not follow. figures: each with id,
        title, value, uncertainty (1 sigma), unit, reason where there is no value, and text as people read it.
        """
        return self._so_far

    def settle(self) -> None:
        """Let the analysis take what waits for it, and end its thread."""
        if self._live is not None:
            self._live.finish(STOP_DEADLINE_S)
            self._is_whole = self._live.is_whole

    def close_recording(self, *, truncated: str | None) -> None:
        """Finalise the recording, with the reason if it ended early; safe to call when there is none."""
        try:
            self.settle()
        finally:
            if self._writer is not None:
                self._writer.close(truncated=truncated)

    @property
    def frames_recorded(self) -> int:
        """Frames that went to the recording, stored or compacted away."""
        return 0 if self._writer is None else int(self._writer.frames_in)

    @property
    def frames_not_analysed_live(self) -> int:
        """Frames that were recorded and that the analysis could not take while they came."""
        return 0 if self._live is None else self._live.frames_left_out

    def finish(self) -> None:
        """Decide what was still waiting for later frames; or count all of the recording, if something was left out.

        Raises:
            QcError, OSError: the recording cannot be read.
        """
        if self._is_whole:
            self._counting.finish()
            return
        from petqc.formats.petsys_raw import RawReader
        from petqcd.live import Counting

        started_s = clock.monotonic_s()
        settings = replace(self._settings, compacted=True)
        self._counting = Counting(self._calibration, settings, trigger_id=self._trigger_id, look=self._look)
        with RawReader(self._folder / f"{self._name}.rawf") as reader:
            self._counting.read(reader)
        self._is_whole = True
        log.info("counted from the recording in %.2f s", clock.monotonic_s() - started_s)

    def account(self) -> dict[str, int | float]:
        """The processing's account as flat numbers; without most of it where not all was processed."""
        left_out = {"frames_not_analysed_live": self.frames_not_analysed_live}
        return flat(asdict(self._counting.account)) | left_out if self._is_whole else dict(left_out)

    @property
    def live_time_s(self) -> float | None:
        """Time covered by frames that were not lost; None: not all of them were looked at."""
        return float(self._counting.account.live_time_s) if self._is_whole else None

    def remark(self, *, is_cut: bool) -> str:
        """A sentence for the record if the analysis left something out while frames came; is_cut: for good."""
        n = self.frames_not_analysed_live
        if not n:
            return ""
        what = "all was made from the recording afterwards" if not is_cut else "the recording has them"
        return f"This machine was busy: {n} frames were recorded and not analysed while they came; {what}."

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


def count_noise(calibration: CalibrationSet, settings: ProcessingSettings) -> None:
    """Process frames that mean nothing: afterwards everything that frames need is compiled, or loaded."""
    from petqcd.live import Counting

    counting = Counting(calibration, settings)
    counting.feed(noise_frames(calibration.topology.channels, np.random.default_rng(1)))
    counting.finish()


def live_settings(config: PetsysConfig, own: Mapping[str, Any] | None = None) -> ProcessingSettings:
    """Settings of the processing of a live stream; own: what takes the place of the configured ones."""
    from petqc.processing import ProcessingSettings

    # A live stream brings every frame, empty ones too: a missing number is a lost frame.
    return replace(ProcessingSettings.from_config(config), compacted=False, **(own or {}))


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
