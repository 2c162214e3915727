"""[device.bias]: how far bias outputs may go, as people wrote it. It has no default and no bypass.

What a limit may be at most is what the mezzanine is made for; unless a mezzanine is named, what every mezzanine can do.
Nothing but this file, read at the start, says how far outputs may go.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from petqc_drivers.petsys.mezzanines import KINDS

Finite = Annotated[float, Field(allow_inf_nan=False)]
MaxStepV = Annotated[Finite, Field(gt=0, le=20)]
SlewVPerS = Annotated[Finite, Field(gt=0, le=100)]
_ANY_V_MAX = min(kind.full_scale_v for kind in KINDS.values())
_HEAR_NOTHING = " or ".join(kind.name for kind in KINDS.values() if not kind.hears_without_supply)


class OutputLimits(BaseModel):
    """Of bias outputs of one kind, volts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mezzanine: str | None = None
    """Kind of mezzanine that these limits are for; a board that has another one is refused."""
    v_min: Annotated[Finite, Field(ge=0)]
    v_max: Annotated[Finite, Field(gt=0)]
    max_step_v: MaxStepV
    """Largest single step of a ramp."""
    slew_v_per_s: SlewVPerS
    """Fastest ramp upwards."""
    starts_with_v: Annotated[Finite, Field(ge=0)] | None = None
    """For outputs that hear nothing before the supply is on: the highest voltage any of them then has, as measured with
    the detectors unplugged."""

    @field_validator("mezzanine")
    @classmethod
    def _known(cls, mezzanine: str | None) -> str | None:
        if mezzanine is not None and mezzanine not in KINDS:
            raise ValueError(f"{mezzanine!r} is none of {', '.join(KINDS)}")
        return mezzanine

    @field_validator("v_max")
    @classmethod
    def _within_hardware(cls, v_max: float, info: ValidationInfo) -> float:
        name = info.data.get("mezzanine")
        if name is None and v_max > _ANY_V_MAX:
            raise ValueError(
                f"{v_max:g} V is more than the {_ANY_V_MAX:g} V that every mezzanine is made for; "
                "name the mezzanine (mezzanine = ...) to go higher"
            )
        if name is not None and v_max > KINDS[name].full_scale_v:
            raise ValueError(f"{v_max:g} V is more than the {KINDS[name].full_scale_v:g} V that {name} is made for")
        return v_max

    @model_validator(mode="after")
    def _consistent(self) -> OutputLimits:
        if self.v_min >= self.v_max:
            raise ValueError(f"v_min ({self.v_min:g} V) must be below v_max ({self.v_max:g} V)")
        hears = self.mezzanine is None or KINDS[self.mezzanine].hears_without_supply
        if not hears and self.starts_with_v is None:
            raise ValueError(
                f"outputs of a {self.mezzanine} can be told nothing before they are on: measure with the detectors "
                "unplugged how high they then are, and state it as starts_with_v"
            )
        if self.starts_with_v is not None and hears:
            raise ValueError(f"starts_with_v is for mezzanine = {_HEAR_NOTHING}; others are told before they are on")
        if self.starts_with_v is not None and self.starts_with_v > self.v_max:
            raise ValueError(f"starts_with_v ({self.starts_with_v:g} V) is above v_max ({self.v_max:g} V)")
        return self


class SlotLimits(OutputLimits):
    """[[device.bias.slot]]: of the outputs of one slot, instead of those of the device."""

    port: Annotated[int, Field(ge=0, le=31)] = 0
    slave: Annotated[int, Field(ge=0, le=31)] = 0
    slot: Annotated[int, Field(ge=0, le=15)]

    @property
    def address(self) -> tuple[int, int, int]:
        """Port, slave and slot."""
        return self.port, self.slave, self.slot


class BiasLimits(OutputLimits):
    """[device.bias]: of every bias output of the device but for slots with limits of their own."""

    slot: tuple[SlotLimits, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> BiasLimits:
        addresses = [one.address for one in self.slot]
        if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
            raise ValueError("slot: limits of port {}, slave {}, slot {} are given twice".format(*twice[0]))
        return self

    def of(self, port: int, slave: int, slot: int) -> OutputLimits:
        """Those of one slot."""
        return next((one for one in self.slot if one.address == (port, slave, slot)), self)
