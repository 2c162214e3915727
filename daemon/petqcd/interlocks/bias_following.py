"""Lets bias follow the temperature where it is configured: a source of requests like any other, and the slowest.

Every change goes the way of a person's: operating limits, permits, audit, guard, ramp. It starts at what a person set.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from petqc_drivers.bias_source import BiasSource
from petqc_drivers.device import OutputState
from petqcd import clock
from petqcd.config import BiasSourceConfig
from petqcd.errors import DaemonError, NotFoundError
from petqcd.interlocks.following import Follower, FollowingSettings
from petqcd.security.access import daemon_itself

if TYPE_CHECKING:
    from petqcd.config.instruments import FollowingConfig
    from petqcd.instruments.collection import Instruments
    from petqcd.instruments.supervisor import InstrumentSupervisor
    from petqcd.interlocks.alarm_keeper import AlarmKeeper
    from petqcd.interlocks.bias_control import BiasControl
    from petqcd.metrics import Metrics
    from petqcd.security.audit import Audit

log = logging.getLogger(__name__)

TICK_S = 1.0
LEAST_V = 0.01
"""Less than this is not worth a command."""


class BiasFollowing:
    """Everything is called from the event loop; without configuration it does nothing."""

    def __init__(
        self, instruments: Instruments, control: BiasControl, audit: Audit, alarms: AlarmKeeper, metrics: Metrics
    ) -> None:
        self._instruments, self._control, self._audit = instruments, control, audit
        self._alarms, self._metrics = alarms, metrics
        self._followers: dict[str, Follower] = {}
        self._base_v: dict[str, float] = {}
        self._due_s: dict[str, float] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            for supervisor in self._instruments.bias_sources:
                wanted = _configured(supervisor)
                if wanted is not None:
                    await self._follow(supervisor, wanted)
                    self._tell(supervisor)

    def document(self, name: str) -> dict[str, Any] | None:
        """How a bias source follows, what its correction is, and why it stands still; None: it does not follow."""
        found = self._followers.get(name)
        if found is None:
            return None
        return {**asdict(found.settings), "correction_v": round(found.correction_v, 4), "frozen": found.frozen}

    def _tell(self, supervisor: InstrumentSupervisor) -> None:
        name, follower = supervisor.name, self._followers[supervisor.name]
        driver = supervisor.driver
        assert isinstance(driver, BiasSource)  # noqa: S101 - as in _follow
        stands_still = bool(follower.frozen) and name in self._base_v and driver.output is OutputState.ON
        self._alarms.condition("following", name, is_wrong=stands_still, detail=follower.frozen)
        self._metrics.set("petqc_bias_following", float(not follower.frozen), device=name)
        self._metrics.set("petqc_bias_following_correction_volts", follower.correction_v, device=name)

    async def _follow(self, supervisor: InstrumentSupervisor, wanted: FollowingConfig) -> None:
        name, now_s = supervisor.name, clock.monotonic_s()
        follower = self._followers.get(name)
        if follower is None:
            follower = self._followers[name] = Follower(
                FollowingSettings(
                    mv_per_k=wanted.mv_per_k,
                    reference_degc=wanted.reference_degc,
                    most_v=wanted.most_v,
                    v_per_min=wanted.v_per_min,
                )
            )
        follower.sample(self._readings(supervisor, wanted), now_s)
        base_v = self._control.set_by_people.get(name)
        if base_v != self._base_v.get(name):
            follower.restart()
            self._base_v.pop(name, None)
            if base_v is not None:
                self._base_v[name] = base_v
        driver = supervisor.driver
        assert isinstance(driver, BiasSource)  # noqa: S101 - whoever calls has asked; for the type checker
        commanded = driver.commanded
        if base_v is None or driver.output is not OutputState.ON or commanded is None:
            return
        if now_s < self._due_s.get(name, 0.0):
            return
        self._due_s[name] = now_s + wanted.every_s
        target_v = base_v + follower.step(now_s)
        if follower.frozen or abs(target_v - commanded.value) < LEAST_V:
            return
        try:
            async with self._audit.act(
                daemon_itself("temperature following"), "energise", name, old=commanded.value, new=target_v
            ):
                await self._control.follow(name, target_v)
        except DaemonError as error:
            follower.correction_v = commanded.value - base_v
            log.warning("%s does not follow the temperature: %s", name, error)

    def _readings(self, supervisor: InstrumentSupervisor, wanted: FollowingConfig) -> list[Any]:
        try:
            asked = self._instruments[wanted.device] if wanted.device is not None else supervisor
        except NotFoundError:
            return []
        return [one for one in asked.readings() if one.name == wanted.reading]


def _configured(supervisor: InstrumentSupervisor) -> FollowingConfig | None:
    config = supervisor.config
    return config.following if isinstance(config, BiasSourceConfig) else None
