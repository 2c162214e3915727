"""The run with a source: bias on, acquire for a while, bias off, analyse with every check of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.config import SourceConfig
from petqcd.kinds import run_kind
from petqcd.source_run import SourceRun

if TYPE_CHECKING:
    from petqc.analysis import RunContext
    from petqc.results import Run


@run_kind("source", title="QC with a source", settings=SourceConfig, needs_source=True)
class QcWithSource(SourceRun):
    """A source run and every check of it; settings: [qc.source]."""

    def conclude(self, context: RunContext) -> Run:
        """Every check."""
        return self._measurement.analyse(context)
