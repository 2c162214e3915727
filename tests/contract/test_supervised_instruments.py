"""The daemon's supervisors with real simulated instruments: nobody delays another, off overtakes, loss and return."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING

import pytest
from tests.contract import fault_line as faults
from tests.contract.every_instrument import CASES
from tests.contract.served_instruments import of, served
from tests.contract.supervised import BY_KIND, POLL_S, Rig, running, supervising, table, until

from petqc_drivers import instrument
from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import HeldError, OvertakenError
from petqc_drivers.julabo import wire as julabo_wire
from petqc_drivers.limits import Volts
from petqc_simulators.boards.hamamatsu_c11204 import HamamatsuC11204Board
from petqc_simulators.boards.witness import judge
from petqcd.errors import BusyError, RefusedError, UnreachableError
from petqcd.instruments import supervisor as instrument_supervisor
from petqcd.instruments.command_queue import MOST_WAITING, Command, CommandQueue, Priority
from petqcd.instruments.metrics import READING_METRICS
from petqcd.instruments.state import InstrumentState
from petqcd.off.safe_state import SafeState
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from collections.abc import Callable

HV = "hamamatsu-c11204"
OTHERS = ("caen-a5203", "caen-a7585d", "julabo", "keithley-smu", "sr620")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet comes sooner, and so does the next try."""
    monkeypatch.setattr(instrument, "QUIET_S", 0.06)
    monkeypatch.setattr(instrument, "_FIRST_BACK_OFF_S", 0.05)
    monkeypatch.setattr(julabo_wire, "AFTER_IN_S", 0.0)


def off_board() -> HamamatsuC11204Board:
    return HamamatsuC11204Board(sensor_degc=lambda: 31.0, load_ma=lambda volts: volts / 50.0)


def test_every_kind_is_polled_and_told_nothing() -> None:
    async def session() -> None:
        async with running(HV, *OTHERS) as rig:
            await until(lambda: all(one.answers for one in rig.instruments))
            for case in CASES:
                one, board = rig[case.name], rig.lines[case.name].inner
                found = {reading.name: reading for reading in one.readings()}
                for name, (value, tolerance) in case.truth(board).items():
                    assert found[name].value == pytest.approx(value, abs=tolerance), (case.name, name)
                # Its wire side as it is after connecting: supplies that were on are adopted, and stay as they are.
                is_source = one.bias is not None
                assert one.state is (InstrumentState.ADOPTED if is_source else InstrumentState.ANSWERS)
                assert one.bias is (BiasState.ON if is_source else None)
                if case.name not in {"sr620", "caen-a5203"}:  # which are set up to measure
                    assert case.told(board) == case.told(case.board())
                assert {reading.unit for reading in one.readings()} <= set(READING_METRICS)
            document = json.loads(json.dumps(rig.instruments.documents(), allow_nan=False))
            assert [one["state"] for one in document].count("adopted") == 3
            assert rig.metric("petqc_device_up", HV) == 1.0
            labels = {"module": "0.0.1", "quantity": "temperature_sipm"}
            assert rig.metric("petqc_reading_celsius", HV, **labels) == pytest.approx(31.0, abs=0.01)
            amperes = rig.metric("petqc_reading_amperes", HV, module="0.0.1", quantity="bias_current")
            assert amperes == pytest.approx(1e-3 * of(rig[HV].readings(), "bias_current").value, rel=1e-6)  # type: ignore[operator]
            assert rig.metric("petqc_bias_state", HV) == 2.0
            assert rig.metric("petqc_reading_seconds", "sr620", module="", quantity="clock_skew") is not None

    asyncio.run(session())


class Polls:
    """When each instrument's polls were over."""

    def __init__(self, rig: Rig) -> None:
        self.at_s: dict[str, list[float]] = {}
        for one in rig.instruments:
            one._metrics.polled = self._noting(one.name, one._metrics.polled)  # type: ignore[method-assign]

    def _noting(self, name: str, original: Callable[..., None]) -> Callable[..., None]:
        def polled(*, failed: bool) -> None:
            original(failed=failed)
            if not failed:
                self.at_s.setdefault(name, []).append(time.monotonic())

        return polled

    async def during(self, seconds: float) -> dict[str, int]:
        """How many there were of each in the time that begins now."""
        begun_s = time.monotonic()
        await asyncio.sleep(seconds)
        return {name: sum(at_s >= begun_s for at_s in found) for name, found in self.at_s.items()}


def test_readings_that_nothing_renewed_are_the_very_same_for_a_run() -> None:
    """By that a run knows what is still said of the instruments at its end as it was at its beginning."""

    async def session() -> None:
        async with running(HV, "julabo") as rig:
            await until(lambda: all(one.answers for one in rig.instruments))
            before, after = rig.instruments.readings(), rig.instruments.readings()
            assert {one.node for one in before} == {"device:hamamatsu-c11204", "device:julabo"}
            is_same = {one.name: one is other for one, other in zip(before, after, strict=True)}
            assert is_same.pop("instrument_answers") is False  # that is asked now
            assert len(is_same) > 5
            assert all(is_same.values())
            await until(lambda: all(one not in before for one in rig.instruments.readings()))

    asyncio.run(session())


