"""[[permit]]: what must be so, by an instrument's reading, for bias to go on and to stay on."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from petqcd.config.model import Model, Name
from petqcd.interlocks.bias_limits import Finite
from petqcd.interlocks.permits import DOUBT_S, STANDARD, Rule


class PermitConfig(Model):
    """One condition: a reading of an instrument lies within a range."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _.-]{0,90}$")]
    """What people call it: `cooling`, `door closed`."""
    device: Name
    """The instrument that is asked."""
    reading: str
    """Name of its reading, as `petqc status` shows it."""
    low: Finite | None = None
    high: Finite | None = None
    """The permit is given from low to high; one of the two may be left out."""
    of: tuple[Name, ...] = ()
    """Bias sources, and the readout, that need it; none named: all of them."""
    to_energise_only: bool = False
    """Needed for switching on and raising, not for staying on."""
    strict: bool = False
    """A bad or missing reading trips at once, not after the doubt."""
    doubt_s: Annotated[Finite, Field(ge=0, le=60)] = DOUBT_S
    """How long doubt holds what is on."""
    no_bypass: bool = False
    """Nobody may bypass it."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError(f"permit {self.name!r} has no range: give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"permit {self.name!r}: low ({self.low:g}) is above high ({self.high:g})")
        if self.name in {rule.name for rule in STANDARD}:
            raise ValueError(f"{self.name!r} is a permit that every bias source has: give another name")
        return self

    def rule(self) -> Rule:
        """What it is needed for."""
        return Rule(
            name=self.name,
            to_stay=not self.to_energise_only,
            is_strict=self.strict,
            doubt_s=self.doubt_s,
            can_be_bypassed=not self.no_bypass,
        )

    def is_within(self, value: float) -> bool:
        """Whether a reading gives it."""
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)

    @property
    def said(self) -> str:
        """The range in words."""
        low = "" if self.low is None else f"{self.low:g} or more"
        high = "" if self.high is None else f"{self.high:g} or less"
        return " and ".join(word for word in (low, high) if word)
