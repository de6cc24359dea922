"""The SQLite side of the orders: files and format. `store` decides when, this module knows how.

Every `sqlite3` exception becomes a `RescindError` in `translating`.
"""

import contextlib
import os
import sqlite3
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec

from rescind.errors import OrdersUnavailable, StoreFormatError

APPLICATION_ID = 0x72736F31  # "rso1", in the header of the file, where `file` and we look for it

BUSY_TIMEOUT_S = 1.0
"""How long a guard's call may wait for the database. Writers take turns before they come here, and only a recovery
after a crash makes readers wait."""

Identity = tuple[int, int]
"""Device and inode."""


# --- files ---


def files(path: Path) -> tuple[Path, Path]:
    """The files that make up an open database: itself and its log."""
    return path, path.with_name(path.name + "-wal")


def identity_of(path: Path) -> Identity | None:
    """Which file is at `path`; None for none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Kind(msgspec.Struct, frozen=True):
    """A kind of file of ours: how it is made, and how it is told from others.

    Attributes:
        what: What it is, for people.
        application_id: In the header of the file.
        package: Where the SQL is that makes it.
        steps: The SQL files, the first of which makes format 1, and each further one the next format of it.
    """

    what: str
    application_id: int
    package: str
    steps: tuple[str, ...]

    @property
    def format(self) -> int:
        """The newest format that we know."""
        return len(self.steps)


ORDERS = Kind(
    "a store of orders", APPLICATION_ID, "rescind.switch", ("schema/001_orders.sql", "schema/002_measures.sql")
)


def create_if_missing(path: Path, kind: Kind = ORDERS) -> None:
    """Make an empty file of this kind; leave what is there alone. Durable on return.

    Raises: OrdersUnavailable.
    """
    if path.exists():
        return
    # It is made under another name and linked when it is complete: nobody ever opens half a store, and of two that
    # make one at the same time, one is the store and the other is gone.
    temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}.new")
    with translating(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            _fill(temporary, kind)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
        for folder in (path.parent, path.parent.parent):
            _sync(folder)


def connect(path: Path) -> tuple[sqlite3.Connection, str]:
    """A connection to the store, and the store's id. Never makes a file.

    Raises: StoreFormatError, sqlite3.Error.
    """
    connection = open_file(path)
    try:
        check_format(connection, path, ORDERS)
        upgrade(connection, ORDERS)
        (store_id,) = connection.execute("SELECT store_id FROM store").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection, store_id


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Generator[None]:
    """All of it or none."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.rollback()


@contextlib.contextmanager
def translating(path: Path) -> Generator[None]:
    """Let no exception of the driver or the system out.

    Raises: StoreFormatError for a file that is no database, OrdersUnavailable for everything else.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "sqlite3")
        if name == "SQLITE_NOTADB":
            raise StoreFormatError(f"{path} is no database, so no store of orders; it was left alone") from error
        remedy = _REMEDIES.get("_".join(name.split("_")[:2]), "look at the file and its folder")
        raise OrdersUnavailable(f"the orders in {path} cannot be used ({name}: {error}); {remedy}") from error
    except OSError as error:
        raise OrdersUnavailable(f"the orders in {path} cannot be used ({error.strerror or error})") from error


_REMEDIES = {
    "SQLITE_FULL": "its disk is full; make room",
    "SQLITE_READONLY": "it cannot be written; check the permissions of the file and its folder",
    "SQLITE_BUSY": "somebody holds its lock; see who has the file open",
    "SQLITE_CORRUPT": "the file is damaged; keep a copy, and restore a backup",
    "SQLITE_CANTOPEN": "check that the folder exists and may be written",
    "SQLITE_IOERR": "its disk reports an error; look at the system's log",
}


def open_file(path: Path) -> sqlite3.Connection:
    """A connection that syncs each commit. Never makes a file. Raises: sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # the store's lock sees to that
    )
    # FULL syncs the log at each commit: without it, a power cut takes back a stop that was acknowledged.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: past the drive's own cache
    return connection


def _fill(path: Path, kind: Kind) -> None:
    with contextlib.closing(open_file(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # stays with the file
        connection.executescript(
            f"BEGIN IMMEDIATE; {_schema(kind, 0)}"
            f"PRAGMA application_id = {kind.application_id}; PRAGMA user_version = {kind.format}; COMMIT;"
        )


def upgrade(connection: sqlite3.Connection, kind: Kind) -> None:
    """Bring a file of an older format to the newest one. All of it or nothing; what was there is kept.

    Who has it open with an older rescind goes on: formats only ever add columns with defaults, and tables.

    Raises: sqlite3.Error.
    """
    if _format(connection) == kind.format:
        return
    with transaction(connection, "BEGIN IMMEDIATE"):
        before = _format(connection)  # again: another process may have done it meanwhile
        for statement in _statements(_schema(kind, before)) if before < kind.format else ():
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(before, kind.format)}")


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _schema(kind: Kind, after: int) -> str:
    from importlib import resources  # 10 ms, for the first process of a store only

    package = resources.files(kind.package)
    return "".join(package.joinpath(name).read_text(encoding="utf-8") for name in kind.steps[after:])


def _statements(script: str) -> Iterator[str]:
    # One by one: `executescript` would commit the transaction first.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def check_format(connection: sqlite3.Connection, path: Path, kind: Kind) -> None:
    """Make sure that the file is of this kind, and of a format that we know.

    Raises: StoreFormatError, sqlite3.Error.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != kind.application_id:
        raise StoreFormatError(f"{path} is a database of something else, not {kind.what}; it was left alone")
    if version > kind.format:
        raise StoreFormatError(
            f"{path} was written by a newer rescind (format {version}, this one knows up to {kind.format}); "
            "it was left alone. Upgrade rescind, or name another store"
        )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
