"""Faults of links and of whole devices: what becomes of bytes, and of what a driver reads."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc_drivers.caen_a7585d import Register
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.petsys.wire import HANDSHAKE
from petqc_simulators.boards.caen_a7585d import CaenA7585dBoard
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.julabo import JulaboBoard
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.boards.sr620 import ClockPair, Sr620
from petqc_simulators.device_faults import DeviceFaults
from petqc_simulators.faults import EVERY_KIND, Fault
from petqc_simulators.link_faults import FaultySide, LinkFaults
from petqc_simulators.live_faults import LiveFaults
from petqc_simulators.physics.blocks import Block
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.server import BoardServer

if TYPE_CHECKING:
    from petqc_simulators.instrument_server import WireSide

PACKETS = [bytes([n]) * 8 for n in range(200)]


def through(text: str, link: str = "frames") -> list[list[tuple[float, bytes]]]:
    links = LinkFaults(lambda: 0.0)
    links.plant(Fault.parse(text))
    return [links.pieces(link, packet) for packet in PACKETS]


def test_each_link_fault_does_what_it_says() -> None:
    lost = through("L01=30")
    assert 30 < sum(not pieces for pieces in lost) < 90
    swapped = [piece for pieces in through("L02=30") for _, piece in pieces]
    assert swapped != sorted(swapped)
    assert len(set(PACKETS) - set(swapped)) <= 1  # the last one may still wait for its next
    assert sum(len(pieces) == 2 for pieces in through("L03=30")) > 30
    changed = [piece for pieces in through("L04=100") for _, piece in pieces]
    bits = [
        np.unpackbits(np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8))
        for a, b in zip(changed, PACKETS, strict=True)
    ]
    assert {int(b.sum()) for b in bits} == {1}
    assert all(len(pieces[0][1]) < 8 for pieces in through("L05=100"))
    assert {after_s for pieces in through("L06=25") for after_s, _ in pieces} == {0.025}
    assert through("L01=100:commands", "frames") == [[(0.0, packet)] for packet in PACKETS]
    assert not any(through("L01=100:commands", "commands"))


def test_a_frozen_link_thaws() -> None:
    now = [0.0]
    links = LinkFaults(lambda: now[0])
    links.plant(Fault.parse("L07=2@1"))
    there = []
    for now[0] in (0.5, 1.5, 2.9, 3.1):
        there.append(links.is_frozen("commands"))
    assert there == [False, True, True, False]


def test_frames_by_shared_memory_can_only_be_lost() -> None:
    links = LinkFaults(lambda: 0.0, is_behind_daemon=True)
    block = Block(0, np.arange(2000, dtype=np.uint64), np.arange(0, 2001, 2))
    assert links.of_block(block) is block
    links.begin(Fault.parse("L01=25:frames"))
    kept = links.of_block(block)
    assert 150 < block.starts.size - kept.starts.size < 350
    assert kept.words.size == 2 * (kept.starts.size - 1)
    with pytest.raises(ProfileError, match="maker's daemon"):
        links.begin(Fault.parse("L04:frames"))
    with pytest.raises(ProfileError, match="there is no link device:x"):
        links.begin(Fault.parse("L01:device:x"))


def side(board: WireSide, name: str = "x") -> tuple[LiveFaults, FaultySide]:
    links = LinkFaults(lambda: 0.0, [name], has_readout=False)
    devices = DeviceFaults(lambda: 0.0, {f"device:{name}": board})
    return LiveFaults({"link": links, "device": devices}), FaultySide(name, board, links, devices)


def test_a_supply_trips_and_stays_tripped_until_it_is_reset() -> None:
    board = HamamatsuC11204Board()
    faults, served = side(board)
    served.receive(wire.frame("HON"))
    added = faults.add("D01")
    served.let_pass(0.1)
    assert (added["nodes"], board.has_tripped, board.is_on) == (["device:x"], True, False)
    faults.remove(added["number"])
    served.let_pass(0.1)
    assert board.has_tripped
    supply = CaenA7585dBoard()
    faults, served = side(supply)
    supply.values[Register.ENABLE] = 1.0
    faults.add("D01")
    served.let_pass(0.1)
    assert (supply.is_on, supply.values[Register.OVER_CURRENT]) == (False, 1.0)


def test_a_lying_read_back_lies_about_what_is_there_and_then_no_more() -> None:
    board = JulaboBoard(bath_degc=20.0)
    faults, served = side(board)
    faults.add("D03=2.5")
    served.let_pass(0.001)
    assert served.receive(b"in_pv_00\r") == b"22.50\r\n"
    assert board.bath_degc == pytest.approx(20.0, abs=0.01)
    faults.remove(1)
    served.let_pass(0.001)
    assert served.receive(b"in_pv_00\r") == b"20.00\r\n"


def test_stuck_readings_repeat_while_commands_are_done() -> None:
    board = JulaboBoard(bath_degc=20.0)
    faults, served = side(board)
    faults.add("D02")
    assert served.receive(b"in_pv_00\r") == b"20.00\r\n"
    served.receive(b"out_sp_00 15\r")
    board.bath_degc = 16.0
    assert served.receive(b"in_pv_00\r") == b"20.00\r\n"
    assert board.told == [("out_sp_00", 15.0)]
    faults.remove(1)
    assert served.receive(b"in_pv_00\r") == b"16.00\r\n"


def test_an_identity_is_swapped_and_a_reference_is_lost() -> None:
    board = Sr620(ClockPair())
    faults, served = side(board)
    faults.add("D04")
    faults.add("D05")
    served.let_pass(0.001)
    assert b"98765432" in served.receive(b"*IDN?\n")
    assert board.reference_lost
    faults.remove(1)
    faults.remove(2)
    served.let_pass(0.001)
    assert b"05203" in served.receive(b"*IDN?\n")
    assert not board.reference_lost


def test_a_reply_that_is_late_comes_late() -> None:
    faults, served = side(JulaboBoard(bath_degc=20.0))
    faults.add("L06=30")
    assert served.receive(b"in_pv_00\r") == b""
    assert served.let_pass(0.02) == b""
    assert served.let_pass(0.02) == b"20.00\r\n"


def test_a_board_loses_its_clock_and_is_of_another_version() -> None:
    board = PetsysFebd(load_profile("bench", source="none"), 1)
    devices = DeviceFaults(lambda: 0.0, {"unit:0.0": board})
    live = LiveFaults({"device": devices})
    before = board.registers.value("protocol")
    live.add("D05")
    live.add("D06=2:unit:0.0")
    devices.look("unit:0.0")
    assert (board.registers.value("clock_locked"), board.registers.value("protocol")) == (0, before + 2)
    live.remove(1)
    live.remove(2)
    devices.look("unit:0.0")
    assert (board.registers.value("clock_locked"), board.registers.value("protocol")) == (1, before)
    with pytest.raises(ProfileError, match="no device here"):
        live.add("D01")


def test_a_board_behind_a_frozen_link_does_not_answer() -> None:
    links = LinkFaults(lambda: 0.0)
    server = BoardServer(PetsysFebd(load_profile("bench", source="none"), 1), "127.0.0.1", 0, links=links)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(server.address)
            client.settimeout(10)
            client.send(HANDSHAKE)
            assert client.recv(100) == HANDSHAKE
            number = links.begin(Fault.parse("L07=60"))
            client.send(HANDSHAKE)
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(100)
            links.end(number)
            links.begin(Fault.parse("L03=100"))
            client.settimeout(10)
            client.send(HANDSHAKE)
            assert [client.recv(100), client.recv(100)] == [HANDSHAKE, HANDSHAKE]
    finally:
        server.stop()
        thread.join()
        server.close()


def test_every_kind_says_what_it_is() -> None:
    for kind in EVERY_KIND.values():
        assert json.dumps(str(Fault.parse(kind.id)))
        assert kind.title
        assert kind.noticed_by
        assert 0 < kind.default_size <= kind.largest_size
