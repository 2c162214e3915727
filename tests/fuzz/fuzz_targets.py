"""Parsers of the wire and of files, each behind one function of bytes: it returns, whatever the bytes are.

A target raises only if something is wrong: an error that the parser does not announce, an account that does not add up,
or memory that grows with what was rejected. Hypothesis feeds them in `test_fuzz.py`, libFuzzer in `campaign.py`.
"""

from __future__ import annotations

import socket
import tempfile
import tomllib
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.errors import QcError
from petqc.formats.bundle_check import check_bundle
from petqc.formats.counter_points import CounterReader
from petqc.formats.janus_list import JanusReader
from petqc.formats.list_text import ListDescriptor, ListTextReader
from petqc.formats.petsys_calibration_raw import CalibrationReader
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_ldat import open_events
from petqc.formats.petsys_raw import RawReader
from petqc.formats.petsys_tables import TABLES, parse_table
from petqc.formats.picoquant import PicoquantReader
from petqc.formats.spe import read_spe
from petqc.formats.wire_log import HEAD, WireEvent, WireLogReader, WireRecord
from petqc_drivers.petsys import daqd_wire, i2c, module_eeprom, spi, tmp104, wire
from petqc_drivers.petsys.daqd_ring import SharedRing
from petqc_drivers.petsys.frames import FRAME_ID_MODULO, scan_frames
from petqc_drivers.petsys.receive import ROOM_BYTES, FrameIntake
from petqc_drivers.petsys.registers import REGISTERS
from petqc_drivers.petsys.udp_link import UdpReadoutLink
from petqc_drivers.transport.datagrams import SLOTS
from petqc_simulators.boards.petsys_clktgr import ClockTrigger
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from petqc_drivers.errors import DriverError

GOLDEN: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "golden" / "petsys.toml").read_text())
TARGETS: dict[str, Target] = {}
if TYPE_CHECKING:
    Target = Callable[[bytes], None]


def target(name: str) -> Callable[[Target], Target]:
    """Enter a function under a name."""

    def enter(function: Target) -> Target:
        TARGETS[name] = function
        return function

    return enter


def pieces(data: bytes, most: int = ROOM_BYTES) -> Iterator[bytes]:
    """Cut bytes into messages: two bytes say how long each is, and the last one is what there is."""
    while len(data) > 2:
        n = min(int.from_bytes(data[:2], "little"), most)
        yield data[2 : 2 + n]
        data = data[2 + n :]


HELD = ExitStack()
"""What targets keep open from one input to the next: a process has it once."""


def let_go() -> None:
    """Close what targets keep open."""
    HELD.close()
    _ring.cache_clear()
    _daqd.cache_clear()


def joined(messages: list[bytes]) -> bytes:
    """The inverse of `pieces`."""
    return b"".join(len(message).to_bytes(2, "little") + message for message in messages)


# -- driver side ----------------------------------------------------


@target("driver-replies")
def driver_replies(data: bytes) -> None:
    """Everything that a unit answers, taken for the answer to anything."""
    with suppress(wire.WireError):
        reply = wire.Reply.from_bytes(data)
        assert reply.to_bytes() == data
    with suppress(wire.WireError):
        command = wire.Command.from_bytes(data)
        assert command.to_bytes() == data
    if not data:
        return
    n, payload = data[0], data[1:]
    transfers = (i2c.i2c_write(1, 0x90, 0xF8, n), i2c.i2c_read_register(2, 0x90, 0xF9), i2c.i2c_release(3))
    parsers: list[Callable[[], object]] = [
        lambda: wire.parse_memory_read_reply(payload, n),
        lambda: wire.check_memory_write_reply(payload),
        lambda: wire.parse_asic_reply(payload, wire.GLOBAL_BITS),
        lambda: wire.parse_asic_reply(payload, wire.CHANNEL_BITS),
        lambda: wire.parse_asic_reply(payload, 0),
        lambda: wire.parse_memory_access(payload, word_bytes=1 + n % 5),
        lambda: wire.AsicCommand.from_bytes(payload),
        lambda: spi.parse_spi_reply(payload, n),
        lambda: spi.parse_ltc2668(spi.SpiRequest.from_bytes(payload)),
        lambda: spi.parse_ad5535(spi.SpiRequest.from_bytes(payload)),
        lambda: spi.parse_max5136(spi.SpiRequest.from_bytes(payload)),
        lambda: i2c.spoken(payload),
        *(lambda transfer=transfer: i2c.parse_i2c_reply(transfer, payload) for transfer in transfers),
        lambda: tmp104.parse_enumeration(payload),
        lambda: tmp104.parse_temperatures(payload, 1 + n % 15),
        lambda: module_eeprom.parse_eeprom(_eeprom_fields(payload)),
    ]
    for parse in parsers:
        with suppress(wire.WireError):
            parse()


