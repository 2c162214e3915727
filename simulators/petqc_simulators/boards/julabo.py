"""The wire side of a Julabo circulator, and its bath.

Source: the same as of the driver's codec. Decided here: a refusal (-08 to -13) is told by the next status only; an
alarm stops pump and control until it is gone and somebody starts again.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from petqc_drivers.julabo import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

BATH_TAU_S = 900.0
"""How the bath follows its set point with a load of water."""
LOSS_TAU_S = 1800.0
"""How it drifts when nothing cools it ..."""
LOAD_K = 15.0
"""... and how far above the room, because the detector goes on heating."""
RANGES: Mapping[str, tuple[float, float]] = {
    **{f"out_sp_0{n}": (-20.0, 200.0) for n in (0, 1, 2)},
    "out_sp_03": (-40.0, 220.0),
    "out_sp_04": (-40.0, 220.0),
    "out_sp_07": (1.0, 4.0),
    "out_mode_01": (0.0, 2.0),
    "out_mode_05": (0.0, 1.0),
    "out_par_06": (0.1, 99.9),
    "out_par_07": (3.0, 9999.0),
    "out_par_08": (0.0, 999.0),
}


class JulaboBoard:
    """One circulator.

    Args:
        version: what it says of itself.
        room_degc: where an idle bath drifts.
        bath_degc: at the beginning; None: the room.
        rs485_address: it listens to commands with this prefix only.

    Attributes:
        bath_degc: the true temperature of the bath.
        told: every set point and start that it was ever told, in order.
        alarm: number of an alarm that is present, for example -1; None if there is none.
        is_remote: it executes commands.
        interleaves: XON and XOFF stand in its replies.
        is_silent: it answers nothing.
        reads_above: how many K its bath sensor shows too much.
    """

    def __init__(
        self,
        version: str = "JULABO HIGHTECH FL HL/SL VERSION 4.0",
        *,
        room_degc: float = 22.0,
        bath_degc: float | None = None,
        rs485_address: int | None = None,
    ) -> None:
        self.version = version
        self.room_degc = room_degc
        self.bath_degc = room_degc if bath_degc is None else bath_degc
        self.external_degc: float | None = None
        self.told: list[tuple[str, float]] = []
        self.alarm: int | None = None
        self.is_remote = True
        self.interleaves = False
        self.is_silent = False
        self.reads_above = 0.0
        self.counters: Counter[str] = Counter()
        self.elapsed_s = 0.0
        self._prefix = b"" if rs485_address is None else f"A{rs485_address:03d}_".encode()
        self._held = b""
        self._refused: int | None = None
        self.values: dict[str, float] = {
            **{f"in_sp_0{n}": 20.0 for n in (0, 1, 2)},
            "in_sp_03": 80.0,
            "in_sp_04": 0.0,
            "in_sp_06": 0.0,
            "in_sp_07": 2.0,
            **{f"in_mode_0{n}": 0.0 for n in (1, 2, 3, 4, 5)},
            "in_par_06": 0.8,
            "in_par_07": 185.0,
            "in_par_08": 53.0,
            "in_hil_00": -100.0,
            "in_hil_01": 100.0,
            "in_pv_04": 90.0,
        }

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def set_degc(self) -> float:
        """The set point in use."""
        return self.values[f"in_sp_0{int(self.values['in_mode_01'])}"]

    @property
    def is_running(self) -> bool:
        """Pump and control."""
        return self.values["in_mode_05"] == 1.0

    def power_cycle(self) -> None:
        """Off and on again: set values are kept by most models, running is not."""
        self.values["in_mode_05"] = 0.0

    def status(self) -> int:
        """What it would say now."""
        if self.alarm is not None:
            return self.alarm
        if self.bath_degc > self.values["in_sp_03"]:
            return -3
        if self.bath_degc < self.values["in_sp_04"]:
            return -4
        return 2 * self.is_remote + self.is_running

    def let_pass(self, seconds: float) -> None:
        """Let simulated time pass."""
        self.elapsed_s += seconds
        if self.alarm is not None:
            self.values["in_mode_05"] = 0.0
        goal, tau_s = (self.set_degc, BATH_TAU_S) if self.is_running else (self.room_degc + LOAD_K, LOSS_TAU_S)
        self.bath_degc += (goal - self.bath_degc) * -math.expm1(-seconds / tau_s)

    # -- lines ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Bytes from the line; its replies."""
        *lines, self._held = (self._held + wire.plain(data).replace(b"\n", b"")).split(b"\r")
        self._held = self._held[-wire.MOST_LINE_BYTES :]
        replies = b"".join(self._answer(line) for line in lines if line)
        return b"" if self.is_silent else replies

    def forget(self) -> None:
        """A serial line has no sessions."""

    def _answer(self, line: bytes) -> bytes:
        if not line.startswith(self._prefix):
            return b""
        command, _, parameter = line[len(self._prefix) :].decode("latin-1").strip().lower().partition(" ")
        self.counters[command] += 1
        if command in wire.SETTINGS:
            self._set(command, parameter.strip())
            return b""
        text = self._reply(command)
        if text is None:
            self._refused = -8
            return b""
        line = text.encode("ascii") + b"\r\n"
        return b"\x13\x11".join((line[:1], line[1:])) if self.interleaves else line

    def _reply(self, command: str) -> str | None:
        match command:
            case "version":
                return self.version
            case "status":
                number = self.status() if self._refused is None else self._refused
                self._refused = None
                return f"{number:02d} {wire.STATUS_TEXTS.get(number, 'ALARM')}" if number >= 0 else self._fault(number)
            case "in_pv_00" | "in_pv_03":
                return f"{self.bath_degc + self.reads_above:.2f}"
            case "in_pv_01":
                distance_k = self.set_degc - self.bath_degc
                return f"{min(max(20.0 * distance_k, -100.0), 100.0) if self.is_running else 0.0:.1f}"
            case "in_pv_02":
                return "---.--" if self.external_degc is None else f"{self.external_degc:.2f}"
            case "in_pv_05":
                return f"{0.15 * self.values['in_sp_07'] if self.is_running else 0.0:.2f}"
        value = self.values.get(command)
        if value is None:
            return None
        return (
            f"{value:.2f}"
            if command.startswith(("in_sp_00", "in_sp_01", "in_sp_02", "in_sp_03", "in_sp_04"))
            else (f"{value:.1f}" if command in {"in_par_06", "in_pv_04"} else f"{value:.0f}")
        )

    @staticmethod
    def _fault(number: int) -> str:
        return f"-{-number:02d} {wire.STATUS_TEXTS.get(number, 'ALARM')}"

    def _set(self, command: str, parameter: str) -> None:
        value = math.nan
        with contextlib.suppress(ValueError):
            value = float(parameter)
        low, high = RANGES[command]
        if not math.isfinite(value):
            self._refused = -8
        elif not self.is_remote:
            self._refused = -9
        elif value < low:
            self._refused = -10
        elif value > high:
            self._refused = -11
        elif command == "out_mode_05" and value and self.alarm is not None:
            self._refused = -9
        else:
            self.told.append((command, value))
            self.values[wire.SETTINGS[command][1]] = value

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {
            "version": self.version,
            "bath_degc": round(self.bath_degc, 3),
            "set_degc": self.set_degc,
            "is_running": self.is_running,
            "alarm": self.alarm,
            "told": self.told[-100:],
        }
