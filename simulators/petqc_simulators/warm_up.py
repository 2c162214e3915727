"""Everything compiled that serving a detector needs, so that no frame is late and no board silent for a compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_simulators.boards import hardware_trigger
from petqc_simulators.physics.detector import Detector

if TYPE_CHECKING:
    from petqc_simulators.profile import Profile


def warm_up(profile: Profile) -> None:
    """Compile, or load, the physics by a block of another detector of the profile, and the boards' trigger."""
    detector = Detector(profile, seed=1)
    detector.settle()
    detector.advance()
    hardware_trigger.warm_up()
