"""The simulated daemon: spoken to in plain bytes, and by the driver when there are several units."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
import struct
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.separate_detectors import JoinedFrames

from petqc_drivers.errors import DeviceFaultError, WrongIdentityError
from petqc_drivers.petsys.board import Board
from petqc_drivers.petsys.daqd_link import DaqdReadoutLink
from petqc_drivers.petsys.frames import pack_frames
from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.units import discover, trigger_unit
from petqc_simulators.boards.frame_ring import FrameRing
from petqc_simulators.boards.petsys_clktgr import ClockTrigger
from petqc_simulators.boards.petsys_daqd import MOST_WAITING, DaqdServer
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.physics.blocks import Block
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOT = 65_568


def block(ids: list[int], counts: list[int], events: list[int]) -> Block:
    words = pack_frames(np.array(ids), np.array(counts), np.array(events, dtype=np.uint64))
    return Block(ids[0], words, np.concatenate(([0], np.cumsum(np.array(counts) + 2))))


def idle(first: int, n: int) -> Block:
    return block(list(range(first, first + n)), [0] * n, [])


class Scripted:
    """A unit that sends a few idle frames at each look, and answers 8 bytes to anything."""

    is_streaming = True

    def __init__(self) -> None:
        self.frame = 0
        self.per_look = 500
        self.silent = False

    def handle(self, datagram: bytes) -> bytes | None:
        return None if self.silent else b"\x5a" + datagram[:17] + b"\x00" + bytes(8) + b"\x00"

    def let_pass(self, seconds: float) -> None:
        pass

    def traffic(self) -> tuple[int, int]:
        return 0x123456789, 0x23456789A

    def advance_blocks(self) -> list[Block]:
        self.frame += self.per_look
        return [idle(self.frame - self.per_look, self.per_look)]


@contextlib.contextmanager
def serving(units: dict[tuple[int, int], Any], folder: Path) -> Iterator[DaqdServer]:
    name = f"/petqc-test-{os.getpid()}-{time.monotonic_ns()}"
    server = DaqdServer(units, folder / "d.sock", name, frames=JoinedFrames(units))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.close()


@contextlib.contextmanager
def client(server: DaqdServer) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(server.address.removeprefix("unix:"))
        yield sock


def exactly(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        assert part, f"ended after {data.hex()}"
        data += part
    return data


def ask(sock: socket.socket, request: str, n: int) -> bytes:
    sock.sendall(bytes.fromhex(request))
    return exactly(sock, n)


def pointers(sock: socket.socket) -> tuple[int, int, int]:
    return struct.unpack("<3I", ask(sock, "0300 0400", 16)[4:])


def test_every_request_in_plain_bytes(tmp_path):
    with serving({(0, 0): Scripted()}, tmp_path) as server, client(server) as sock:
        info = ask(sock, "0200 0400", 32 + len(server.ring.name))
        assert struct.unpack_from("<H6xQ", info) == (32 + len(server.ring.name), SLOT)
        assert info[32:].decode() == server.ring.name
        found = Path(f"/dev/shm{server.ring.name}").stat()
        assert found.st_size == 1_074_266_112
        assert found.st_blocks < 100_000, "sparse"
        assert pointers(sock) == (0, 0, 0)
        assert ask(sock, "0600 0400", 16)[8:] == bytes.fromhex("0100000000000000")
        assert ask(sock, "0700 0600 0000", 32)[:2] == b"\x20\x00"
        assert ask(sock, "0900 0800 01000000", 4) == bytes(4)
        assert ask(sock, "1000 9c00" + "00" * 152, 4) == b"\xff" * 4
        assert ask(sock, "1100 0800 01000000", 4) == bytes(4)
        assert ask(sock, "1200 0800 00000000", 4) == b"\xff" * 4
        assert ask(sock, "1300 0c00 0000000000000000", 4) == bytes(4)
        assert ask(sock, "1400 0400", 16)[:2] == b"\x10\x00"
        answer = ask(sock, "0500 1c00 0309 3412" + "00" * 14 + "00 000700f8ff", 29)
        assert answer[:2] == b"\x1b\x00"
        assert answer[2:4] == b"\x34\x12", "one unit answers at every address"
        sock.sendall(bytes.fromhex("0800 0400 7777 0400"))
        assert pointers(sock) == (0, 0, 0), "quit and unknown requests get no reply"


def test_traffic_is_counted_at_the_first_unit_of_each_port_but_not_on_udp(tmp_path):
    units = {(0, 0): Scripted(), (0, 1): Scripted(), (2, 0): Scripted()}
    with serving(units, tmp_path) as server, client(server) as sock:
        found = [struct.unpack("<4Q", ask(sock, f"0700 0600 {port:02x}00", 32)) for port in (0, 1, 2)]
    assert [counts for _, *counts in found] == [[0x123456789, 0x23456789A, 0], [0, 0, 0], [0x123456789, 0x23456789A, 0]]
    (tmp_path / "one").mkdir()
    with serving({(0, 0): Scripted()}, tmp_path / "one") as server, client(server) as sock:
        assert struct.unpack("<4Q", ask(sock, "0700 0600 0000", 32))[1:] == (0, 0, 0)


def test_an_acquisition_in_plain_bytes(tmp_path):
    with serving({(0, 0): Scripted()}, tmp_path) as server, client(server) as sock:
        began_s = time.monotonic()
        assert ask(sock, "0100 0600 0100", 2) == bytes(2)
        assert time.monotonic() - began_s >= 0.22
        write, read, acquiring = pointers(sock)
        while write < 1000:
            write, read, acquiring = pointers(sock)
        assert (read, acquiring) == (0, 1)
        with (
            Path(f"/dev/shm{server.ring.name}").open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view,
        ):
            heads = [struct.unpack_from("<2Q", view, SLOT * i) for i in range(1000)]
        ids = [first & (1 << 36) - 1 for first, _ in heads]
        assert ids == list(range(ids[0], ids[0] + 1000))
        assert {(first >> 36, second) for first, second in heads} == {(2, 0)}
        assert ask(sock, "0400 0800 e8030000", 4) == bytes.fromhex("e8030000")
        assert pointers(sock)[1] == 1000
        assert ask(sock, "0100 0600 0000", 2) == bytes(2)
        assert pointers(sock) == (0, 0, 0)
        account = server.ring.accounts[0]
        assert (account.frames_released, account.events_released) == (1000, 0)


def test_a_full_ring_drops_and_counts(tmp_path):
    unit = Scripted()
    unit.per_look = 4096
    with serving({(0, 0): unit}, tmp_path) as server, client(server) as sock:
        ask(sock, "0100 0600 0100", 2)
        while server.ring.accounts[0].frames_dropped == 0:
            write, read, _ = pointers(sock)
        assert (write, read) == (16384, 0)
        assert server.ring.accounts[0].frames_written == 16384


class Clocked(Scripted):
    """Makes frames as its clock passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def let_pass(self, seconds: float) -> None:
        self.seconds += seconds

    def advance_blocks(self) -> list[Block]:
        first, self.frame = self.frame, int(self.seconds / 5.12e-6)
        return [idle(first, self.frame - first)] if self.frame > first else []


