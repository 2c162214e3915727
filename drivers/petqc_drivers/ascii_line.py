"""Lines of ASCII characters, in which several devices answer: where one ends, and what stands in it. Pure.

`came` is what has come so far; an end is how many bytes the line ends with, None while it is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable


def end_of_line(came: bytes, most_bytes: int) -> int | None:
    """The end of the first line.

    Raises:
        RemoteProtocolError: More came than any line has.
    """
    end = came.find(b"\n")
    if end < 0 and len(came) > most_bytes:
        raise RemoteProtocolError(f"{len(came)} bytes without the end of a line")
    return end + 1 or None


def end_of_line_that(is_wanted: Callable[[bytes], bool], came: bytes) -> int | None:
    """The end of the first line that is the wanted one; late replies before it are passed over."""
    begin = 0
    while (end := came.find(b"\n", begin)) >= 0:
        if is_wanted(came[begin:end]):
            return end + 1
        begin = end + 1
    return None


def understood(
    end_of: Callable[[bytes], int | None], parse: Callable[[bytes], object]
) -> Callable[[bytes], int | None]:
    """As `end_of`, for a line that `parse` can read; what `parse` raises, it raises."""

    def whole(came: bytes) -> int | None:
        end = end_of(came)
        if end is not None:
            parse(came[:end])
        return end

    return whole


def last_line(raw: bytes) -> bytes:
    """The last of several lines, without its end."""
    return raw.rstrip(b"\r\n").rpartition(b"\n")[2]


def text(line: bytes) -> str:
    """What stands in a line.

    Raises:
        RemoteProtocolError: There are characters in it that no reply has.
    """
    found = line.rstrip(b"\r\n")
    if not found or any(byte < 0x20 or byte > 0x7E for byte in found):
        raise RemoteProtocolError(f"no line: {line[:60]!r}")
    return found.decode("ascii").strip()
