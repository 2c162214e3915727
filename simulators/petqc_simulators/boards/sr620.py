"""The wire side of an SRS SR620 time-interval counter on RS-232 or GPIB: mnemonics of four letters, numbers in seconds.

It measures the time from an edge at input A to the next one at input B, over as many samples as its SIZE; what makes
the edges is not its business. Nothing here knows sockets or clocks.
Source: timing counter reference, section SR620.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

SIZES: Final = tuple(m * 10**e for e in range(7) for m in (1, 2, 5))[:19]
"""1, 2, 5 … 1e6 samples."""
MOST_BYTES: Final = 256
TIME_PS: Final = 25.0
"""Noise of one interval: the counter's single-shot resolution."""
_EXECUTION, _COMMAND, _POWER_ON = 1 << 4, 1 << 5, 1 << 7
_NO_CLOCK = 1 << 1
_SECONDS_A_SAMPLE = 0.8e-3
_HIGHEST: Final = {"MODE": 6, "SRCE": 3, "ARMM": 12, "JTTR": 1, "CLCK": 1, "CLKF": 1, "AUTM": 1, "ENDT": 255}
"""Setting and its highest value."""


@dataclass(slots=True)
class ClockPair:
    """Two clocks of the same frequency at A and B; changed from outside at any time.

    skew_ps: B after A. jitter_ps: of one interval, both clocks together. frequency_hz: of both. is_there: whether A and
    B have edges. drift_ps_per_s: of the skew.
    """

    skew_ps: float = 1200.0
    jitter_ps: float = 8.0
    frequency_hz: float = 10e6
    is_there: tuple[bool, bool] = (True, True)
    drift_ps_per_s: float = 0.0