def test_the_clock_stands_for_a_client_that_is_busy(tmp_path):
    unit = Clocked()
    with serving({(0, 0): unit}, tmp_path) as server, client(server) as sock:
        ask(sock, "0400 0800 00000000", 4)
        ask(sock, "0100 0600 0100", 2)
        before_s = server.slipped_s
        while server.slipped_s - before_s < 0.2:
            write, _, _ = pointers(sock)
        assert MOST_WAITING <= write < 16384
        assert server.ring.accounts[0].frames_dropped == 0
        ask(sock, f"0400 0800 {write.to_bytes(4, 'little').hex()}", 4)
        at = unit.seconds
        while unit.seconds < at + 0.02:  # it goes on once they were taken
            pointers(sock)


def test_a_request_in_pieces_ends_the_connection(tmp_path):
    with serving({(0, 0): Scripted()}, tmp_path) as server, client(server) as sock, client(server) as other:
        sock.sendall(b"\x03\x00")
        assert sock.recv(10) == b""
        assert pointers(other) == (0, 0, 0)
        other.sendall(bytes.fromhex("0400 0800"))
        assert other.recv(10) == b""
        assert server.counters["closed"] == 2


def test_header_and_payload_may_come_apart(tmp_path):
    """The vendor's client sends front-end commands in two pieces; the payload itself must come whole (2.2)."""

    def send_and_let_it_be_read(sock: socket.socket, piece: str) -> None:
        sock.sendall(bytes.fromhex(piece))
        until = time.monotonic() + 5
        while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
            assert time.monotonic() < until

    with serving({(0, 0): Scripted()}, tmp_path) as server, client(server) as sock, client(server) as other:
        send_and_let_it_be_read(sock, "0400 0800")
        sock.sendall(bytes.fromhex("07000000"))
        assert exactly(sock, 4).hex() == "07000000"
        assert server.counters["closed"] == 0
        send_and_let_it_be_read(other, "0400 0800")
        send_and_let_it_be_read(other, "0700")
        assert other.recv(10) == b""
        assert server.counters["closed"] == 1