def _eeprom_fields(data: bytes) -> dict[str, bytes]:
    fields, place = {}, 0
    for name, n_bytes in (("header", 16), ("type", 16), ("date", 19), ("sensors", 96), ("serial", 4), ("checksum", 4)):
        fields[name] = data[place : place + n_bytes].ljust(n_bytes, b"\xff")
        place += n_bytes
    return fields


@target("driver-datagrams")
def driver_datagrams(data: bytes) -> None:
    """Datagrams from the board's address: sorted, scanned, put in order, and every frame in the account."""
    link = UdpReadoutLink(("127.0.0.1", 9))
    blocks: list[Any] = []
    failures: list[DriverError] = []
    intake = FrameIntake(blocks.append, min_frame=10, device="fuzz", on_first=lambda: None, on_failure=failures.append)
    link._intake = intake
    batch = link._receiver._batch
    datagrams = [datagram for datagram in pieces(data) if datagram]
    n_datagrams, n_data = len(datagrams), sum(datagram[0] == wire.DATA_MARK for datagram in datagrams)
    for at in range(0, n_datagrams, SLOTS):
        batch.n = 0
        for datagram in datagrams[at : at + SLOTS]:
            batch.lay(datagram, link._receiver.peer)
        link._receiver._give(batch)
    intake.flush()
    told = intake.account(datagrams_rejected={}, kernel_drops=0, receive_buffer_bytes=0)
    counts = link._counts
    others = counts["unknown_datagrams"] + counts["replies_malformed"] + counts["replies_late"]
    assert (told.datagrams, others) == (n_data, n_datagrams - n_data)
    assert told.frames_received == told.frames_delivered + sum(told.frames_rejected.values())
    words = np.concatenate(blocks) if blocks else np.empty(0, np.uint64)
    scan = scan_frames(words)
    assert (len(scan.starts), scan.reason) == (told.frames_delivered, None)
    if told.first_frame is not None and told.last_frame is not None:
        span = (told.last_frame - told.first_frame) % FRAME_ID_MODULO + 1
        failed = told.frames_rejected.get("sink-failed", 0)
        assert span == (told.frames_delivered + failed + told.frames_missing) % FRAME_ID_MODULO
    assert len(set(counts) | set(told.frames_rejected) | set(told.words_rejected)) < 20, "reasons are a fixed list"


@target("driver-daqd-replies")
def driver_daqd_replies(data: bytes) -> None:
    """What the daemon writes back, cut up by what the requests say must come."""
    if not data:
        return
    kind, stream = data[0], data[1:]
    while n_head := daqd_wire.reply_head_bytes(kind):
        head = stream[:n_head]
        if len(head) < n_head:
            break
        try:
            n_rest = daqd_wire.reply_rest_bytes(kind, head)
        except wire.WireError:
            break
        assert 0 <= n_rest <= 0xFFFF
        if len(stream) < n_head + n_rest:
            break
        _daqd_reply(kind, stream[: n_head + n_rest])
        stream = stream[n_head + n_rest :]