class Sr620:
    """One counter.

    Args:
        clocks: what is at its inputs.
        seed: of its noise.

    Attributes:
        reference_lost: it is told to use the external reference, and none is there.
    """

    def __init__(self, clocks: ClockPair, *, serial: str = "05203", seed: int = 1) -> None:
        self.clocks = clocks
        self.serial = serial
        self.reference_lost = False
        self.lines = 0
        self._rng = np.random.default_rng([620, seed])
        self._held = b""
        self._errors, self._events = 0, _POWER_ON
        self._now_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self.values: dict[str, float] = {
            "MODE": 0, "SRCE": 0, "ARMM": 1, "SIZE": 1, "JTTR": 0, "CLCK": 0, "CLKF": 0, "AUTM": 1, "ENDT": 0,
        }  # fmt: skip
        self.inputs: dict[str, float] = {}
        self._last: tuple[float, float, float, float] | None = None

    def let_pass(self, seconds: float) -> None:
        """Let the clocks drift."""
        self._now_s += seconds
        self.clocks.skew_ps += self.clocks.drift_ps_per_s * seconds

    def receive(self, data: bytes) -> bytes:
        """Answers to the lines that are whole with these bytes; CR or LF ends one."""
        self._held += data.replace(b"\r", b"\n")
        answers = b""
        while (end := self._held.find(b"\n")) >= 0:
            line, self._held = self._held[:end], self._held[end + 1 :]
            answers += self._line(line.decode("ascii", "replace"))
        if len(self._held) > MOST_BYTES:
            self._held = b""
            self._events |= _COMMAND
        return answers

    def forget(self) -> None:
        """The client has gone in the middle of a line."""
        self._held = b""

    def _line(self, line: str) -> bytes:
        if not line.strip():
            return b""
        self.lines += 1
        answers = [a for part in line.split(";") if part.strip() and (a := self._one(part.strip().upper())) is not None]
        return (";".join(answers) + "\r\n").encode("ascii") if answers else b""

    def _one(self, text: str) -> str | None:
        if text.startswith("*"):
            return self._common(text)
        name, rest = text[:4], text[4:].strip()
        if rest.startswith("?"):
            return self._query(name, rest[1:].strip())
        self._command(name, rest)
        return None

    def _common(self, text: str) -> str | None:
        if text == "*IDN?":
            return f"StanfordResearchSystems,SR620,{self.serial},1.48"
        if text == "*RST":
            self._reset()
        elif text == "*CLS":
            self._events = self._errors = 0
        elif text == "*ESR?":
            found, self._events = self._events, 0
            return str(found)
        elif text in {"*CAL?", "*TST?"}:
            return "0"
        elif text == "*OPC?":
            return "1"
        elif text == "*TRG":
            self._measure()
        elif text not in {"*WAI", "*OPC"}:
            self._events |= _COMMAND
        return None

    def _query(self, name: str, rest: str) -> str | None:
        if name == "MEAS":
            self._measure()
            return self._result(rest or "0")
        if name in {"XAVG", "XJIT", "XMAX", "XMIN"}:
            return self._result(str(("XAVG", "XJIT", "XMAX", "XMIN").index(name)))
        if name == "STUP":
            return self._setup()
        if name == "ERRS":
            found, self._errors = self._errors | (_NO_CLOCK if self._has_no_clock else 0), 0
            return str(found)
        if name == "STAT":
            return "0"
        if name in self.values:
            return f"{self.values[name]:g}"
        if f"{name}{rest}" in self.inputs:
            return f"{self.inputs[name + rest]:g}"
        self._events |= _COMMAND
        return None

    def _command(self, name: str, rest: str) -> None:
        if name in {"STOP", "STRT"} and not rest:
            if name == "STRT":
                self._measure()
            return
        try:
            numbers = [float(part) for part in rest.split(",")]
        except ValueError:
            self._events |= _COMMAND
            return
        if name in {"TERM", "LEVL", "TSLP", "TCPL"} and len(numbers) == 2:
            self.inputs[f"{name}{numbers[0]:g}"] = numbers[1]
            return
        allowed = name in _HIGHEST and len(numbers) == 1 and numbers[0] in range(_HIGHEST[name] + 1)
        if allowed or (name == "SIZE" and len(numbers) == 1 and numbers[0] in SIZES):
            self.values[name] = numbers[0]
        else:
            self._events |= _EXECUTION if name in {*_HIGHEST, "SIZE"} else _COMMAND

    @property
    def _has_no_clock(self) -> bool:
        return bool(self.values["CLCK"]) and self.reference_lost

    def _measure(self) -> None:
        """One measurement of SIZE samples; none without edges."""
        n = int(self.values["SIZE"])
        self._last = None
        if not all(self.clocks.is_there) and self.values["MODE"] != 6:
            return
        if self.values["MODE"] == 3:
            at, spread = self.clocks.frequency_hz, self.clocks.frequency_hz * 1e-11
        else:
            at, spread = 1e-12 * self.clocks.skew_ps, 1e-12 * float(np.hypot(TIME_PS, self.clocks.jitter_ps))
        if self._has_no_clock:
            at *= 1.0 + 2e-6  # its own crystal, not the reference
        some = self._rng.normal(at, spread, min(n, 1000))
        mean = float(self._rng.normal(at, spread / np.sqrt(n)))
        jitter = float(some.std(ddof=1)) if n > 1 else 0.0
        self._last = mean, jitter, float(max(some.max(), mean)), float(min(some.min(), mean))

    @property
    def seconds_a_measurement(self) -> float:
        """How long one takes."""
        return _SECONDS_A_SAMPLE * float(self.values["SIZE"])

    def _result(self, which: str) -> str | None:
        if which not in {"0", "1", "2", "3"}:
            self._events |= _EXECUTION
            return None
        return None if self._last is None else f"{self._last[int(which)]:.7E}"

    def _setup(self) -> str:
        v = self.values
        flags = int(v["AUTM"]) | int(v["JTTR"]) << 5 | int(v["CLCK"]) << 6 | int(v["CLKF"]) << 7
        fields = (v["MODE"], v["SRCE"], v["ARMM"], 0, SIZES.index(int(v["SIZE"])), 0, 0, flags, 0, 0, 0)
        return ",".join(f"{int(value)}" for value in fields)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {"lines": self.lines, "skew_ps": round(self.clocks.skew_ps, 3), "reference_lost": self.reference_lost}
