"""Values that many ask for and that are made once, by the first who asks, in whatever thread that is."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class MadeOnce:
    """Values by name. Whoever asks for one while it is made waits for it.

    What goes wrong while a value is made reaches everyone who asks for it, and nobody else.
    """

    __slots__ = ("_lock", "_made")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, Future[Any]] = {}

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """The value of that name.

        Args:
            name: of the value; making it may ask for other ones, but never for itself.
            make: gives the value to the first who asks.
        """
        with self._lock:
            is_first = name not in self._made
            made: Future[T] = self._made.setdefault(name, Future())
        if is_first:
            try:
                made.set_result(make())
            except BaseException as problem:  # noqa: BLE001 - raised again below
                made.set_exception(problem)
        return made.result()

    def give(self, name: Hashable, value: object) -> None:
        """Take a value as given in place of making it."""
        made: Future[Any] = Future()
        made.set_result(value)
        with self._lock:
            self._made[name] = made

    def found(self, name: Hashable) -> Any | None:
        """The value of that name, if somebody asked for it and it could be made; else None."""
        with self._lock:
            made = self._made.get(name)
        return None if made is None or made.exception() is not None else made.result()
