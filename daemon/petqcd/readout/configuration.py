"""What a board is configured with: its own configuration, or the calibration set that was accepted for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.formats.petsys_config import PetsysConfig


@dataclass(frozen=True, slots=True)
class InUse:
    """A configuration; set_id: of which calibration set, None: the device's own. root_hash: of the device's own."""

    config: PetsysConfig
    set_id: str | None
    root_hash: str


def configuration_in_use(own: Path, sets: Path, device: str) -> InUse:
    """Read what a device shall be configured with.

    Args:
        own: config.ini of the device.
        sets: the folder of all calibration sets.
        device: its name.

    Raises:
        BadInputError: a file is damaged or missing.
        RefusedError: the device's own configuration is not the one any more that the accepted set goes back to.
    """
    from petqc.calibrate.accepted import accepted
    from petqc.calibrate.sets import find_set, read_set, set_config
    from petqc.formats.petsys_config import load_config

    config = load_config(own)
    act = accepted(sets, device)
    if act is None or act.set_id is None:
        return InUse(config, None, config.config_hash)
    folder = find_set(sets, act.set_id)
    if read_set(folder).root_hash != config.config_hash:
        raise RefusedError(
            f"calibration set {act.set_id} is accepted for {device}, and {own} is not the configuration any more that "
            "it goes back to: accept another set, or none (petqc calibration accept none)"
        )
    return InUse(load_config(set_config(folder)), act.set_id, config.config_hash)
