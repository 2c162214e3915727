"""Writing PETsys binary event files: records and the index of steps beside them.

Source: PETsys sw_daq_tofpet2 revision 194662e, processed output.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.petsys_compact import fold_coincidences, fold_groups, pack
from petqc.formats.petsys_events import DTYPES, EventKind, EventStep
from petqc.output_files import partial_of

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray


class LdatWriter:
    """A binary event file being written; it gets its name when it is closed.

    Attributes:
        path: the .ldat file. records: records written so far. bytes_written: bytes so far.
    """

    def __init__(self, path: str | os.PathLike[str], kind: EventKind) -> None:
        """Begin NAME.ldat and NAME.lidx (`.ldat` is added if the path does not have it).

        Raises:
            BadInputError: the folder is not there or cannot be written.
        """
        given = Path(path)
        self.path = given if given.suffix == ".ldat" else given.with_name(given.name + ".ldat")
        self.kind = kind
        self.dtype = DTYPES[kind]
        self.records = self.bytes_written = 0
        self._partial = partial_of(self.path)
        self._steps: list[EventStep] = []
        self._open_step: tuple[int, float, float] | None = None
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise BadInputError(f"cannot be written: {error.strerror}", where=str(self.path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()

    def start_step(self, step1: float = 0.0, step2: float = 0.0) -> None:
        """Begin a step; one that is open ends."""
        self.end_step()
        self._open_step = (self.bytes_written, step1, step2)

    def write(self, records: NDArray[Any]) -> None:
        """Append records of the kind's dtype; for a compact kind whole groups or coincidences."""
        if records.dtype != self.dtype:
            raise BadInputError(
                f"{self.kind} are records of {self.dtype}, not of {records.dtype}", where=str(self.path)
            )
        if self._open_step is None:
            self._open_step = (self.bytes_written, 0.0, 0.0)
        if self.kind == "groups-compact":
            data: bytes | memoryview = pack(*fold_groups(records))
        elif self.kind == "coincidences-compact":
            data = pack(*fold_coincidences(records))
        else:
            data = np.ascontiguousarray(records).view(np.uint8).data
        self._file.write(data)
        self.bytes_written += len(data)
        self.records += records.size

    def end_step(self) -> None:
        """End the step that is open, if one is."""
        if self._open_step is not None:
            begin, step1, step2 = self._open_step
            self._steps.append(EventStep(begin, self.bytes_written, step1, step2))
            self._open_step = None

    def close(self) -> None:
        """Finish: index, then the final name. May be called again."""
        if self._file.closed:
            return
        self.end_step()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.with_suffix(".lidx").write_text("".join(step.to_line() for step in self._steps), "ascii")
        self._partial.replace(self.path)
