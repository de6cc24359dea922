"""The register of workers in PostgreSQL: one row each, an advisory lock that the server takes back, and NOTIFY as bell.

As in a folder (`recovery.workers`): the lock says that a worker lives, its beat that it is not stuck, and a ring is a
hint. A worker whose connection was lost takes its lock again as soon as the server can be reached; until then others
may take it for dead, and nothing is done twice for that.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rescind.clock import Clock
from rescind.database import SCHEMA
from rescind.database.address import Address
from rescind.database.connecting import connect, driver, translating
from rescind.database.migrating import Part, ensure
from rescind.errors import EngineUnavailable
from rescind.recovery.locks import ALONE, UNDO, Permits, take_permits
from rescind.recovery.workers import Seen, WorkerInfo

if TYPE_CHECKING:
    import psycopg

WORKERS = Part("workers", "0001", Path(__file__).parent / "versions")

_CHANNEL = "rescind_workers"
_WAIT_S = 0.5  # For notifications, before it is looked whether the entry has been closed.
_AGAIN_S = 0.5  # Between two attempts to reach the server again.
_TIMEOUT_S = 10.0
_PAUSE_S = 0.1  # Between two looks at a lock that somebody else holds.

_LOOK = """
SELECT w.worker_id, w.info, extract(epoch FROM clock_timestamp() - w.beat_at)::float8,
       EXISTS (SELECT 1 FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND (l.classid::bigint << 32) | l.objid::bigint = w.lock_number)
  FROM workers w ORDER BY w.worker_id
"""
_SAY = """
INSERT INTO workers (worker_id, lock_number, info) VALUES (%s, %s, %s)
ON CONFLICT (worker_id) DO UPDATE SET info = excluded.info, beat_at = clock_timestamp()
"""

T = TypeVar("T")


class DatabaseWorkers:
    """See `recovery.workers.Workers`. Its connection is made when it is first needed, and anew after it was lost."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None

    def enter(self, info: WorkerInfo, on_ring: Callable[[], None]) -> "DatabaseEntry":
        """See `Workers`."""
        return DatabaseEntry(self, info, on_ring)

    def look(self, *, now_us: int) -> list[Seen]:
        """See `Workers`. Silence is measured by the server's clock."""
        rows = self.do(lambda connection: connection.execute(_LOOK).fetchall())
        return [
            Seen(worker_id=worker_id, living=living, silent_s=max(0.0, silent_s), info=_info_of(info))
            for worker_id, info, silent_s, living in rows
        ]

    def remove(self, worker_id: str) -> None:
        """See `Workers`."""
        if any(each.worker_id == worker_id and not each.living for each in self.look(now_us=0)):
            self.forget(worker_id)

    def forget(self, worker_id: str) -> None:
        """Remove who has ended by itself, though the server may not have seen it yet. Raises: EngineUnavailable."""
        self.do(lambda connection: connection.execute("DELETE FROM workers WHERE worker_id = %s", (worker_id,)))

    def ring(self) -> None:
        """See `Workers`."""
        with contextlib.suppress(EngineUnavailable):
            self.do(lambda connection: connection.execute("SELECT pg_notify(%s, '')", (_CHANNEL,)))

    def close(self) -> None:
        """See `Workers`."""
        with self._lock:
            self._disconnect()

    def do(self, work: "Callable[[psycopg.Connection[Any]], T]") -> T:
        """Do what may be done twice, on a connection that lives. Raises: EngineUnavailable."""
        with self._lock, translating(self.address, EngineUnavailable, what="the register of workers"):
            was_there = self._connection is not None
            try:
                return work(self._connected())
            except driver().OperationalError:
                self._disconnect()
                if not was_there:
                    raise
                return work(self._connected())  # as after the server was started anew

    def _connected(self) -> "psycopg.Connection[Any]":
        if self._connection is None:
            self._connection = opened(self.address, name="workers")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class DatabaseEntry:
    """One worker's place in the register: see `recovery.workers.WorkerEntry`."""

    def __init__(self, register: DatabaseWorkers, info: WorkerInfo, on_ring: Callable[[], None]) -> None:
        self._register, self._info, self._on_ring = register, info, on_ring
        self._number = lock_number(f"worker {info.worker_id}")
        self._closed = threading.Event()
        with translating(register.address, EngineUnavailable, what="the register of workers"):
            session = self._begin()
        self.say(info)
        self._listener = threading.Thread(target=self._listen, args=(session,), name="rescind-bell", daemon=True)
        self._listener.start()

    def say(self, info: WorkerInfo) -> None:
        """Replace what is said of it. Raises: EngineUnavailable."""
        words = (info.worker_id, self._number, msgspec.json.encode(info).decode())
        self._register.do(lambda connection: connection.execute(_SAY, words))
        self._info = info

    def beat(self, *, now_us: int) -> None:
        """Say that it lives. Raises: EngineUnavailable."""
        self.say(self._info)

    def close(self) -> None:
        """Disappear."""
        self._closed.set()
        self._listener.join(timeout=10.0)
        with contextlib.suppress(EngineUnavailable):
            self._register.forget(self._info.worker_id)

    def _begin(self) -> "psycopg.Connection[Any]":
        session = opened(self._register.address, name="worker")
        try:
            session.execute("SELECT pg_advisory_lock(%s)", (self._number,))
            session.execute(f"LISTEN {_CHANNEL}")
        except BaseException:
            session.close()
            raise
        return session

    def _listen(self, session: "psycopg.Connection[Any]") -> None:
        while not self._closed.is_set():
            try:
                for _ in session.notifies(timeout=_WAIT_S, stop_after=1):
                    self._on_ring()
            except driver().Error:
                session.close()
                session = self._begin_again(session)
        # Let go of by name: the server ends a session some time after its socket, and until then it seems to live.
        with contextlib.suppress(driver().Error):
            session.execute("SELECT pg_advisory_unlock(%s)", (self._number,))
        session.close()

    def _begin_again(self, lost: "psycopg.Connection[Any]") -> "psycopg.Connection[Any]":
        while not self._closed.wait(_AGAIN_S):
            with contextlib.suppress(driver().Error, OSError):
                session = self._begin()
                self._on_ring()  # whatever was rung meanwhile was not heard
                return session
        return lost


