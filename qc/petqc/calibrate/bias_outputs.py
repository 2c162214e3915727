"""Bias outputs: how they are written, and which channels each of them feeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from petqc.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Output: TypeAlias = tuple[int, int, int, int]
"""A bias output: port, slave, slot, channel."""


def output_name(output: Output) -> str:
    """Node of a bias output."""
    return "bias:" + ".".join(str(k) for k in output)


def parse_output(text: str) -> Output:
    """PORT.SLAVE.SLOT.CHANNEL, with or without `bias:` before it.

    Raises:
        BadInputError: it is something else.
    """
    parts = text.strip().removeprefix("bias:").split(".")
    if len(parts) != 4 or not all(p.isdecimal() for p in parts):
        raise BadInputError(f"{text!r} is no bias output", do="write PORT.SLAVE.SLOT.CHANNEL, as 0.0.0.12")
    port, slave, slot, channel = (int(p) for p in parts)
    return port, slave, slot, channel


def outputs_of_channels(bias_map: NDArray[np.void]) -> dict[int, Output]:
    """Bias output of each absolute channel; the mezzanine is on the channel's own unit."""
    return {
        int(row["port"]) << 17 | int(row["slave"]) << 12 | int(row["chip"]) << 6 | int(row["channel"]): (
            int(row["port"]),
            int(row["slave"]),
            int(row["slot"]),
            int(row["bias_channel"]),
        )
        for row in bias_map
    }
