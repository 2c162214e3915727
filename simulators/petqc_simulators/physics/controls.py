"""What a readout sets of a detector: bias, thresholds, modes, pulses."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.physics.draw import Draw
    from petqc_simulators.profile import Profile, Share

MODE_NORMAL, MODE_TEST_PULSE = 0, 1


@dataclass(frozen=True, slots=True)
class PulseTrain:
    """A board's pulse generator, in clocks: one pulse every interval, `phase` after a frame's beginning."""

    length_clk: int
    interval_clk: int
    phase_clk: float


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything that the readout sets, of a detector or a share of it; (n,) in its channel order, bias_v (outputs,).

    bias_v: voltage asked of the bias outputs (0: off). is_read: the channel's ASIC is powered, out of reset and sends.
    trigger_mode: 0 light, 1 test pulse, others off. vth: (n, 3) codes of T1, T2, E, a higher code is a lower
    threshold; baseline: (n, 2) trims of T and E.
    """

    bias_v: NDArray[np.float64]
    is_read: NDArray[np.bool_]
    trigger_mode: NDArray[np.int64]
    vth: NDArray[np.int64]
    baseline: NDArray[np.int64]
    is_charge: NDArray[np.bool_]
    integration: NDArray[np.int64]
    test_pulse: PulseTrain | None = None

    def with_share(self, share: Share, given: Controls) -> Controls:
        """The settings of a detector when those of a share of it are changed; the pulse generator is not among them."""
        changed = {}
        for item in fields(self):
            if item.name != "test_pulse":
                changed[item.name] = getattr(self, item.name).copy()
                part = share.outputs if item.name == "bias_v" else share.channels
                changed[item.name][part] = getattr(given, item.name)
        return replace(self, **changed)


def nominal_controls(profile: Profile, draw: Draw) -> Controls:
    """What a readout sets that follows the written configuration: calibrated thresholds and bias, charge mode."""
    n = profile.geometry.channels
    e = profile.electronics
    vth = np.clip(np.trunc(draw.zero - np.array([e.vth_t1, e.vth_t2, e.vth_e])), 0, 63).astype(np.int64)
    return Controls(
        bias_v=draw.output_v(draw.bias_code),
        is_read=np.ones(n, np.bool_),
        trigger_mode=np.zeros(n, np.int64),
        vth=vth,
        baseline=draw.baseline.copy(),
        is_charge=np.ones(n, np.bool_),
        integration=np.full(n, 34, np.int64),
    )
