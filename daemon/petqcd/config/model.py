"""What every table of petqc.toml is: frozen, and refusing keys that nobody knows."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class Model(BaseModel):
    """One table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
