"""Files that come with petqc and are no code: at the root of a checkout, or in share/petqc of an environment."""

from __future__ import annotations

import sys
from pathlib import Path

from petqcd.errors import ConfigError


def folder(name: str) -> Path:
    """The folder `systemd` or `monitoring`.

    Raises:
        ConfigError: this installation is not whole.
    """
    checkout = Path(__file__).resolve().parents[2] / name
    installed = Path(sys.prefix) / "share" / "petqc" / name
    for found in (checkout, installed):
        if (found / "README.md").is_file():
            return found
    raise ConfigError(f"{installed}: not there: petqc is not installed whole, install it again")
