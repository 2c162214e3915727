"""The encoder guard: the only way in which bytes that set an output voltage come to exist.

`guard` takes a request, the channel's hard limit and the device's own encoder and decoder. It refuses; it never clamps.
What it returns is sealed: transports accept set-output messages in this form only, and nothing else can make one.

Rounding is always towards zero volt, so a request on a limit cannot come out above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NoReturn, final

from petqc_drivers.errors import LimitError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EPSILON_V: Final = 1e-9
"""Float noise of interpolation; far below any DAC step."""


@final
@dataclass(frozen=True, slots=True, order=True)
class Volts:
    """A finite voltage. Not a float on purpose: nothing with another unit, no NaN and no infinity passes for one."""

    value: float

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise LimitError(f"{self.value!r} is not a number of volts")
        if not math.isfinite(self.value):
            raise LimitError(f"{self.value!r} V is not a finite voltage")
        object.__setattr__(self, "value", float(self.value))

    def __str__(self) -> str:
        return f"{self.value:.4f} V"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HardLimit:
    """What a channel may ever be told (from the configuration file; a running process never changes it).

    Attributes:
        channel: The channel this limit was written for; `guard` refuses it for any other.
        v_min: Lowest set-point; ramps begin at the lowest output of the device and pass through here, so more than a
            step above that cannot be reached.
        v_max: Highest set-point.
        max_step_v: Largest single step of a ramp.
        slew_v_per_s: Fastest ramp, up and down.
    """

    channel: str
    v_min: Volts
    v_max: Volts
    max_step_v: float
    slew_v_per_s: float

    def __post_init__(self) -> None:
        for name in ("v_min", "v_max"):
            if not isinstance(getattr(self, name), Volts):
                raise LimitError(f"{name} of the hard limit is not in Volts", device=self.channel)
        if not self.v_min < self.v_max:
            raise LimitError(f"hard limit {self.v_min} to {self.v_max} is empty", device=self.channel)
        for name in ("max_step_v", "slew_v_per_s"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < math.inf:
                raise LimitError(f"{name} must be a finite number above 0, not {number!r}", device=self.channel)

    def beyond_v(self, measured_v: float) -> float:
        """How far a measured voltage lies beyond the limit, of either sign; what lies between it and 0 V does not."""
        return max(measured_v - max(self.v_max.value, 0.0), min(self.v_min.value, 0.0) - measured_v)

    def nearest_v(self, volts: float) -> float:
        """The voltage inside the limit that is nearest to another one."""
        return min(max(volts, self.v_min.value), self.v_max.value)


_SEAL: Final = object()
Role = Literal["voltage", "lowest", "trim", "enable", "look"]
"""What a sealed message does: set a voltage, bring an output to its lowest, trim a supply, switch one on, or change
nothing."""


@final
class SetOutput:
    """Messages that set one output, sealed: made by the guards of this module only, never changed, copied or stored.

    Attributes:
        channel: What it sets.
        function: Front-end function the payloads belong to.
        payloads: Messages in the order in which they are sent.
        commanded: The voltage the output will have; None when it is the lowest the device can do.
        role: What it does.
    """

    __slots__ = ("_channel", "_commanded", "_function", "_payloads", "_role")
    _channel: str
    _commanded: Volts | None
    _function: int
    _payloads: tuple[bytes, ...]
    _role: Role

    def __init__(
        self,
        *,
        seal: object,
        channel: str,
        function: int,
        payloads: tuple[bytes, ...],
        commanded: Volts | None,
        role: Role = "look",
    ) -> None:
        if seal is not _SEAL:
            raise LocalProtocolError("a set-output message can only be made by the encoder guard", device=channel)
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_payloads", payloads)
        object.__setattr__(self, "_commanded", commanded)
        object.__setattr__(self, "_role", role)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a set-output message is sealed: {name} cannot change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a set-output message is sealed: {name} cannot go")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a set-output message is sealed: it cannot be stored or copied")

    def __repr__(self) -> str:
        return f"SetOutput({self._channel}, {self._commanded or self._role})"

    @property
    def channel(self) -> str:
        """What it sets."""
        return self._channel

    @property
    def function(self) -> int:
        """Front-end function the payloads belong to; 0 for a device that has none."""
        return self._function

    @property
    def payloads(self) -> tuple[bytes, ...]:
        """Messages in the order in which they are sent."""
        return self._payloads

    @property
    def commanded(self) -> Volts | None:
        """The voltage the output will have; None when it is the lowest the device can do."""
        return self._commanded

    @property
    def role(self) -> Role:
        """What it does."""
        return self._role


def guard(
    request: Volts,
    limit: HardLimit | None,
    *,
    channel: str,
    function: int = 0,
    encode: Callable[[Volts], tuple[bytes, ...]],
    decode: Callable[[tuple[bytes, ...]], tuple[Volts, float]],
) -> SetOutput:
    """Turn a request into sealed messages, or refuse.

    Args:
        request: The voltage asked for.
        limit: The hard limit of this very channel.
        channel: The channel as the messages and the limit name it.
        function: Front-end function the messages belong to; 0 for a device that has none.
        encode: Bytes for a voltage, rounding towards zero.
        decode: From those bytes alone: the voltage they mean, and one DAC step there in volts.

    Raises:
        LimitError: If there is no limit, it belongs to another channel, the request is outside it, or the bytes do not
            mean what was asked for.
    """
    if not isinstance(request, Volts):
        raise LimitError(f"the request {request!r} is not in Volts", device=channel)
    if not isinstance(limit, HardLimit):
        raise LimitError(
            f"{request} refused: no hard limit is configured", device=channel, do="configure one before energising"
        )
    if limit.channel != channel:
        raise LimitError(f"{request} refused: the hard limit given is that of {limit.channel}", device=channel)
    if not limit.v_min <= request <= limit.v_max:
        raise LimitError(f"{request} refused: outside the hard limit {limit.v_min} to {limit.v_max}", device=channel)
    payloads = encode(request)
    meant, step_v = decode(payloads)
    if meant.value > limit.v_max.value + _EPSILON_V or meant.value < limit.v_min.value - step_v - _EPSILON_V:
        raise LimitError(
            f"{request} refused: encoded it means {meant}, outside the hard limit {limit.v_min} to {limit.v_max}",
            device=channel,
        )
    is_larger = abs(meant.value) > abs(request.value) + _EPSILON_V
    if is_larger or abs(request.value - meant.value) > step_v + _EPSILON_V:
        raise LimitError(
            f"{request} refused: encoded it means {meant}, above it or more than a step of {step_v:.6f} V off",
            device=channel,
        )
    return SetOutput(seal=_SEAL, channel=channel, function=function, payloads=payloads, commanded=meant, role="voltage")


def guard_lowest(
    *,
    channel: str,
    function: int = 0,
    lowest_code: int,
    encode: Callable[[int], tuple[bytes, ...]],
    decode_code: Callable[[tuple[bytes, ...]], int],
) -> SetOutput:
    """Sealed messages that bring an output as low as the device can; needs no limit, so it is always available.

    Raises:
        LimitError: If the bytes mean another code than the lowest.
    """
    payloads = encode(lowest_code)
    code = decode_code(payloads)
    if code != lowest_code:
        raise LimitError(f"lowest code {lowest_code:#06x} came out as {code:#06x}", device=channel)
    return SetOutput(seal=_SEAL, channel=channel, function=function, payloads=payloads, commanded=None, role="lowest")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UntoldOutputs:
    """Outputs that can be told nothing while their supply is off, so that switching on shows what they start with.

    Attributes:
        name: What they are, for messages.
        highest: The highest voltage any of them has from switching on until it is told its first set-point, as
            measured by whoever set up the hardware; None if nobody did.
        limits: The hard limits of all of them that may be used.
    """

    name: str
    highest: Volts | None
    limits: Sequence[HardLimit]

    def check(self) -> None:
        """Refuse to switch on over them, unless the voltage they start with is known and inside every limit.

        Raises:
            LimitError: If it is not.
        """
        if not isinstance(self.highest, Volts):
            raise LimitError(
                "switching on refused: these outputs can be told nothing before, and nothing says what they start with",
                device=self.name,
                do="measure it with the detectors unplugged and state it in the settings (starts_with)",
            )
        if not self.limits:
            raise LimitError("switching on refused: no output has a hard limit", device=self.name)
        for limit in self.limits:
            if self.highest > limit.v_max:
                raise LimitError(
                    f"switching on refused: outputs start with up to {self.highest}, the hard limit of "
                    f"{limit.channel} is {limit.v_max}",
                    device=self.name,
                )


def guard_enable(
    lowest: Sequence[SetOutput],
    *,
    n_outputs: int,
    channel: str,
    function: int = 0,
    payload: bytes,
    untold: Sequence[UntoldOutputs] = (),
) -> SetOutput:
    """Sealed message that switches a supply on, for outputs that were all brought to their lowest.

    Args:
        lowest: The messages that brought them there, one of each output.
        n_outputs: How many outputs the supply feeds, those aside that can be told nothing before.
        channel: The supply, for messages.
        function: Front-end function of the payload.
        payload: The message.
        untold: Outputs that can be told nothing before.

    Raises:
        LimitError: If an output is missing or would not be at its lowest, or could start above its limit.
    """
    if any(output.role != "lowest" for output in lowest):
        raise LimitError("switching on refused: an output is not at its lowest", device=channel)
    if len({output.channel for output in lowest}) != n_outputs:
        raise LimitError(
            f"switching on refused: {len(lowest)} of {n_outputs} outputs are at their lowest", device=channel
        )
    for outputs in untold:
        outputs.check()
    return SetOutput(seal=_SEAL, channel=channel, function=function, payloads=(payload,), commanded=None, role="enable")


def guard_trim(
    code: int,
    *,
    lowest: int,
    highest: int,
    channel: str,
    function: int = 0,
    encode: Callable[[int], tuple[bytes, ...]],
    decode_code: Callable[[tuple[bytes, ...]], int],
) -> SetOutput:
    """Sealed messages that trim a supply, or refuse.

    Args:
        code: The trim asked for.
        lowest: Least trim this supply may ever have.
        highest: Greatest.
        channel: The supply, for messages.
        function: Front-end function the messages belong to.
        encode: Bytes for a trim.
        decode_code: From those bytes alone: the trim they mean.

    Raises:
        LimitError: If the trim is outside, or does not come out of its own bytes again.
    """
    if type(code) is not int or not lowest <= code <= highest:
        raise LimitError(f"trim {code!r} refused: outside {lowest} to {highest}", device=channel)
    payloads = encode(code)
    meant = decode_code(payloads)
    if meant != code:
        raise LimitError(f"trim {code} refused: encoded it means {meant}", device=channel)
    return SetOutput(seal=_SEAL, channel=channel, function=function, payloads=payloads, commanded=None, role="trim")


def guard_harmless(payload: bytes, *, channel: str, function: int, is_harmless: Callable[[bytes], bool]) -> SetOutput:
    """Sealed message to a device that can change outputs, proven not to change one.

    Args:
        payload: The message.
        channel: The device, for messages.
        function: Front-end function of the payload.
        is_harmless: From the bytes alone: whether they change no output.

    Raises:
        LimitError: If they do.
    """
    if not is_harmless(payload):
        raise LimitError("a message that should only look would change an output", device=channel)
    return SetOutput(seal=_SEAL, channel=channel, function=function, payloads=(payload,), commanded=None, role="look")