class DatabaseLocks:
    """The locks of undos, see `recovery.locks`; each belongs to a connection of its own."""

    def __init__(self, address: Address, clock: Clock) -> None:
        self._address, self._clock = address, clock

    @contextlib.contextmanager
    def held(self, *, alone: bool, is_leaving: Callable[[], bool]) -> Generator[bool]:
        """See `Locks`."""
        with translating(self._address, EngineUnavailable, what="the lock"):
            connection = connect(self._address, name="lock of a share", statement_timeout_s=_TIMEOUT_S)
        try:
            yield self._take(connection, "pg_try_advisory_lock_shared", UNDO, is_leaving) and (
                not alone or self._take(connection, "pg_try_advisory_lock", ALONE, is_leaving)
            )
        finally:
            connection.close()

    @contextlib.contextmanager
    def permits(
        self, limits: Mapping[str, int], *, sharers: int, is_leaving: Callable[[], bool]
    ) -> Generator[Permits | None]:
        """See `Locks`."""
        if not limits:
            yield Permits({})
            return
        with translating(self._address, EngineUnavailable, what="the permits"):
            connection = connect(self._address, name="permits of a share", statement_timeout_s=_TIMEOUT_S)
        try:
            yield take_permits(
                limits,
                lambda name: self._is_taken(connection, "pg_try_advisory_lock", name),
                sharers=sharers,
                clock=self._clock,
                is_leaving=is_leaving,
            )
        finally:
            connection.close()

    def _take(self, connection: "psycopg.Connection[Any]", how: str, name: str, is_leaving: Callable[[], bool]) -> bool:
        while not is_leaving():
            if self._is_taken(connection, how, name):
                return True
            self._clock.sleep(_PAUSE_S)
        return False

    def _is_taken(self, connection: "psycopg.Connection[Any]", how: str, name: str) -> bool:
        with translating(self._address, EngineUnavailable, what="the lock"):
            row = connection.execute(f"SELECT {how}(%s)".encode(), (lock_number(name),)).fetchone()
        return row is not None and bool(row[0])


def opened(address: Address, *, name: str) -> "psycopg.Connection[Any]":
    """A connection to the register, with its table made or brought up to date. Raises: as `ensure`."""
    connection = connect(address, name=name, statement_timeout_s=_TIMEOUT_S)
    try:
        ensure(connection, address, WORKERS)
        connection.execute("SELECT set_config('search_path', %s, false)", (SCHEMA,))
    except BaseException:
        connection.close()
        raise
    return connection


def lock_number(name: str) -> int:
    """The advisory lock of this name: as in `database.locking`."""
    return int.from_bytes(hashlib.sha256(f"rescind {name}".encode()).digest()[:8], "big", signed=True)


def _info_of(text: str) -> WorkerInfo | None:
    try:
        return msgspec.json.decode(text, type=WorkerInfo)
    except msgspec.DecodeError:
        return None