def test_a_silent_unit_holds_up_everybody(tmp_path):
    unit = Scripted()
    unit.silent = True
    with serving({(0, 0): unit}, tmp_path) as server, client(server) as sock, client(server) as other:
        began_s = time.monotonic()
        sock.sendall(bytes.fromhex("0500 1c00 0000 3412" + "00" * 14 + "00 000700f8ff"))
        assert exactly(sock, 2) == bytes(2), "no answer is told by a length of 0"
        assert time.monotonic() - began_s >= 0.31
        assert pointers(other) == (0, 0, 0)


def test_the_ring_forgets_what_is_older_than_the_minimum(tmp_path):
    ring = FrameRing("/ring", tmp_path)
    try:
        ring.begin()
        ring.minimum_frame = 5
        ring.put(idle(0, 10))
        assert (ring.write, ring.accounts[0].frames_before_minimum) == (5, 5)
        ring.read = ring.write = 32_766
        ring.put(block([10, 11, 12], [0, 2, 1], [7, 8, 9]))
        assert (ring.write, ring.waiting) == (1, 3)
        at = [SLOT // 8 * (p % 16384) for p in (32_766, 32_767, 0)]
        assert [ring.words[a + 2 : a + 4].tolist()[:n] for a, n in zip(at, (0, 2, 1), strict=True)] == [[], [7, 8], [9]]
        ring.release(1)
        assert (ring.accounts[0].frames_released, ring.accounts[0].events_released) == (3, 3)
    finally:
        ring.close()
    assert list(tmp_path.iterdir()) == []


def system() -> dict[tuple[int, int], Any]:
    """Two boards in a chain, a clock and trigger unit at a port of its own."""
    profile = load_profile("bench", source="none")
    warm = Detector(profile, 1)  # compiles, which a served board has no time for
    warm.settle()
    warm.advance()
    boards = [PetsysFebd(profile, seed) for seed in (1, 2)]
    boards[0].registers.preset("next_slave", 1)
    return {(0, 0): boards[0], (0, 1): boards[1], (4, 0): ClockTrigger(boards)}


def read(unit: Any, name: str) -> int:
    """A register as it is read on the wire."""
    found = REGISTERS[name]
    request = bytes((0, found.n_bytes - 1, 0, *found.address.to_bytes(2, "little")))
    reply = unit.handle(bytes(17) + request)
    return int.from_bytes(reply[19:-1], "little")


def write(unit: Any, name: str, value: int) -> None:
    found = REGISTERS[name]
    data = bytes((1, found.n_bytes - 1, 0, *found.address.to_bytes(2, "little")))
    assert unit.handle(bytes(17) + data + value.to_bytes(found.n_bytes, "little"))[18:] == b"\x00"


def link(unit: Any, number: int) -> tuple[bool, int]:
    write(unit, "link_select", number)
    return bool(read(unit, "link_locked")), read(unit, "link_value")


def test_trigger_links_lock_once_both_ends_have_been_calibrated():
    """Sections 4.2 and 5.2: values by which a client knows sync, gate, trigger-in and the four trigger-out lanes."""
    units = system()
    first, second, trigger = units.values()
    assert link(first, 0) == (False, 0)
    for stage in (1, 3, 7):
        for unit in (first, trigger):
            write(unit, "trigger_link_calibration", stage)
    assert link(first, 0) == (True, 0x8000)
    assert link(second, 0) == (False, 0), "not calibrated itself"
    write(second, "trigger_link_calibration", 7)
    assert [link(second, k) for k in range(4)] == [(True, 0x8000), (True, 0x8001), (True, 1), (False, 0)]
    assert link(trigger, 4 * 1 + 3) == (False, 0), "no port is in use"
    write(trigger, "trigger_ports", 0b10)
    assert [link(trigger, 4 + lane) for lane in range(4)] == [(True, 16 + lane) for lane in range(4)]
    assert link(trigger, 128 + 1) == (True, 1)
    assert link(trigger, 0) == link(trigger, 128) == (False, 0), "port 0 is not in use"
    assert link(trigger, 4 * 2) == link(trigger, 128 + 2) == (False, 0), "nothing is plugged in"
    trigger.let_pass(2.0)
    assert read(trigger, "pll_lock_time") == 400_000_000


def test_the_trigger_unit_keeps_which_regions_may_be_in_coincidence():
    """4.2, function 6: the row of region 2 of 64 (four of each of 16 ports), eight bytes from address 16, allows 0."""
    trigger = system()[4, 0]
    assert read(trigger, "trigger_regions") == 64
    assert trigger.handle(bytes(16) + bytes.fromhex("06 01 07 00 10 00 01 00 00 00 00 00 00 00"))[17:] == b"\x06\x00"
    row = bytes.fromhex("06 00 01 00 00 00 00 00 00 00 00")
    assert trigger.handle(bytes(16) + bytes.fromhex("06 00 07 00 10 00"))[17:] == row
    assert trigger.handle(bytes(16) + bytes.fromhex("01 00 00 04 b8 90")) is None, "it has no ASICs"
    assert trigger.handle(bytes(16) + b"\x06\x01") is None


def test_a_chain_is_discovered_and_synchronised(tmp_path):
    async def session(server: DaqdServer) -> None:
        path = Path(server.address.removeprefix("unix:"))
        link = DaqdReadoutLink(path, reply_timeout_s=2.0)
        await link.open()
        others = [link.at(0, 1), link.at(4, 0)]
        try:
            assert await link.ports() == (0, 4)
            units = await discover(link)
            assert [(u.port, u.slave, u.kind.is_febd, u.kind.is_trigger) for u in units] == [
                (0, 0, True, False),
                (0, 1, True, False),
                (4, 0, False, True),
            ]
            assert trigger_unit(units) is units[2]
            assert [str(u).split(": ")[1] for u in units] == ["FEB/D", "FEB/D", "trigger"]
            for other in others:
                await other.open()
            for unit in (link, others[0]):
                await Board(unit).write("sync", 2)
            await Board(others[1]).write("sync", 1)
            tags = [await Board(unit).read("time_tag") for unit in (link, *others)]
            assert max(tags) < 200_000_000, "all began anew at the same moment"
            parts: list[np.ndarray] = []
            first, failed = asyncio.Event(), asyncio.Event()
            await others[1].start_data(parts.append, min_frame=0, on_first=first.set, on_failure=lambda _: failed.set())
            async with asyncio.timeout(5):
                await first.wait()
            account = await others[1].stop_data()
            assert not failed.is_set()
            assert account.frames_delivered > 0
            assert account.frames_missing <= server.ring.accounts[-1].frames_dropped
            assert sum(map(len, parts)) == 2 * account.frames_delivered
        finally:
            for one in (*others, link):
                await one.aclose()

    with serving(system(), tmp_path) as server:
        asyncio.run(session(server))


def test_what_is_wrong_with_a_chain_is_told(tmp_path):
    async def session(server: DaqdServer) -> None:
        link = DaqdReadoutLink(Path(server.address.removeprefix("unix:")), reply_timeout_s=2.0)
        await link.open()
        try:
            with pytest.raises(DeviceFaultError, match=r"unit 0/1 .*although unit 0/0 says that it is there"):
                await discover(link)
            del server.units[4, 0]
            server.units[0, 0].registers.preset("next_slave", 0)
            with pytest.raises(
                WrongIdentityError, match="exactly one trigger unit is needed among 1 units, found: none"
            ):
                trigger_unit(await discover(link))
        finally:
            await link.aclose()

    units = system()
    del units[0, 1]
    with serving(units, tmp_path) as server:
        asyncio.run(session(server))
