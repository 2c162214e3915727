"""The wire side of a GPIB adapter of the Prologix kind, with instruments on its bus.

It takes lines: ++ commands are its own, all else goes to the instrument that is addressed, which speaks only when the
adapter reads it. Whatever follows a read waits until that is over: at the end of a message, or after `read_tmo_ms`.
Source: Prologix GPIB-ETHERNET user manual. Decided here: of commands that change nothing here (eoi, savecfg, ifc, loc,
llo, trg) the value is kept and told, and nothing else happens.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_simulators.instrument_server import WireSide

VERSION: Final = b"Prologix GPIB-ETHERNET Controller version 01.06.06.00\r\n"
MOST_BYTES: Final = 1 << 16
_EOS: Final = (b"\r\n", b"\r", b"\n", b"")
_DEFAULTS: Final = {
    "mode": "1", "auto": "0", "eoi": "1", "eos": "0", "eot_enable": "0", "eot_char": "0", "read_tmo_ms": "500",
    "savecfg": "1",
}  # fmt: skip
_DONE: Final = frozenset({"ifc", "loc", "llo", "trg"})
_MESSAGE_AVAILABLE: Final = 1 << 4
_ESCAPE: Final = 0x1B


class PrologixAdapter:
    """An adapter.

    Args:
        bus: instruments by their primary address.
    """

    def __init__(self, bus: Mapping[int, WireSide]) -> None:
        self.bus = dict(bus)
        self._settings = dict(_DEFAULTS)
        self._address = min(self.bus, default=0)
        self._line, self._is_escaped = bytearray(), False
        self._waiting: list[bytes] = []
        self._said = dict.fromkeys(self.bus, b"")
        self._reads_for_s: float | None = None

    def receive(self, data: bytes) -> bytes:
        """Bytes from its client; what it says to that."""
        for byte in data:
            if self._is_escaped:
                self._line.append(byte)
                self._is_escaped = False
            elif byte == _ESCAPE:
                self._line.append(byte)
                self._is_escaped = True
            elif byte in b"\r\n":
                if self._line:
                    self._waiting.append(bytes(self._line))
                self._line.clear()
            elif len(self._line) < MOST_BYTES:
                self._line.append(byte)
        return self._work()

    def let_pass(self, seconds: float) -> bytes:
        """Let time pass for all; what comes of it."""
        for address, instrument in self.bus.items():
            self._said[address] += instrument.let_pass(seconds) or b""
        if self._reads_for_s is not None:
            self._reads_for_s -= seconds
        return self._work()

    def forget(self) -> None:
        """A new client: what the last one began is over."""
        self._line.clear()
        self._waiting.clear()
        self._is_escaped, self._reads_for_s = False, None

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {str(address): instrument.state() for address, instrument in self.bus.items()}

    def _work(self) -> bytes:
        answers = b""
        while True:
            if self._reads_for_s is not None:
                said = self._said.get(self._address, b"")
                if not said and self._reads_for_s > 0.0:
                    return answers
                self._reads_for_s = None
                self._said[self._address] = b""
                answers += said
                if said and self._settings["eot_enable"] == "1":
                    answers += bytes((int(self._settings["eot_char"]) & 0xFF,))
            if not self._waiting:
                return answers
            answers += self._one(self._waiting.pop(0))

    def _one(self, line: bytes) -> bytes:
        if line.startswith(b"++"):
            return self._command(line[2:].decode("latin-1").strip())
        message = re.sub(rb"\x1b(.)", rb"\1", line, flags=re.DOTALL) + _EOS[int(self._settings["eos"])]
        instrument = self.bus.get(self._address)
        if instrument is not None:  # a message to nobody is lost on the bus
            # The end of a message is told by EOI, which these wire sides take as a line's end.
            whole = message if message.endswith((b"\r", b"\n")) else message + b"\n"
            self._said[self._address] = self._said[self._address] + instrument.receive(whole)
        if self._settings["auto"] == "1":
            self._read()
        return b""

    def _read(self) -> None:
        self._reads_for_s = int(self._settings["read_tmo_ms"]) / 1000.0

    def _command(self, text: str) -> bytes:
        name, _, value = text.partition(" ")
        value = value.strip()
        match name:
            case "ver":
                return VERSION
            case "addr" if not value:
                return f"{self._address}\r\n".encode("ascii")
            case "addr" if value.split()[0].isdigit():
                self._address = int(value.split()[0])
                self._said.setdefault(self._address, b"")
            case "read":
                self._read()
            case "spoll":
                return f"{_MESSAGE_AVAILABLE if self._said.get(self._address) else 0}\r\n".encode("ascii")
            case "srq":
                return b"0\r\n"
            case "clr":
                self._said[self._address] = b""
                if self._address in self.bus:
                    self.bus[self._address].forget()
            case "rst":
                self._settings = dict(_DEFAULTS)
            case _ if name in self._settings:
                if not value:
                    return f"{self._settings[name]}\r\n".encode("ascii")
                if not value.isdigit() or (name == "eos" and int(value) > 3):
                    return b"Unrecognized command\r\n"
                self._settings[name] = value
            case _ if name not in _DONE:
                return b"Unrecognized command\r\n"
        return b""
