"""What the suite that every driver of an instrument runs has to know of each: one entry an instrument."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.contract.served_instruments import served

from petqc_drivers.caen_a5203.board import CaenA5203, CaenA5203Settings
from petqc_drivers.caen_a5203.registers import Register as A5203Register
from petqc_drivers.caen_a7585d import CaenA7585d, CaenA7585dSettings, Register
from petqc_drivers.hamamatsu_c11204.settings import HamamatsuC11204Settings
from petqc_drivers.hamamatsu_c11204.supply import HamamatsuC11204
from petqc_drivers.julabo.circulator import JulaboCirculator, JulaboSettings
from petqc_drivers.keithley_smu.meter import KeithleySmu, KeithleySmuSettings
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.sr620.counter import Sr620, Sr620Settings
from petqc_simulators.boards.caen_a5203 import CaenA5203Board
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.keithley_smu import KeithleySmu as KeithleyBoard
from petqc_simulators.boards.sr620 import ClockPair
from petqc_simulators.boards.sr620 import Sr620 as Sr620Board
from petqc_simulators.physics.leakage import SipmLoad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from petqc_drivers.instrument import Instrument
    from petqc_simulators.instrument_server import WireSide

REPLY_TIMEOUT_S = 0.25


@dataclass(frozen=True)
class Case:
    """One instrument.

    board: it, with readings that all differ. another: one of the same kind that is not the one configured. device: its
    driver for an address, and how long it waits for a reply. truth: what a poll must read, with how far off. told:
    everything that it was ever told to change. replies: of which replies of a poll faults are tried. has_parity: its
    line notices a flipped bit, or its frames do; raw sockets and GPIB lose none. is_serial: it can be on a
    pseudo-terminal. data: what it sends by itself on a second socket, if it has one.
    """

    name: str
    board: Callable[[], Any]
    another: Callable[[], Any]
    device: Callable[..., Instrument]
    truth: Callable[[Any], dict[str, tuple[float, float]]]
    told: Callable[[Any], list[Any]]
    replies: tuple[int, ...]
    has_parity: bool = True
    is_serial: bool = True
    data: Callable[[Any], WireSide] | None = None

    def __str__(self) -> str:
        return self.name

    @contextlib.contextmanager
    def served(self, board: Any, side: WireSide, listen: str = "tcp://127.0.0.1:0") -> Iterator[str]:
        """Serve it, through whatever side stands for it; the address for `device`, and to listen at again."""
        listen, _, data_port = listen.partition("+")
        with contextlib.ExitStack() as stack:
            address = stack.enter_context(served(side, listen))
            if self.data is not None:
                beside = stack.enter_context(served(self.data(board), f"tcp://127.0.0.1:{data_port or 0}"))
                address += "+" + beside.rpartition(":")[2]
            yield address


def _c11204(address: str, reply_s: float = REPLY_TIMEOUT_S) -> Instrument:
    limit = HardLimit(channel="hv", v_min=Volts(41.0), v_max=Volts(57.0), max_step_v=4.0, slew_v_per_s=500.0)
    return HamamatsuC11204(
        HamamatsuC11204Settings(
            name="hv",
            address=address,
            model="C11204-02",
            serial="SIM00001",
            limit=limit,
            reply_timeout_s=reply_s,
        )
    )


def _c11204_board() -> HamamatsuC11204Board:
    board = HamamatsuC11204Board(sensor_degc=lambda: 31.0, load_ma=lambda volts: volts / 50.0)
    board.reference = 30000
    board.is_on, board.output_v = True, 30000 * 1.812e-3
    board.witness.lines.clear()
    return board


def _julabo(address: str, reply_s: float = REPLY_TIMEOUT_S) -> Instrument:
    return JulaboCirculator(JulaboSettings(name="chiller", address=address, model="FL", reply_timeout_s=reply_s))


def _julabo_board() -> JulaboBoard:
    board = JulaboBoard(bath_degc=17.25, room_degc=17.25 - 15.0)  # an idle bath that stays where it is
    board.values["in_sp_00"] = 19.5
    board.external_degc = 23.75
    return board


def _visa(address: str) -> str:
    host, _, port = address.removeprefix("socket://").rpartition(":")
    return f"TCPIP::{host}::{port}::SOCKET"


def _keithley(address: str, reply_s: float = REPLY_TIMEOUT_S) -> Instrument:
    limit = HardLimit(channel="smu", v_min=Volts(0.0), v_max=Volts(57.0), max_step_v=10.0, slew_v_per_s=500.0)
    return KeithleySmu(
        KeithleySmuSettings(
            name="smu",
            address=_visa(address),
            model="2450",
            serial="04425111",
            limit=limit,
            reply_timeout_s=reply_s,
        )
    )


def _keithley_board() -> KeithleyBoard:
    board = KeithleyBoard(SipmLoad())
    board.receive(b":SOUR:VOLT 55;:OUTP ON\n")
    board.let_pass(1.0)
    board.told_v.clear()
    return board


def _sr620(address: str, reply_s: float = REPLY_TIMEOUT_S) -> Instrument:
    return Sr620(
        Sr620Settings(
            name="skew",
            address=address,
            serial="05203",
            reply_timeout_s=reply_s,
            seconds_per_sample=1e-5,
        )
    )


_SR620_SETUP = {"SIZE": 1000.0, "CLCK": 1.0, "AUTM": 0.0}


def _sr620_board() -> Sr620Board:
    board = Sr620Board(ClockPair())
    board.values |= _SR620_SETUP
    return board


def _a7585d(address: str, reply_s: float = REPLY_TIMEOUT_S) -> Instrument:
    limit = HardLimit(channel="a7585d", v_min=Volts(21.0), v_max=Volts(57.0), max_step_v=4.0, slew_v_per_s=500.0)
    return CaenA7585d(
        CaenA7585dSettings(name="a7585d", address=address, serial=10234, limit=limit, reply_timeout_s=reply_s)
    )


def _a7585d_board() -> CaenA7585dBoard:
    board = CaenA7585dBoard(sensor_degc=lambda: 28.5)
    board.values |= {Register.VOLTAGE: 54.0, Register.ENABLE: 1.0}
    board.output_v = 54.0
    return board


class A5203Control:
    """The control socket of a timing board, as an instrument that never speaks first."""

    def __init__(self, serial: int = 52_030_001) -> None:
        self.board = CaenA5203Board(serial)

    def receive(self, data: bytes) -> bytes:
        return self.board.handle(data)

    def let_pass(self, _seconds: float) -> bytes:
        return b""

    def forget(self) -> None:
        self.board.forget()

    def state(self) -> dict[str, Any]:
        return self.board.state()

    def told(self) -> list[int]:
        """Registers that are not as they were at the beginning, but for those that reading the card goes through."""
        fresh = CaenA5203Board().registers
        through = {A5203Register.SPI_DATA, A5203Register.I2C_ADDRESS, A5203Register.I2C_DATA}
        return [r for r, value in self.board.registers.items() if r not in through and value != fresh.get(r)]


class A5203Data:
    """Its data socket: time passes, and nothing is at its inputs."""

    def __init__(self, control: A5203Control) -> None:
        self.board = control.board

    def receive(self, _data: bytes) -> bytes:
        return b""

    def let_pass(self, seconds: float) -> bytes:
        nothing = np.empty(0, np.int64)
        return self.board.advance(seconds, nothing, nothing)

    def forget(self) -> None:
        """Nothing is kept for a client."""

    def state(self) -> dict[str, Any]:
        return self.board.state()


def _a5203(address: str, reply_s: float = REPLY_TIMEOUT_S) -> Instrument:
    host, _, ports = address.removeprefix("socket://").rpartition(":")
    control_port, data_port = map(int, ports.split("+"))
    return CaenA5203(
        CaenA5203Settings(
            name="timing",
            host=host,
            control_port=control_port,
            data_port=data_port,
            serial=52_030_001,
            inputs=(0, 1),
            reply_s=reply_s,
        )
    )


def _a5203_control() -> A5203Control:
    control = A5203Control()
    control.board.environment.ambient_degc = 21.5
    return control


CASES = [
    Case(
        "caen-a5203",
        _a5203_control,
        lambda: A5203Control(52_030_002),
        _a5203,
        lambda _control: {
            "temperature_board": (33.5, 0.001),
            "temperature_fpga": (49.5, 0.2),
            "temperature_tdc": (38.5, 0.001),
            "clock_locked": (1.0, 0.0),
        },
        lambda control: control.told(),
        (0, 3, 4),
        has_parity=False,
        is_serial=False,
        data=A5203Data,
    ),
    Case(
        "caen-a7585d",
        _a7585d_board,
        lambda: CaenA7585dBoard(10235),
        _a7585d,
        lambda _board: {
            "bias_voltage": (54.0, 0.001),
            "bias_current": (0.54, 0.001),
            "temperature_sipm": (28.5, 0.001),
        },
        lambda board: [line for line in board.witness.lines if line["event"] != "output"],
        (1, 3),
        has_parity=False,
    ),
    Case(
        "hamamatsu-c11204",
        _c11204_board,
        lambda: HamamatsuC11204Board(serial="SIM00002"),
        _c11204,
        lambda board: {
            "bias_voltage": (board.output_v, 0.01),
            "bias_current": (board.output_v / 50.0, 0.01),
            "temperature_sipm": (31.0, 0.01),
        },
        lambda board: [line for line in board.witness.lines if line["event"] != "output"],
        (0,),
    ),
    Case(
        "julabo",
        _julabo_board,
        lambda: JulaboBoard("JULABO CRYOCOMPACT CF31 VERSION 5.0"),
        _julabo,
        lambda board: {
            "temperature_coolant": (board.bath_degc, 0.02),
            "temperature_coolant_set": (19.5, 0.001),
            "temperature_coolant_external": (23.75, 0.001),
            "coolant_status": (2.0, 0.0),
        },
        lambda board: board.told,
        (0, 2),
    ),
    Case(
        "keithley-smu",
        _keithley_board,
        lambda: KeithleyBoard(SipmLoad(), serial="04425112"),
        _keithley,
        lambda board: {
            "bias_voltage": (55.0, 0.01),
            "bias_current": (1e3 * board.load.current_a(55.0), 2e-6),
            "bias_limiting": (0.0, 0.0),
            "interlock_closed": (1.0, 0.0),
        },
        lambda board: board.told_v,
        (0, 1, 2),
        has_parity=False,
        is_serial=False,
    ),
    Case(
        "sr620",
        _sr620_board,
        lambda: Sr620Board(ClockPair(), serial="05204"),
        _sr620,
        lambda board: {"clock_skew": (board.clocks.skew_ps, 5.0), "clock_reference": (1.0, 0.0)},
        lambda board: [n for n, value in board.values.items() if value != _sr620_board().values[n]],
        (0, 1),
        has_parity=False,
    ),
]
