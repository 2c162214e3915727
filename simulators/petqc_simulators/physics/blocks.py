"""A stretch of time that a detector advances by at once: 1024 frames, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqc_simulators.physics.electronics import FRAME_CLK
from petqc_simulators.physics.emission import CLOCK_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_FRAMES = 1024
BLOCK_S = BLOCK_FRAMES * FRAME_CLK * CLOCK_S


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive frames. words: (w,) uint64 whole frames; starts: (n_frames + 1,) place of each frame in words."""

    first_frame: int
    words: NDArray[np.uint64]
    starts: NDArray[np.int64]
