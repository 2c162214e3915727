"""Many datagrams in one system call, into slots that are used again and again: recvmmsg(2).

The C library is called for it, as Python has no name for it; where it has none either, or the system refuses, a call
receives one datagram, and everything behind it is the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOTS: Final = 32
"""Datagrams of one call. They are read again at once, so they should still be in the cache, as 32 of 8 kB are."""
BODY_BYTES: Final = 65_536
_WORD: Final = 8
_NAME_BYTES: Final = 16


_PIECE: Final = np.dtype([("base", np.uintp), ("len", np.uintp)], align=True)
"""struct iovec, see readv(2)."""
_HEAD: Final = np.dtype(
    [
        ("name", np.uintp),
        ("name_len", np.uint32),
        ("pieces", np.uintp),
        ("n_pieces", np.uintp),
        ("control", np.uintp),
        ("control_len", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
"""struct msghdr, see recvmsg(2)."""
_MESSAGE: Final = np.dtype([("head", _HEAD), ("len", np.uint32)], align=True)
"""struct mmsghdr, see recvmmsg(2)."""


def _system_call() -> Any:
    """The C library's recvmmsg, None if it has none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "recvmmsg", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
    return function


def _addresses(rows: NDArray[Any]) -> NDArray[np.uintp]:
    """Where each row of an array lies in memory."""
    return rows.ctypes.data + rows.strides[0] * np.arange(len(rows), dtype=np.uintp)


def address_word(address: tuple[str, int]) -> int:
    """The first eight bytes of a struct sockaddr_in, as an integer: family, port, IPv4 address.

    Raises:
        OSError: If the address is not four numbers.
    """
    name = struct.pack("=H", socket.AF_INET) + struct.pack(">H", address[1])
    return int(np.frombuffer(name + socket.inet_pton(socket.AF_INET, address[0]), np.uint64)[0])


class Datagrams:
    """What the last call received, in the order in which it came.

    Args:
        slots: Most that one call receives.

    Attributes:
        n: How many there are.
        words: (slots, 8193) uint64. The first byte of a datagram is the last of word 0, so that what follows a mark of
            one byte is aligned: it begins at word 1.
        marks: (slots,) uint8, that first byte.
        sizes: (slots,) uint32, bytes of each datagram with the first one.
        flags: (slots,) int32 of the system, `MSG_TRUNC` among them.
        senders: (slots,) uint64, `address_word` of who sent it.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self.n = 0
        self.words = np.zeros((slots, 1 + BODY_BYTES // _WORD), np.uint64)
        self._bytes = self.words.view(np.uint8)
        self.marks = self._bytes[:, _WORD - 1]
        self._names = np.zeros((slots, _NAME_BYTES // _WORD), np.uint64)
        self.senders = self._names[:, 0]
        self._pieces, self._messages = np.zeros(slots, _PIECE), np.zeros(slots, _MESSAGE)
        self._pieces["base"] = _addresses(self.words) + (_WORD - 1)
        self._pieces["len"] = 1 + BODY_BYTES
        heads = self._messages["head"]
        heads["name"], heads["name_len"] = _addresses(self._names), _NAME_BYTES
        heads["pieces"], heads["n_pieces"] = _addresses(self._pieces), 1
        self.sizes, self.flags = self._messages["len"], heads["flags"]
        self._at = self._messages.ctypes.data
        self._slots = slots
        self._system_call = _system_call()

    def receive(self, sock: socket.socket) -> None:
        """Take what waits at a socket that does not block, as much as there are slots for.

        Raises:
            BlockingIOError: If nothing waits.
            OSError: If the system reports an error.
        """
        self.n = 0
        if self._system_call is not None:
            n = self._system_call(sock.fileno(), self._at, self._slots, 0, None)
            if n >= 0:
                self.n = n
                return
            number = ctypes.get_errno()
            if number != errno.ENOSYS:
                raise OSError(number, os.strerror(number))
            self._system_call = None
        datagram, _, flags, sender = sock.recvmsg(1 + BODY_BYTES)
        self.lay(datagram, sender, flags)

    def lay(self, datagram: bytes, sender: tuple[str, int], flags: int = 0) -> None:
        """Put one more into the slots, as if a call had received it there."""
        i, self.n = self.n, self.n + 1
        self._bytes[i, _WORD - 1 : _WORD - 1 + len(datagram)] = np.frombuffer(datagram, np.uint8)
        self.sizes[i], self.flags[i], self.senders[i] = len(datagram), flags, address_word(sender)

    def body(self, i: int) -> memoryview:
        """A datagram without its first byte; good until the next call."""
        row: memoryview = self._bytes[i].data
        return row[_WORD : _WORD - 1 + int(self.sizes[i])]

    def sender(self, i: int) -> tuple[str, int]:
        """Who sent a datagram."""
        name = self.senders[i].tobytes()
        return socket.inet_ntop(socket.AF_INET, name[4:]), int.from_bytes(name[2:4], "big")
