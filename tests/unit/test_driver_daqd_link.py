"""The link through the daemon against a scripted daemon of a few lines that can be told to misbehave."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.patience import PATIENT_S, SHORT_S

from petqc_drivers.errors import (
    ConnectError,
    DriverError,
    LinkLostError,
    LocalProtocolError,
    OffUnconfirmedError,
    OvertakenError,
    ReplyTimeoutError,
    StateError,
    WrongIdentityError,
)
from petqc_drivers.petsys.daqd_client import MAX_OWED
from petqc_drivers.petsys.daqd_link import DaqdReadoutLink
from petqc_drivers.petsys.daqd_readout import PetsysDaqdReadout
from petqc_drivers.petsys.settings import PetsysDaqdSettings
from petqc_drivers.registry import device_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SLOT_WORDS = 8196
RING_BYTES = 16_384 * SLOT_WORDS * 8


class ScriptedDaemon:
    """Written from the interface reference without our codec. Every field of its state may be set by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "d.sock"
        self.memory = folder / "daqd_shm"
        with self.memory.open("wb") as file:
            file.truncate(RING_BYTES)
        self.ring = np.memmap(self.memory, dtype="<u8", mode="r+")
        self.write = self.read = self.acquiring = self.minimum = self.frame = 0
        self.per_poll = 50
        self.drops_old = False
        self.ports = 1
        self.log: list[tuple[int, bytes]] = []
        self.answer: Callable[[bytes], bytes] = lambda command: command[2:19] + b"\x00" + bytes(6) + b"\x00"
        self.raw: dict[int, bytes] = {}
        """Replies to give instead, by type."""
        self.delay_s: Callable[[int], float] = lambda _: 0.0
        self.pieces = 0
        """Replies are sent in pieces of so many bytes."""
        self.on_pointers: Callable[[], None] = lambda: None
        self.hold = asyncio.Event()
        self.hold.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.gone = asyncio.Event()
        self.asked = asyncio.Event()
        """A front-end command has come."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.gone.clear()
        try:
            while True:
                kind, length = struct.unpack("<HH", await reader.readexactly(4))
                payload = await reader.readexactly(length - 4)
                self.log.append((kind, payload))
                if kind == 0x05:
                    self.asked.set()
                await self.hold.wait()
                await asyncio.sleep(self.delay_s(kind))
                reply = self.raw[kind] if kind in self.raw else self.reply(kind, payload)
                step = self.pieces or len(reply) or 1
                for at in range(0, len(reply), step):
                    writer.write(reply[at : at + step])
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            if not self._writers:
                self.gone.set()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def reply(self, kind: int, payload: bytes) -> bytes:
        match kind:
            case 0x01:
                self.write = self.read = 0
                self.acquiring = payload[0]
                self.minimum = 0 if self.acquiring else self.minimum
                return bytes(2)
            case 0x02:
                return struct.pack("<H6xQ16x", 41, 65_568) + b"/daqd_shm"
            case 0x03:
                if self.acquiring:
                    self.put(self.per_poll)
                    self.on_pointers()
                return struct.pack("<4I", 16, self.write, self.read, self.acquiring)
            case 0x04:
                self.read = int.from_bytes(payload, "little")
                return payload
            case 0x05:
                body = self.answer(payload)
                return struct.pack("<H", len(body)) + body
            case 0x06:
                return struct.pack("<H6xQ", 16, self.ports)
            case 0x07:
                return struct.pack("<H6x3Q", 32, 5, 6, 7)
            case 0x13:
                self.minimum = int.from_bytes(payload, "little")
                return bytes(4)
        return b""

    def put(self, n: int) -> None:
        """Frames with one event each."""
        for _ in range(n):
            frame, self.frame = self.frame, (self.frame + 1) % (1 << 36)
            if self.drops_old and frame < self.minimum:  # compared as numbers, whether they have wrapped or not
                continue
            at = self.write % 16_384 * SLOT_WORDS
            self.ring[at : at + 3] = (frame | 3 << 36, 1, frame)
            self.write = (self.write + 1) % 32_768


@asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[ScriptedDaemon]:
    script = ScriptedDaemon(folder)
    server = await asyncio.start_unix_server(script.serve, script.path)
    try:
        yield script
    finally:
        server.close()
        script.hold.set()
        script.hang_up()
        if script._writers:
            async with asyncio.timeout(5):
                await script.gone.wait()
        del script.ring


@asynccontextmanager
async def linked(folder: Path, **given: Any) -> AsyncIterator[tuple[ScriptedDaemon, DaqdReadoutLink]]:
    async with daemon(folder) as script:
        link = DaqdReadoutLink(script.path, folder=folder, **{"reply_timeout_s": PATIENT_S, "tries": 3} | given)
        try:
            await link.open()
            yield script, link
        finally:
            await link.aclose()


def run(session: Callable[..., Any], *arguments: Any, **given: Any) -> None:
    async def whole() -> None:
        async with linked(*arguments, **given) as (script, link):
            await session(script, link)

    asyncio.run(whole())


async def read(link: DaqdReadoutLink, **given: Any) -> bytes:
    return await link.exchange(0, bytes.fromhex("0005000302"), what="read time tag", **given)


class Flow:
    """An acquisition and what it gave."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.first, self.failed = asyncio.Event(), asyncio.Event()
        self.failure: DriverError | None = None

    def fail(self, error: DriverError) -> None:
        self.failure = error
        self.failed.set()

    async def start(self, link: DaqdReadoutLink, min_frame: int = 0) -> None:
        await link.start_data(self.parts.append, min_frame=min_frame, on_first=self.first.set, on_failure=self.fail)

    async def until(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(10):
            await event.wait()

    @property
    def ids(self) -> list[int]:
        words = np.concatenate(self.parts)
        return (words[::3] & np.uint64((1 << 36) - 1)).tolist()


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_replies_may_come_in_pieces(tmp_path, pieces):
    """SHM-06."""

    async def session(script, link):
        script.pieces = pieces
        assert await link.ports() == (0,)
        assert await read(link) == bytes(8)
        assert (await link.port_counters(0)).rx_bad == 7
        flow = Flow()
        await flow.start(link)
        await flow.until(flow.first)
        account = await link.stop_data()
        assert account.frames_delivered > 0
        assert flow.ids == list(range(script.frame))

    run(session, tmp_path)


def test_commands_carry_the_address_of_the_unit_and_a_new_serial_each(tmp_path):
    async def session(script, link):
        await read(link)
        other = link.at(7, 3)
        try:
            await other.open_without_greeting()
            await read(other)
        finally:
            await other.aclose()
        (_, first), (_, second) = [one for one in script.log if one[0] == 0x05]
        assert (first[:2], second[:2]) == (b"\x00\x00", b"\x07\x03")
        assert first[18:] == second[18:] == bytes.fromhex("000005000302")

    run(session, tmp_path)


def test_a_silent_unit_is_asked_again_and_then_told_by_its_address(tmp_path):
    async def session(script, link):
        script.answer = lambda _: b""
        with pytest.raises(
            ReplyTimeoutError, match=r"unit 0/0 at daemon .*no reply to read time tag in 3 tries.*no answer"
        ):
            await read(link)
        serials = [int.from_bytes(p[2:4], "little") for k, p in script.log if k == 0x05]
        assert [(b - a) % 0x8000 for a, b in itertools.pairwise(serials)] == [1, 1]
        script.answer = lambda command: command[2:19]
        with pytest.raises(ReplyTimeoutError, match="no answer"):
            await read(link)
        assert link.link_account().tries == 6

    run(session, tmp_path, reply_timeout_s=SHORT_S)


def test_a_late_reply_is_never_taken_for_the_next_one(tmp_path):
    async def session(script, link):
        script.hold.clear()
        with pytest.raises(ReplyTimeoutError, match="no reply to read time tag in 1 tries"):
            await read(link, tries=1)
        script.answer = lambda command: command[2:19] + b"\x00" + b"second" + b"\x00"
        script.hold.set()
        assert await read(link) == b"\x00second\x00"
        account = link.link_account()
        assert (account.replies_late, account.replies_malformed) == (1, 0)

    run(session, tmp_path, reply_timeout_s=SHORT_S)


def test_a_reply_with_another_serial_is_no_answer(tmp_path):
    async def session(script, link):
        script.answer = lambda command: b"\xff\xff" + command[4:19] + bytes(3)
        with pytest.raises(ReplyTimeoutError):
            await read(link)
        assert link.link_account().replies_malformed == 3

    run(session, tmp_path, reply_timeout_s=SHORT_S)


def test_a_daemon_that_hangs_gets_no_more_requests_than_a_few(tmp_path):
    async def session(script, link):
        script.hold.clear()
        with pytest.raises(ReplyTimeoutError, match=f"not sent: {MAX_OWED} requests before it have no reply"):
            await read(link, tries=MAX_OWED + 1)
        with pytest.raises(ReplyTimeoutError, match="not sent"):
            await link.ports()

    run(session, tmp_path, reply_timeout_s=0.005)


@pytest.mark.parametrize(
    ("kind", "reply", "error", "text"),
    [
        (0x05, b"\xff\xff", ConnectError, "no DAQ card for this port"),
        (0x05, b"\x01\x09", LinkLostError, "out of step.*2305 bytes"),
        (0x06, b"\x11" + bytes(15), LinkLostError, "out of step"),
    ],
)
def test_replies_that_cannot_be(tmp_path, kind, reply, error, text):
    async def session(script, link):
        script.raw[kind] = reply
        with pytest.raises(error, match=text):
            await (read(link) if kind == 0x05 else link.ports())

    run(session, tmp_path)


def test_a_daemon_that_hangs_up_is_told_and_connected_to_again(tmp_path):
    async def session(script, link):
        script.hang_up()
        with pytest.raises(LinkLostError, match=r"daemon .*closed the connection"):
            await read(link)
        with pytest.raises(LinkLostError):
            await read(link)
        await link.open()
        assert await read(link) == bytes(8)

    run(session, tmp_path)


def test_switching_off_goes_first(tmp_path):
    async def session(script, link):
        script.hold.clear()
        waiting = [asyncio.create_task(read(link, since=link.epoch)) for _ in range(2)]
        await script.asked.wait()
        link.overtake()
        script.hold.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in done] == [OvertakenError, OvertakenError]
        assert await read(link) == bytes(8)
        assert link.link_account().replies_late == 1

    run(session, tmp_path)


