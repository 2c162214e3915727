"""The MR run: the same source with the MR idle, under stress, and idle again; bias stays on from the first to the last.

Between them either somebody tells that the sequence runs, or has ended (`petqc confirm`), or it follows the clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from petqc.formats.bundle import MR_RECORDINGS
from petqcd import clock
from petqcd.config import MrDeltaConfig
from petqcd.errors import DaemonError
from petqcd.kinds import run_kind
from petqcd.measurement import Measurement
from petqcd.procedure import PROGRESS_EVERY_S, FirstWord, Procedure, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from petqc.analysis import RunContext
    from petqc.results import RawFile, Run
    from petqcd.procedure import Bench, Job

LOOK_EVERY_S = 2.0
"""While nobody measures the board is asked for its temperatures, so that a dead link is noticed with bias on."""
_BEGINS, _LAST = 0.2, 0.84


class MrDeltaSettings(MrDeltaConfig):
    """Settings of one run: the sequence has a name."""

    attended: bool = True
    """Whether whoever started it has put the source in its place and sees that the MR is idle."""

    @model_validator(mode="after")
    def _named(self) -> MrDeltaSettings:
        if not self.sequence.strip():
            raise ValueError("name the sequence that stresses the detector: sequence = ..., in [qc.mr-delta] or --set")
        return self


@run_kind(
    "mr-delta",
    title="influence of the MR",
    settings=MrDeltaSettings,
    needs_source=True,
    unattended={"attended": False},
)
class MrDelta(Procedure):
    """Three acquisitions, and the checks of what changed; settings: [qc.mr-delta]."""

    stages: ClassVar[Mapping[str, tuple[float, str]]] = {
        "connect": (0.0, "connecting to the board and verifying its identity"),
        "configure": (0.04, "configuring and reading back"),
        "bias": (0.14, "bias on"),
        "acquire": (_BEGINS, "acquiring"),
        "confirm": (_BEGINS, "waiting for the word"),
        "off": (_LAST, "bias off"),
        "analyse": (0.88, "comparing"),
    }

    def __init__(self, job: Job, bench: Bench) -> None:
        super().__init__(job, bench)
        assert isinstance(job.settings, MrDeltaSettings)  # noqa: S101 - what this kind registers
        self._settings = job.settings
        ids = job.calibration_ids
        self._phases = [
            Measurement(
                job.folder, job.board_config, calibration_ids=ids, name=name,
                live_queue_mib=job.settings.live_queue_mib,
            )
            for name in MR_RECORDINGS
        ]  # fmt: skip
        self._phases[0].keep_configuration()
        self._degc: list[dict[str, list[float]]] = []
        self._waits_for: str | None = None
        self._word = asyncio.Event()
        self._told: list[str] = []

    @classmethod
    def first_word(cls, settings: BaseModel) -> FirstWord | None:
        """Unattended, somebody at the MR must come before anything is switched on; unless all follows the clock."""
        assert isinstance(settings, MrDeltaSettings)  # noqa: S101 - what this kind registers
        if settings.attended or settings.phases == "timed":
            return None
        return FirstWord("the source is in its place and the MR is idle", settings.begin_within_s)

    def prepare(self) -> None:
        """Compile or load the kernels."""
        self._phases[0].warm_up()

    def confirm(self, note: str) -> str | None:
        """Take note that the sequence runs, or has ended."""
        waits_for, self._waits_for = self._waits_for, None
        if waits_for is not None:
            self._told.append(f"Confirmed at {clock.utc_text()}: {waits_for}" + (f" ({note})" if note else "") + ".")
            self._word.set()
        return waits_for

    async def at_board(self) -> None:
        """Idle, stress, idle again."""
        await self.at_bias_on(self._settings.settle_s)
        s = self._settings
        await self._measure(0)
        await self._between(1, f"the sequence {s.sequence} runs")
        await self._measure(1)
        await self._between(2, f"the sequence {s.sequence} has ended and the MR is idle")
        await self._measure(2)

    async def _measure(self, number: int) -> None:
        phase = self._phases[number]
        reference = await self.board.time_reference()
        about = {**self.job.about(), "mr": MR_RECORDINGS[number], "sequence": self._settings.sequence}
        await self.at_disk(phase.open_recording, reference, about)
        queue_mib = self._settings.queue_mib
        async with self.flow(phase, phase.process, queue_mib=queue_mib, after=phase.settle) as flow:
            while (left_s := self.run_clock.left_s(self._settings.seconds)) > 0:
                await flow.wait(min(left_s, PROGRESS_EVERY_S))
                await self.run_clock.read()
                done = number + 1.0 - max(left_s - PROGRESS_EVERY_S, 0.0) / self._settings.seconds
                told = f"MR {MR_RECORDINGS[number].replace('-', ' ')}, {max(left_s - PROGRESS_EVERY_S, 0.0):.0f} s left"
                self.tell("acquire", _part(done), told, phase.counts())
        await self.at_environment()
        self._degc.append(self._temperatures())

    async def _between(self, number: int, waits_for: str) -> None:
        """Wait for the word, or for the clock; the bias is on, so the link is watched."""
        s = self._settings
        is_timed = s.phases == "timed"
        self._word.clear()
        self._waits_for = None if is_timed else waits_for
        end_s = clock.monotonic_s() + (s.gap_s if is_timed else s.confirm_within_s)
        try:
            while not self._word.is_set():
                left_s = end_s - clock.monotonic_s()
                if left_s <= 0:
                    break
                asked = f"{left_s:.0f} s for: {waits_for}" if is_timed else f"tell when {waits_for}: petqc confirm"
                self.tell("confirm", _part(number), asked, {})
                await self.at_environment()
                try:
                    async with asyncio.timeout(min(left_s, LOOK_EVERY_S)):
                        await self._word.wait()
                except TimeoutError:
                    continue
        finally:
            self._waits_for = None
        if is_timed:
            self._told.append(f"By the clock at {clock.utc_text()}, nobody looked: {waits_for}.")
        elif not self._word.is_set():
            raise DaemonError(f"nobody told within {s.confirm_within_s:g} s that {waits_for}")

    def _temperatures(self) -> dict[str, list[float]]:
        """Readings of SiPM sensors by ASIC, the last ones."""
        from petqc.check_input import SIPM_TEMPERATURE

        read = environment(self.acquired.readings, clock.monotonic_s())
        good = [r for r in read if r.name == SIPM_TEMPERATURE and r.measured and r.quality == "good"]
        return {r.node: [r.value] for r in good if r.value is not None}

    def finalise(self, *, truncated: str | None) -> None:
        """Finalise the recordings, and decide what was still waiting for later frames."""
        for phase in self._phases:
            phase.close_recording(truncated=truncated)
            if truncated is None:
                phase.finish()

    @property
    def frames_kept(self) -> int:
        """Frames recorded."""
        return sum(phase.frames_recorded for phase in self._phases)

    def raw_files(self) -> tuple[RawFile, ...]:
        """The three recordings."""
        return tuple(file for phase in self._phases for file in phase.raw_files())

    def account(self) -> dict[str, int | float]:
        """The processing's account, all three together."""
        from petqc.recorded.kinds import summed

        return summed(phase.account() for phase in self._phases)

    def notes(self, reason: str | None) -> list[str]:
        """What stressed the detector, and who said that it did."""
        s = self._settings
        busy = [told for phase in self._phases if (told := phase.remark(is_cut=reason is not None))]
        duty = "" if s.duty_percent is None else f", duty {s.duty_percent:g} %"
        return [f"MR sequence: {s.sequence}{duty}.", *self._told, *busy]

    @property
    def live_time_s(self) -> float | None:
        """Of all three."""
        times = [phase.live_time_s for phase in self._phases]
        return None if None in times else sum(time or 0.0 for time in times)

    @property
    def frames_not_analysed_live(self) -> int:
        """Of all three."""
        return sum(phase.frames_not_analysed_live for phase in self._phases)

    def conclude(self, context: RunContext) -> Run:
        """Every check of the MR's influence."""
        from petqc.mr_delta import analyse_mr_delta

        phases = [phase.qc_input(context) for phase in self._phases]
        return analyse_mr_delta(phases, self._degc_of_modules(), self._phases[0].told(context))

    def inputs(self) -> dict[str, Any]:
        """Temperatures at the end of each acquisition, by module."""
        return {"degc": self._degc_of_modules()}

    def _degc_of_modules(self) -> list[dict[str, float]]:
        import numpy as np

        topology = self._phases[0].histograms.topology
        of_asic = {
            asic: topology.module_nodes[int(topology.module[topology.asic == k][0])]
            for k, asic in enumerate(topology.asic_nodes)
        }
        degc = []
        for read in self._degc:
            of_module: dict[str, list[float]] = {}
            for asic, values in read.items():
                if asic in of_asic:
                    of_module.setdefault(of_asic[asic], []).extend(values)
            degc.append({module: float(np.median(values)) for module, values in of_module.items()})
        return degc


def _part(done: float) -> float:
    """Fraction of the run after so many of the three acquisitions."""
    return _BEGINS + done / 3.0 * (_LAST - _BEGINS)
