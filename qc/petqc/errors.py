"""Every error the QC raises; out of tolerance is a result, never an exception."""

from __future__ import annotations


class QcError(Exception):
    """Root of all errors of petqc; `code` is stable and is what logs and interfaces show."""

    code = "qc-error"


class BadInputError(QcError, ValueError):
    """A file, table, configuration or array that cannot be used as it is.

    The message names what is wrong, where (path and byte offset or line) and what to do.
    """

    code = "bad-input"

    def __init__(self, what: str, *, where: str | None = None, do: str | None = None) -> None:
        self.what = what
        self.where = where
        self.do = do
        super().__init__(": ".join(p for p in (where, what) if p) + (f" ({do})" if do else ""))


class TooFewCountsError(QcError):
    """Not enough counts for a number worth giving.

    times_as_long: how many times as many would do; 1: not known.
    """

    code = "too-few-counts"

    def __init__(self, what: str, *, times_as_long: float = 1.0) -> None:
        self.times_as_long = times_as_long
        super().__init__(what)


class FitFailedError(QcError):
    """A fit did not converge or does not describe its data."""

    code = "fit-failed"
