"""A readout against a scripted board: connecting, and configuring with every field read back."""

from __future__ import annotations

import itertools
import time

import pytest
from tests.unit.scripted_board import (
    bench,
    bias_settings,
    bits,
    outputs,
    run,
)

from petqc_drivers.device import DeviceState, OutputState
from petqc_drivers.errors import (
    DeviceFaultError,
    DriverError,
    LocalProtocolError,
    StateError,
    VerifyError,
    WrongIdentityError,
)
from petqc_drivers.petsys.settings import AsicSettings, ExpectedBoard, PetsysUdpSettings


def test_connecting_identifies_and_changes_nothing():
    async def main():
        async with bench() as (board, readout):
            before = bytes(board.memory)
            identity = await readout.connect()
            assert identity.board.mezzanines == ("BIAS_32P",)
            assert (identity.board.kind.asics_per_module, identity.board.protocol) == (4, 0x104)
            assert readout.state is DeviceState.IDENTIFIED
            assert readout.bias_state is OutputState.OFF
            assert await readout.connect() is identity
            for place in (0x203, 0x302, 0x310, 0x21C):
                board.memory[place : place + 8] = before[place : place + 8]
            assert bytes(board.memory) == before
            assert not board.log

    run(main)


@pytest.mark.parametrize(
    ("address", "value", "n", "words"),
    [
        (0xFFF8, 0x105, 8, "protocol 0x105"),
        (0x0008, 0x0000_0111_0000_0000, 8, "not a FEB/D with internal trigger"),
        (0x0008, 0x0001_0999_0000_0000, 8, "module 0x0999 is not known"),
        (0x0000, 0x0042, 2, "base board 0x0042"),
        (0x0400, 1, 1, "further board"),
        (0x0030, 0xFFFE, 2, "BIAS_16P"),
        (0xFFF0, 1, 8, "firmware revision 0x1 is not within"),
    ],
)
def test_another_board_is_refused(address, value, n, words):
    async def main():
        expected = ExpectedBoard(firmware_revisions=(0x20240000, 0x20249999))
        async with bench(expected=expected) as (board, readout):
            board.put(address, value, n)
            with pytest.raises(WrongIdentityError, match=words):
                await readout.connect()
            assert readout.state is DeviceState.DISCONNECTED

    run(main)


def test_configuring_writes_every_field_and_reads_it_back():
    settings = AsicSettings(
        mode="qdc",
        global_fields={"disc_lsb_t1": 40},
        channel_fields={"att": 3},
        per_channel={(1, 5): {"vth_t1": 20, "vth_e": 9}, (1, 6): {"trigger_mode_1": 3}},
        mode_of={(0, 7): "tot"},
        expected_chips=frozenset({0, 1}),
    )

    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            done = await readout.configure(settings)
            assert readout.state is DeviceState.STAGED
            assert done.chips == [(0, 0, 0), (0, 0, 1)]
            assert done.tries == 1
            assert abs(done.synchronised_unix_s - time.time()) < 10
            for chip in (0, 1):
                assert int(board.asics[chip][None], 2) == done.board.globals[chip].value
                assert done.board.globals[chip]["disc_lsb_t1"] == 40
                assert done.board.globals[chip]["tx_mode"] == 2
                assert done.board.globals[chip]["tx_nlinks"] == 0
                for channel in range(64):
                    held = done.board.channels[chip, channel]
                    assert int(board.asics[chip][channel], 2) == held.value
                    assert held["att"] == 3
                    assert held["qdc_mode"] == (0 if (chip, channel) == (0, 7) else 1)
                    assert held["trigger_mode_1"] == (3 if (chip, channel) == (1, 6) else 0)
            assert done.board.channels[1, 5]["vth_t1"] == 20
            assert done.board.channels[0, 7]["intg_en"] == 0
            assert int.from_bytes(board.memory[0x318:0x320], "little") == 3

    run(main)


