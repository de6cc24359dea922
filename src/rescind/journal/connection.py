"""SQLite connections to a journal: how they are opened, and what their errors mean. Only here and in its users.

Every `sqlite3` exception that leaves this package has been through `translate`.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Generator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

from rescind.clock import Clock, IdSource
from rescind.errors import JournalUnavailable, RescindError, StoreFormatError

T = TypeVar("T")

APPLICATION_ID = 0x72736A31  # "rsj1", in the header of the file, where `file` and we look for it
FORMAT = 1

# SQLite's default, kept on purpose. Until its first checkpoint the log grows, and a sync of a growing file costs half
# as much again: one thread wrote 3,250 entries/s at 8,000 pages, 4,400 at 4,000, 5,200 at 1,000, all after its start.
_CHECKPOINT_PAGES = 1_000

_RETRY_S = 0.001  # A waiting process looks this often; SQLite's own 100 ms would starve it beside a busy writer.
_BUSY = {"SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_BUSY_TIMEOUT", "SQLITE_LOCKED"}
_REMEDIES = {
    "SQLITE_FULL": "its disk is full; make room",
    "SQLITE_READONLY": "it cannot be written; check the permissions of the file and its folder",
    "SQLITE_BUSY": "another process has held its lock for too long; look who has the file open",
    "SQLITE_LOCKED": "another connection has held its lock for too long; look who has the file open",
    "SQLITE_CORRUPT": "the file is damaged; keep it, run `rescind audit verify`, and restore a backup",
    "SQLITE_CANTOPEN": "it cannot be opened; check that its folder exists and may be written",
    "SQLITE_IOERR": "its disk reports an error; look at the system's log",
    "SQLITE_NOMEM": "the machine is out of memory",
    "SQLITE_TOOBIG": "an entry is larger than a database row may be",
}


def translate(error: sqlite3.Error, path: Path) -> RescindError:
    """What a driver's error means to our callers. Raise it `from` the error."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_NOTADB":
        return StoreFormatError(f"{path} is not a journal (not even a database); it was left alone. Name another file")
    family = "_".join(name.split("_")[:2])
    remedy = _REMEDIES.get(family, "nothing was recorded")
    return JournalUnavailable(f"the journal {path} is unavailable: {remedy} ({name or 'sqlite3'}: {error})")


@contextlib.contextmanager
def translating(path: Path) -> Generator[None]:
    """Let no `sqlite3` exception out."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the lock, so that trying again may help."""
    return getattr(error, "sqlite_errorname", "") in _BUSY


def retry_while_busy(action: Callable[[], T], *, clock: Clock, timeout_s: float) -> T:
    """Do it again until nobody holds the lock.

    Raises: sqlite3.Error, the last one, after `timeout_s` or if it is not about a lock.
    """
    deadline = clock.monotonic_s() + timeout_s
    while True:
        try:
            return action()
        except sqlite3.Error as error:
            if not is_busy(error) or clock.monotonic_s() >= deadline:
                raise
            clock.sleep(_RETRY_S)


def open_store(path: Path, *, clock: Clock, ids: IdSource, timeout_s: float) -> None:
    """Make sure that a journal of our format is at `path`; an absent or empty file becomes a new one.

    Raises:
        StoreFormatError: Something else is there. It was not touched.
        JournalUnavailable: The file cannot be made or opened.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What agents did to customers' data is nobody else's to read; SQLite gives its side files the same mode.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise JournalUnavailable(f"the journal {path} cannot be created: {error}") from error
    if _is_closed_to_us(path):
        _check_readable(path, timeout_s)
        return
    with translating(path), contextlib.closing(_connect(path, timeout_s=timeout_s)) as connection:
        if not check_format(connection, path):
            retry_while_busy(lambda: _create(connection, ids), clock=clock, timeout_s=timeout_s)
        elif not _has_every_index(connection):
            retry_while_busy(lambda: _add_indexes(connection), clock=clock, timeout_s=timeout_s)
        retry_while_busy(lambda: _use_wal(connection), clock=clock, timeout_s=timeout_s)


def _check_readable(path: Path, timeout_s: float) -> None:
    """A journal that we may only read is opened all the same: appends to it will fail, reads will not."""
    with translating(path), contextlib.closing(connect_reader(path, timeout_s=timeout_s)) as connection:
        if not check_format(connection, path):
            raise JournalUnavailable(f"the journal {path} is empty, and cannot be written; check the permissions")


def check_format(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether this is a journal (true) or an empty database (false). Only reads.

    Raises: StoreFormatError, if it is neither, or from a newer rescind.
    """
    # One reading of one moment: between two, another process may make the journal.
    connection.execute("BEGIN")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        is_empty = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    finally:
        connection.rollback()
    if application == APPLICATION_ID:
        if version > FORMAT:
            raise StoreFormatError(
                f"{path} was written by a newer rescind (format {version}, this one knows up to {FORMAT}); "
                "it was left alone. Upgrade rescind, or name another file"
            )
        return True
    if application or version or not is_empty:
        raise StoreFormatError(
            f"{path} is a database of something else, not a journal; it was left alone. Name another file"
        )
    return False


