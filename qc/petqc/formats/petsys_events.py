"""Records of PETsys processed events (.ldat), packed and little-endian as in the file.

Times are ps, energies in the unit of the processing (ToT: ns, charge: clocks), channels absolute channel numbers.
Side a is the first photon of the vendor's record, which is the one of the higher region.
Source: PETsys sw_daq_tofpet2 revision 194662e, processed output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EventKind = Literal["singles", "groups", "coincidences", "groups-compact", "coincidences-compact"]
"""What an event file holds. The compact forms give the same arrays as the plain ones."""

SINGLE: Final = np.dtype([("time_ps", "<i8"), ("energy", "<f4"), ("channel", "<i4")])
GROUP: Final = np.dtype([("n", "u1"), ("index", "u1"), ("time_ps", "<i8"), ("energy", "<f4"), ("channel", "<i4")])
COINCIDENCE: Final = np.dtype(
    [
        ("n_a", "u1"),
        ("index_a", "u1"),
        ("time_a_ps", "<i8"),
        ("energy_a", "<f4"),
        ("channel_a", "<i4"),
        ("n_b", "u1"),
        ("index_b", "u1"),
        ("time_b_ps", "<i8"),
        ("energy_b", "<f4"),
        ("channel_b", "<i4"),
    ]
)

DTYPES: Final[dict[EventKind, np.dtype[np.void]]] = {
    "singles": SINGLE,
    "groups": GROUP,
    "coincidences": COINCIDENCE,
    "groups-compact": GROUP,
    "coincidences-compact": COINCIDENCE,
}
"""Type of the arrays that readers give and writers take, by kind."""

MAX_CHANNEL: Final = (1 << 22) - 1
# Far outside any unit of energy; words read at the wrong place are mostly outside.
_SMALLEST_ENERGY, _LARGEST_ENERGY = 1e-12, 1e12


def plausible(records: NDArray[Any]) -> NDArray[np.bool_]:
    """Which records can be real: channels that exist, energies of any usual unit, an index below its count."""
    names = records.dtype.names or ()
    good = np.ones(records.size, bool)
    for name in names:
        if name.startswith("channel"):
            good &= (records[name] >= 0) & (records[name] <= MAX_CHANNEL)
        if name.startswith("energy"):
            size = np.abs(records[name])
            good &= (size <= _LARGEST_ENERGY) & ((size >= _SMALLEST_ENERGY) | (size == 0))
        if name.startswith("index"):
            good &= records[name] < records[name.replace("index", "n")]
    return good


@dataclass(frozen=True, slots=True)
class EventStep:
    """One line of a .lidx file: bytes [begin, end) of the event file belong to a step."""

    begin: int
    end: int
    step1: float = 0.0
    step2: float = 0.0

    def to_line(self) -> str:
        """The line of the .lidx file."""
        return f"{self.begin}\t{self.end}\t{self.step1:e}\t{self.step2:e}\n"

    @classmethod
    def from_line(cls, line: str) -> EventStep:
        """Read a line of the .lidx file; ValueError if it is none."""
        begin, end, step1, step2 = line.split()
        step = cls(int(begin), int(end), float(step1), float(step2))
        if not 0 <= step.begin <= step.end:
            raise ValueError(f"byte range {step.begin}..{step.end} is impossible")
        return step