def test_a_command_that_could_raise_an_output_is_refused(tmp_path):
    async def session(script, link):
        with pytest.raises(LocalProtocolError, match="bias supply on"):
            await link.exchange(0, bytes.fromhex("010000130203"), what="power")
        assert not any(kind == 0x05 for kind, _ in script.log)

    run(session, tmp_path)


def test_an_acquisition_from_on_to_off(tmp_path):
    async def session(script, link):
        script.answer = lambda command: command[2:19] + b"\x00" + (100 << 10).to_bytes(6, "little") + b"\x00"
        script.frame = 90
        flow = Flow()
        await flow.start(link, min_frame=80)
        with pytest.raises(StateError, match="an acquisition is running"):
            await flow.start(link)
        await flow.until(flow.first)
        while (await link.account()).frames_delivered < 40_000:  # round the ring, round the pointers
            script.per_poll = 2000
            await asyncio.sleep(0)
        account = await link.stop_data()
        kinds = [kind for kind, _ in script.log]
        begin = kinds.index(0x01)
        assert kinds[begin : begin + 4] == [0x01, 0x05, 0x13, 0x03]
        minima = [int.from_bytes(payload, "little") for kind, payload in script.log if kind == 0x13]
        assert minima[0] == 100, "the frame of after the acquisition was switched on"
        assert kinds[-1] == 0x01
        assert script.acquiring == 0
        assert account.frames_rejected == {"before-start": 10}
        assert account.frames_received == script.frame - 90
        assert flow.ids == list(range(100, script.frame))
        assert account.events == account.frames_delivered == account.frames_received - 10
        assert account.bytes == 24 * account.frames_received
        assert account.failure is None
        with pytest.raises(StateError, match="no acquisition"):
            await link.stop_data()
        again = Flow()
        await again.start(link)
        await again.until(again.first)
        assert (await link.stop_data()).failure is None

    run(session, tmp_path)


