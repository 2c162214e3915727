"""Each guard is taken out, and some generated histories must then end badly: histories that do not notice are the bug.

A history is one of `benchmarks/bias_histories.py`, watched for more than its judge sees: that nothing is energised that
nobody asked for, while tripped, before it was confirmed, or after off; and that off is only claimed where it is so.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from petqc_drivers import caen_a7585d, limits
from petqc_drivers.bias_source import BiasSource
from petqc_drivers.caen_a7585d import CaenA7585d, Register
from petqc_drivers.device import OutputState
from petqc_drivers.errors import DriverError, LimitError
from petqc_drivers.hamamatsu_c11204 import guard as c11204_guard
from petqc_drivers.hamamatsu_c11204 import wire
from petqc_drivers.hamamatsu_c11204.supply import HamamatsuC11204
from petqc_drivers.hamamatsu_c11204.wire import Compensation
from petqc_drivers.instrument import Identity
from petqc_drivers.keithley_smu import guard as keithley_guard
from petqc_drivers.keithley_smu import wire as keithley_wire
from petqc_drivers.keithley_smu.meter import KeithleySmu
from petqc_drivers.limits import SetOutput, Volts
from petqc_drivers.trip import Trip

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = spec_from_file_location("bias_histories", Path(__file__).parents[2] / "benchmarks" / "bias_histories.py")
assert SPEC is not None
assert SPEC.loader is not None
HISTORIES = module_from_spec(SPEC)
SPEC.loader.exec_module(HISTORIES)

MOST_HISTORIES = 120
AT_ONCE = 6


class Watched(HISTORIES.History):  # type: ignore[name-defined,misc]
    """A history that begins energised, and is watched more closely."""

    def __init__(self, loop: Any, seed: int) -> None:
        super().__init__(loop, seed)
        self.seen: list[str] = []
        self.asked_v = 0.0
        if self.kind == "a7585d":
            self.board.values[Register.RAMP_V_PER_S] = 20.0

    def _volts(self) -> Volts:
        rng = self.rng
        self.asked_v = rng.choice([*(rng.uniform(44, 54) for _ in range(6)), rng.uniform(35, 65), 1e3, float("nan")])
        return Volts(self.asked_v)

    async def run(self) -> None:
        with contextlib.suppress(DriverError):
            await self.do_on()
        await super().run()

    def _see_on(self) -> None:
        commanded = self.device.commanded
        if commanded is not None and not abs(commanded.value - self.asked_v) < 0.01:
            self.seen.append(f"{commanded} was set, {self.asked_v:g} V was asked for")
        if not self.board.is_on:
            self.seen.append("on is claimed, and it is off")
        if self.kind == "a7585d" and self.board.values[Register.MOST_V] > HISTORIES.MOST_V + 0.001:
            self.seen.append(f"on with the device's own limit at {self.board.values[Register.MOST_V]} V")

    async def do_on(self) -> None:
        was_tripped = bool(self.device.trip._causes)
        await super().do_on()
        if was_tripped:
            self.seen.append("energised while tripped")
        self._see_on()

    async def do_ramp(self) -> None:
        was = self.device.output
        await super().do_ramp()
        if was is not OutputState.ON:
            self.seen.append(f"a ramp of what was {was.value}")
        self._see_on()

    async def do_off(self) -> None:
        await super().do_off()
        if self.board.is_on:
            self.seen.append("off is claimed, and it is on")

    async def do_off_and_on_again(self) -> None:
        await self.do_off()
        await self.do_on()

    async def do_trip_and_on(self) -> None:
        """Too much current until it trips, and another try."""
        self.load["ma_per_v"] = 0.08
        await asyncio.sleep(5.0)
        with contextlib.suppress(DriverError):
            await self.device.poll()
        self.load["ma_per_v"] = 1e-3
        await self.do_on()

    async def do_off_and_store(self) -> None:
        """A set that could give more than it may, as often as not."""
        await self.device.off()
        if self.is_c11204:
            wanted = Compensation.of(voltage=Volts(self.rng.uniform(50, 57)), at_degc=25.0, mv_per_k=80.0)
            await self.device.store_compensation(wanted)

    async def do_off_meanwhile(self) -> None:
        """In the middle of a ramp, up from off or to another voltage."""
        if self.rng.random() < 0.5:
            await self.device.off()
        work = self.do_ramp if self.device.output is OutputState.ON else self.do_on
        told = len(self.board.witness.lines)
        task = asyncio.ensure_future(work())
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        with contextlib.suppress(DriverError):
            await self.device.off()
            told = len(self.board.witness.lines)
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        later = [line for line in self.board.witness.lines[told:] if line["event"] == "set" and line["volts"] > 41.0]
        if later:
            self.seen.append(f"after off it was told {later[0]['volts']} V")

    def wrong(self) -> list[str]:
        return [*super().wrong(), *self.seen]


def first_wrong(monkeypatch: pytest.MonkeyPatch, most: int = MOST_HISTORIES) -> list[str]:
    """What was wrong in the first histories in which anything was."""
    monkeypatch.setattr(HISTORIES, "History", Watched)
    for seed in range(1, most, AT_ONCE):
        _, wrong = HISTORIES.campaign(AT_ONCE, seed)
        if wrong:
            return list(wrong)
    return []


# -- each guard, taken out ----------------------------------------------------------------------------------------


def _guard_that_only_encodes(
    request: Volts, _limit: Any, *, channel: str, function: int = 0, encode: Any, decode: Any
) -> SetOutput:
    payloads = encode(request)
    return SetOutput(
        seal=limits._SEAL,
        channel=channel,
        function=function,
        payloads=payloads,
        commanded=decode(payloads)[0],
        role="voltage",
    )


def _every_guard(monkeypatch: pytest.MonkeyPatch, instead: Callable[..., SetOutput]) -> None:
    monkeypatch.setattr(c11204_guard, "guard", instead)
    monkeypatch.setattr(caen_a7585d, "guard", instead)
    monkeypatch.setattr(keithley_guard, "guard", instead)


def no_limit_check(monkeypatch: pytest.MonkeyPatch) -> None:
    _every_guard(monkeypatch, _guard_that_only_encodes)


def clamp_instead_of_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def clamped(work: Any) -> Any:
        async def to(self: Any, target: Volts) -> None:
            await work(self, Volts(max(self._limit.v_min.value, min(self._limit.v_max.value, target.value))))

        return to

    monkeypatch.setattr(BiasSource, "on", clamped(BiasSource.on))
    monkeypatch.setattr(BiasSource, "ramp", clamped(BiasSource.ramp))


def no_finite_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN then passes every clamp as the highest there is; of a number above, nothing is seen here."""
    monkeypatch.setattr(Volts, "__post_init__", lambda _self: None)
    clamp_instead_of_refuse(monkeypatch)
    see = Watched._see_on

    def of_nan_only(self: Any) -> None:
        if self.asked_v != self.asked_v:
            see(self)

    monkeypatch.setattr(Watched, "_see_on", of_nan_only)


def wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in every encoder: five percent too high."""
    below, code, level = wire.code_below, caen_a7585d._code, keithley_wire.level_code
    monkeypatch.setattr(wire, "code_below", lambda volts: below(1.05 * volts))
    monkeypatch.setattr(keithley_wire, "level_code", lambda volts: level(1.05 * volts))
    monkeypatch.setattr(caen_a7585d, "_code", lambda volts: code(1.05 * volts) if volts > 21.0 else code(volts))


def no_decode_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_scale(monkeypatch)

    def only_the_request(request: Volts, limit: Any, **how: Any) -> SetOutput:
        if not limit.v_min <= request <= limit.v_max:
            raise LimitError("outside")
        return _guard_that_only_encodes(request, limit, **how)

    _every_guard(monkeypatch, only_the_request)


def no_step_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(self: Any, target: Volts, since: int, _held: int) -> None:
        await self._set(self._guarded(target), since)

    monkeypatch.setattr(BiasSource, "_ramp_to", at_once)


def no_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was commanded is taken for what is."""

    async def arrived(_self: Any, _wanted: float, _since: int) -> None:
        return None

    async def at(self: Any) -> tuple[float, bool]:
        return (self._lowest_v if self.commanded is None else self.commanded.value), True

    monkeypatch.setattr(BiasSource, "_arrived", arrived)
    for driver in (HamamatsuC11204, CaenA7585d, KeithleySmu):
        monkeypatch.setattr(driver, "_at", at)


def no_trip_latch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trip, "check_armed", lambda _self: None)
    monkeypatch.setattr(Trip, "causes", ())


def off_does_not_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BiasSource, "_not_overtaken", lambda _self, _since: None)


def off_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def believed(self: Any) -> bool:
        with contextlib.suppress(DriverError):
            await self._off_exchange("HOF", wire.request("HOF"))
        return True

    monkeypatch.setattr(HamamatsuC11204, "_off_once", believed)


def no_adoption_check(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = BiasSource.ramp

    async def whatever_was_found(self: Any, target: Volts) -> None:
        if self.output is OutputState.ADOPTED:
            self.output = OutputState.ON
        await ramp(self, target)

    monkeypatch.setattr(BiasSource, "ramp", whatever_was_found)


def no_identity_check(monkeypatch: pytest.MonkeyPatch) -> None:
    async def anybody(self: Any) -> Identity:
        await self._look("HGN")
        return Identity("whoever")

    monkeypatch.setattr(HamamatsuC11204, "_identify", anybody)


def device_limits_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: Any) -> None:
        return None

    monkeypatch.setattr(CaenA7585d, "_check_before_on", nothing)


def compensation_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c11204_guard, "_check_compensated", lambda *_: None)


REMOVED = [
    no_limit_check,
    clamp_instead_of_refuse,
    no_finite_check,
    no_decode_back,
    no_step_limit,
    no_read_back,
    no_trip_latch,
    off_does_not_overtake,
    off_is_believed,
    no_adoption_check,
    no_identity_check,
    device_limits_not_written,
    compensation_not_counted,
]


@pytest.mark.parametrize("remove", REMOVED, ids=lambda remove: remove.__name__)
def test_histories_notice_a_guard_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, remove: Callable[[pytest.MonkeyPatch], None]
) -> None:
    remove(monkeypatch)
    assert first_wrong(monkeypatch), f"{MOST_HISTORIES} histories did not notice"


@pytest.mark.parametrize("bug", [None, wrong_scale], ids=["as it is", "with an encoder that is wrong"])
def test_with_every_guard_in_place_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch, bug: Any) -> None:
    if bug is not None:
        bug(monkeypatch)
    assert first_wrong(monkeypatch, 48) == []
