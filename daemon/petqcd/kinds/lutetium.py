"""The run without a source: what the crystals' own Lu-176 shows. Nobody has to be there, so it can run every night."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from petqcd.config import LutetiumConfig
from petqcd.kinds import run_kind
from petqcd.source_run import SourceRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc.analysis import RunContext
    from petqc.channel_map import Topology
    from petqc.lutetium import LutetiumCounts
    from petqc.processing import Processed
    from petqc.results import Run
    from petqcd.measurement import Measurement
    from petqcd.procedure import Bench, Job


@run_kind("lutetium", title="source-free QC with Lu-176", settings=LutetiumConfig)
class LutetiumRun(SourceRun):
    """Bias on, acquire, bias off, the checks of lutetium. Settings: [qc.lutetium]."""

    def __init__(self, job: Job, bench: Bench) -> None:
        self._counts: LutetiumCounts | None = None
        super().__init__(job, bench)

    def measurement(self, **own: Any) -> Measurement:
        """With a coincidence window and an energy threshold of its own."""
        from petqc.lutetium import PROCESSING

        return super().measurement(look=self._begin, processing=PROCESSING, **own)

    def looked_at(self) -> RunContext:
        """Nothing is said about a source."""
        return replace(super().looked_at(), source="none")

    def _begin(self, topology: Topology) -> Callable[[Processed], None]:
        from petqc.lutetium import LutetiumCounts

        self._counts = LutetiumCounts(topology)
        return self._counts.add

    def conclude(self, context: RunContext) -> Run:
        """The checks of a run without a source."""
        return self._measurement.analyse(replace(context, source="none"), self._counts)