def test_frames_go_on_when_their_ids_wrap_although_the_daemon_compares_them_as_numbers(tmp_path, monkeypatch):
    """After 4.07 days."""
    monkeypatch.setattr("petqc_drivers.petsys.daqd_link.LIFT_MINIMUM_S", 0.05)
    last = (1 << 36) - 1

    async def session(script, link):
        script.drops_old, script.per_poll = True, 0
        script.frame = last - 200
        script.answer = lambda command: command[2:19] + b"\x00" + (script.frame << 10).to_bytes(6, "little") + b"\x00"
        flow = Flow()
        await flow.start(link, min_frame=last - 250)
        assert script.minimum == last - 200
        script.put(100)
        await flow.until(flow.first)
        async with asyncio.timeout(10):
            while script.minimum:  # noqa: ASYNC110 - the script tells nobody
                await asyncio.sleep(0.01)
        while (await link.account()).frames_delivered < 500:
            script.per_poll = 50
            await asyncio.sleep(0)
        account = await link.stop_data()
        assert (account.frames_missing, account.frames_rejected) == (0, {})
        n = account.frames_delivered
        assert flow.ids == [(last - 200 + i) % (1 << 36) for i in range(n)]
        assert account.last_frame == (last - 200 + n - 1) % (1 << 36)
        # The ids of before the wrap are not taken for later ones.
        script.frame = 5
        again = Flow()
        await again.start(link, min_frame=last)
        assert script.minimum == 5
        script.per_poll = 50
        await again.until(again.first)
        assert (await link.stop_data()).failure is None

    run(session, tmp_path)