def test_eight_chips_are_configured_and_verified_without_a_retry():
    async def main():
        async with bench(n_chips=8, reply_timeout_s=1.0) as (board, readout):
            await readout.connect()
            done = await readout.configure(AsicSettings())
            assert len(done.board.channels) == 8 * 64
            assert board.n_commands > 2 * 2 * 8 * 65
            assert readout.link_account.commands == readout.link_account.tries
            assert done.duration_s < 10  # about 1 s on an idle core; this only catches what is badly wrong

    run(main)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channel_fields": {"vth_t1": 64}}, r"ASIC 0 channel 0: ASIC field vth_t1: 64 does not fit 0\.\.63"),
        ({"global_fields": {"gain": 1}}, "no global field 'gain'"),
        ({"per_channel": {(1, 2): {"vth": 1}}}, "ASIC 1 channel 2: ASIC 2C has no channel field 'vth'"),
        ({"per_channel": {(9, 0): {"vth_t1": 1}}}, r"settings for ASICs \[9\], which are not there"),
        ({"expected_chips": frozenset({0, 1, 4})}, r"ASICs missing: \[4\]; not expected: none"),
        ({"expected_chips": frozenset({0})}, r"missing: none; not expected: \[1\]"),
    ],
)
def test_settings_that_do_not_fit_the_board_are_refused(settings, words):
    async def main():
        async with bench() as (_, readout):
            await readout.connect()
            with pytest.raises(DriverError, match=words):
                await readout.configure(AsicSettings(**settings))
            assert readout.state is DeviceState.FAULTED
            with pytest.raises(StateError):
                await readout.start(lambda _: None)

    run(main)


@pytest.mark.parametrize(
    "settings",
    [
        {"global_fields": {"tx_mode": 1}},
        {"channel_fields": {"qdc_mode": 1}},
        {"per_channel": {(64, 0): {}}},
        {"mode_of": {(0, 64): "qdc"}},
    ],
)
def test_settings_that_are_not_the_users_are_refused(settings):
    with pytest.raises(LocalProtocolError):
        AsicSettings(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "localhost"},
        {"udp_port": 0},
        {"expected_febds": frozenset({(0, 32)})},
        {"reply_timeout_s": 0},
        {"no_data_timeout_s": float("inf")},
        {"settle_s": float("nan")},
        {"tries": 0},
        {"bias": {outputs()[0]: bias_settings()[outputs()[1]]}},
        {"expected_febds": frozenset({(0, 1)}), "bias": bias_settings()},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(LocalProtocolError):
        PetsysUdpSettings(**settings)


def test_a_field_that_reads_back_differently_is_named():
    def stuck(command: bytes, reply: bytes) -> bytes:
        # chip 1, read of channel 3: bit 63 (vth_t1, least significant) stuck at the opposite
        if command[16] == 1 and command[17:19] == b"\x00\x01" and command[19:21] == b"\x0b\x7d":
            channel = int(bits(command[21:23])[4:11], 2)
            if channel == 3:
                wrong = int.from_bytes(reply[19:], "big") ^ 1 << 63 + 3
                return reply[:19] + wrong.to_bytes(16, "big")
        return reply

    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.damage = stuck
            with pytest.raises(VerifyError, match="read back ASIC 1 channel 3: vth_t1 57 instead of 56"):
                await readout.configure(AsicSettings())

    run(main)


def test_an_asic_that_gives_crc_errors_now_and_then_is_asked_again():
    async def main():
        count = itertools.count()

        def crc(command: bytes, reply: bytes) -> bytes:
            return reply[:18] + b"\xe4" if command[16] == 1 and next(count) % 7 == 0 else reply

        async with bench() as (board, readout):
            await readout.connect()
            board.damage = crc
            done = await readout.configure(AsicSettings())
            assert len(done.board.channels) == 128
            assert int(board.asics[1][63], 2) == done.board.channels[1, 63].value
            board.damage = lambda c, r: r[:18] + b"\xe4" if c[16] == 1 else r
            with pytest.raises(DeviceFaultError, match=r"read ASIC 0 global configuration failed 5 times.*crc"):
                await readout.configure(AsicSettings())

    run(main)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0x200, 0, "clock is not locked"),
        (0x102, 1, "ASIC type 1"),
        (0x213, 3, "bias supply is on"),
        (0x100, 2, "3 links per ASIC"),
    ],
)
def test_what_does_not_come_up_is_named(place, value, words):
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.put(place, value, 1)
            with pytest.raises(DriverError, match=words):
                await readout.configure(AsicSettings())

    run(main)


def test_a_chip_whose_link_does_not_come_up_is_tried_again_and_then_named():
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            board.damage = lambda c, r: r[:19] + b"\x01" + r[20:] if c[17:22] == b"\x00\x07\x00\x10\x03" else r
            with pytest.raises(DeviceFaultError, match=r"ASICs \[1\]: data links .* in 3 bring-ups"):
                await readout.configure(AsicSettings())

    run(main)


def test_a_board_whose_time_runs_too_fast_was_not_synchronised_by_us():
    async def main():
        async with bench() as (board, readout):
            await readout.connect()
            far = (10**12).to_bytes(6, "little")
            board.damage = lambda c, r: r[:19] + far + r[-1:] if c[20:22] == b"\x03\x02" else r
            with pytest.raises(DeviceFaultError, match="synchronisation failed"):
                await readout.configure(AsicSettings())

    run(main)
