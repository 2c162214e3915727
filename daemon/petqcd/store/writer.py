"""The one thread that owns the one connection that writes: every write, every checkpoint, nothing else does.

One writer avoids the WAL-reset race of SQLite before 3.51.3 and makes writes safe against cancellation: a task that is
cancelled only stops waiting for its future.
"""

from __future__ import annotations

import logging
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import exc

from petqcd import clock
from petqcd.errors import StoreAwayError, StoreError
from petqcd.store.migrations import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from petqcd.store.database import Database

    Write = Callable[[Connection], Any]

log = logging.getLogger(__name__)

T = TypeVar("T")

QUEUE_LENGTH = 256
"""Writes that may wait; beyond it new ones are refused, which the caller is told."""
CHECKPOINT_EVERY_S = 60.0
CHECKPOINT_LOG_BYTES = 1000 * 4096


class Writer:
    """Runs functions on the writing connection, one after the other, each in its own durable transaction.

    Raises:
        StoreError: the history cannot be opened for writing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.writer_engine()
        self._queue: queue.Queue[tuple[Write, Future[Any], bool] | None] = queue.Queue(QUEUE_LENGTH)
        self._broken: str | None = None
        self._closing = False
        self._checkpointed_s = clock.monotonic_s()
        self.last_commit_unix_s = 0.0
        try:
            self._connection = self._engine.connect()
            try:
                prepare(self._connection, database)
            except BaseException:
                self._connection.close()
                raise
        except exc.DBAPIError as error:
            self._engine.dispose()
            raise StoreError(f"{database.name}: cannot be opened: {error.orig}") from error
        except BaseException:
            self._engine.dispose()
            raise
        self._thread = threading.Thread(target=self._work, name="store writer", daemon=False)
        self._thread.start()

    def submit(self, write: Callable[[Connection], T]) -> Future[T]:
        """Run a write in its own transaction; the future is done once the commit is on the disk.

        Raises:
            StoreError: the store is closed, broken or overloaded; the write was not taken.
        """
        return self._put(write, in_transaction=True)

    def maintain(self, work: Callable[[Connection], T]) -> Future[T]:
        """Run work on the connection itself, outside a transaction; it calls `let_others` every few milliseconds.

        Raises:
            StoreError: as for `submit`.
        """
        return self._put(work, in_transaction=False)

    def let_others(self) -> None:
        """From within maintenance: do the writes that wait.

        Raises:
            StoreError: the store is being closed; the maintenance ends.
        """
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job is None:
                self._queue.put(None)
                raise StoreError(f"{self._database.name}: the store is being closed")
            if job[2]:
                self._run(job[0], job[1])
            else:
                job[1].set_exception(StoreError(f"{self._database.name}: maintenance is going on already"))

    @property
    def is_alive(self) -> bool:
        """Whether its thread, which does every write, is at work."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Finish what was taken, checkpoint and close; safe to call twice."""
        self._closing = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _put(self, work: Callable[[Connection], T], *, in_transaction: bool) -> Future[T]:
        if self._closing or self._broken is not None:
            raise StoreError(self._broken or f"{self._database.name}: the store is closed")
        future: Future[T] = Future()
        try:
            self._queue.put_nowait((work, future, in_transaction))
        except queue.Full:
            raise StoreError(
                f"{self._database.name}: {QUEUE_LENGTH} writes are waiting; this one was refused"
            ) from None
        return future

    def _work(self) -> None:
        try:
            while True:
                try:
                    job = self._queue.get(timeout=CHECKPOINT_EVERY_S)
                except queue.Empty:
                    self._checkpoint()
                    continue
                if job is None:
                    self._checkpoint(last=True)
                    return
                work, future, in_transaction = job
                if in_transaction:
                    self._run(work, future)
                else:
                    self._maintain(work, future)
                if (
                    self._database.log_bytes > CHECKPOINT_LOG_BYTES
                    or clock.monotonic_s() - self._checkpointed_s > CHECKPOINT_EVERY_S
                ):
                    self._checkpoint()
        finally:
            self._connection.close()
            self._engine.dispose()

    def _run(self, write: Write, future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if self._broken is not None:
            future.set_exception(StoreError(self._broken))
            return
        try:
            with self._connection.begin():
                result = write(self._connection)
        except exc.DBAPIError as error:
            is_fatal = self._judge(error)
            may_work_later = isinstance(error, exc.OperationalError) and not is_fatal
            kind = StoreAwayError if may_work_later else StoreError
            future.set_exception(kind(f"{self._database.name}: not stored: {error.orig}"))
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the one who waits
            future.set_exception(error)
        else:
            self.last_commit_unix_s = clock.unix_s()
            future.set_result(result)

    def _maintain(self, work: Write, future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work(self._connection))
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the one who waits
            future.set_exception(error)

    def _judge(self, error: exc.DBAPIError) -> bool:
        """Whether nothing may be acknowledged any more after an error."""
        fatal = self._database.fatal(error)
        if fatal is not None:
            self._broken = (
                f"{self._database.name}: {fatal}: nothing is acknowledged any more; restart after checking the disk"
            )
            log.error("%s", self._broken)
        return fatal is not None

    def _checkpoint(self, *, last: bool = False) -> None:
        self._checkpointed_s = clock.monotonic_s()
        try:
            self._database.checkpoint(self._connection, last=last)
        except Exception as error:  # noqa: BLE001 - the next one may work; what is committed is in the log
            log.warning("%s: checkpoint did not work: %s", self._database.name, error)
