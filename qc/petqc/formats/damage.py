"""What a reader says about the part of its input that it could not use."""

from __future__ import annotations

from dataclasses import dataclass


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
