"""Outputs of the bias mezzanines of one board, as the guard sees them: what they may be told, and the steps of a ramp.

Nothing here speaks to a board: the whole way is encoded and guarded before its first step is sent.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import LimitError
from petqc_drivers.limits import SetOutput, UntoldOutputs, Volts
from petqc_drivers.petsys.bias import BiasChannel, converter_name, converter_target, encode_bias, encode_converter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from petqc_drivers.petsys.mezzanines import BiasKind
    from petqc_drivers.petsys.settings import BiasSettings

_ROUNDING_CODES: Final = 2


@dataclass(slots=True)
class Round:
    """One step of each output on its way, and how long the step must last."""

    steps: list[tuple[BiasChannel, SetOutput]]
    seconds: float


@dataclass(slots=True)
class Converters:
    """What the DC-DC converters are set to before a ramp and after it, by slot."""

    before: dict[int, SetOutput] = field(default_factory=dict)
    after: dict[int, SetOutput] = field(default_factory=dict)


@dataclass(slots=True)
class Ramp:
    """The way of outputs to voltages."""

    rounds: list[Round]
    converters: Converters


class BoardOutputs:
    """The outputs.

    Args:
        address: Port and slave of the board.
        settings: The outputs that may be used.

    Attributes:
        address, settings: As given.
        kinds: The mezzanines by slot, once they are known.
    """

    def __init__(self, address: tuple[int, int], settings: Mapping[BiasChannel, BiasSettings]) -> None:
        self.address = address
        self.settings = dict(settings)
        self.kinds: dict[int, BiasKind] = {}

    def of(self, slots: Iterable[int]) -> list[BiasChannel]:
        """All outputs of some slots."""
        return [
            BiasChannel(*self.address, slot, number) for slot in slots for number in range(self.kinds[slot].n_channels)
        ]

    def lowest(self, channel: BiasChannel) -> SetOutput:
        """What brings an output to the least it can do."""
        return encode_bias(self.kinds[channel.slot], channel, None, None, None)

    def converter(self, slot: int, volts: Volts | None) -> SetOutput:
        """What sets the DC-DC converters of a slot; None for the least."""
        limits = [one.limit for channel, one in self.settings.items() if channel.slot == slot]
        return encode_converter(converter_name(*self.address, slot), slot, volts, limits)

    def encode(self, channel: BiasChannel, volts: Volts) -> SetOutput:
        """What brings an output to a voltage.

        Raises:
            LimitError: If it is not configured, or the guard refuses.
        """
        settings = self.settings.get(channel)
        if settings is None:
            raise LimitError(f"{volts} refused: this output is not configured", device=str(channel))
        return encode_bias(self.kinds[channel.slot], channel, volts, settings.limit, settings.curve)

    def slots(self, *, hear: bool) -> list[int]:
        """Slots whose outputs can be told something while the supply is off, or those whose cannot."""
        return [slot for slot, kind in sorted(self.kinds.items()) if kind.hears_without_supply is hear]

    def converters(self) -> list[int]:
        """Slots with DC-DC converters."""
        return [slot for slot, kind in sorted(self.kinds.items()) if kind.has_converter]

    def plan(self, targets: Mapping[BiasChannel, Volts], now: Mapping[BiasChannel, Volts | None]) -> Ramp:
        """Every step of the way, encoded and guarded.

        Args:
            targets: Where outputs are to be.
            now: Where outputs are, None for their lowest, where they also are if they are not in it.

        Raises:
            LimitError: If a target is refused, or its ramp would not move.
        """
        at_v: dict[BiasChannel, float] = {}
        for channel, volts in targets.items():
            if (channel.port, channel.slave) != self.address or channel.slot not in self.kinds:
                raise LimitError(f"{volts} refused: there is no such output on this board", device=str(channel))
            self.encode(channel, volts)
            known = now.get(channel)
            at_v[channel] = self._lowest_v(channel) if known is None else known.value
        converters = self._plan_converters(targets, now)
        plan: list[Round] = []
        left = dict(targets)
        while left:
            this = Round([], 0.0)
            for channel, target in list(left.items()):
                limit, here_v = self.settings[channel].limit, at_v[channel]
                wanted_v = target.value
                if wanted_v > here_v + limit.max_step_v:
                    wanted_v = here_v + limit.max_step_v
                elif wanted_v < here_v - limit.max_step_v:
                    # Encoding rounds down, so a step down is asked for a little shorter than allowed.
                    wanted_v = here_v - limit.max_step_v + self.kinds[channel.slot].nominal_volts(_ROUNDING_CODES)
                output = self.encode(channel, Volts(wanted_v))
                meant_v = output.commanded.value if output.commanded else here_v
                this.steps.append((channel, output))
                this.seconds = max(this.seconds, abs(meant_v - here_v) / limit.slew_v_per_s)
                if wanted_v == target.value:
                    del left[channel]
                elif abs(target.value - meant_v) >= abs(target.value - here_v):
                    raise LimitError(
                        f"a ramp in steps of {limit.max_step_v} V does not move: a step is less than the DAC can do",
                        device=str(channel),
                    )
                at_v[channel] = meant_v
            plan.append(this)
        return Ramp(plan, converters)

    def _lowest_v(self, channel: BiasChannel) -> float:
        """What an output has at its lowest: as it was calibrated, or nominally where that was not."""
        kind, curve = self.kinds[channel.slot], self.settings[channel].curve
        is_calibrated = curve.points[0][0] <= kind.lowest_code <= curve.points[-1][0]
        return (curve.volts_for if is_calibrated else kind.nominal_volts)(kind.lowest_code)

    def _plan_converters(
        self, targets: Mapping[BiasChannel, Volts], at: Mapping[BiasChannel, Volts | None]
    ) -> Converters:
        """Converters rise before their outputs do, and fall after them."""
        found = Converters()
        for slot in self.converters():
            now = {channel: volts for channel, volts in at.items() if channel.slot == slot}
            then = {**now, **{channel: volts for channel, volts in targets.items() if channel.slot == slot}}
            highest_now = max((volts for volts in now.values() if volts), default=None)
            highest_then = max((volts for volts in then.values() if volts), default=None)
            needed_now, needed_then = converter_target(highest_now), converter_target(highest_then)
            output = self.converter(slot, needed_then)
            (found.before if needed_then > needed_now else found.after)[slot] = output
        return found

    def untold(self, board: str, starts_with: Mapping[int, Volts]) -> list[UntoldOutputs]:
        """Outputs that can be told nothing before the supply is on, with what they start with, by slot."""
        return [
            UntoldOutputs(
                name=f"bias slot {slot} of {board} ({self.kinds[slot].name})",
                highest=starts_with.get(slot),
                limits=[one.limit for channel, one in self.settings.items() if channel.slot == slot],
            )
            for slot in self.slots(hear=False)
        ]
