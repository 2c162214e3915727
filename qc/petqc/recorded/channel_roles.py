"""Which channels of a module give the time and which the energy, where they are different ones.

Semi-monolithic detectors read each slab's light on both ends of different channels. The mapping is a small YAML file of
`name: [numbers]` lines; only that much of YAML is read here, strictly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ENTRY = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*:\s*\[(?P<numbers>[0-9,\s]*)\]\s*")
_MOST = 4096


@dataclass(frozen=True, slots=True)
class ChannelRoles:
    """Roles within a module of `n` channels: is_time, is_energy are (n,) bool, by channel modulo n."""

    n: int
    is_time: NDArray[np.bool_]
    is_energy: NDArray[np.bool_]


def read_channel_roles(path: Path) -> ChannelRoles:
    """Read `time_channels` and `energy_channels`; comments begin with #.

    Raises:
        BadInputError: something else than lists of numbers, a list missing, a channel named twice or too large.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot be read: {error}", where=str(path)) from error
    bare = "\n".join(line.split("#", 1)[0] for line in text.splitlines())
    lists: dict[str, list[int]] = {}
    at = 0
    while bare[at:].strip():
        found = _ENTRY.match(bare, at)
        if found is None:
            line = bare[:at].count("\n") + 1 + (len(bare[at:]) - len(bare[at:].lstrip()) > 0)
            raise BadInputError(
                "not a list of numbers", where=f"{path} line {line}", do="write name: [1, 2, 3], nothing else"
            )
        if found["name"] in lists:
            raise BadInputError(f"{found['name']} is there twice", where=str(path))
        fields = [f.strip() for f in found["numbers"].split(",")]
        if fields and not fields[-1]:
            fields.pop()  # a comma at the end
        if not all(f.isdigit() for f in fields):
            raise BadInputError(f"{found['name']} holds something that is no number", where=str(path))
        lists[found["name"]] = [int(f) for f in fields]
        at = found.end()
    missing = {"time_channels", "energy_channels"} - lists.keys()
    if missing:
        raise BadInputError(f"{min(missing)} is missing", where=str(path))
    every = lists["time_channels"] + lists["energy_channels"]
    if not every or max(every) >= _MOST:
        raise BadInputError(f"channels must be there and below {_MOST}", where=str(path))
    if len(set(every)) != len(every):
        twice = next(c for c in every if every.count(c) > 1)
        raise BadInputError(f"channel {twice} is named twice", where=str(path))
    # A module is whole ASICs of 64 channels.
    n = -(-(max(every) + 1) // 64) * 64
    is_time, is_energy = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    is_time[lists["time_channels"]] = True
    is_energy[lists["energy_channels"]] = True
    return ChannelRoles(n, is_time, is_energy)
