"""What faults do to the detector's physics, its clocks and its link at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Geometry


@dataclass(slots=True)
class Effects:
    """What the faults that have set in do; arrays in the detector's own order, (channels,) where not said otherwise.

    bias_shift_v: (outputs,). module_delay_ps, module_jitter_ps, warmer_k: (modules,). sensor_k: (ASICs,) what a
    temperature sensor shows too much. light: factor of the light collected. blur_percent: FWHM added to the intrinsic
    resolution, in quadrature. tdc_slope: factor of the time converters' slope. buffer_delay_ps: (channels, 4) of each
    time buffer. threshold_steps: how much higher all thresholds lie. place: which channel's name a channel has.
    delay_ps, gain: of channels, where the calibration is another day's. source_mm: (3,) shift of the source. dark:
    factor of the dark counts. noise: factor of the electronics' noise. rearm_clk: how much longer a channel re-arms.
    leak: share of the hits that go by the next crystal's name. fall_per_khz: share of the signal that is lost
    with every 1000 hits per second of a channel. frame_loss: share of the time slices that the link loses.
    """

    dead: NDArray[np.bool_]
    extra_hz: NDArray[np.float64]
    bias_shift_v: NDArray[np.float64]
    module_delay_ps: NDArray[np.float64]
    module_jitter_ps: NDArray[np.float64]
    warmer_k: NDArray[np.float64]
    sensor_k: NDArray[np.float64]
    light: NDArray[np.float64]
    blur_percent: NDArray[np.float64]
    tdc_slope: NDArray[np.float64]
    buffer_delay_ps: NDArray[np.float64]
    threshold_steps: NDArray[np.float64]
    place: NDArray[np.int64]
    delay_ps: NDArray[np.float64]
    gain: NDArray[np.float64]
    source_mm: NDArray[np.float64]
    dark: NDArray[np.float64]
    noise: NDArray[np.float64]
    rearm_clk: NDArray[np.float64]
    leak: NDArray[np.float64]
    fall_per_khz: float = 0.0
    frame_loss: float = 0.0

    @classmethod
    def none(cls, geometry: Geometry) -> Effects:
        """A healthy detector."""
        n = geometry.channels
        return cls(
            dead=np.zeros(n, np.bool_),
            extra_hz=np.zeros(n),
            bias_shift_v=np.zeros(geometry.bias_channels),
            module_delay_ps=np.zeros(geometry.modules),
            module_jitter_ps=np.zeros(geometry.modules),
            warmer_k=np.zeros(geometry.modules),
            sensor_k=np.zeros(geometry.chips),
            light=np.ones(n),
            blur_percent=np.zeros(n),
            tdc_slope=np.ones(n),
            buffer_delay_ps=np.zeros((n, 4)),
            threshold_steps=np.zeros(n),
            place=np.arange(n),
            delay_ps=np.zeros(n),
            gain=np.ones(n),
            source_mm=np.zeros(3),
            dark=np.ones(n),
            noise=np.ones(n),
            rearm_clk=np.zeros(n),
            leak=np.zeros(n),
        )
