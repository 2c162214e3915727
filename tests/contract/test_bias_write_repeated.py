"""Bias writes whose answers are late or lost, or that are carried out late: set once more, read back, and no run ends.

A real socket, a relay that does it to messages for bias DACs only, and the simulated board as the judge of what its
outputs were told.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.fault_relay import DatagramRelay
from tests.contract.simulated_kinds import compile_kernels, keep_one_chip_of_each_module

from petqc_drivers.device import OutputState
from petqc_drivers.errors import VerifyError
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys import board as typed_access
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve, Shown, check_echo
from petqc_drivers.petsys.mezzanines import KINDS as MEZZANINES
from petqc_drivers.petsys.settings import AsicSettings, BiasSettings, PetsysUdpSettings
from petqc_drivers.petsys.spi import is_bias_output
from petqc_drivers.petsys.udp_readout import PetsysUdpReadout
from petqc_drivers.petsys.wire import REPLY_MARK, Function
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.boards.witness import judge
from petqc_simulators.profile import load_profile
from petqc_simulators.server import BoardServer

if TYPE_CHECKING:
    from collections.abc import Callable

REPLY_TIMEOUT_S = 0.15
LATE_S = REPLY_TIMEOUT_S + 0.05
EVERY = 10
"""One message of so many; with the one that is sent again, writes and read-backs take turns."""
WHAT = ("answer lost", "answer late", "carried out late", "never arrived")
STEP_V, LIMIT_V = 10.0, 31.0


class Relay(DatagramRelay):
    """Does something to one message of some for bias DACs; `done` is what."""

    def __init__(self, peer: tuple[str, int], every: int) -> None:
        super().__init__(peer, lambda data: data[:1] == bytes((REPLY_MARK,)))
        self._every = every
        self.messages = 0
        self.done: list[str] = []
        self._now = ""
        self._stalls_until_s = 0.0

    def _request(self, send: Callable[[bytes], object], data: bytes) -> None:
        self._now = ""
        if len(data) > 20 and data[16] == Function.SPI and is_bias_output(int.from_bytes(data[18:20], "big")):
            self.messages += 1
            if self.messages % self._every == 0:
                self._now = WHAT[len(self.done) // 2 % len(WHAT)]  # of a write, and of a read-back
                self.done.append(self._now)
        if self._now == "carried out late":  # and what comes meanwhile after it, as a board does that is busy
            self._stalls_until_s = time.monotonic() + LATE_S
        if self._now != "never arrived":
            self._due.append((max(time.monotonic(), self._stalls_until_s), send, data))

    def _reply(self, send: Callable[[bytes], object], data: bytes, stream: int | None = None) -> None:
        if self._now == "answer late":
            self._due.append((time.monotonic() + LATE_S, send, data))
        elif self._now != "answer lost":
            super()._reply(send, data, stream)


async def energised(relay: Relay, scanner: Scanner) -> OutputState:
    """Up, to two voltages one after the other, and off; what is known in between."""
    kind = MEZZANINES["BIAS_32P"]
    curve = BiasCurve(((kind.lowest_code, kind.nominal_volts(kind.lowest_code)), (65_535, kind.nominal_volts(65_535))))
    channels = [BiasChannel(0, 0, 0, number) for number in (0, 17)]
    bias = {
        one: BiasSettings(
            HardLimit(channel=str(one), v_min=Volts(1.2), v_max=Volts(LIMIT_V), max_step_v=STEP_V, slew_v_per_s=5000.0),
            curve,
        )
        for one in channels
    }
    device = PetsysUdpReadout(
        PetsysUdpSettings(
            host="127.0.0.1", udp_port=relay.address[1], bias=bias, settle_s=0.0, reply_timeout_s=REPLY_TIMEOUT_S
        )
    )
    try:
        await device.connect()
        await device.configure(AsicSettings())
        for volts in (30.3, 20.7):
            await device.bias_on(dict.fromkeys(channels, Volts(volts)))
            dacs = scanner.boards[0].mezzanines[0].dacs
            for code in (dacs[0].codes[0], dacs[1].codes[1]):
                assert abs(kind.nominal_volts(code) - volts) < 0.002
        state = device.bias_state
        await device.bias_off()
        assert device.bias_state is OutputState.OFF
    finally:
        await device.aclose()
    return state


@pytest.mark.parametrize("is_seen", [True, False], ids=["as it is", "taken for another code"])
def test_a_bias_write_that_was_late_or_lost_is_settled_by_reading_it_back(
    monkeypatch: pytest.MonkeyPatch,
    is_seen: bool,  # noqa: FBT001
) -> None:
    compile_kernels()
    scanner = Scanner(load_profile("bench", source="none"), seed=11)
    keep_one_chip_of_each_module(scanner.boards[0])
    server = BoardServer(scanner.boards[0], "127.0.0.1", 0)
    relay = Relay(server.address, EVERY if is_seen else 2)  # every first answer to a read-back, where it is not seen
    shown = []

    def check(*given: Any) -> Shown:
        found = check_echo(*given)
        shown.append(found)
        return found if is_seen or found is Shown.TAKEN else Shown.OTHER

    monkeypatch.setattr(typed_access, "check_echo", check)
    thread = threading.Thread(target=server.run, name="simulated board")
    thread.start()
    try:
        with relay.running():
            if is_seen:
                assert asyncio.run(energised(relay, scanner)) is OutputState.ON
                assert set(relay.done) == set(WHAT)
            else:
                with pytest.raises(VerifyError, match="the DAC shows"):
                    asyncio.run(energised(relay, scanner))
    finally:
        server.stop()
        thread.join(20.0)
        server.close()
        scanner.close()
    assert Shown.REPEATED in shown
    lines = scanner.boards[0].witness.lines
    sets = [line for line in lines if line["event"] == "set"]
    assert {line["supply"] for line in sets} == ({True, False} if is_seen else {False})
    lowest, slack_v = MEZZANINES["BIAS_32P"].lowest_code, 0.05  # no DAC is as nominal as its curve here
    assert judge(lines, highest_v=30.3 + slack_v, lowest_code=lowest, largest_step_v=STEP_V + slack_v) == []
    assert not any(line["on"] for line in lines[-1:] if line["event"] == "supply")
