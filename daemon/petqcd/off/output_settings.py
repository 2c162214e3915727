"""Which bias outputs a configuration names, and what their drivers need to reach them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from petqcd.errors import ConfigError
from petqcd.off.outputs import Output, plain

if TYPE_CHECKING:
    from petqcd.config import PetqcConfig

DAQD_SCHEME = "unix:"
"""What the address of a daemon of the readout maker begins with; the path of its socket follows."""


def readout_way(address: str, shared_memory: str | None = None) -> dict[str, Any]:
    """What the driver of a readout needs to reach it, as plain values.

    Raises:
        ConfigError: the address is none of a readout.
    """
    if address.startswith(DAQD_SCHEME):
        way = {"socket": address.removeprefix(DAQD_SCHEME)}
        return way if shared_memory is None else {**way, "shared_memory": shared_memory}
    host, _, port = address.removeprefix("udp://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{address!r} is not udp://HOST:PORT")
    return {"host": "127.0.0.1" if host == "localhost" else host, "udp_port": int(port)}


def configured_outputs(config: PetqcConfig) -> list[Output]:
    """Every device of a configuration that can put a voltage on the detector and can be reached without the daemon."""
    from petqcd.config import BiasSourceConfig

    found = [
        Output(name=one.name, kind=one.kind, settings=plain(one.settings()), on_daemon_loss=one.on_daemon_loss)
        for one in config.instruments
        if isinstance(one, BiasSourceConfig)
    ]
    board = config.board
    if board.address is not None:
        way = readout_way(board.address, board.shared_memory)
        found.insert(0, Output(name=board.name, kind=board.kind, settings=way, on_daemon_loss=board.on_daemon_loss))
    return found
