"""A timing board and a clock counter beside a scanner: one sees the modules' fast outputs, the other their clocks.

The board's edges are made of the photons that the readout sees, block by block as the detector advances; while no
frames are made its time passes by itself. Where a machine is too slow for the photons their time slips, and the board
goes on telling once a second how it is. The counter sees what faults do to the clocks of two modules, and no photon.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc_simulators.boards.caen_a5203 import SERVICE_EVERY_S, CaenA5203Board
from petqc_simulators.boards.sr620 import ClockPair, Sr620
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.fast_outputs import FastOutputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.instrument_server import WireSide
    from petqc_simulators.physics.detector import Detector

MOST_UNSENT_BYTES: Final = 4 << 20
"""Events beyond that are lost: a board's memory is finite."""
_BY_ITSELF_AFTER_S: Final = 0.2


class TimingBeside:
    """A board whose input `module` is the fast output of that module.

    Args:
        detector: what it looks at.
        board: it; default: one of 64 channels as from the shelf.

    Attributes:
        board: it.
        bytes_dropped: of events that nobody took.
    """

    def __init__(self, detector: Detector, board: CaenA5203Board | None = None) -> None:
        modules = range(detector.profile.geometry.modules)
        self.board = CaenA5203Board(channels=64 if len(modules) <= 64 else 128) if board is None else board
        self.bytes_dropped = 0
        self._outputs = FastOutputs(detector, {module: module for module in modules})
        self._outputs_look, detector.onlooker = detector.onlooker, self._look
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._without_block_s = self._since_service_s = 0.0

    def _look(self, deposits: NDArray[np.float64], parameters: NDArray[np.float64]) -> None:
        assert self._outputs_look is not None  # noqa: S101 - it is that of the outputs; for the type checker
        self._outputs_look(deposits, parameters)
        with self._lock:
            self._without_block_s = 0.0
            self._keep(self.board.advance(BLOCK_S, *self._outputs.take()))

    def _keep(self, sent: bytes) -> None:
        if len(self._unsent) + len(sent) > MOST_UNSENT_BYTES:
            self.bytes_dropped += len(sent)
        else:
            self._unsent += sent

    def handle(self, data: bytes) -> bytes:
        """Answers to requests."""
        with self._lock:
            return self.board.handle(data)

    def take(self, seconds: float = 0.0) -> bytes:
        """What it has sent since the last call, so many seconds ago."""
        with self._lock:
            self._without_block_s += seconds
            self._since_service_s += seconds
            if self._since_service_s >= SERVICE_EVERY_S:
                self._since_service_s = 0.0
                self._keep(self.board.service())
            if self._without_block_s > _BY_ITSELF_AFTER_S:
                nothing = np.empty(0, np.int64)
                self._keep(self.board.advance(seconds, nothing, nothing))
            sent, self._unsent = bytes(self._unsent), bytearray()
        return sent

    def wire_sides(self, name: str) -> dict[str, WireSide]:
        """Its control and its data socket, by name."""
        return {name: _Control(self), f"{name}-data": _Data(self)}


class _Control:
    """The control socket."""

    def __init__(self, beside: TimingBeside) -> None:
        self._beside = beside

    def receive(self, data: bytes) -> bytes:
        return self._beside.handle(data)

    def let_pass(self, _seconds: float) -> None:
        """Time passes at the data socket."""

    def forget(self) -> None:
        self._beside.board.forget()

    def state(self) -> dict[str, Any]:
        return {**self._beside.board.state(), "bytes_dropped": self._beside.bytes_dropped}


class _Data:
    """The data socket, on which the board speaks only."""

    def __init__(self, beside: TimingBeside) -> None:
        self._beside = beside

    def receive(self, _data: bytes) -> bytes:
        return b""

    def let_pass(self, seconds: float) -> bytes:
        return self._beside.take(seconds)

    def forget(self) -> None:
        """Nothing is kept for a client."""

    def state(self) -> dict[str, Any]:
        return {}


class ClocksOfModules:
    """A counter whose inputs A and B are the clocks of the first and the last module.

    Args:
        detector: whose faults act on the clocks: one that makes a module's times late is a clock that is early.

    Attributes:
        counter: it.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._clocks = ClockPair()
        self._nominal = self._clocks.skew_ps, self._clocks.jitter_ps
        self.counter = Sr620(self._clocks)

    def follow(self) -> None:
        """Look at the clocks as they are now."""
        effects = self._detector.effects
        skew_ps, jitter_ps = self._nominal
        self._clocks.skew_ps = skew_ps + float(effects.module_delay_ps[0] - effects.module_delay_ps[-1])
        jitters = effects.module_jitter_ps[[0, -1]]
        self._clocks.jitter_ps = float(np.hypot(jitter_ps, np.hypot(*jitters)))
