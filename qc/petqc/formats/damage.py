"""What a reader says about the part of its input that it could not use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_DAMAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the input stops making sense.

    offset: byte position of the first byte that was not used. records_before: whole frames, records or events read
    before it. bytes_after: bytes left out from there on because of it.
    """

    offset: int
    reason: str
    records_before: int
    bytes_after: int

    @property
    def frames_before(self) -> int:
        """Whole frames before the damage, for formats whose records are frames."""
        return self.records_before

    def __str__(self) -> str:
        counts = f"{self.records_before} records before it, {self.bytes_after} bytes left out"
        return f"byte {self.offset}: {self.reason}; {counts}"


class DamageLog(list[Damage]):
    """The damages of one reading: the first thousand in full, all of them counted.

    Attributes:
        total: damages noted, those without an entry of their own too.
        bytes_left_out: bytes that were not used because of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.bytes_left_out = 0

    def note(self, offset: int, reason: str, records_before: int, bytes_after: int) -> None:
        """Add one; past the limit it is counted only."""
        self.total += 1
        self.bytes_left_out += bytes_after
        if len(self) < MAX_DAMAGES:
            self.append(Damage(offset, reason, records_before, bytes_after))

    @property
    def first(self) -> Damage | None:
        """The first one noted; None if nothing was damaged."""
        return self[0] if self else None