def test_hung_babbling_slow_and_lying_devices_delay_nobody() -> None:
    """Five of six misbehave, each in its own way; the polls of the sixth come as often as when all are well."""
    phase_s = 2.0

    async def session() -> None:
        async with running(HV, *OTHERS) as rig:
            polls = Polls(rig)
            await until(lambda: all(one.answers for one in rig.instruments))
            healthy = (await polls.during(phase_s))[HV]
            rig.lines["julabo"].is_frozen = True
            rig.lines["sr620"].fault = faults.babbled(1 << 16)
            rig.lines["keithley-smu"].fault = faults.split(0.05)
            rig.lines["caen-a7585d"].fault = faults.truncated(2)
            rig.lines["caen-a5203"].fault = faults.flipped(0, 3)
            beside = (await polls.during(phase_s))[HV]
            # 100 ms more on each poll would make a third fewer of them.
            assert healthy >= 5
            assert beside >= 0.8 * healthy, (beside, healthy)
            await until(lambda: not any(rig[name].answers for name in OTHERS))
            assert rig[HV].answers
            assert rig["julabo"].state is InstrumentState.FAULT
            assert rig["keithley-smu"].state is InstrumentState.UNKNOWN  # it was found on

    asyncio.run(session())


def test_a_lost_one_is_told_once_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrument, "STALE_AFTER_S", 0.6)
    monkeypatch.setattr(instrument_supervisor, "STALE_AFTER_S", 0.6)
    caplog.set_level(logging.INFO, "petqcd.instruments.supervisor")
    labels = {"module": "0.0.1", "quantity": "bias_voltage"}

    async def session() -> None:
        context = served(off_board())
        address = context.__enter__()
        rig = Rig([table(HV, address)], {})
        device = rig[HV]
        async with supervising(rig):
            await until(lambda: device.answers)
            assert device.state is InstrumentState.OFF
            context.__exit__(None, None, None)
            await until(lambda: device.state is InstrumentState.FAULT)
            assert rig.metric("petqc_device_up", HV) == 0.0
            await until(lambda: device.bias is BiasState.UNKNOWN)  # off is known as long as it is fresh
            assert all(r.value is None and r.quality is not Quality.GOOD for r in device.readings())
            assert rig.metric("petqc_reading_volts", HV, **labels) is None
            assert rig.metric("petqc_reading_quality", HV, **labels) == 2.0
            with pytest.raises(UnreachableError, match="poll now"):
                await device.submit(Command("poll now", lambda driver: driver.poll()))
            port = address.removeprefix("socket://")
            with served(HamamatsuC11204Board(serial="SIM00002"), f"tcp://{port}"):
                await until(lambda: "SIM00002" in device.detail)  # another one at its place: not taken for it
                assert device.state is InstrumentState.FAULT
                assert not device.answers
            with served(off_board(), f"tcp://{port}"):
                await until(lambda: device.answers)
                assert device.state is InstrumentState.OFF
                assert rig.metric("petqc_reading_volts", HV, **labels) == 0.0
        assert rig.metric("petqc_instrument_losses_total", HV) == 1.0

    asyncio.run(session())
    told = [(one.levelname, one.message) for one in caplog.records if one.name == "petqcd.instruments.supervisor"]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert told[1][1].endswith("answers again")


def test_off_overtakes_a_ramp_and_all_that_waits() -> None:
    board = off_board()

    async def session() -> None:
        with served(board) as address:
            limits = {"v_min": 41.0, "v_max": 57.0, "max_step_v": 4.0, "slew_v_per_s": 4.0, "most_current_ma": 2.0}
            rig = Rig([table(HV, address, bias=limits)], {})
            device = rig[HV]
            async with supervising(rig):
                await until(lambda: device.answers)
                on = asyncio.create_task(device.submit(Command("on", lambda driver: driver.on(Volts(56.0)), 60.0)))
                await until(lambda: board.is_on)
                waits = asyncio.create_task(device.submit(Command("read", lambda driver: driver.poll())))
                await asyncio.sleep(0)
                outcome = await device.off()
                assert outcome.state is SafeState.IN_SAFE_STATE
                assert not board.is_on
                assert (device.state, device.bias) == (InstrumentState.OFF, BiasState.OFF_CONFIRMED)
                for one in (on, waits):
                    with pytest.raises(OvertakenError):
                        await one
                await until(lambda: device.answers)
                await device.submit(Command("read", lambda driver: driver.poll()), Priority.PERMIT)
                assert device.state is InstrumentState.OFF

    asyncio.run(session())
    assert judge(board.witness.lines, highest_v=57.1, lowest_code=board.model.lowest_code) == []