def schema() -> str:
    """The statements that make a journal of our format; a table that stands already is left as it is."""
    return "".join(schema_file(name) for name in ("001_journal.sql", "002_sealed.sql"))


@cache
def schema_file(name: str) -> str:
    """One file of the schema."""
    return resources.files("rescind.journal").joinpath("schema", name).read_text(encoding="utf-8")


def connect_writer(path: Path) -> sqlite3.Connection:
    """The connection that appends. It does not wait for locks: see `retry_while_busy`."""
    connection = _connect(path, timeout_s=0)
    try:
        # FULL syncs the log at each commit: without it, a power cut takes back what was acknowledged. Already this
        # reads the file, and meets the lock of a process that opens or closes it at the same moment.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, *, timeout_s: float) -> sqlite3.Connection:
    """A connection that can change nothing, and creates no file where there is none.

    Raises: JournalUnavailable, for a read-only copy whose log cannot be read without writing.
    """
    connection = _connect(path, timeout_s=timeout_s)
    if _is_closed_to_us(path):
        connection = _readable(connection, path, timeout_s)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _is_closed_to_us(path: Path) -> bool:
    """Whether we may not write there, as in an auditor's copy."""
    return not (os.access(path.parent, os.W_OK) and os.access(path, os.W_OK))


def _readable(connection: sqlite3.Connection, path: Path, timeout_s: float) -> sqlite3.Connection:
    """The connection, if it can read; else one that takes the file for unchangeable, if it is."""
    try:
        # Beside a living writer the side files are there, and reading works as ever.
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if getattr(error, "sqlite_errorname", "").split("_")[1:2] not in (["CANTOPEN"], ["READONLY"]):
            raise
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise JournalUnavailable(
                f"the journal {path} cannot be read here: what was written last stands in {log.name}, and reading that "
                "takes a folder that may be written. Copy the journal with its side files to such a folder"
            ) from error
        # SQLite wants to make the log even to read. Nothing is in it, and who could write the file is not here.
        return _connect(path, timeout_s=timeout_s, mode="ro&immutable=1")
    return connection


def _connect(path: Path, *, timeout_s: float, mode: str = "rw") -> sqlite3.Connection:
    # Never two threads at a time use one of our connections, but over its life several may.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )


def _create(connection: sqlite3.Connection, ids: IdSource) -> None:
    # One transaction: a process that dies here leaves an empty database, and two that meet here make one journal.
    journal_id = ids.new_id("jrn")
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE; {schema()}"  # noqa: S608  # put together from our own constants
            f"INSERT INTO journal SELECT '{journal_id}' WHERE NOT EXISTS (SELECT 1 FROM journal);"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
        )
    finally:
        if connection.in_transaction:
            connection.rollback()


def _has_every_index(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = 'entries_of_reviews'"
    return connection.execute(query).fetchone() is not None


def _add_indexes(connection: sqlite3.Connection) -> None:
    """A journal of our format from before tasks had notes: what it holds stays as it is, only look-ups change."""
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {schema()} DROP INDEX IF EXISTS entries_review; COMMIT;")
    finally:
        if connection.in_transaction:
            connection.rollback()


def _use_wal(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