def test_pointers_that_cannot_be_are_counted_and_nothing_is_read(tmp_path):
    """SHM-04."""

    async def session(script, link):
        flow, turns = Flow(), iter([40_000, 0xFFFF_FFFF, -3])
        honest, all_told = script.reply, asyncio.Event()

        def reply(kind: int, payload: bytes) -> bytes:
            data = honest(kind, payload)
            if kind == 0x03 and flow.first.is_set():
                turn = next(turns, None)
                if turn is not None:
                    write = turn if turn > 0 else (script.read + turn) % 32_768
                    return data[:4] + struct.pack("<I", write) + data[8:]
                all_told.set()
            return data

        script.reply = reply
        await flow.start(link)
        await flow.until(all_told)
        account = await link.stop_data()
        assert account.failure is None
        assert account.datagrams_rejected == {"pointer-implausible": 3}
        assert flow.ids == list(range(script.frame))

    run(session, tmp_path)


def _switch_off(script: ScriptedDaemon) -> None:
    script.acquiring = 0


def _start_anew(script: ScriptedDaemon) -> None:
    script.write, script.read = 3, 0


def _take(script: ScriptedDaemon) -> None:
    script.read = script.write


def _lose_memory(script: ScriptedDaemon) -> None:
    script.memory.unlink()


def _cut_memory(script: ScriptedDaemon) -> None:
    os.truncate(script.memory, 4096)


def _hang_up(script: ScriptedDaemon) -> None:
    script.hang_up()


