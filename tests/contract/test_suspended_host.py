"""After a suspension of the host what was read is old, nothing is energised on it, late answers are not believed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.contract.every_instrument import CASES
from tests.contract.interlocked_bench import bench
from tests.contract.supervised import running, until
from tests.contract.test_links import Peer, line
from tests.unit.test_driver_link import good, linked, read

from petqc_drivers.clock import Awake, monotonic_s
from petqc_drivers.device import OutputState, Quality
from petqc_drivers.errors import ReplyTimeoutError
from petqc_drivers.transport.tcp import SocketPort
from petqc_drivers.transport.threaded import ThreadedLink
from petqcd import clock
from petqcd.interlocks.bias_watch import BiasWatch

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S = 3600.0


class Host:
    """Its clocks. `sleep` moves those apart that a suspension moves apart, and takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._asleep_s, self._read = 0.0, time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", self._time)

    def _time(self, which: int) -> float:
        return self._read(which) + (self._asleep_s if which == time.CLOCK_BOOTTIME else 0.0)

    def sleep(self, seconds: float) -> None:
        self._asleep_s += seconds


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_the_clock_of_ages_goes_on_and_that_of_lateness_does_not(host: Host) -> None:
    aged_s, awake_s, awake = clock.monotonic_s(), clock.awake_s(), Awake()
    assert not awake.no_more
    host.sleep(HOUR_S)
    assert clock.monotonic_s() - aged_s >= HOUR_S
    assert monotonic_s() - aged_s >= HOUR_S
    assert clock.awake_s() - awake_s < HOUR_S
    assert awake.no_more
    assert not Awake().no_more


def test_no_instrument_looks_fresh_after_a_suspension(host: Host) -> None:
    async def session() -> None:
        async with running(*(case.name for case in CASES)) as rig:
            await until(lambda: all(one.answers for one in rig.instruments))
            host.sleep(HOUR_S)
            for one in rig.instruments:  # nothing was asked since
                found = [reading for reading in one.readings() if reading.quality is not Quality.ABSENT]
                assert found
                assert all(reading.value is None for reading in found), one.name
                assert all(reading.quality is Quality.BAD for reading in found), one.name
                assert one.document()["last_answer_age_s"] >= HOUR_S
            await until(lambda: all(_is_fresh(one.readings()) for one in rig.instruments))

    asyncio.run(session())


def _is_fresh(readings: tuple[object, ...]) -> bool:
    return any(getattr(one, "quality", None) is Quality.GOOD for one in readings)


def test_nothing_is_energised_on_what_was_known_before(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def session() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            await b.until(lambda: not b.daemon.watch.against("hv"), "every permit is given")
            host.sleep(HOUR_S)
            against = " ".join(b.daemon.watch.against("hv"))  # before anybody is asked again
            assert "device link is stale" in against
            assert "cooling is" in against
            await b.until(lambda: not b.daemon.watch.against("hv"), "every permit is given again")
            assert b.daemon.instruments["hv"].driver.output is OutputState.OFF  # type: ignore[attr-defined]
            assert not any(line["event"] == "supply" and line["on"] for line in b.supplies.hv.witness.lines)

    asyncio.run(session())


def test_what_is_on_and_does_not_answer_after_a_suspension_trips(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def session() -> None:
        async with bench(tmp_path, monkeypatch) as b:
            await b.until(lambda: not b.daemon.watch.against("hv"), "every permit is given")
            await b.post("/api/v1/bias/hv/on", volts=50.0)
            unit = b.daemon.watch.unit("hv")
            await b.until(lambda: unit.was_on and not unit.ruling.doubts, "it is on, without a doubt")
            host.sleep(HOUR_S)
            supervisor = b.daemon.instruments["hv"]
            look = BiasWatch._look_at_one
            look(b.daemon.watch, supervisor)
            assert any("device link is stale" in one for one in unit.ruling.doubts)
            host.sleep(HOUR_S)  # again, before it was asked
            look(b.daemon.watch, supervisor)
            assert any("device link is stale" in one for one in unit.ruling.trips)
            await b.until(lambda: not b.supplies.hv.is_on, "it is off")

    asyncio.run(session())


def test_an_answer_that_waited_while_the_host_slept_is_not_believed(host: Host) -> None:
    peer = Peer()

    async def session() -> None:
        link = ThreadedLink("dev", lambda timeout_s: SocketPort("127.0.0.1", peer.port, timeout_s))
        await link.open(1.0)
        link.is_in_step = True
        assert await link.exchange(b"one\n", line, 5.0) == b"re one\n"
        answer = peer.answer
        peer.answer = lambda asked: [host.sleep(HOUR_S), answer(asked)[0]][1:]
        with pytest.raises(ReplyTimeoutError, match="suspended"):
            await link.exchange(b"two\n", line, 2 * HOUR_S)  # its own deadline lets it pass
        assert not link.is_in_step
        peer.answer = answer
        assert await link.exchange(b"three\n", line, 5.0) == b"re three\n"
        await link.aclose()

    try:
        asyncio.run(session())
    finally:
        peer.close()


def test_a_readout_is_asked_again_where_the_host_slept_over_its_answer(host: Host) -> None:
    def sleeping(number: int, command: bytes) -> list[bytes]:
        if number == 1:
            host.sleep(HOUR_S)
        return good(number, command)

    async def session() -> None:
        async with linked(sleeping) as (peer, link):
            await read(link)
            assert len(peer.commands) == 2
            assert peer.commands[0][17:] == peer.commands[1][17:]
            assert link.last_good_s is not None
            assert monotonic_s() - link.last_good_s < HOUR_S

    asyncio.run(session())
