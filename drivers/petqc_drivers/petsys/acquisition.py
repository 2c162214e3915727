"""One acquisition, whatever the number of units: from its start to its exact account, with the first failure told."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from petqc_drivers.petsys.watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from petqc_drivers.errors import DriverError
    from petqc_drivers.petsys.link import ReadoutLink
    from petqc_drivers.petsys.receive import ReceiveAccount, Sink

_LOG = logging.getLogger(__name__)


class Acquisition:
    """Frames that flow from a readout to a consumer.

    Args:
        clock: The link that frames come by, to the unit whose time counts.
        units: The links to all units.
        limit_s: How long no frame may come.
        on_failure: Told once, when it ends early.

    Attributes:
        failure: What ended it early, None if nothing did.
        is_over: Whether it was stopped and accounted for.
    """

    def __init__(
        self,
        clock: ReadoutLink,
        units: Collection[ReadoutLink],
        limit_s: float,
        on_failure: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._units = units
        self._limit_s = limit_s
        self._on_failure = on_failure
        self._over = asyncio.Event()
        self._flowing = asyncio.Event()
        self._watchdog: asyncio.Task[None] | None = None
        self._account: ReceiveAccount | None = None
        self.failure: DriverError | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was stopped and accounted for."""
        return self._account is not None

    async def begin(self, sink: Sink, min_frame: int) -> None:
        """Let frames flow; they are watched from now on.

        Args:
            sink: See `PetsysReadout.start`.
            min_frame: Frames before it are dropped and counted.
        """
        await self._clock.start_data(sink, min_frame=min_frame, on_first=self._flowing.set, on_failure=self._fail)
        watching = watch(self._clock, self._units, self._limit_s, self._fail)
        self._watchdog = asyncio.create_task(watching, name=f"no-data watchdog {self._clock.name}")

    async def wait_flowing(self) -> None:
        """Wait until the first frames have come, or it has failed before; the watchdog ends this wait."""
        await self._flowing.wait()

    def _fail(self, error: DriverError) -> None:
        """The first failure is the one that is told."""
        if self.failure is None and not self._over.is_set():
            self.failure = error
            self._on_failure()
            self._over.set()
            self._flowing.set()
            _LOG.warning("%s", error)

    async def wait_failed(self, timeout_s: float | None) -> None:
        """Wait until it fails, and raise why; returns when it is stopped or the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._over.wait()
        except TimeoutError:
            return
        if self.failure is not None:
            raise self.failure

    async def account(self) -> ReceiveAccount:
        """Up to now while it runs, final once stopped."""
        return self._account if self._account is not None else await self._clock.account()

    async def stop(self) -> ReceiveAccount:
        """End the flow and return the exact account, with what ended it early; more than once the same.

        Raises:
            LinkLostError: If the sink blocks the receive thread, so that there is no account.
        """
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.wait({self._watchdog})
            self._watchdog = None
        if self._account is None:
            self._account = await self._clock.stop_data(self.failure)
        self._over.set()
        return self._account

    def abandon(self) -> None:
        """Let nobody wait any more."""
        self._over.set()
