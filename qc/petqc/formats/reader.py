"""What every reader of this folder is: open for as long as its context, and honest about the first damage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, BinaryIO, Self

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from petqc.formats.damage import Damage, DamageLog


class Reader(ABC):
    """A file that is read in blocks.

    Attributes:
        path: the file.
        damages: places that the last reading could not use.
    """

    path: Path
    damages: DamageLog

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file; may be called again."""

    @property
    def damage(self) -> Damage | None:
        """The first place that the last `blocks` could not use."""
        return self.damages.first


class StreamReader(Reader):
    """A reader over a buffered stream."""

    _file: BinaryIO

    def _open(self, path: Path) -> BinaryIO:
        """Open for reading.

        Raises:
            BadInputError: it cannot be opened.
        """
        try:
            return path.open("rb")
        except OSError as error:
            raise BadInputError(f"cannot be opened: {error.strerror}", where=str(path)) from error

    def close(self) -> None:
        """Close the file; may be called again."""
        self._file.close()
