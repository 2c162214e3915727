"""The memory that the FPGA starts from, and the chip that filters the system clock, on the board's SPI bus.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), section 4.6; commands from the
public vendor software of the same revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc_simulators.boards.spi_devices import SpiDevice

if TYPE_CHECKING:
    from collections.abc import Callable

FLASH_BYTES = 1 << 24
UPDATE_IMAGE_AT = 0x800000
_SECTOR_BYTES = 1 << 16
_PAGE_BYTES = 256
_IDENTITY = bytes.fromhex("20ba18")
"""N25Q128A, 128 Mbit."""
_IMAGE_HEADER = b"\xff" * 32 + bytes.fromhex("000000bb11220044") + b"\xff" * 8 + bytes.fromhex("aa99556620000000")
"""How an image for the FPGA begins: bus width detection and synchronisation word."""
_IMAGE_BYTES = 4096


def image(seed: int) -> bytes:
    """Something that looks like an image for the FPGA; nobody runs it."""
    body = np.random.default_rng([seed, 0xF9A5]).bytes(_IMAGE_BYTES - len(_IMAGE_HEADER))
    return _IMAGE_HEADER + body


class ConfigurationFlash(SpiDevice):
    """A flash of 16 MiB: 9F identity, 03 read, 05 status, 70 flags, 06/04 write enable, 02 program, D8/C7 erase.

    It is protected against writing unless `is_protected` is cleared by hand: what tries to write changes nothing, sets
    the flag that says so, and is reported.
    """

    _READ, _STATUS, _FLAGS, _ID, _ENABLE, _DISABLE, _CLEAR = 0x03, 0x05, 0x70, 0x9F, 0x06, 0x04, 0x50
    _PROGRAM, _ERASE_SECTOR, _ERASE_ALL = 0x02, 0xD8, 0xC7
    _READY, _PROGRAM_FAILED, _ERASE_FAILED, _PROTECTED = 0x80, 0x10, 0x20, 0x02

    def __init__(self, content: dict[int, bytes], on_refused: Callable[[int], None]) -> None:
        """content: pieces by address; on_refused(command) is told of each try to write while it is protected."""
        self.is_protected = True
        self._pages: dict[int, bytearray] = {}
        self._on_refused = on_refused
        self._is_write_enabled = False
        self._flags = self._READY
        self._in: list[int] = []
        self._head = self._n = 0
        for address, data in content.items():
            self._store(address, data)

    def read(self, address: int, count: int) -> bytes:
        """What it holds."""
        return bytes(self._byte(address + i) for i in range(count))

    def has_image(self, address: int) -> bool:
        """Whether the FPGA could start from there."""
        return self.read(address, len(_IMAGE_HEADER)) == _IMAGE_HEADER

    def _byte(self, address: int) -> int:
        page, place = divmod(address % FLASH_BYTES, _PAGE_BYTES)
        found = self._pages.get(page)
        return 0xFF if found is None else found[place]

    def _store(self, address: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            page, place = divmod((address + i) % FLASH_BYTES, _PAGE_BYTES)
            self._pages.setdefault(page, bytearray(b"\xff" * _PAGE_BYTES))[place] &= byte

    def select(self) -> None:
        """A command begins."""
        self._head = self._n = 0
        self._in = []

    def clock(self, mosi: int) -> int:
        """Command, 24-bit address and data in; data, identity, status or flags out."""
        n, out = self._n, 1
        command = self._head >> (min(n, 32) - 8) if n >= 8 else -1
        shift = 7 - n % 8
        if command == self._READ and n >= 32:
            out = self._byte((self._head & 0xFFFFFF) + (n - 32) // 8) >> shift & 1
        elif command == self._ID and n < 8 + 8 * len(_IDENTITY):
            out = _IDENTITY[n // 8 - 1] >> shift & 1
        elif command == self._STATUS:
            out = (2 * self._is_write_enabled) >> shift & 1
        elif command == self._FLAGS:
            out = self._flags >> shift & 1
        if n < 32:
            self._head = self._head << 1 | mosi
        elif command == self._PROGRAM and n < 32 + 8 * _PAGE_BYTES:
            self._in.append(mosi)
        self._n += 1
        return out

    def deselect(self) -> None:
        """A whole command takes effect."""
        if self._n < 8:
            return
        command = self._head >> (min(self._n, 32) - 8)
        if command in {self._ENABLE, self._DISABLE}:
            self._is_write_enabled = command == self._ENABLE
        elif command == self._CLEAR:
            self._flags = self._READY
        elif command in {self._PROGRAM, self._ERASE_SECTOR, self._ERASE_ALL} and self._is_write_enabled:
            self._is_write_enabled = False
            self._write(command)

    def _write(self, command: int) -> None:
        if self.is_protected:
            failed = self._PROGRAM_FAILED if command == self._PROGRAM else self._ERASE_FAILED
            self._flags |= failed | self._PROTECTED
            self._on_refused(command)
            return
        address = self._head & 0xFFFFFF
        if command == self._ERASE_ALL:
            self._pages.clear()
        elif command == self._ERASE_SECTOR:
            first = address // _SECTOR_BYTES * (_SECTOR_BYTES // _PAGE_BYTES)
            for page in range(first, first + _SECTOR_BYTES // _PAGE_BYTES):
                self._pages.pop(page, None)
        else:
            page = address - address % _PAGE_BYTES
            for i in range(len(self._in) // 8):
                byte = int("".join(map(str, self._in[8 * i : 8 * i + 8])), 2)
                self._store(page + (address + i) % _PAGE_BYTES, bytes((byte,)))


_PART = {0x0002: 0x45, 0x0003: 0x53}
"""What a clock filter says it is: an Si5345."""


class Si534x(SpiDevice):
    """A clock filter: 00 sets the address, 40 and 60 write a byte, 80 and A0 read one, 60 and A0 then step on.

    Register 1 of every page selects the page; a register has two bytes of address.
    """

    _ADDRESS, _WRITE, _WRITE_ON, _READ, _READ_ON = 0x00, 0x40, 0x60, 0x80, 0xA0
    _PAGE_REGISTER = 0x01

    def __init__(self) -> None:
        self._memory = bytearray(0x10000)
        for address, value in _PART.items():
            self._memory[address] = value
        self._page = self._address = 0
        self._in = self._n = 0

    @property
    def _place(self) -> int:
        return self._page << 8 | self._address

    def select(self) -> None:
        """A command begins."""
        self._in = self._n = 0

    def clock(self, mosi: int) -> int:
        """Command and a byte in; or a byte out."""
        n, out = self._n, 1
        if 8 <= n < 16 and self._in >> (n - 8) in {self._READ, self._READ_ON}:
            value = self._page if self._address == self._PAGE_REGISTER else self._memory[self._place]
            out = value >> (15 - n) & 1
        if n < 16:
            self._in = self._in << 1 | mosi
        self._n += 1
        return out

    def deselect(self) -> None:
        """A command of two bytes takes effect."""
        if self._n != 16:
            return
        command, value = self._in >> 8, self._in & 0xFF
        if command == self._ADDRESS:
            self._address = value
        elif command in {self._WRITE, self._WRITE_ON}:
            if self._address == self._PAGE_REGISTER:
                self._page = value
            elif self._place not in _PART:
                self._memory[self._place] = value
        if command in {self._WRITE_ON, self._READ_ON}:
            self._address = (self._address + 1) & 0xFF