def _daqd_reply(kind: int, reply: bytes) -> None:
    for parse in (
        daqd_wire.SharedMemoryInfo.from_bytes,
        daqd_wire.Pointers.from_bytes,
        daqd_wire.PortCounters.from_bytes,
        daqd_wire.parse_front_end_reply,
        daqd_wire.parse_set_read_pointer,
        daqd_wire.parse_ports_reply,
        daqd_wire.parse_card_temperature_reply,
        daqd_wire.parse_status_reply,
    ):
        with suppress(wire.WireError):
            found = parse(reply)
            if kind == daqd_wire.Message.POINTERS and isinstance(found, daqd_wire.Pointers):
                assert found.waiting is None or 0 <= found.waiting <= daqd_wire.RING_SLOTS


RING_PLACES = 8


@cache
def _ring() -> tuple[SharedRing, Any]:
    """A ring of the real size, of which only a few slots are ever touched, and its words to write to."""
    folder = tempfile.mkdtemp(prefix="petqc-fuzz-")
    path = Path(folder, "ring")
    with path.open("wb") as file:
        file.truncate(daqd_wire.RING_BYTES)
    words = np.memmap(path, np.uint64, "r+")
    ring = SharedRing(daqd_wire.SharedMemoryInfo("/ring", daqd_wire.SLOT_BYTES), device="fuzz", folder=Path(folder))
    path.unlink()
    Path(folder).rmdir()
    HELD.callback(words._mmap.close)  # type: ignore[attr-defined]
    HELD.callback(ring.close)
    return ring, words


