"""What one timing board is and how it is used."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from petqc_drivers.caen_a5203 import picotdc, wire
from petqc_drivers.errors import LocalProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class CaenA5203Settings:
    """One board.

    Attributes:
        name: In messages and readings.
        host: Address of the board.
        control_port, data_port: Fixed by the board; others for a simulator or a tunnel.
        serial: Number (PID) that the board must have; None: any.
        inputs: Channels that are timed.
        modules: Node of the module whose fast output is at each input, in the order of `inputs`, for example
            `module:0.0.1`; with them the readings have the time interval between every two modules.
        window_ps: Full width of the coincidence window of these intervals, 2τ.
        intervals_s: Over how long a time intervals are collected.
        reply_s: Longest wait for an answer.
        silence_s: Running without a service event for so long, the link counts as lost.
        external_clock: Take the reference clock from outside; False: the board's own.
    """

    name: str
    host: str
    control_port: int = wire.CONTROL_PORT
    data_port: int = wire.DATA_PORT
    serial: int | None = None
    inputs: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()
    window_ps: float = 10_000.0
    intervals_s: float = 60.0
    reply_s: float = 1.0
    silence_s: float = 3.0
    external_clock: bool = False

    def __post_init__(self) -> None:
        if len(set(self.inputs)) != len(self.inputs) or any(not 0 <= c < 2 * picotdc.CHANNELS for c in self.inputs):
            raise LocalProtocolError(f"inputs {self.inputs}: each of 0 to 127 once", device=self.name)
        if self.modules and (len(self.modules) != len(self.inputs) or len(set(self.modules)) != len(self.modules)):
            raise LocalProtocolError(f"modules {self.modules}: one for each of the inputs, each once", device=self.name)
        if not (self.reply_s > 0.0 and self.silence_s > 1.0):
            raise LocalProtocolError("reply_s must be above 0 and silence_s above 1 s", device=self.name)
        if not (0.0 < self.window_ps < 1e6 and 1.0 <= self.intervals_s < math.inf):
            raise LocalProtocolError(
                "window_ps must be above 0 and below 1 µs, intervals_s at least 1 s", device=self.name
            )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Inputs of every two modules."""
        return tuple(itertools.combinations(self.inputs, 2)) if self.modules else ()

    def node(self, pair: tuple[int, int]) -> str:
        """The two modules of a pair of inputs, as readings name them."""
        return " - ".join(self.modules[self.inputs.index(input_)] for input_ in pair)
