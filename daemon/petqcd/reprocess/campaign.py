"""Bundles handed out to workers of a Dask scheduler, and what comes back; whatever dies, each is told of once.

A worker that dies gives its bundle back to the scheduler, which hands it to another one. A bundle that one
worker after the other died of (four, unless the scheduler is configured otherwise), or that could not be read as often
as it was tried, is given up; the others go on.
"""

from __future__ import annotations

import queue
import socket
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petqcd import clock
from petqcd.errors import ConfigError, UnreachableError
from petqcd.reprocess.places import INSTALL
from petqcd.reprocess.work import Order, Outcome, analyse_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client, Future

CONNECT_S = 15.0
WORKERLESS_S = 120.0
"""How long a scheduler without a single worker is waited for."""
_LOOK_S = 2.0
RETRIES = 2


@dataclass(frozen=True, slots=True)
class Campaign:
    """How a campaign is done. retries: further tries of a bundle that could not be read."""

    retries: int = RETRIES
    workerless_s: float = WORKERLESS_S

    def run(self, client: Client, orders: Sequence[Order], told: Callable[[Outcome], None]) -> None:
        """Have every order done; told: called with each outcome as it comes, once for each order.

        Raises:
            UnreachableError: the scheduler is gone, or has had no worker for too long; what was told of is done.
        """
        done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        name = uuid.uuid4().hex[:12]  # another campaign on the same scheduler has nothing to do with this one
        waiting: dict[str, tuple[Order, Future[Any]]] = {}
        for number, order in enumerate(orders):
            key = f"petqc-reprocess-{name}-{number}"
            future = client.submit(analyse_one, order, key=key, retries=self.retries, pure=False)
            waiting[key] = order, future
            future.add_done_callback(done.put)
        try:
            self._collect(client, done, waiting, told)
        finally:
            client.cancel([future for _, future in waiting.values()], force=True)

    def _collect(
        self,
        client: Client,
        done: queue.SimpleQueue[Future[Any]],
        waiting: dict[str, tuple[Order, Future[Any]]],
        told: Callable[[Outcome], None],
    ) -> None:
        has_workers_s = clock.monotonic_s()
        while waiting:
            try:
                future = done.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._has_workers(client):
                    has_workers_s = clock.monotonic_s()
                elif clock.monotonic_s() - has_workers_s > self.workerless_s:
                    raise UnreachableError(
                        f"{_address(client)}: no worker for {self.workerless_s:g} s; {len(waiting)} are not done"
                    ) from None
                continue
            key = str(future.key)
            if key in waiting:
                order, _ = waiting[key]
                outcome = _outcome(client, order, future)
                del waiting[key]  # the scheduler may forget the result now
                told(outcome)

    @staticmethod
    def _has_workers(client: Client) -> bool:
        if client.status != "running":
            raise UnreachableError(f"{_address(client)}: the scheduler is gone")
        try:
            return bool(client.nthreads())
        except (OSError, RuntimeError) as error:
            raise UnreachableError(f"{_address(client)}: the scheduler is gone ({error})") from error


def _outcome(client: Client, order: Order, future: Future[Any]) -> Outcome:
    """What a task that is over has to say.

    Raises:
        UnreachableError: the scheduler is gone with what it knew.
    """
    from distributed import KilledWorker

    if future.status in {"cancelled", "lost"}:
        raise UnreachableError(f"{_address(client)}: the scheduler is gone, or has dropped what it was given")
    error = future.exception(timeout=CONNECT_S) if future.status == "error" else None
    if isinstance(error, KilledWorker):
        last = error.last_worker.address
        why = f"{error.allowed_failures + 1} workers died of it, {last} was the last: not enough memory?"
        return Outcome(order.bundle.url, "not analysed", why=why)
    if error is not None:
        return Outcome(order.bundle.url, "not analysed", why=f"{type(error).__name__}: {error}")
    try:
        result: Outcome = future.result(timeout=CONNECT_S * 4)
    except Exception as late:  # noqa: BLE001 - whatever stands between the result and us is told of like any failure
        return Outcome(order.bundle.url, "not analysed", why=f"its result did not come: {type(late).__name__}: {late}")
    return result


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler is not None else "the scheduler"


@contextmanager
def scheduler_at(address: str) -> Iterator[Client]:
    """A client of a scheduler elsewhere; its security is Dask's own configuration (`DASK_DISTRIBUTED__COMM__TLS__…`).

    Raises:
        UnreachableError: nothing answers there.
        ConfigError: the address is none, or the packages are missing.
    """
    distributed = _distributed()
    from distributed.comm.addressing import get_address_host_port

    try:
        with socket.create_connection(get_address_host_port(address, strict=True), CONNECT_S):
            pass  # Dask itself would go on trying
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"{address}: no scheduler answers ({error})") from error
    except ValueError as error:
        raise ConfigError(f"{address}: {error}") from error
    with client:
        yield client


@contextmanager
def local_cluster(workers: int, folder: Path) -> Iterator[Client]:
    """Worker processes of this machine, only for this campaign; folder: what they need for a while goes there.

    A Dask scheduler does what anybody tells it who reaches it. This one listens on loopback only, and only to those who
    have a certificate that was made for it a moment ago and exists in its memory alone. It serves no pages.
    """
    distributed = _distributed()
    import dask

    security = distributed.Security.temporary()
    settings: dict[str, Any] = {
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.worker.profile.enabled": False,  # it looks at the worker a hundred times a second
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="tls://127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(folder),
            security=security,
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster, security=security, set_as_default=False) as client,
    ):
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(f"petqc reprocess needs further packages: {INSTALL}") from error
    return distributed
