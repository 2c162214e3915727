"""An I2C bus, step by step: two lines that the board's master sets, and the chips that watch them.

A step sets both lines and shows what is on them at its end; with the check bits set, a line that does not get there
is a bus error, and the steps that follow are not carried out.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SCL, SDA, CHECK_SCL, CHECK_SDA = 0x01, 0x02, 0x04, 0x08
BUS_ERROR = 0xE0


class I2cChip:
    """A chip on the bus: it is written bytes and asked for bytes."""

    def __init__(self, address: int) -> None:
        """address: of eight bits, the lowest one zero."""
        self.address = address

    def begin(self) -> None:
        """It was addressed."""

    def take(self, value: int) -> bool:  # noqa: ARG002 - a chip without registers
        """A byte for it; whether it acknowledges."""
        return False

    def give(self) -> int:
        """The next byte from it."""
        return 0xFF


class Ds44xx(I2cChip):
    """Two current DACs with sign and seven bits: registers F8 and F9. A set sign bit is a negative code."""

    REGISTERS = (0xF8, 0xF9)
    _SIGN = 0x80

    def __init__(self, address: int, on_set: Callable[[int, int], None]) -> None:
        """on_set(register, code) is called whenever a DAC is given a code."""
        super().__init__(address)
        self.values = dict.fromkeys(self.REGISTERS, 0)
        self._on_set = on_set
        self._pointer: int | None = None
        self._is_pointed = False

    def code(self, register: int) -> int:
        """What a DAC was given, with its sign."""
        value = self.values[register]
        return -(value & ~self._SIGN) if value & self._SIGN else value

    def begin(self) -> None:
        """The next byte says which register."""
        self._is_pointed = False

    def take(self, value: int) -> bool:
        """A register, then its value."""
        if not self._is_pointed:
            self._pointer = value if value in self.values else None
            self._is_pointed = True
            return self._pointer is not None
        if self._pointer is None:
            return False
        self.values[self._pointer] = value
        self._on_set(self._pointer, self.code(self._pointer))
        self._pointer = None
        return True

    def give(self) -> int:
        """The register that was pointed to."""
        return 0xFF if self._pointer is None else self.values[self._pointer]


_BRANCHES = {0x04: 0, 0x05: 1}


class BusSwitch(I2cChip):
    """PI4MSD5V9540B: 04 and 05 connect one of two branches, everything else none."""

    def __init__(self, address: int = 0xE0) -> None:
        super().__init__(address)
        self.value = 0

    @property
    def branch(self) -> int | None:
        """Which branch is connected."""
        return _BRANCHES.get(self.value & 0x07)

    def take(self, value: int) -> bool:
        """The control register."""
        self.value = value
        return True

    def give(self) -> int:
        """The control register."""
        return self.value


class I2cBus:
    """Both lines, and the chips on them.

    Args:
        chips: those that are always connected.
        switch: a switch among them, with the chips behind each of its branches.

    Attributes:
        is_stuck: something holds the data line low; settable, a defect.
    """

    def __init__(
        self, chips: Iterable[I2cChip] = (), switch: tuple[BusSwitch, dict[int, list[I2cChip]]] | None = None
    ) -> None:
        self.is_stuck = False
        self._chips = list(chips)
        self._switch = switch
        self._scl = self._sda = 1
        self._bits: list[int] | None = None
        """Bits since the start or the last byte; None while the bus is free."""
        self._chip: I2cChip | None = None
        self._is_addressed = False
        self._is_reading = False
        self._pull = 0
        """1 while a chip holds the data line low."""
        self._out = 0

    def run(self, steps: bytes) -> bytes:
        """Carry out steps; one byte for each."""
        reply = bytearray()
        for step in steps:
            if reply and reply[-1] & BUS_ERROR:
                reply.append(reply[-1])
            else:
                reply.append(self._step(step))
        return bytes(reply)

    def _line(self, sda: int) -> int:
        return 0 if self._pull or self.is_stuck else sda

    def _step(self, step: int) -> int:
        scl, wanted = step & SCL, step >> 1 & 1
        before_scl, before_sda = self._scl, self._sda
        self._scl = scl
        if before_scl and not scl:
            self._clock_fell()
        self._sda = sda = self._line(wanted)
        if before_scl and scl and sda != before_sda:
            self._start() if not sda else self._stop()
        elif scl and not before_scl:
            self._clock_rose(sda)
        failed = step & CHECK_SDA and sda != wanted
        return (BUS_ERROR if failed else 0) | sda << 1 | scl

    def _start(self) -> None:
        self._bits, self._chip, self._is_addressed, self._pull = [], None, False, 0

    def _stop(self) -> None:
        self._bits, self._chip, self._pull = None, None, 0

    def _clock_rose(self, sda: int) -> None:
        if self._bits is None:
            return
        if len(self._bits) == 8 and self._is_reading and self._is_addressed and sda:
            # The master did not acknowledge: it wants no more.
            self._chip = None
        self._bits.append(sda)

    def _clock_fell(self) -> None:
        """Chips change the data line while the clock is low."""
        if self._bits is None:
            return
        self._pull = 0
        if len(self._bits) == 8:
            self._pull = int(self._take_byte(int("".join(map(str, self._bits)), 2)))
        elif len(self._bits) == 9:
            self._bits = []
            if not self._is_addressed:
                self._is_addressed = True
            if self._chip is not None and self._is_reading:
                self._out = self._chip.give()
        if self._chip is not None and self._is_reading and self._is_addressed and len(self._bits) < 8:
            self._pull = 1 - (self._out >> (7 - len(self._bits)) & 1)

    def _take_byte(self, value: int) -> bool:
        """Eight bits went by; whether a chip acknowledges them."""
        if not self._is_addressed:
            self._is_reading = bool(value & 1)
            self._chip = next((chip for chip in self._connected() if chip.address == value & 0xFE), None)
            if self._chip is not None and not self._is_reading:
                self._chip.begin()
            return self._chip is not None
        return self._chip is not None and not self._is_reading and self._chip.take(value)

    def _connected(self) -> list[I2cChip]:
        if self._switch is None:
            return self._chips
        switch, branches = self._switch
        behind = [] if switch.branch is None else branches.get(switch.branch, [])
        return [*self._chips, switch, *behind]
