"""The daily run: bias on, acquire for a while, bias off, analyse with every check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.config import DailyConfig
from petqcd.kinds import run_kind
from petqcd.source_run import SourceRun

if TYPE_CHECKING:
    from petqc.analysis import RunContext
    from petqc.results import Run


@run_kind("daily", title="daily QC", settings=DailyConfig)
class DailyRun(SourceRun):
    """The procedure of the daily run; settings: [qc.daily]."""

    def conclude(self, context: RunContext) -> Run:
        """Every check."""
        return self._measurement.analyse(context)
