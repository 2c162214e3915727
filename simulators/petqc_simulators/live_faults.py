"""The faults of a simulator that runs: which there are, one more, one less.

Each family of faults has somebody who acts on it: the detector's physics, the links, the devices. Here they have one
list, with numbers that are never used twice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from petqc_simulators.faults import EVERY_KIND, Fault
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from petqc_simulators.faults import Family, FaultKind
    from petqc_simulators.physics.detector import Detector

MOST_FAULTS = 1000
"""In the life of one simulator."""


class FaultHandler(Protocol):
    """Who makes the faults of one family act."""

    def why_not(self, kind: FaultKind) -> str:
        """Why this kind cannot be had here; empty: it can."""

    def begin(self, fault: Fault) -> int:
        """Let a fault act, its times counted from now on; the handler's own number of it.

        Raises:
            ProfileError: it cannot be had here.
        """

    def resize(self, number: int, size: float) -> None:
        """Let it be of another size."""

    def end(self, number: int) -> None:
        """Take it away, for good."""

    def describe(self, number: int) -> dict[str, Any]:
        """id, title, size, size_means, onset_s, nodes, is_acting."""


class DetectorFaults:
    """Faults that act on the physics of a detector; a `FaultHandler`."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def why_not(self, kind: FaultKind) -> str:
        """Whether there is a place for it."""
        is_there = kind.place != "bias" or self._detector.profile.geometry.bias_channels
        return "" if is_there else "this scanner has no bias outputs"

    def resize(self, number: int, size: float) -> None:
        """Another size from the next block of frames on."""
        self._detector.resize_fault(number, size)

    def begin(self, fault: Fault) -> int:
        """From the next block of frames on."""
        return self._detector.begin_fault(fault)

    def end(self, number: int) -> None:
        """From the next block of frames on."""
        self._detector.end_fault(number)

    def describe(self, number: int) -> dict[str, Any]:
        """As the truth says it."""
        plan = self._detector.plan
        return {
            **plan.describe_one(number),
            "is_acting": plan.faults[number].acts(self._detector.now_s),
        }


@dataclass(slots=True)
class _Planted:
    family: Family
    number: int
    text: str
    is_live: bool
    is_gone: bool = False


class LiveFaults:
    """The faults of one simulator. May be used from several threads.

    Args:
        handlers: by family; a family without one is refused.
        planted: faults that were there from the start, in the order in which their handlers count them.
    """

    def __init__(self, handlers: Mapping[Family, FaultHandler], planted: Sequence[Fault] = ()) -> None:
        self._handlers = dict(handlers)
        self._lock = threading.Lock()
        self._planted: list[_Planted] = []
        counted: dict[Family, int] = {}
        for fault in planted:
            family = fault.kind.family
            number = counted.get(family, 0)
            counted[family] = number + 1
            self._planted.append(_Planted(family, number, str(fault), is_live=False))

    def kinds(self) -> list[dict[str, Any]]:
        """Every kind of fault, and why it cannot be had here, if so."""
        return [
            {
                "id": kind.id,
                "title": kind.title,
                "family": kind.family,
                "size_means": kind.size_means,
                "default_size": kind.default_size,
                "largest_size": kind.largest_size,
                "place": kind.place,
                "noticed_by": kind.noticed_by,
                "refused": self._why_not(kind),
            }
            for kind in EVERY_KIND.values()
        ]

    def _why_not(self, kind: FaultKind) -> str:
        handler = self._handlers.get(kind.family)
        return f"nothing here has faults of a {kind.family}" if handler is None else handler.why_not(kind)

    def documents(self) -> list[dict[str, Any]]:
        """What is planted and was not taken away, oldest first."""
        with self._lock:
            return [self._document(n) for n, one in enumerate(self._planted) if not one.is_gone]

    def _document(self, number: int) -> dict[str, Any]:
        one = self._planted[number]
        return {
            "number": number + 1,
            "text": one.text,
            "is_live": one.is_live,
            **self._handlers[one.family].describe(one.number),
        }

    def add(self, text: str) -> dict[str, Any]:
        """Plant one more, from now on.

        Raises:
            ProfileError: it cannot be had here.
        """
        number = self._begin(Fault.parse(text))
        with self._lock:
            return self._document(number - 1)

    def _begin(self, fault: Fault) -> int:
        why = self._why_not(fault.kind)
        if why:
            raise ProfileError(f"fault {fault}: {why}")
        with self._lock:
            if len(self._planted) >= MOST_FAULTS:
                raise ProfileError(f"{MOST_FAULTS} faults were planted: start the simulator again")
            number = self._handlers[fault.kind.family].begin(fault)
            self._planted.append(_Planted(fault.kind.family, number, str(fault), is_live=True))
            return len(self._planted)

    def plant(self, fault: Fault, size: float) -> int:
        """Plant one with a size of its own; its number."""
        return self._begin(replace(fault, size=size))

    def resize(self, number: int, size: float) -> None:
        """Let one be of another size."""
        with self._lock:
            one = self._planted[number - 1]
            self._handlers[one.family].resize(one.number, size)

    def remove(self, number: int) -> dict[str, Any]:
        """Take one away, for good; what it was.

        Raises:
            ProfileError: there is none with this number, or it cannot be taken away.
        """
        with self._lock:
            if not 1 <= number <= len(self._planted) or self._planted[number - 1].is_gone:
                there = ", ".join(str(n + 1) for n, one in enumerate(self._planted) if not one.is_gone)
                raise ProfileError(f"there is no fault with number {number}; there is {there or 'none at all'}")
            one = self._planted[number - 1]
            self._handlers[one.family].end(one.number)
            found = self._document(number - 1)
            one.is_gone = True
            return found
