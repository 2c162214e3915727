"""The driver with a system of several boards and a clock and trigger unit, behind the simulated daemon's socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.separate_detectors import JoinedFrames

from petqc_drivers.device import DeviceState, OutputState, Quality
from petqc_drivers.errors import (
    DeviceFaultError,
    LimitError,
    LocalProtocolError,
    OffUnconfirmedError,
    ReplyTimeoutError,
    StateError,
    WrongIdentityError,
)
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.daqd_readout import PetsysDaqdReadout
from petqc_drivers.petsys.frames import frame_ids, scan_frames
from petqc_drivers.petsys.hardware_trigger import TriggerSettings
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM
from petqc_drivers.petsys.settings import AsicSettings, BiasSettings, PetsysDaqdSettings
from petqc_drivers.petsys.test_pulse import TestPulse
from petqc_simulators.boards.petsys_clktgr import ClockTrigger
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.draw import bias_points
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BOARDS = ((0, 0), (0, 1), (3, 0))
TRIGGER = (4, 0)
OUTPUTS = {address: [BiasChannel(*address, 0, n) for n in (0, 31)] for address in BOARDS}


class Silent:
    """A unit that can be told to answer nothing."""

    def __init__(self, unit: Any) -> None:
        self.unit = unit
        self.is_silent: Callable[[bytes], bool] = lambda _: False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unit, name)

    def handle(self, datagram: bytes) -> bytes | None:
        return None if self.is_silent(datagram) else self.unit.handle(datagram)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """A served detector has no time for a compiler."""
    warm = Detector(load_profile("bench", source="none"), 1)
    warm.settle()
    warm.advance()


def make_system() -> dict[tuple[int, int], Silent]:
    """Two boards in a chain, one at a port of its own, and a clock and trigger unit."""
    profile = load_profile("bench", source="none")
    boards = [PetsysFebd(profile, seed) for seed in (1, 2, 3)]
    boards[0].registers.preset("next_slave", 1)
    trigger = ClockTrigger(boards)
    units = dict(zip(BOARDS, boards, strict=True)) | {TRIGGER: trigger}
    return {address: Silent(unit) for address, unit in units.items()}


@contextlib.contextmanager
def serving(units: dict[tuple[int, int], Silent], folder: Path) -> Iterator[DaqdServer]:
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


def bias_settings(units: dict[tuple[int, int], Silent]) -> dict[BiasChannel, BiasSettings]:
    found = {}
    for address, channels in OUTPUTS.items():
        draw = units[address].detector.draw
        codes, volts = bias_points(draw.dac_gain, draw.dac_offset_v)
        for channel in channels:
            limit = HardLimit(
                channel=str(channel), v_min=Volts(1.2), v_max=Volts(40), max_step_v=10.0, slew_v_per_s=200.0
            )
            curve = BiasCurve(tuple(zip(codes.tolist(), volts[channel.channel].tolist(), strict=True)))
            found[channel] = BiasSettings(limit, curve)
    return found


TARGETS = {channel: Volts(30) for channels in OUTPUTS.values() for channel in channels}


@dataclass
class System:
    """Simulated units, the driver for them, and the daemon in between."""

    units: dict[tuple[int, int], Silent]
    device: PetsysDaqdReadout
    server: DaqdServer


@contextlib.asynccontextmanager
async def system(folder: Path, **given: Any) -> AsyncIterator[System]:
    units = make_system()
    with serving(units, folder) as server:
        settings = {"reply_timeout_s": 2.0, "settle_s": 0.0, "bias": bias_settings(units)} | given
        device = PetsysDaqdReadout(PetsysDaqdSettings(socket=server.address.removeprefix("unix:"), **settings))
        try:
            yield System(units, device, server)
        finally:
            for unit in units.values():
                unit.is_silent = lambda _: False
            await device.aclose()


EACH = {address: AsicSettings(expected_chips=frozenset(range(8))) for address in BOARDS}


def run(main: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def power(unit: Silent) -> int:
    return unit.registers.value("power")


def events(parts: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    words = np.concatenate(parts)
    starts = scan_frames(words).starts
    is_event = np.ones(words.size, np.bool_)
    is_event[starts] = is_event[starts + 1] = False
    return words[is_event]


def test_a_session_with_several_boards_is_one_acquisition_with_one_account(tmp_path):
    async def main() -> None:
        async with system(tmp_path, expected_febds=frozenset(BOARDS), expected_trigger=TRIGGER) as s:
            device = s.device
            identity = await device.connect()
            assert list(identity.boards) == list(BOARDS)
            assert identity.trigger.address == TRIGGER
            assert "FEB/D 0/1: base board 0x0002" in str(identity)
            assert "unit 4/0: trigger" in str(identity)
            with pytest.raises(StateError, match="there are 3 front-end boards, not one"):
                _ = identity.board
            for wrong, words in (
                (AsicSettings(), "one set of ASIC settings for 3 FEB/Ds"),
                ({a: EACH[a] for a in BOARDS[:2]}, "no ASIC settings for FEB/D 3/0"),
                (EACH | {TRIGGER: AsicSettings()}, "there is no FEB/D 4/0"),
            ):
                with pytest.raises(LocalProtocolError, match=words):
                    await device.configure(wrong)
            pulsed_off = {a: AsicSettings(mode="tot", channel_fields={"trigger_mode_1": 3}) for a in BOARDS}
            done = await device.configure(pulsed_off)
            assert done.chips == [(*address, chip) for address in BOARDS for chip in range(8)]
            assert done.trigger_ports == dict(zip(BOARDS, range(3), strict=True))
            assert s.units[TRIGGER].registers.value("trigger_ports") == 0b111
            assert [s.units[a].registers.value("sync") for a in BOARDS] == [0, 0, 0]

            places = [(0, 0, 0, 5), (0, 1, 7, 63), (3, 0, 2, 1)]
            pulse = {place: {"trigger_mode_1": 1} for place in places}
            assert await device.reconfigure(channels=pulse) == 3
            assert await device.reconfigure(channels=pulse) == 0
            assert (
                await device.reconfigure(global_fields={"disc_lsb_t1": 40}, chips={(0, 1, 3): {"disc_lsb_t1": 41}})
                == 24
            )
            assert device.configured.boards[0, 1].globals[3]["disc_lsb_t1"] == 41
            assert device.configured.boards[3, 0].globals[3]["disc_lsb_t1"] == 40
            with pytest.raises(LocalProtocolError, match="there is no FEB/D 9/0"):
                await device.reconfigure(channels={(9, 0, 0, 0): {"vth_t1": 1}})
            await device.set_test_pulse(TestPulse(100, 1024))
            accounts = []
            for _ in range(2):
                parts: list[NDArray[np.uint64]] = []
                await device.start(parts.append)
                await device.wait_failed(0.4)
                accounts.append(await device.stop())
                found, n_each = np.unique(events(parts) >> np.uint64(42), return_counts=True)
                assert found.tolist() == [p << 17 | u << 12 | c << 6 | k for p, u, c, k in places]
                assert n_each.min() == n_each.max(), "each board has one hit in each frame"
                words = np.concatenate(parts)
                assert frame_ids(words, scan_frames(words).starts)[0] == accounts[-1].first_frame
            assert accounts[1].first_frame > accounts[0].last_frame
            await device.set_test_pulse(None)
            counts = await device.read_channel_counters(3)
            assert sorted(counts) == done.chips
            assert {s.units[a].registers.value("test_pulse") for a in s.units} == {0}
            for account, sent in zip(accounts, s.server.ring.accounts, strict=True):
                before = account.frames_rejected.get("before-start", 0)
                assert account.failure is None
                assert account.frames_received == account.frames_delivered + before == sent.frames_released
                assert account.events <= sent.events_released
                assert account.frames_missing <= sent.frames_dropped

            temperatures = await device.read_temperatures()
            assert {r.node for r in temperatures} == {f"asic:{p}.{u}.{c}" for p, u in BOARDS for c in range(8)}
            counters = {(r.name, r.node): r for r in await device.read_counters()}
            assert counters["upstream_rx_bad", "board:4.0"].value == 0
            assert counters["link_value", "link:3.0.trigger_in"].value == 2
            assert counters["link_value", "link:4.0.trigger_out_2_3"].value == 2 * 16 + 3
            assert (counters["port_tx", "port:3"].value or 0) > 0
            assert {r.quality for r in counters.values()} == {Quality.GOOD}
            assert device.link_account.replies_malformed == 0

            await device.set_hardware_trigger(TriggerSettings(coincidence_window_clk=3), [(0, 1)])
            told = [s.units[a].registers.value("hardware_trigger") for a in (*BOARDS, TRIGGER)]
            assert told == [0x713, 0x713, 0x713, 1]
            assert s.units[TRIGGER].registers.value("coincidence_window") == 3
            await device.start(lambda _: None)
            with pytest.raises(StateError):
                await device.set_hardware_trigger(None)
            await device.stop()
            assert s.units[TRIGGER].registers.value("hardware_trigger") == 1
            await device.set_hardware_trigger(None)
            assert {unit.registers.value("hardware_trigger") for unit in s.units.values()} == {0}
            with pytest.raises(LocalProtocolError, match="regions 0 and 99"):
                await device.set_hardware_trigger(TriggerSettings(), [(0, 99)])

    run(main)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"expected_febds": frozenset({*BOARDS, (3, 1)})}, "FEB/Ds missing: 3/1; not expected: none"),
        ({"expected_febds": frozenset(BOARDS[:2]), "bias": {}}, "FEB/Ds missing: none; not expected: 3/0"),
        ({"expected_trigger": (0, 0)}, "the trigger unit is 4/0 instead of 0/0"),
    ],
)
def test_units_that_are_missing_or_not_expected_are_named(tmp_path, given, words):
    async def main() -> None:
        async with system(tmp_path, **given) as s:
            with pytest.raises(WrongIdentityError, match=words):
                await s.device.connect()
            assert s.device.state is DeviceState.DISCONNECTED

    run(main)


def test_a_unit_that_is_not_there_is_named_by_what_should_be(tmp_path):
    async def main() -> None:
        async with system(tmp_path) as s:
            s.units[0, 1].is_silent = lambda _: True
            with pytest.raises(DeviceFaultError, match=r"unit 0/1 .*although unit 0/0 says that it is there"):
                await s.device.connect()
            s.units[0, 1].is_silent = lambda _: False
            s.units[0, 0].registers.preset("next_slave", 0)
            with pytest.raises(WrongIdentityError, match=r"there is no FEB/D 0/1, but bias:0\.1\.0\.0 is configured"):
                await s.device.connect()
            s.units[0, 0].registers.preset("next_slave", 1)
            s.units[3, 0].registers.preset("firmware_variant", 0x0001_0111_0000_0000)
            with pytest.raises(WrongIdentityError, match=r"exactly one trigger unit is needed among 4 units.*3/0, 4/0"):
                await s.device.connect()

    run(main)


@pytest.mark.parametrize(
    ("unit", "register", "value", "words"),
    [
        ((3, 0), "link_locked", 0, "unit 3/0 .*the link sync is not locked"),
        ((0, 1), "link_value", 0x8001, "unit 0/1 .*the link sync shows 0x8001 instead of 0x8000"),
        (TRIGGER, "link_value", 0x30, "unit 4/0 .*the link trigger_out_0_0 shows 0x0030 instead of 0x0000"),
        ((0, 1), "clock_locked", 0, "unit 0/1 .*the system clock is not locked"),
    ],
)
def test_a_clock_or_trigger_link_that_is_not_as_it_must_be_is_named(tmp_path, unit, register, value, words):
    async def main() -> None:
        async with system(tmp_path) as s:
            await s.device.connect()
            s.units[unit].registers.live(register, lambda: value)
            with pytest.raises(DeviceFaultError, match=words):
                await s.device.configure(EACH)
            assert s.device.state is DeviceState.FAULTED
            assert {power(s.units[a]) for a in BOARDS} == {0}, "nothing is powered without a common clock"

    run(main)


@contextlib.asynccontextmanager
async def staged(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> AsyncIterator[System]:
    monkeypatch.setattr("petqc_drivers.petsys.watch.UNIT_CHECK_S", 0.05)
    async with system(folder, **given) as s:
        await s.device.connect()
        await s.device.configure(EACH)
        yield s


def test_bias_goes_on_and_off_on_all_boards_whatever_happens_to_one(tmp_path, monkeypatch):
    async def main() -> None:
        async with staged(tmp_path, monkeypatch, tries=2) as s:
            device, boards = s.device, [s.units[a] for a in BOARDS]
            with pytest.raises(LimitError, match=r"bias:3\.0\.0\.31"):
                await device.bias_on(TARGETS | {OUTPUTS[3, 0][1]: Volts(41)})
            assert {power(board) for board in boards} == {POWER_FEM}, "nothing was sent to any board"
            await device.bias_on(TARGETS)
            assert device.bias_states == dict.fromkeys(BOARDS, OutputState.ON)
            assert {power(board) for board in boards} == {POWER_FEM | POWER_BIAS}
            readings = {r.node: r.value for r in device.bias_readings() if r.value is not None}
            assert readings == pytest.approx({str(channel): 30.0 for channel in TARGETS}, abs=2e-3)
            assert (await device.bias_off()).set_points_lowered == 3 * 32

            # A ramp that fails on one board ends off on all, also on one that was on before.
            await device.bias_on({OUTPUTS[0, 0][0]: Volts(20)})
            boards[2].is_silent = lambda datagram: datagram[16] == 2 and power(boards[2]) & POWER_BIAS != 0
            with pytest.raises(ReplyTimeoutError, match="unit 3/0"):
                await device.bias_on({c: v for c, v in TARGETS.items() if c.port == 3})
            assert device.bias_state is OutputState.OFF
            assert {power(board) for board in boards} == {POWER_FEM}

            # With one board dead, the others are off, and it is the one that is named.
            boards[2].is_silent = lambda _: False
            await device.bias_on(TARGETS)
            boards[1].is_silent = lambda _: True
            with pytest.raises(OffUnconfirmedError, match=r"unit 0/1 .*treat the outputs as live") as caught:
                await device.bias_off()
            assert "unit 0/0" not in str(caught.value)
            assert device.bias_states == dict.fromkeys(BOARDS, OutputState.OFF) | {(0, 1): OutputState.UNKNOWN}
            assert [power(board) & POWER_BIAS for board in boards] == [0, POWER_BIAS, 0]

            # Another driver finds them all, knowing none, and switches them off.
            boards[1].is_silent = lambda _: False
            other = PetsysDaqdReadout(PetsysDaqdSettings(socket=device.settings.socket, reply_timeout_s=2.0))
            assert (await other.bias_off()).state is OutputState.OFF
            assert {power(board) for board in boards} == {0}

    run(main)


def test_one_unit_that_is_lost_ends_the_acquisition_of_all(tmp_path, monkeypatch):
    async def main() -> None:
        async with staged(tmp_path, monkeypatch, tries=2) as s:
            await s.device.start(lambda _: None)
            await s.device.wait_failed(0.3)
            s.units[0, 1].is_silent = lambda _: True
            with pytest.raises(ReplyTimeoutError, match=r"unit 0/1 .*no reply to read"):
                await s.device.wait_failed(20)
            account = await s.device.stop()
            assert isinstance(account.failure, ReplyTimeoutError)
            assert account.frames_delivered > 0
            assert s.device.state is DeviceState.FAULTED
            s.units[0, 1].is_silent = lambda _: False
            assert (await s.device.bias_off()).state is OutputState.OFF
            await s.device.connect()
            assert s.device.state is DeviceState.IDENTIFIED

    run(main)
