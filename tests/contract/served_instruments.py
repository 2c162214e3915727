"""Simulated instruments on a socket or a pseudo-terminal, each in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from petqc_simulators.instrument_server import InstrumentServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from petqc_drivers.device import Reading
    from petqc_simulators.instrument_server import WireSide

ENOUGH_S = 20.0


@contextlib.contextmanager
def served(
    instrument: WireSide, listen: str = "tcp://127.0.0.1:0", *, speed: float = 1.0, has_one_place: bool = False
) -> Iterator[str]:
    """Serve it; the address as a driver writes it."""
    server = InstrumentServer(instrument, listen, speed=speed, has_one_place=has_one_place)
    thread = threading.Thread(target=server.run, name=f"simulated {type(instrument).__name__}")
    thread.start()
    try:
        yield server.address
    finally:
        server.stop()
        thread.join(ENOUGH_S)
        server.close()


def of(readings: list[Reading], name: str) -> Reading:
    """The one reading of that name."""
    (found,) = [reading for reading in readings if reading.name == name]
    return found
