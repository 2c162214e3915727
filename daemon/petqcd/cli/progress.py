"""A live progress bar on stderr; where stderr is not a terminal, one line for each stage."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from petqcd.cli.common import say

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

_TOLD = ("singles_rate", "prompts_seen", "photopeak", "ctr_fit")
"""Figures that there is room for in a line."""


class Bar:
    """A progress bar for one piece of work, updated from progress documents or fractions."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._quiet = quiet
        self._stage = ""
        self._so_far = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show it."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=Console(stderr=True, markup=False, highlight=False),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=1.0, detail="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, fraction: float, stage: str = "", detail: str = "") -> None:
        """Show where it is."""
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=fraction,
                description=f"{self._what}: {stage}" if stage else self._what,
                detail=detail,
            )
        elif not self._quiet and stage and stage != self._stage:
            if self._so_far:
                say(f"{self._what}: {self._so_far}")
                self._so_far = ""
            say(f"{self._what}: {stage}" + (f" ({detail})" if detail else ""))
        self._stage = stage

    def part(self, done: int, whole: int) -> None:
        """Show how much of something is done."""
        self.update(done / whole if whole else 1.0)

    def document(self, progress: dict[str, Any]) -> None:
        """Show a progress document of the daemon."""
        counts = progress["counts"]
        seen = ", ".join(f"{counts[name]:,} {name}" for name in ("singles", "prompts") if counts.get(name))
        detail = progress["detail"] if not seen else f"{seen}, {progress['detail']}"
        if progress.get("so_far"):
            self._so_far = so_far(progress["so_far"])
            detail = f"{detail}; {self._so_far}"
        part = progress.get("part", "")
        stage = f"{part}: {progress['stage']}" if part else progress["stage"]
        self.update(progress["fraction"], stage, detail)


def so_far(found: dict[str, Any]) -> str:
    """Figures of a run that goes on in one line, with the mark that they carry."""
    told = [f"{f['title']} {f['text']}" for f in found["figures"] if f["value"] is not None and f["id"] in _TOLD]
    simulated = ", simulated" if found["simulated"] else ""
    return f"{found['remark']}{simulated}: {', '.join(told)}" if told else f"{found['remark']}{simulated}"
