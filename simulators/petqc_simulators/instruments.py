"""Which instruments can be simulated alone, and how each is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.hamamatsu_c11204.wire import MODELS as C11204_MODELS
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.keithley_smu import KeithleySmu
from petqc_simulators.boards.prologix import PrologixAdapter
from petqc_simulators.boards.sr620 import ClockPair, Sr620
from petqc_simulators.physics.leakage import SipmLoad
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from petqc_simulators.instrument_server import WireSide

TIMING_BOARD: Final = "caen-a5203"
"""Served on two ports, beside a detector of its own."""


@dataclass(frozen=True, slots=True)
class InstrumentKind:
    """One kind. models: the first one is the default. make: from model, serial number and a folder for its record."""

    title: str
    models: tuple[str, ...]
    serial: str
    make: Callable[[str, str, Path | None], WireSide]


def _c11204(model: str, serial: str, folder: Path | None) -> WireSide:
    load = SipmLoad()
    return HamamatsuC11204Board(
        model,
        serial=serial,
        load_ma=lambda volts: 1e3 * load.current_a(volts),
        sensor_degc=lambda: load.degc,
        witness_path=None if folder is None else folder / "bias.jsonl",
    )


def _keithley(model: str, serial: str, _folder: Path | None) -> WireSide:
    return KeithleySmu(SipmLoad(), model="2400" if model == "2400" else "2450", serial=serial)


def _sr620(_model: str, serial: str, _folder: Path | None) -> WireSide:
    return Sr620(ClockPair(), serial=serial)


def _julabo(model: str, _serial: str, _folder: Path | None) -> WireSide:
    board = JulaboBoard(JULABO_VERSIONS[model])
    board.values["in_mode_05"] = 1.0  # as an operator left it
    return board


JULABO_VERSIONS: Final = {
    "FL601": "JULABO HIGHTECH FL601 HL/SL VERSION 4.0",
    "CF31": "JULABO CRYOCOMPACT CF31 VERSION 5.0",
}


def _a7585d(_model: str, serial: str, _folder: Path | None) -> WireSide:
    load = SipmLoad()
    return CaenA7585dBoard(
        int(serial), load_ma=lambda volts: 1e3 * load.current_a(volts), sensor_degc=lambda: load.degc
    )


def _adapter(_model: str, _serial: str, _folder: Path | None) -> WireSide:
    return PrologixAdapter({COUNTER_AT: Sr620(ClockPair()), METER_AT: KeithleySmu(SipmLoad(), model="2400")})


COUNTER_AT, METER_AT = 16, 24
"""On the bus of the simulated adapter."""

KINDS: Final = {
    "caen-a7585d": InstrumentKind("CAEN A7585D bias supply", ("A7585D",), "10234", _a7585d),
    "gpib-adapter": InstrumentKind(
        f"GPIB adapter with an SR620 at {COUNTER_AT} and a Keithley 2400 at {METER_AT}",
        ("GPIB-ETHERNET",),
        "",
        _adapter,
    ),
    "hamamatsu-c11204": InstrumentKind("Hamamatsu C11204 bias supply", tuple(C11204_MODELS)[::-1], "SIM00001", _c11204),
    "julabo": InstrumentKind("Julabo circulator", tuple(JULABO_VERSIONS), "", _julabo),
    "keithley-smu": InstrumentKind("Keithley source meter", ("2450", "2400"), "04425111", _keithley),
    "sr620": InstrumentKind("SRS SR620 time-interval counter", ("SR620",), "05203", _sr620),
}


def make_instrument(
    kind: str, *, model: str | None = None, serial: str | None = None, folder: Path | None = None
) -> WireSide:
    """One instrument as from the shelf.

    Raises:
        ProfileError: There is no such kind or model.
    """
    found = KINDS.get(kind)
    if found is None:
        known = ", ".join(sorted([*KINDS, TIMING_BOARD]))
        raise ProfileError(f"--device {kind!r} is none of {known}")
    if model is not None and model not in found.models:
        raise ProfileError(f"--model {model!r}: a {found.title} is one of {', '.join(found.models)}")
    return found.make(model or found.models[0], serial or found.serial, folder)


def finite(value: object) -> object:
    """A state with null where there is no number."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
