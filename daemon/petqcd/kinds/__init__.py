"""Run kinds: ONE file here = ONE kind of run, found by itself.

A kind is a `Procedure` (what it does at the board, and how it concludes) registered with its name, its title and the
model of its settings, `[qc.NAME]` in petqc.toml; or a function that says of which other kinds it is composed. All else
(claim, permits, bias off on every way out, record, progress, metrics) is the same for all kinds and stands in
`procedure.py`, `running.py` and `runs.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from petqcd.errors import RefusedError, message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from petqcd.config import PetqcConfig
    from petqcd.procedure import Procedure

P = TypeVar("P", bound="type[Procedure]")
C = TypeVar("C", bound="Callable[[Any], Sequence[Part]]")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a composed run. settings: of its kind, in place of the configured ones."""

    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunKind:
    """A registered kind. needs_bias: False: its board is never given the limits without which bias cannot be set.

    make: the class of its procedures; made in a worker thread, may read files. needs_source: a source must be in the
    scanner. compose: instead of a procedure, the parts of a run that is composed of others. unattended: settings of a
    run that nobody has commanded by itself: one of the schedule, or a part of another one.
    """

    name: str
    title: str
    settings: type[BaseModel]
    make: type[Procedure] | None = None
    needs_bias: bool = True
    needs_source: bool = False
    compose: Callable[[Any], Sequence[Part]] | None = None
    unattended: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_composed(self) -> bool:
        """Whether it is made of runs of other kinds."""
        return self.compose is not None

    @property
    def procedure(self) -> type[Procedure]:
        """What it does at the board."""
        if self.make is None:
            raise TypeError(f"a {self.name} run does nothing itself")
        return self.make

    def parts(self, settings: BaseModel) -> Sequence[Part]:
        """The parts of a composed run."""
        return () if self.compose is None else self.compose(settings)

    def settings_of(self, config: PetqcConfig, given: Mapping[str, Any]) -> BaseModel:
        """[qc.NAME] of the configuration, with what a command gave in place of it.

        Raises:
            RefusedError: the command gave something that the kind does not have, or that is not possible.
        """
        configured = config.qc.of(self.name).model_dump()
        try:
            return self.settings.model_validate({**configured, **given})
        except ValidationError as error:
            raise RefusedError(f"{self.name}: {'; '.join(_told(problem) for problem in error.errors())}") from error

    def energises(self, config: PetqcConfig, given: Mapping[str, Any]) -> bool:
        """Whether a run of this kind, or a part of it, may have bias set; of what is not possible, that it does.

        Args:
            config: the daemon's.
            given: as for `settings_of`.
        """
        if not self.is_composed:
            return self.needs_bias
        try:
            parts = self.parts(self.settings_of(config, given))
        except RefusedError:
            return True
        return any(find_kind(part.kind).needs_bias for part in parts)


def _told(problem: Mapping[str, Any]) -> str:
    """What is wrong with a setting and what it is; of settings that do not go together only the former."""
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where} {problem['input']!r}: {message_of(problem)}" if where else message_of(problem)


_REGISTRY: dict[str, RunKind] = {}


def run_kind(
    name: str,
    *,
    title: str,
    settings: type[BaseModel],
    needs_bias: bool = True,
    needs_source: bool = False,
    unattended: Mapping[str, Any] | None = None,
) -> Callable[[P], P]:
    """Register a procedure as the run kind `name`."""

    def register(made: P) -> P:
        _add(RunKind(name, title, settings, made, needs_bias, needs_source, unattended=unattended or {}))
        return made

    return register


def composed_kind(name: str, *, title: str, settings: type[BaseModel]) -> Callable[[C], C]:
    """Register a function from settings to parts as the composed run kind `name`."""

    def register(compose: C) -> C:
        _add(RunKind(name, title, settings, compose=compose))
        return compose

    return register


def _add(kind: RunKind) -> None:
    if kind.name in _REGISTRY:
        raise ValueError(f"run kind {kind.name!r} is registered twice")
    _REGISTRY[kind.name] = kind


@cache
def all_kinds() -> Mapping[str, RunKind]:
    """Every kind, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_REGISTRY.items()))


def find_kind(name: str) -> RunKind:
    """A kind.

    Raises:
        RefusedError: there is no such kind.
    """
    kinds = all_kinds()
    if name not in kinds:
        raise RefusedError(f"there is no run of kind {name!r}: one of {', '.join(kinds)}")
    return kinds[name]
