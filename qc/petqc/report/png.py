"""A picture of coloured cells as PNG: small enough to stand in a page, one pixel a cell."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def encode(levels: NDArray[np.uint8], palette: Sequence[str]) -> bytes:
    """The file.

    Args:
        levels: (rows, columns) colour number of each cell, the first row on top.
        palette: colours as `#rrggbb`.

    Source: PNG specification, third edition: colour type 3, filter 0.
    """
    height, width = levels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), levels.astype(np.uint8)], axis=1)
    colours = b"".join(bytes.fromhex(colour[1:]) for colour in palette)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", colours), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def data_uri(levels: NDArray[np.uint8], palette: Sequence[str]) -> str:
    """The file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(encode(levels, palette)).decode()
