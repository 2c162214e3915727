"""What a run must know before its readout's bias goes on: permits of one connection. Unknown counts as no.

Off needs no permit, ever: it does not pass through here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.errors import PermitError
from petqcd.interlocks.permits import IDENTITY, LIMITS, LINK, Permit, Permits, Quality, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COMMAND", "CONFIGURATION", "IDENTITY", "LIMITS", "LINK", "REQUIRED", "Interlocks", "Permit", "Quality"]

COMMAND = "explicit command"
CONFIGURATION = "device configuration verified"
REQUIRED = (COMMAND, IDENTITY, CONFIGURATION, LINK, LIMITS)
"""Permits without which nothing is energised."""

CONNECTION_AGE_S = 120.0
"""How long what was verified on a connection holds on that same connection."""


class Interlocks(Permits):
    """The permits of one device and one connection; `require` is called right before bias goes on."""

    def __init__(self) -> None:
        super().__init__(Rule(name=name) for name in REQUIRED)
        self.around: Callable[[], Sequence[str]] = tuple
        """What else stands in the way, beside this connection: see `ReadoutWatch`."""

    def require(self, now_s: float) -> None:
        """Refuse unless every permit is true, good and fresh.

        Raises:
            PermitError: naming every permit that is missing.
        """
        self._refuse([*self.against(now_s), *self.around()])

    def require_around(self) -> None:
        """Refuse another voltage, on the connection that energised, unless everything around is as it must be.

        Raises:
            PermitError: naming every permit that is missing.
        """
        self._refuse(self.around())

    @staticmethod
    def _refuse(reasons: Sequence[str]) -> None:
        if reasons:
            raise PermitError("bias stays off: " + "; ".join(reasons))
