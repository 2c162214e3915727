"""The day's run: composed of others as the configuration says, each a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic reads it
from typing import Any

from pydantic import model_validator

from petqcd.config import DailyConfig
from petqcd.kinds import Part, composed_kind


class DailySettings(DailyConfig):
    """Settings of one day: which runs, and what takes the place of the configured settings of one of them."""

    settings: Mapping[str, Mapping[str, Any]] = {}

    @model_validator(mode="after")
    def _of_parts(self) -> DailySettings:
        others = sorted(set(self.settings) - set(self.runs))
        if others:
            raise ValueError(f"settings of {', '.join(others)}, which is no part of this day")
        return self


@composed_kind("daily", title="daily QC", settings=DailySettings)
def daily(settings: DailySettings) -> Sequence[Part]:
    """The parts; settings: [qc.daily]."""
    for_all = {} if settings.record is None else {"record": settings.record}
    return [Part(kind, for_all | dict(settings.settings.get(kind, {}))) for kind in settings.runs]