@target("driver-ring-slots")
def driver_ring_slots(data: bytes) -> None:
    """Slots of the shared ring, whatever is in them; frames taken are whole and all slots are counted."""
    ring, words = _ring()
    slots = [piece[: daqd_wire.SLOT_BYTES] for piece in pieces(data)][:RING_PLACES]
    for place, slot in enumerate(slots):
        whole = slot.ljust(-(-len(slot) // 8) * 8, b"\x00")
        begin = place * daqd_wire.SLOT_WORDS
        words[begin : begin + 2] = 0
        words[begin : begin + len(whole) // 8] = np.frombuffer(whole, np.uint64)
    room = memoryview(bytearray(2 * daqd_wire.SLOT_BYTES))
    first = 0
    while first < len(slots):
        taken = ring.take(first, len(slots) - first, room)
        assert 1 <= taken.slots <= len(slots) - first
        assert len(taken.scan.starts) + sum(taken.rejected.values()) == taken.slots
        assert set(taken.rejected) <= {"slot-inconsistent", "slot-torn"}
        found = np.frombuffer(room[: taken.n_bytes], np.uint64)
        if found.size:
            again = scan_frames(found)
            assert again.reason is None
            assert again.starts.tolist() == taken.scan.starts.tolist()
        first += taken.slots


# -- simulator side ----------------------------------------------------


@cache
def _detector(name: str) -> Detector:
    return Detector(load_profile(name, source="none"), 1)


@cache
def _units(name: str) -> tuple[PetsysFebd, ClockTrigger]:
    board = PetsysFebd(load_profile(name, source="none"), 1, detector=_detector(name))
    return board, ClockTrigger([board])


@target("board-commands")
def board_commands(data: bytes) -> None:
    """Datagrams to a board, to a FEB/D 8K and to a trigger unit: each gets its reply, or is counted."""
    if not data:
        return
    for unit in _units("febd-8k" if data[0] & 1 else "bench"):
        # To make a board takes longer than thousands of commands: it starts again instead, as after the first use.
        unit.handle(bytes(16) + b"\x00" + REGISTERS["reboot"].write(1).to_bytes())
        unit.let_pass(60.0)
        unit.rejected.clear()
        n = answered = 0
        for piece in pieces(data[1:]):
            # Serial numbers are not worth guessing: the first byte says whether the rest is a whole datagram.
            datagram = piece[1:] if piece[:1] == b"\xff" else bytes(16) + piece
            before = unit.commands + sum(unit.rejected.values()) + unit.unanswered
            answer = unit.handle(datagram)
            counted = unit.commands + sum(unit.rejected.values()) + unit.unanswered - before
            assert counted == 1 or datagram == wire.HANDSHAKE, "every datagram is counted once"
            if answer is not None and datagram != wire.HANDSHAKE:
                assert answer[:17] == b"\x5a" + datagram[:16]
                assert len(answer) <= 1 + wire.MAX_COMMAND_BYTES
                answered += 1
            n += 1
            unit.let_pass(0.001)
        assert answered <= n
        assert len(unit.rejected) <= 2 + len(wire.Function), "reasons are a fixed list"


@cache
def _daqd() -> DaqdServer:
    folder = Path(tempfile.mkdtemp(prefix="petqc-fuzz-"))
    units = {(0, 0): PetsysFebd(load_profile("bench", source="none"), 1, detector=_detector("bench"))}
    server = DaqdServer(units, folder / "d.sock", "/fuzz", folder=folder, frames=list)
    HELD.callback(folder.rmdir)
    HELD.callback(server.close)
    return server


@target("daqd-requests")
def daqd_requests(data: bytes) -> None:
    """A client's bytes to the daemon: every request is counted, and one that is cut ends the connection only."""
    server = _daqd()
    server.is_acquiring, server.ring.minimum_frame = False, 0
    server.ring.clear()
    server.ring.accounts.clear()
    counted = sum(server.counters.values())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.address.removeprefix("unix:"))
        client.settimeout(1.0)
        server._accept()
        (there,) = server._clients.values()
        client.sendall(data[:16_384])
        client.shutdown(socket.SHUT_WR)
        requests = 0
        while there.fileno() >= 0:
            server._serve(there)
            requests += 1
            if server._busy is not None:
                (_, finish), server._busy = server._busy, None
                finish()
            client.setblocking(False)
            with suppress(OSError):
                while client.recv(65_536):
                    pass
        server._clients.clear()
    # The last look finds the end of the connection, or the request that ended it.
    assert requests - 1 <= sum(server.counters.values()) - counted
    assert len(server.counters) <= len(daqd_wire.Message) + 2, "what is counted is a fixed list"


# -- files ----------------------------------------------------


def _file(data: bytes, name: str, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(prefix="petqc-fuzz-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        with suppress(QcError):
            read(path)


def _drain(reader: Any) -> None:
    with reader:
        for _ in reader.blocks():
            pass


@target("raw-recording")
def raw_recording(data: bytes) -> None:
    """A recording, with the index that its first bytes say, or none."""
    n = min(data[0], len(data) - 1) if data else 0

    def read(path: Path) -> None:
        if n:
            path.with_suffix(".idxf").write_bytes(data[1 : 1 + n])
        _drain(RawReader(path))

    _file(data[1 + n :], "run.rawf", read)


@target("calibration-recording")
def calibration_recording(data: bytes) -> None:
    """A recording of a calibration scan, or its counters."""
    _file(data, "run.rawf", lambda path: list(CalibrationReader(path).points()))
    _file(data, "run.counters", lambda path: list(CounterReader(path).points()))


@target("bundle")
def bundle(data: bytes) -> None:
    """A wire log, and the same bytes as the manifest of a bundle."""

    def read(path: Path) -> None:
        with WireLogReader(path) as log:
            records = list(log.records())
            assert sum(HEAD.size + len(r.payload) + 4 for r in records) + log.damages.bytes_left_out == len(data)

    _file(data, "x.wire", read)
    _file(data, "bundle.json", lambda path: check_bundle(path.parent))


@target("processed-events")
def processed_events(data: bytes) -> None:
    """Events as the maker's converters write them, binary and text."""
    _file(data, "run.ldat", lambda path: _drain(open_events(path)))
    _file(data, "run.txt", lambda path: _drain(open_events(path)))


@target("configuration")
def configuration(data: bytes) -> None:
    """A config.ini, and the same bytes as each of its tables."""
    _file(data, "config.ini", load_config)
    text = data.decode("utf-8", "replace")
    for kind in TABLES:
        parse_table(kind, text)


@target("foreign-lists")
def foreign_lists(data: bytes) -> None:
    """Recordings of other makers."""
    _file(data, "run.ptu", lambda path: _drain(PicoquantReader(path)))
    _file(data, "run.txt", lambda path: _drain(JanusReader(path)))
    _file(data, "run.spe", read_spe)
    descriptor = ListDescriptor.shipped("lyso_and_two_nai")
    _file(data, "run.dat", lambda path: _drain(ListTextReader(path, descriptor)))


# -- what to begin with ----------------------------------------------------


def _hex(group: str, key: str) -> list[bytes]:
    return [bytes.fromhex(v[key]) for v in GOLDEN[group] if key in v]


def seeds(name: str) -> list[bytes]:
    """Good input for a target, from the written-down bytes; the fuzzer goes on from there."""
    frames = _hex("frame", "hex")
    commands = _hex("command", "hex")
    match name:
        case "driver-replies":
            answers = [*_hex("reply", "hex"), *_hex("asic_reply", "hex"), *_hex("tmp104", "reply"), *commands]
            answers += [*_hex("i2c", "answer"), *_hex("register_read", "answer"), *_hex("spi", "hex")]
            found = answers + [bytes((8,)) + answer for answer in answers]
        case "driver-datagrams":
            found = [joined(frames), joined([frames[2]] * 3), joined([*frames[::-1], *_hex("reply", "hex")])]
        case "driver-daqd-replies":
            found = [
                bytes((daqd_wire.Message[v["message"].upper()],)) + 2 * bytes.fromhex(v["reply"])
                for v in GOLDEN["daqd"]
            ]
        case "driver-ring-slots":
            found = [joined([frame[1:] for frame in frames]), joined([frames[0][1:]] * RING_PLACES)]
        case "board-commands":
            found = [b"\x00" + joined([b"\xff" + command for command in commands])]
            writes = [b"\x00" + write for write in _hex("memory_write", "hex") if write[3:5] != b"\x99\x02"]
            reads = [b"\x00" + read for read in _hex("register_read", "request")]
            talks = [b"\x03" + steps for steps in _hex("i2c", "hex")] + [b"\x02" + word for word in _hex("spi", "hex")]
            found += [bytes((kind,)) + joined(part) for kind in (0, 1) for part in (writes, reads, talks)]
        case "daqd-requests":
            found = _hex("daqd", "request")
            found.append(b"".join(found[2:]))
        case "raw-recording":
            header = (200_000_000).to_bytes(8, "little") + bytes(56)
            body = b"".join(frame[1:] for frame in frames)
            index = f"64\t{64 + len(body)}\t1\t11\t0.0\t0.0\n".encode()
            found = [b"\x00" + header + body, bytes((len(index),)) + index + header + body]
        case "bundle":
            head = WireRecord(WireEvent.HEADER, b'{"schema": "petqc-wire/1"}', 0, 0, 0).to_bytes()
            found = [head + b"".join(WireRecord(WireEvent.SENT, b"*IDN?", n, n, n).to_bytes() for n in range(1, 4))]
            found.append(b'{"schema": "petqc-bundle/1", "state": "complete", "files": [], "wires": []}')
        case "processed-events":
            found = [bytes(36), b"1000\t511.0\t257\n" * 3, b"1\t0\t1000\t511.0\t257\n"]
        case "configuration":
            found = [v["line"].encode() for v in GOLDEN["table"]]
            found.append(b"[main]\ntdc_calibration_table = %CDIR%/tdc.tsv\n[sw_trigger]\ngroup_max_hits = 8\n")
        case "foreign-lists":
            found = [b"PQTTTR\x00\x001.0.00\x00\x00", b"$SPEC_ID:\nx\n$DATA:\n0 2\n1\n2\n3\n", b"//Board\n1 2 3\n"]
        case _:
            found = [bytes(96)]
    return found