@pytest.mark.parametrize(
    ("happens", "text"),
    [
        (_switch_off, "switched off by another client"),
        (_start_anew, "read pointer is 0 instead of .*started anew or takes frames too"),
        (_take, "another client of the daemon started anew or takes frames too"),
        (_lose_memory, "shared memory was removed or replaced"),
        (_cut_memory, "shared memory was removed or replaced"),
        (_hang_up, "daemon .*closed the connection|connection broke"),
    ],
)
def test_what_ends_an_acquisition_is_told_and_the_account_stays_exact(tmp_path, happens, text):
    """SHM-02, SHM-03."""

    async def session(script, link):
        flow = Flow()
        await flow.start(link)
        await flow.until(flow.first)
        script.per_poll = 7
        script.on_pointers = lambda: happens(script)
        if happens is _cut_memory:
            script.put = lambda _: None
        await flow.until(flow.failed)
        assert isinstance(flow.failure, LinkLostError)
        with pytest.raises(LinkLostError, match=text):
            raise flow.failure
        account = await link.stop_data(flow.failure)
        assert account.failure is flow.failure
        assert len(flow.ids) == account.frames_delivered == account.frames_received
        script.on_pointers = lambda: None

    run(session, tmp_path)


def test_pointers_that_never_make_sense_end_the_acquisition(tmp_path, monkeypatch):
    monkeypatch.setattr("petqc_drivers.petsys.daqd_pump.IMPLAUSIBLE_POLLS", 5)

    async def session(script, link):
        flow = Flow()
        await flow.start(link)
        await flow.until(flow.first)
        script.raw[0x03] = struct.pack("<4I", 16, 77_777, 88_888, 1)
        await flow.until(flow.failed)
        assert "make no sense (write 77777, read 88888)" in str(flow.failure)
        account = await link.stop_data(flow.failure)
        assert account.datagrams_rejected == {"pointer-implausible": 5}

    run(session, tmp_path)


def test_a_consumer_that_fails_ends_the_acquisition_and_not_the_thread(tmp_path):
    async def session(script, link):
        flow = Flow()

        def broken(words: np.ndarray) -> None:
            raise ValueError("disk full")

        await link.start_data(broken, min_frame=0, on_first=flow.first.set, on_failure=flow.fail)
        await flow.until(flow.failed)
        assert "disk full" in str(flow.failure)
        account = await link.stop_data(flow.failure)
        assert account.frames_delivered == 0
        assert account.frames_received == sum(account.frames_rejected.values())

    run(session, tmp_path)


def test_a_daemon_that_does_not_acquire_is_told(tmp_path):
    async def session(script, link):
        script.raw[0x01] = bytes(2)
        with pytest.raises(LinkLostError, match="was told to acquire and does not"):
            await Flow().start(link)
        assert link.last_frame_s is None

    run(session, tmp_path)


# -- connecting --------------------------------------------------------------------------------------------------------


def refused(folder: Path, **given: Any) -> DriverError:
    async def session() -> DriverError:
        link = DaqdReadoutLink(folder / "d.sock", folder=folder, **given)
        with pytest.raises(DriverError) as caught:
            await link.open()
        await link.aclose()
        return caught.value

    return asyncio.run(session())


def test_no_daemon(tmp_path):
    error = refused(tmp_path)
    assert isinstance(error, ConnectError)
    assert "does not exist, so no daemon runs" in str(error)


def test_a_stale_socket_and_its_memory_are_told_by_name_and_left_alone(tmp_path, monkeypatch):
    """SHM-01."""
    monkeypatch.setattr("petqc_drivers.petsys.daqd_client.SHARED_MEMORY_FOLDER", tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "d.sock"))
    (tmp_path / "daqd_shm").touch()
    error = refused(tmp_path)
    assert isinstance(error, ConnectError)
    assert "stale" in str(error)
    assert f"remove {tmp_path / 'd.sock'} and {tmp_path / 'daqd_shm'}" in str(error)
    assert (tmp_path / "d.sock").exists()
    assert (tmp_path / "daqd_shm").exists()


