"""The byte-addressed register file: plain bytes, and registers that are alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.wire import MEMORY_WRITE_OK, MemoryRead, memory_read_reply, parse_memory_access

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqc_drivers.petsys.registers import Register


class WordMemory:
    """65536 words of some bytes behind a memory access; beyond the end reads are zero and writes are not kept.

    Attributes:
        written: how often something was written.
    """

    def __init__(self, word_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.written = 0
        self.content = bytearray(word_bytes * 0x10000)

    def answer(self, payload: bytes) -> bytes:
        """The reply to a read or write of words.

        Raises:
            WireError: the payload is neither.
        """
        access = parse_memory_access(payload, word_bytes=self.word_bytes)
        begin = access.address * self.word_bytes
        if isinstance(access, MemoryRead):
            n_bytes = access.count * self.word_bytes
            return memory_read_reply(bytes(self.content[begin : begin + n_bytes]).ljust(n_bytes, b"\x00"))
        room = min(len(access.data), len(self.content) - begin)
        self.content[begin : begin + room] = access.data[:room]
        self.written += 1
        return MEMORY_WRITE_OK


class RegisterFile:
    """65536 bytes; reads of live registers ask for their value, writes tell whoever listens.

    A register written in part takes effect with the bytes that were there before; read-only registers ignore writes.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(0x10000)
        self._live: dict[str, Callable[[], int]] = {}
        self._listeners: dict[str, Callable[[int], None]] = {}
        self._at: dict[int, Register] = {
            address: found
            for found in REGISTERS.values()
            for address in range(found.address, found.address + found.n_bytes)
        }

    def clear(self) -> None:
        """All bytes zero, without telling anyone."""
        self._bytes[:] = bytes(len(self._bytes))

    def preset(self, name: str, value: int) -> None:
        """Give a register a value, without telling anyone."""
        found = REGISTERS[name]
        self._bytes[found.address : found.address + found.n_bytes] = value.to_bytes(found.n_bytes, "little")

    def value(self, name: str) -> int:
        """What is stored in a register."""
        found = REGISTERS[name]
        return found.decode(bytes(self._bytes[found.address : found.address + found.n_bytes]))

    def number(self, name: str) -> int:
        """What a read of a register gives."""
        found = REGISTERS[name]
        return found.decode(self.read(found.address, found.n_bytes))

    def live(self, name: str, read: Callable[[], int]) -> None:
        """Let a register's value be asked for at each read."""
        self._live[REGISTERS[name].name] = read

    def listen(self, name: str, written: Callable[[int], None]) -> None:
        """Call with the register's new value whenever some of its bytes are written."""
        self._listeners[REGISTERS[name].name] = written

    def read(self, address: int, count: int) -> bytes:
        """Bytes from an address; beyond the end they are zero. All bytes of a live register are of one moment."""
        data = bytearray(count)
        part = self._bytes[address : address + count]
        data[: len(part)] = part
        for found in {self._at[a].name: self._at[a] for a in range(address, address + count) if a in self._at}.values():
            read = self._live.get(found.name)
            if read is None:
                continue
            value = (read() & ((1 << found.bits) - 1)).to_bytes(found.n_bytes, "little")
            for i, byte in enumerate(value):
                if 0 <= found.address + i - address < count:
                    data[found.address + i - address] = byte
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes; what a register does not have bits for is not kept."""
        touched: dict[str, Register] = {}
        for i, byte in enumerate(data):
            place = address + i
            found = self._at.get(place)
            if place > 0xFFFF or (found is not None and found.access == "r"):
                continue
            self._bytes[place] = byte
            if found is not None:
                touched[found.name] = found
        for found in touched.values():
            value = self.value(found.name)
            self.preset(found.name, value)
            listener = self._listeners.get(found.name)
            if listener is not None:
                listener(value)
