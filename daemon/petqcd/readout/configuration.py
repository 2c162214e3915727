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


class OwnConfiguration:
    """Whether a readout's own configuration can be read, so that its absence is told before a run needs it.

    Args:
        path: config.ini; None: a simulator brings its own.

    Attributes:
        problem: what is wrong with it, for people; empty: nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[float, int] | None = None
        self.problem = ""

    def look(self) -> None:
        """Look at it, and read it if it is another one than before; takes its time."""
        from petqc.errors import QcError
        from petqc.formats.petsys_config import load_config

        if self._path is None:
            return
        try:
            found = self._path.stat()
            if (now := (found.st_mtime, found.st_size)) == self._seen:
                return
            load_config(self._path)
        except (OSError, QcError) as error:
            self._seen, self.problem = None, f"the readout's configuration cannot be read: {error}"
        else:
            self._seen, self.problem = now, ""


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
