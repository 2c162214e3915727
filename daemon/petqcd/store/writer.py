"""The one thread that owns the one connection that writes: every write, every checkpoint, nothing else does.

One writer avoids the WAL-reset race of SQLite before 3.51.3 and makes writes safe against cancellation: a task that is
cancelled only stops waiting for its future. Nothing is acknowledged that went to a file whose name is gone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import exc

from petqcd import clock
from petqcd.errors import StoreAwayError, StoreError
from petqcd.store.database import Trouble
from petqcd.store.marks import Marks, marks_of
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
MEND_FIRST_S, MEND_LATEST_S = 0.5, 30.0
"""Until a store that is in trouble is tried again; twice as long after each time, up to the latter."""


class Writer:
    """Runs functions on the writing connection, one after the other, each in its own durable transaction.

    Raises:
        StoreError: the history cannot be opened for writing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.writer_engine()
        self._queue: queue.Queue[tuple[Write, Future[Any], bool] | None] = queue.Queue(QUEUE_LENGTH)
        self._trouble: Trouble | None = None
        self._mend_s = 0.0
        self._mend_after_s = MEND_FIRST_S
        self._marks = Marks()
        self._unsure: list[tuple[Future[Any], Any]] = []
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
        self._files = database.files()
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
    def trouble(self) -> str:
        """Why nothing is acknowledged; empty: all is well."""
        trouble = self._trouble
        if trouble is None:
            return ""
        todo = "it is tried again" if trouble.may_pass else "restore a backup"
        return f"{self._database.name}: {trouble.what}: nothing is acknowledged any more; check the disk, {todo}"

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
        if self._closing:
            raise StoreError(f"{self._database.name}: the store is closed")
        if self._trouble is not None:
            raise self._refusal(self._trouble)
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
                is_ill = self._trouble is not None and self._trouble.may_pass
                wait_s = max(self._mend_s - clock.monotonic_s(), 0.0) if is_ill else CHECKPOINT_EVERY_S
                try:
                    job = self._queue.get(timeout=wait_s)
                except queue.Empty:
                    if is_ill:
                        self._mend()
                    else:
                        self._checkpoint()
                    continue
                if job is None:
                    if not self._has_its_files():
                        self._mend()
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
        if self._trouble is not None:
            future.set_exception(self._refusal(self._trouble))
            return
        try:
            with self._connection.begin():
                result = write(self._connection)
                marks = marks_of(self._connection)
        except exc.DBAPIError as error:
            trouble = self._judge(error)
            may_work_later = isinstance(error, exc.OperationalError) and (trouble is None or trouble.may_pass)
            kind = StoreAwayError if may_work_later else StoreError
            future.set_exception(kind(f"{self._database.name}: not stored: {error.orig}"))
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the one who waits
            future.set_exception(error)
        else:
            self._marks = marks
            if self._has_its_files():
                self._acknowledge(future, result)
            else:
                self._unsure.append((future, result))

    def _acknowledge(self, future: Future[Any], result: Any) -> None:
        self.last_commit_unix_s = clock.unix_s()
        future.set_result(result)

    def _has_its_files(self) -> bool:
        """Whether the files that are open still have their names; if not, what is written to them ends with them."""
        if self._database.files() == self._files:
            return True
        if self._trouble is None:
            self._ail(Trouble("files of it were removed or replaced while they were open", may_pass=True), after_s=0.0)
        return False

    def _maintain(self, work: Write, future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work(self._connection))
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the one who waits
            future.set_exception(error)

    def _refusal(self, trouble: Trouble) -> StoreError:
        return (StoreAwayError if trouble.may_pass else StoreError)(self.trouble)

    def _judge(self, error: exc.DBAPIError) -> Trouble | None:
        """Why nothing may be acknowledged after an error before this store was looked at; None: it may."""
        trouble = self._database.trouble(error)
        if trouble is not None:
            self._ail(trouble, after_s=MEND_FIRST_S)
        return trouble

    def _ail(self, trouble: Trouble, *, after_s: float) -> None:
        self._trouble = trouble
        self._mend_after_s = MEND_FIRST_S
        self._mend_s = clock.monotonic_s() + after_s
        log.error("%s", self.trouble)

    def _mend(self) -> None:
        """Close, open anew, bring to the disk what is there, and check it; only then are writes taken again."""
        try:
            self._make_good()
        except (exc.SQLAlchemyError, sqlite3.Error, StoreError, OSError) as error:
            self._mend_after_s = min(2 * self._mend_after_s, MEND_LATEST_S)
            self._mend_s = clock.monotonic_s() + self._mend_after_s
            log.warning("%s: not well yet, tried again in %g s: %s", self._database.name, self._mend_after_s, error)
        else:
            self._trouble = None
            log.warning("%s: well again, with all that was acknowledged", self._database.name)
        unsure, self._unsure = self._unsure, []
        for future, result in unsure:
            if self._trouble is None:
                self._acknowledge(future, result)
            else:
                future.set_exception(self._refusal(self._trouble))

    def _make_good(self) -> None:
        if self._database.files() == self._files:
            # What was not acknowledged is best dropped by the connection that knows it; it may be past that.
            with contextlib.suppress(exc.SQLAlchemyError, sqlite3.Error, StoreError):
                self._database.make_good(self._connection)
        else:
            self._database.rescue(self._connection, self._files)
        self._connection.close()
        self._engine.dispose()
        self._connection = self._engine.connect()
        self._database.make_good(self._connection)
        found = marks_of(self._connection)
        self._connection.rollback()
        self._files = self._database.files()
        if not found >= self._marks:
            self._trouble = Trouble(f"acknowledged records are gone ({found}, not {self._marks})", may_pass=False)
            raise StoreError(self.trouble)

    def _checkpoint(self, *, last: bool = False) -> None:
        self._checkpointed_s = clock.monotonic_s()
        if not self._has_its_files():
            return
        try:
            self._database.checkpoint(self._connection, last=last)
        except Exception as error:  # noqa: BLE001 - the next one may work; what is committed is in the log
            log.warning("%s: checkpoint did not work: %s", self._database.name, error)