def test_stop_holds_a_ramp_where_it_is_and_its_readings_stay_fresh() -> None:
    board = off_board()

    async def session() -> None:
        with served(board) as address:
            limits = {"v_min": 41.0, "v_max": 57.0, "max_step_v": 1.0, "slew_v_per_s": 8.0, "most_current_ma": 2.0}
            rig = Rig([table(HV, address, bias=limits)], {})
            device = rig[HV]
            async with supervising(rig):
                await until(lambda: device.answers)
                await device.submit(Command("on", lambda driver: driver.on(Volts(42.0)), 60.0))
                assert device.state is InstrumentState.ON
                ramp = asyncio.create_task(
                    device.submit(Command("ramp", lambda driver: driver.ramp(Volts(56.0)), 60.0))
                )
                await until(lambda: (of(device.readings(), "bias_voltage").value or 0.0) > 44.0)
                device.tick()
                assert device.state is InstrumentState.RAMPING
                device.stop()
                with pytest.raises(HeldError, match="held at"):
                    await ramp
                await until(lambda: device.state is InstrumentState.ON)
                assert 43.0 < board.output_v < 55.0
                await device.off()

    asyncio.run(session())


def test_off_needs_no_session_and_says_when_nobody_confirms() -> None:
    board = BY_KIND[HV].board()  # it is on

    async def session() -> None:
        with served(board) as address:
            rig = Rig([table(HV, address)], {})
            assert (await rig[HV].off()).state is SafeState.IN_SAFE_STATE  # nobody ever connected
            assert not board.is_on
            await rig[HV].driver.aclose()
        async with supervising(rig):
            await until(lambda: rig[HV].state is not InstrumentState.CONNECTING)
            outcome = await rig[HV].off()
            assert outcome.state is SafeState.UNKNOWN
            assert "plug" in outcome.told
            assert (rig[HV].state, rig[HV].bias) == (InstrumentState.UNKNOWN, BiasState.UNKNOWN)

    asyncio.run(session())


def test_what_is_measured_above_the_limit_is_off_and_tripped() -> None:
    board = BY_KIND[HV].board()

    async def session() -> None:
        with served(board) as address:
            rig = Rig([table(HV, address)], {})
            device = rig[HV]
            async with supervising(rig):
                await until(lambda: device.state is InstrumentState.ADOPTED)
                board.reference = 33000  # 59.8 V: it drifts by itself
                await until(lambda: device.state is InstrumentState.TRIPPED)
                assert not board.is_on
                assert device.driver.output is OutputState.OFF  # type: ignore[attr-defined]
                assert device.trip is not None
                assert "hard limit ends at" in device.detail

    asyncio.run(session())


def test_a_command_too_long_ends_at_its_deadline_and_the_others_go_on() -> None:
    async def session() -> None:
        async with running("julabo") as rig:
            device = rig["julabo"]
            await until(lambda: device.answers)
            with pytest.raises(UnreachableError, match="wait for ever: not done"):
                await device.submit(Command("wait for ever", lambda _: asyncio.Event().wait(), 0.2))
            assert await device.submit(Command("read", lambda driver: driver.query("in_pv_00"))) is not None
            with pytest.raises(RefusedError, match="no output"):
                await device.off()

    asyncio.run(session())


def test_petqc_failing_three_times_gives_up_that_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument_supervisor, "FAILURES_WITHIN_S", 60.0)
    tried: list[int] = []

    async def session() -> None:
        async with running("julabo", HV) as rig:
            await until(lambda: all(one.answers for one in rig.instruments))

            async def broken() -> None:
                tried.append(1)
                raise ZeroDivisionError

            monkeypatch.setattr(rig["julabo"].driver, "poll", broken)
            await until(lambda: len(tried) == 3)
            await asyncio.sleep(3 * POLL_S)
            assert rig["julabo"].state is InstrumentState.FAULT
            assert "ZeroDivisionError" in rig["julabo"].detail
            assert rig[HV].answers

    asyncio.run(session())
    assert len(tried) == 3


def test_the_queue_serves_by_rank_and_has_a_bound() -> None:
    async def work() -> None:
        queue = CommandQueue()
        polls = [queue.put(Command("diagnostics", asyncio.sleep), Priority.DIAGNOSTICS)]
        polls += [queue.put(Command(f"command {n}", asyncio.sleep), Priority.COMMAND) for n in range(MOST_WAITING - 1)]
        with pytest.raises(BusyError, match="32 requests wait"):
            queue.put(Command("diagnostics", asyncio.sleep), Priority.DIAGNOSTICS)
        permit = queue.put(Command("permit", asyncio.sleep), Priority.PERMIT)
        assert len(queue) == MOST_WAITING
        with pytest.raises(BusyError, match="sent away by permit"):
            await polls[0].done
        assert queue.get() is permit
        polls[1].done.cancel()  # nobody waits for it any more
        served = []
        while (request := queue.get()) is not None:
            served.append(request.command.what)
        assert served == [f"command {n}" for n in range(1, MOST_WAITING - 1)]

    asyncio.run(work())