def test_a_daemon_that_takes_connections_and_does_nothing(tmp_path, monkeypatch):
    """A stopped process still accepts: the kernel does it."""
    monkeypatch.setattr("petqc_drivers.petsys.daqd_link.DAEMON_S", 0.1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "d.sock"))
        sock.listen()
        began_s = time.monotonic()
        error = refused(tmp_path)
        assert time.monotonic() - began_s < 2.0
    assert isinstance(error, ReplyTimeoutError)
    assert "no reply to shared memory info" in str(error)


def test_more_connections_than_the_daemon_lets_wait_are_all_made(tmp_path):
    """A link for each unit of a scanner, to a daemon that is busy meanwhile and has a queue of five."""

    async def session() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "d.sock"))
            sock.listen(5)
            links = [DaqdReadoutLink(tmp_path / "d.sock", unit=(n, 0)) for n in range(17)]
            opening = [asyncio.create_task(link.open_without_greeting()) for link in links]
            await asyncio.wait(opening, timeout=0.05)
            assert sum(task.done() for task in opening) < len(links)
            taken = [await asyncio.to_thread(sock.accept) for _ in links]
            await asyncio.gather(*opening)
            for connection, _ in taken:
                connection.close()
            for link in links:
                await link.aclose()

    asyncio.run(session())


def test_a_path_that_is_too_long(tmp_path):
    assert "longer than 107 bytes" in str(refused(tmp_path / ("x" * 120)))


@pytest.mark.parametrize(
    ("prepare", "given", "kind", "text"),
    [
        (lambda s: s.memory.unlink(), {}, ConnectError, "daqd_shm that the daemon announces cannot be opened: No such"),
        (lambda s: os.truncate(s.memory, 8), {}, ConnectError, "has 8 bytes instead of 1074266112"),
        (lambda s: s.raw.update({2: struct.pack("<H6xQ16x", 41, 4096) + b"/daqd_shm"}), {}, ConnectError, "4096"),
        (lambda s: s.raw.update({2: struct.pack("<H6xQ16x", 41, 65568) + b"/../passw"}), {}, LinkLostError, "no name"),
        (lambda _: None, {"unit": (3, 0)}, ConnectError, "port 3 is not up; up are 0"),
        (lambda _: None, {"uid": os.getuid() + 1}, WrongIdentityError, f"belongs to user {os.getuid()}, expected is"),
    ],
)
def test_what_is_wrong_with_a_daemon_is_told_when_connecting(tmp_path, prepare, given, kind, text):
    """SHM-02, SHM-07."""

    async def session() -> None:
        async with daemon(tmp_path) as script:
            prepare(script)
            link = DaqdReadoutLink(script.path, folder=tmp_path, **given)
            with pytest.raises(kind, match=text):
                await link.open()
            await link.aclose()

    asyncio.run(session())


@pytest.mark.parametrize("listens", [True, False])
def test_off_with_a_dead_daemon_is_decided_in_time(tmp_path, listens):
    async def session() -> None:
        readout = PetsysDaqdReadout(PetsysDaqdSettings(socket=str(tmp_path / "d.sock")))
        began_s = time.monotonic()
        with pytest.raises(OffUnconfirmedError, match="treat the outputs as live"):
            await readout.bias_off()
        assert time.monotonic() - began_s < 4.0
        await readout.aclose()

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "d.sock"))
        if listens:
            sock.listen()
        asyncio.run(session())


def test_settings_and_registry():
    assert device_kind("petsys-daqd").load() == (PetsysDaqdSettings, PetsysDaqdReadout)
    settings = PetsysDaqdSettings()
    assert settings.new_link((3, 9)).name == "unit 3/9 at daemon /tmp/d.sock"
    for bad in (
        {"shared_memory": "daqd"},
        {"socket": "d.sock"},
        {"expected_febds": frozenset({(32, 0)})},
        {"expected_trigger": (0, 32)},
        {"tries": 0},
    ):
        with pytest.raises(LocalProtocolError):
            PetsysDaqdSettings(**bad)
