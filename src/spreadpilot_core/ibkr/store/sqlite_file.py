"""One SQLite file used off the event loop, one whole transaction at a time.

A transaction is a plain function that runs in the file's one thread. A caller that is cancelled leaves it running to
its end, so none is ever left half-done or open, and the next one simply queues behind it. (With an awaitable per
statement, as `aiosqlite` has them, a cancelled caller would leave a transaction open in everybody's connection.)

Every write is durable when it returns: write-ahead log, `synchronous=FULL`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError

T = TypeVar("T")
Transaction = Callable[[sqlite3.Connection], T]

BUSY_WAIT = 10.0
"""Seconds that a transaction waits for another process's, which takes milliseconds."""


class SqliteFile:
    """The file at `path`, made with mode 0600 in a directory of mode 0700."""

    def __init__(self, path: Path, *, layouts: Sequence[str], cure: str, busy_wait: float = BUSY_WAIT) -> None:
        """`layouts` are statements: those of the first layout of the file, then what leads from each to the next."""
        self.path = path
        self._layouts = layouts
        self._cure = cure
        self._busy_wait = busy_wait
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._fault: StoreUnavailableError | None = None
        """Why there is no connection."""

    async def open(self) -> None:
        """Open or make the file and check it. Raises `StoreUnavailableError`; may be called again."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.path.name)
        try:
            await self._in_thread(self._open)
        except StoreUnavailableError as error:
            self._fault = error
            raise

    async def close(self) -> None:
        """Wait for what runs, then close; safe to call twice and when never opened."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._disconnect)
            await asyncio.shield(asyncio.to_thread(thread.shutdown))

    async def read(self, transaction: Transaction[T]) -> T:
        """Run a transaction that writes nothing. Raises `StoreUnavailableError`."""
        return await self._in_thread(lambda: self._transact("BEGIN", transaction))

    async def write(self, transaction: Transaction[T]) -> T:
        """Run a transaction that excludes every other writer, of any process. Raises `StoreUnavailableError`."""
        return await self._in_thread(lambda: self._transact("BEGIN IMMEDIATE", transaction))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise StoreUnavailableError(f"{self.path} is not open.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, work)

    # ------------------------------------------------------------------ in the thread

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.DatabaseError as error:
            raise self._unavailable(error) from error
        except OSError as error:
            raise StoreUnavailableError(f"{self.path} can't be used: {error.strerror or error}.") from error
        except (OverflowError, UnicodeError, RecursionError, sqlite3.InterfaceError) as error:
            raise StoreDamagedError(f"{self.path} can't take or give one value: {error!s:.200}.") from error

    def _unavailable(self, error: sqlite3.DatabaseError) -> StoreUnavailableError:
        if _name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return self.damaged(str(error))
        if _is_busy(error):
            return StoreUnavailableError(f"{self.path} has been locked by another program for {self._busy_wait:g} s.")
        return StoreUnavailableError(f"{self.path} can't be used: {error}.")

    def damaged(self, what: str) -> StoreDamagedError:
        """The error for content that can't be understood."""
        return StoreDamagedError(f"{self.path} is damaged: {what}.", hint=self._cure)

    def _open(self) -> None:
        if self._connection is not None and self._is_in_place():
            return
        self._disconnect()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = self._connected_within(self._busy_wait)
        self._inode = self.path.stat().st_ino

    def _connected_within(self, seconds: float) -> sqlite3.Connection:
        """Connect; SQLite itself doesn't wait when several processes open a new file at the same moment."""
        until = time.monotonic() + seconds
        while True:
            try:
                return self._connected()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._busy_wait, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._check(connection)
            self._lay_out(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        for (verdict,) in connection.execute("PRAGMA quick_check(1)"):
            if verdict != "ok":
                raise self.damaged(verdict)

    def _lay_out(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        known = len(self._layouts)
        if found > known:
            raise StoreDamagedError(
                f"{self.path} was written by a newer version of the gateway manager (layout {found}, known {known}).",
                hint="Run that version, or a newer one.",
            )
        for layout in self._layouts[found:]:
            for statement in layout.split(";"):
                connection.execute(statement)
        if found < known:
            connection.execute(f"PRAGMA user_version={known}")
        connection.execute("COMMIT")

    def _is_in_place(self) -> bool:
        """Whether the path still names the file that is open: one that was moved away keeps nothing for anybody."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _transact(self, begin: str, transaction: Transaction[T]) -> T:
        if self._connection is not None and not self._is_in_place():
            self._disconnect()
            self._fault = None
        if (connection := self._connection) is None:
            if self._fault is not None:
                raise type(self._fault)(self._fault.what, hint=self._fault.hint)
            raise StoreUnavailableError(
                f"{self.path} is gone, or is another file than the one that was opened.",
                hint="Put it back and restart the manager.",
            )
        connection.execute(begin)
        try:
            outcome = transaction(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return outcome

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error), closing(connection):
                pass


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or ""


def _is_busy(error: sqlite3.Error) -> bool:
    return _name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
