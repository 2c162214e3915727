"""Settings of a C11204 as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqc_drivers.errors import LimitError, LocalProtocolError
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.transport.serial import check_address

if TYPE_CHECKING:
    from petqc_drivers.limits import HardLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class HamamatsuC11204Settings:
    """One supply.

    Attributes:
        name: Of the device; the hard limit names it as its channel.
        address: /dev/serial/by-id/... or socket://HOST:PORT.
        model: C11204-01 or C11204-02: they scale the current differently.
        serial: What HGN must answer; a -01 has no words for it.
        firmware: What the version must begin with; None for any.
        limit: Hard limit; without one the output is never switched on.
        most_current_ma: More than this trips.
        compensates: Whether the module follows its own temperature sensor, with the stored set.
        compensation_bit_when: Value of status bit 6 while it does; published tables disagree for the -02.
        tolerance_v: How far the measured voltage may be from the commanded one.
        settle_timeout_s: In which a step must have arrived.
        reply_timeout_s: For one exchange.
    """

    name: str
    address: str
    model: str
    serial: str | None = None
    firmware: str | None = None
    limit: HardLimit | None = None
    most_current_ma: float = 2.0
    compensates: bool = False
    compensation_bit_when: bool = True
    tolerance_v: float = 0.1
    settle_timeout_s: float = 5.0
    reply_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        check_address(self.address)
        if self.model not in wire.MODELS:
            raise LocalProtocolError(
                f"model {self.model!r} is none of {', '.join(wire.MODELS)}", device=self.name, do="correct the settings"
            )
        model = wire.MODELS[self.model]
        if model.tells_identity and not self.serial:
            raise LocalProtocolError(f"a {self.model} tells its serial number: say which one", device=self.name)
        if not model.tells_identity and (self.serial or self.firmware):
            raise LocalProtocolError(f"a {self.model} does not tell serial number and firmware", device=self.name)
        if self.limit is not None and (
            self.limit.channel != self.name
            or self.limit.v_max.value > wire.HIGHEST_V
            or self.limit.v_max.value < wire.volts(model.lowest_code)
        ):
            raise LimitError(
                f"hard limit of {self.limit.channel}, up to {self.limit.v_max}: a {self.model} gives "
                f"{model.lowest_v:g} to {wire.HIGHEST_V:g} V",
                device=self.name,
            )
