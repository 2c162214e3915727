"""The simulator as a witness: every bias set-point it was given, and the voltage that truly was at each output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import TextIO

    from numpy.typing import NDArray


class BiasWitness:
    """An append-only record, in memory and as JSON lines.

    Lines, each with its time and event:
    set: slot, dac, output, channel, code, volts, supply, converter_v, for every code that a bias output was given.
        channel is its number among those that serve crystals, or null; supply, whether the bias supply was on;
        converter_v, what the DC-DC converter that feeds it gave, or null.
    converter: slot, converter, code, volts, for every code that a DC-DC converter was given.
    supply: on (bias), fem (modules). output: volts of all outputs that serve crystals, while they move.
    trim: bus, rail, code, volts, for supplies of modules. over_voltage: bus, rail, port, volts, most_v, when a module
        gets more than it bears.
    store: volts, most_v, for a set that a supply wakes up with, and the most that it can give.
    wake: channel, volts, for the set-point that an output has at power-up without being told.
    flash: command, for each try to write the protected flash. reboot. sync.
    t_s counts simulated seconds since the board was started; volts are the true ones, not the nominal ones.

    Attributes:
        highest_set_v, highest_output_v: (outputs,) highest so far of what was set, and of what truly was there.
        steepest_v_per_s: (outputs,) fastest rise of an output so far.
    """

    MOVED_V = 0.01
    KEPT = 100_000

    def __init__(self, outputs: int, path: Path | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.highest_set_v = np.zeros(outputs)
        self.highest_output_v = np.zeros(outputs)
        self.steepest_v_per_s = np.zeros(outputs)
        self._shown = np.zeros(outputs)
        self._file: TextIO | None = None if path is None else path.open("a", encoding="utf-8")

    def note(self, t_s: float, event: str, **values: Any) -> None:
        """Add a line."""
        line = {"t_s": round(t_s, 6), "event": event, **values}
        if len(self.lines) < self.KEPT:
            self.lines.append(line)
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def set_point(
        self,
        t_s: float,
        channel: int | None,
        code: int,
        volts: float,
        *,
        place: tuple[int, int, int],
        is_supplied: bool,
        converter_v: float | None = None,
    ) -> None:
        """An output was given a code; volts is what it means with the supply on, place its slot, DAC and output."""
        if channel is not None:
            self.highest_set_v[channel] = max(self.highest_set_v[channel], volts)
        slot, dac, output = place
        self.note(
            t_s,
            "set",
            slot=slot,
            dac=dac,
            output=output,
            channel=channel,
            code=code,
            volts=round(volts, 5),
            supply=is_supplied,
            converter_v=None if converter_v is None else round(converter_v, 4),
        )

    def outputs(self, t_s: float, before_v: NDArray[np.float64], now_v: NDArray[np.float64], seconds: float) -> None:
        """Outputs moved from one voltage to another in some time."""
        self.highest_output_v = np.maximum(self.highest_output_v, now_v)
        self.steepest_v_per_s = np.maximum(self.steepest_v_per_s, (now_v - before_v) / seconds)
        if np.abs(now_v - self._shown).max() >= self.MOVED_V:
            self._shown = now_v.copy()
            self.note(t_s, "output", volts=[round(float(v), 4) for v in now_v])

    def summary(self) -> dict[str, Any]:
        """The extremes, for a state file."""
        return {
            "highest_set_v": [round(float(v), 5) for v in self.highest_set_v],
            "highest_output_v": [round(float(v), 5) for v in self.highest_output_v],
            "steepest_v_per_s": [round(float(v), 3) for v in self.steepest_v_per_s],
        }

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def judge(
    lines: Iterable[Mapping[str, Any]], *, highest_v: float, lowest_code: int, largest_step_v: float | None = None
) -> list[str]:
    """What a record shows that must never happen, in words; nothing if all is well.

    Args:
        lines: the record, as in `BiasWitness.lines` or read from its file.
        highest_v: no output may be told more than this, or have more.
        lowest_code: what an output may be told while the supply is off, at most.
        largest_step_v: most that a set-point may rise at once with the supply on; None does not ask.
    """
    found: list[str] = []
    is_on = False
    last: dict[object, float] = {}
    for line in lines:
        at = f"at {line['t_s']:.3f} s"
        if line["event"] == "supply":
            is_on = bool(line["on"])
        elif line["event"] == "output" and max(line["volts"]) > highest_v:
            found.append(f"{at} an output had {max(line['volts'])} V, the limit is {highest_v} V")
        elif line["event"] == "over_voltage":
            found.append(
                f"{at} the module at port {line['port']} of bus {line['bus']} had {line['volts']} V on {line['rail']}, "
                f"it bears {line['most_v']} V"
            )
        elif line["event"] == "store" and line["most_v"] > highest_v:
            found.append(f"{at} a set was stored that can give {line['most_v']} V, the limit is {highest_v} V")
        elif line["event"] == "wake":
            last[line["channel"]] = float(line["volts"])
        elif line["event"] == "flash":
            found.append(f"{at} command {line['command']:#04x} tried to write the memory that the FPGA starts from")
        elif line["event"] == "set":
            volts = float(line["volts"])
            output = line["channel"]
            if output is None:
                output = f"{line['slot']}.{line['dac']}.{line['output']} without crystals"
            if volts > highest_v:
                found.append(f"{at} output {output} was told {volts} V, the limit is {highest_v} V")
            if not is_on and line["code"] > lowest_code:
                found.append(f"{at} output {output} was told {volts} V with the supply off")
            step = volts - last.get(output, 0.0)
            if is_on and largest_step_v is not None and step > largest_step_v:
                found.append(f"{at} output {output} was raised by {step:.3f} V at once, allowed are {largest_step_v} V")
            last[output] = volts
    return found
