"""Operating limits that were changed while the daemon ran: kept over restarts, and never wider than what was written.

A restart must not give back what an engineer took away. What was given by command holds inside the hard limit of the
file as it is now; where the file's own operating limits were changed since, both hold.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from petqcd import small_file
from petqcd.errors import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.config import BiasSourceConfig

log = logging.getLogger(__name__)

FILE, SCHEMA = "limits.json", "petqc-limits/1"


@dataclass(frozen=True, slots=True)
class OperatingLimits:
    """How far commands may go, inside the hard limit; volts."""

    v_min: float
    v_max: float

    def require(self, name: str, volts: float) -> None:
        """Refuse what is outside.

        Raises:
            RefusedError: naming limit and request.
        """
        if not self.v_min <= volts <= self.v_max:  # a NaN is in no range
            raise RefusedError(
                f"{name}: {volts:g} V refused: outside the operating limits {self.v_min:g} to {self.v_max:g} V"
            )

    def within(self, other: OperatingLimits) -> OperatingLimits:
        """Where both hold; that may be nowhere, and then every voltage is refused."""
        return OperatingLimits(max(self.v_min, other.v_min), min(self.v_max, other.v_max))


def configured_limits(config: BiasSourceConfig) -> OperatingLimits | None:
    """Those that the file gives; None: there is no hard limit, so there are none."""
    wanted = config.operating or config.bias
    return None if wanted is None or config.bias is None else OperatingLimits(wanted.v_min, wanted.v_max)


@dataclass(frozen=True, slots=True)
class _Given:
    """By command. against: what the file said then."""

    limits: OperatingLimits
    against: OperatingLimits


class KeptLimits:
    """Everything is called from the event loop.

    Args:
        state_dir: where they are kept.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._given: dict[str, _Given] = {}
        self._is_damaged = False
        self._turn = asyncio.Lock()
        try:
            self._read()
        except (KeyError, TypeError, ValueError):
            self._is_damaged = True
            log.error("%s is damaged: nothing is energised before its operating limits are given again", self._path)  # noqa: TRY400

    def of(self, config: BiasSourceConfig) -> OperatingLimits | None:
        """Those that hold for a bias source; None: it has no hard limit.

        Raises:
            RefusedError: what was given is not known any more.
        """
        configured, hard = configured_limits(config), config.bias
        given = self._given.get(config.name)
        if configured is None or hard is None:
            return None
        if given is None:
            if self._is_damaged:
                raise RefusedError(
                    f"{config.name}: the operating limits that were given are damaged: give them again "
                    "(petqc bias limits)"
                )
            return configured
        inside = given.limits.within(OperatingLimits(hard.v_min, hard.v_max))
        return inside if given.against == configured else inside.within(configured)

    async def give(self, config: BiasSourceConfig, limits: OperatingLimits) -> None:
        """Let others hold from now on, also after a restart.

        Raises:
            RefusedError: they could not be written; those before hold.
        """
        against = configured_limits(config)
        if against is None:
            raise RefusedError(f"{config.name} has no hard limit, so it is never switched on")
        async with self._turn:
            given = {**self._given, config.name: _Given(limits, against)}
            document = {
                "schema": SCHEMA,
                "others_are_damaged": self._is_damaged,
                "given": {name: asdict(one) for name, one in given.items()},
            }
            try:
                await asyncio.to_thread(small_file.write, self._path, document)
            except OSError as error:
                raise RefusedError(f"{config.name}: the limits stay: others are not written: {error}") from error
            self._given = given

    def _read(self) -> None:
        found = small_file.read_newest(self._path, SCHEMA)
        if found is not None:
            self._is_damaged = bool(found["others_are_damaged"])
            self._given = {name: _of_document(one) for name, one in found["given"].items()}


def _of_document(one: dict[str, Any]) -> _Given:
    return _Given(OperatingLimits(**one["limits"]), OperatingLimits(**one["against"]))
