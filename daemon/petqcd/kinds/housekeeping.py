"""The housekeeping run: temperatures, supplies, locks, link errors, age of the calibration; no source, no bias."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from petqcd import clock
from petqcd.config import HousekeepingConfig
from petqcd.kinds import run_kind
from petqcd.measurement import keep_configuration
from petqcd.procedure import PROGRESS_EVERY_S, Procedure, environment
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc.analysis import RunContext
    from petqc.calibrate.ages import TableAge
    from petqc.results import EnvironmentReading, Run
    from petqcd.procedure import Bench, Job
    from petqcd.readout.board import ReadingLike


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is judged: both readings, and the ages of the calibration in use."""

    first: list[EnvironmentReading]
    last: list[EnvironmentReading]
    ages: list[TableAge]


@run_kind("housekeeping", title="housekeeping", settings=HousekeepingConfig, needs_bias=False)
class HousekeepingRun(Procedure):
    """Reads everything, waits, reads everything again; settings: [qc.housekeeping]."""

    stages: ClassVar[Mapping[str, tuple[float, str]]] = {
        "connect": (0.0, "connecting to the board and verifying its identity"),
        "configure": (0.04, "bias off, configuring and reading back"),
        "acquire": (0.2, "counting errors of the links"),
        "off": (0.9, "bias off"),
        "analyse": (0.92, "judging the readings"),
    }

    def __init__(self, job: Job, bench: Bench) -> None:
        super().__init__(job, bench)
        assert isinstance(job.settings, HousekeepingConfig)  # noqa: S101 - what this kind registers
        self._seconds = job.settings.seconds
        self._first: Sequence[ReadingLike] = ()
        self._last: Sequence[ReadingLike] = ()
        self._watched_s = 0.0
        self._told: _Judged | None = None
        keep_configuration(job.folder, job.board_config)

    def prepare(self) -> None:
        """Load the checks."""
        import petqc.housekeeping  # noqa: F401 - it takes its time

    async def at_configure(self) -> None:
        """Bias off, then everything as the configuration says."""
        await self.at_bias_off()
        await self.board.configure()

    async def at_board(self) -> None:
        """Read, wait, read again."""
        self.all_channels()  # the board forgets them when it is closed
        self._first = await self._read()
        self.stage("acquire")
        begun_s = clock.monotonic_s()
        first, last = self.stages["acquire"][0], self.stages["off"][0]
        while (left_s := self._seconds - (clock.monotonic_s() - begun_s)) > 0:
            part = 1.0 - left_s / self._seconds
            self.tell("acquire", first + part * (last - first), f"{left_s:.0f} s left", {})
            await asyncio.sleep(min(left_s, PROGRESS_EVERY_S))
        self._watched_s = clock.monotonic_s() - begun_s
        self._last = await self._read()
        self.acquired.elapsed_s = self._watched_s

    async def _read(self) -> Sequence[ReadingLike]:
        found = await self.board.read_housekeeping()
        self.acquired.readings += found
        self.device.temperatures(found)
        self.device.answered("staged")
        self.look_around()
        return found

    def finalise(self, *, truncated: str | None) -> None:
        """Nothing: no frames were taken."""

    @property
    def frames_kept(self) -> int:
        """None."""
        return 0

    def account(self) -> dict[str, int | float]:
        """How much was read, and how long errors were counted."""
        return {"readings": len(self._last), "watched_s": round(self._watched_s, 3)}

    def conclude(self, context: RunContext) -> Run:
        """Every check of housekeeping."""
        from petqc.calibrate.conclude import topology_of
        from petqc.housekeeping import analyse_housekeeping

        told = self._judged()
        topology = topology_of(self.job.board_config, self.all_channels())
        return analyse_housekeeping(told.first, told.last, self._watched_s, told.ages, topology, context)

    def inputs(self) -> dict[str, Any]:
        """Both readings, and the ages of the calibration."""
        told = self._judged()
        return {
            "first": [asdict(reading) for reading in told.first],
            "last": [asdict(reading) for reading in told.last],
            "watched_s": self._watched_s,
            "ages": [asdict(age) for age in told.ages],
            "channels": self.all_channels().tolist(),
        }

    def _judged(self) -> _Judged:
        from petqc.calibrate.ages import table_ages

        if self._told is None:
            now_s, job = clock.monotonic_s(), self.job
            at = datetime.fromisoformat(job.started_at).timestamp()
            self._told = _Judged(
                environment(self._first, now_s),
                [*environment(self._last, now_s), self._bias_reading()],
                table_ages(job.board_config, job.sets, job.set_id, at),
            )
        return self._told

    def _bias_reading(self) -> EnvironmentReading:
        from petqc.channel_map import SCANNER
        from petqc.checks.bias_off import BIAS_SUPPLY
        from petqc.results import EnvironmentReading

        off = self.acquired.off
        state = BiasState.UNKNOWN if off is None else off.state
        value = {BiasState.OFF_CONFIRMED: 0.0, BiasState.OFF_COMMANDED: 0.0, BiasState.ON: 1.0}.get(state)
        told = None if off is None else off.told
        measured = state is BiasState.OFF_CONFIRMED
        return EnvironmentReading(
            BIAS_SUPPLY, SCANNER, value, "", measured, "good" if measured else "uncertain", 0.0, told
        )
