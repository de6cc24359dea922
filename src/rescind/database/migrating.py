"""The tables of ours in a database, brought up to date by Alembic: each part of the store has revisions of its own.

A part is a folder with revisions (`versions`, in Alembic's form, ids from `0001` upwards) and a table that says where
the database is: `rescind.<part>_version`. Looking whether anything is to be done takes one query and no Alembic.

MG1. All revisions that are missing are applied in one transaction, or none.
MG2. Of several programs that come at once, one applies them, and the others find them applied.
MG3. A database of a newer rescind is left alone, and refused.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.database import SCHEMA
from rescind.database.address import Address
from rescind.errors import StoreFormatError, UsageError

if TYPE_CHECKING:
    import psycopg

_LOCK = 0x72736364  # "rscd": the advisory lock of whoever applies revisions

_alembic = threading.Lock()
"""Alembic keeps what it is about in its modules: one thread at a time, whichever part it is for."""


class Part(msgspec.Struct, frozen=True):
    """A part of a store: its name, the newest revision that this rescind knows, and the folder of its revisions."""

    name: str
    newest: str
    versions: Path

    @property
    def version_table(self) -> str:
        """The table that says where a database is."""
        return f"{self.name}_version"


def ensure(connection: "psycopg.Connection[Any]", address: Address, part: Part, *, schema: str = SCHEMA) -> None:
    """Bring the part's tables up to date, if they are not (laws MG1 to MG3).

    Args:
        connection: To the database, outside any transaction.
        address: Where it is.
        part: Whose tables.
        schema: Where they stand. Revisions find it as the first one on the search path.

    Raises: StoreFormatError, if a newer rescind made them; UsageError, if Alembic is needed and not installed;
        psycopg.Error.
    """
    if _revision(connection, part, schema) != part.newest:
        _refuse_newer(connection, address, part, schema)
        _upgrade(address, part, schema)


def exists(connection: "psycopg.Connection[Any]", part: Part, *, schema: str = SCHEMA) -> bool:
    """Whether the database has tables of this part, of whatever revision."""
    return _revision(connection, part, schema) is not None


def _revision(connection: "psycopg.Connection[Any]", part: Part, schema: str) -> str | None:
    there = connection.execute("SELECT to_regclass(%s)", (f"{schema}.{part.version_table}",)).fetchone()
    if there is None or there[0] is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {schema}.{part.version_table}".encode()).fetchone()  # noqa: S608  # names only
    return None if row is None else str(row[0])


def _refuse_newer(connection: "psycopg.Connection[Any]", address: Address, part: Part, schema: str) -> None:
    revision = _revision(connection, part, schema)
    if revision is not None and revision > part.newest:
        raise StoreFormatError(
            f"the {part.name} in {address} were written by a newer rescind (revision {revision}, this one knows up to "
            f"{part.newest}); they were left alone. Upgrade rescind, or name another database"
        )


def _upgrade(address: Address, part: Part, schema: str) -> None:
    try:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError
        from sqlalchemy import create_engine, pool, text
        from sqlalchemy.exc import DBAPIError
    except ImportError as missing:
        raise UsageError(
            f"the tables in {address} are to be made, and that needs Alembic ({missing}): "
            "pip install 'rescind[postgres]'"
        ) from missing
    from rescind.database.connecting import connect

    config = Config()
    config.set_main_option("script_location", _escaped(Path(__file__).parent / "migrations"))
    config.set_main_option("version_locations", _escaped(part.versions))
    config.set_main_option("path_separator", "os")

    def opened() -> "psycopg.Connection[Any]":
        connection = connect(address, name="migration")
        connection.autocommit = False  # SQLAlchemy thinks that it begins the transactions
        return connection

    engine = create_engine("postgresql+psycopg://", creator=opened, poolclass=pool.NullPool)
    try:
        with _alembic, engine.begin() as connection:
            # Held to the end of the transaction: who comes second finds the revisions applied.
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            # Temporary tables come last: else anybody could put one in the place of ours, and functions would use it.
            connection.execute(text(f"SET LOCAL search_path TO {schema}, pg_temp"))
            config.attributes.update(connection=connection, version_table=part.version_table, schema=schema)
            command.upgrade(config, "head")
    except CommandError as error:  # a newer rescind came in between
        raise StoreFormatError(f"the {part.name} in {address} cannot be brought up to date: {error}") from error
    except DBAPIError as error:
        if isinstance(error.orig, Exception):
            raise error.orig from None
        raise
    finally:
        engine.dispose()


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")  # for the interpolation of configuration files


def run_script(connection: Any, path: Path) -> None:
    """Run a file of SQL within a revision: `run_script(op.get_bind(), path)`."""
    connection.connection.driver_connection.execute(path.read_text(encoding="utf-8").encode())
