"""A step of a recording through a chain that makes events of its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from petqc.formats.petsys_raw import RawReader

T = TypeVar("T")

_BLOCK_WORDS = 1 << 19  # 4 MiB at a time: this and what it becomes is all that is in memory


def feed_step(
    reader: RawReader,
    number: int,
    feed: Callable[[NDArray[Any]], T],
    end: Callable[[int | None], T],
) -> Iterator[T]:
    """What a chain gives for the frames of a step, as it becomes final.

    Frames that are missing where the recording is damaged were not lost by the detector: the chain is ended there, and
    goes on after it.

    Args:
        reader: of the recording; its `damages` are those of the step once the iteration has ended.
        number: of the step.
        feed: takes whole frames, gives what became final.
        end: takes the last frame of the step (None: not known), gives what is left.
    """
    known_damages = 0
    for words in reader.blocks(_BLOCK_WORDS, step=number):
        if len(reader.damages) > known_damages:
            known_damages = len(reader.damages)
            yield end(None)
        yield feed(words)
    yield end(None if reader.damages else reader.steps[number].last_frame)
