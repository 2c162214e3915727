"""[schedule]: what runs by itself, and when."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from petqcd.config.model import Model, Name
from petqcd.interlocks.bias_limits import Finite


class JobConfig(Model):
    """[[schedule.job]]: a run that is started by itself."""

    name: Name | None = None
    """Default: the kind. A job keeps its days by its name."""
    kind: Literal["daily", "housekeeping", "test-pulse", "dark", "lutetium", "source", "mr-delta"]
    at: time
    """Local time, such as 06:00:00."""
    days: Annotated[tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...], Field(min_length=1)] = (
        "mon", "tue", "wed", "thu", "fri", "sat", "sun",
    )  # fmt: skip
    late_minutes: Annotated[Finite, Field(ge=1, le=1440)] = 120.0
    """How late it may still start; then the day is missed."""

    @field_validator("at")
    @classmethod
    def _local(cls, at: time) -> time:
        if at.tzinfo is not None:
            raise ValueError("a local time, without a zone: the zone is [schedule] timezone")
        return at


class ScheduleConfig(Model):
    """[schedule]: what runs by itself, and when."""

    timezone: str = "UTC"
    """Name of the time zone of all jobs, such as Europe/Amsterdam."""
    job: tuple[JobConfig, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"no time zone {timezone!r} is known here: take a name such as Europe/Amsterdam"
            ) from error
        return timezone

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [one.name or one.kind for one in self.job]
        if len(set(names)) < len(names):
            raise ValueError("two jobs have the same name: give each its own name")
        return self
