"""Change sets on PostgreSQL: functions and triggers of `schema/changes_postgres.sql`, called from here."""

import re
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.resources import files
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from rescind.compensation.effects.changes import Settled, Standing, never_handed_out, stray_writes
from rescind.compensation.effects.sql_transaction import is_transient, roll_back
from rescind.errors import Conflict, NothingChanged, Transient, UsageError
from rescind.guard.effect import Call
from rescind.model.step import canonical_json

_BEGIN = sa.text("SELECT rescind_changes.begin_set(:run, :step, :action, :key, :tables)")
_SETTLE = sa.text("SELECT rel, inserted, updated, deleted, digest FROM rescind_changes.settle(:number, :ignored)")
_QUALIFY = sa.text(
    "SELECT w.name, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS qualified "
    "FROM unnest(CAST(:names AS text[])) w(name) LEFT JOIN pg_class c ON c.oid = to_regclass(w.name) "
    "LEFT JOIN pg_namespace n ON n.oid = c.relnamespace"
)
_ROLE = re.compile(r"[^\x00-\x1f]{1,63}")

CONFLICT, NOT_INSTALLED, STRAY, ENDED, BUSY, UNCOUNTED = "RSC01", "RSC02", "RSC03", "RSC04", "RSC05", "RSC06"
"""What the functions raise; see the schema."""


class PostgresChanges:
    """See `ChangeStore`. A row's version is the transaction that wrote it."""

    sees_aba = True

    def __init__(self, engine: Engine, tables: tuple[str, ...], ignore: tuple[str, ...]) -> None:
        self._engine, self._tables, self._ignore = engine, tables, ignore
        self._names: dict[str, str] | None = None
        self._lock = threading.Lock()

    def begin(self, call: Call) -> "PostgresSet":
        """See `ChangeStore`. Raises: UsageError, if a table is not guarded as it is now."""
        names = self._qualified()
        connection = self._engine.connect()
        try:
            if getattr(connection.connection.dbapi_connection, "autocommit", False):
                raise UsageError(
                    f"the engine {self._engine.url!r} has the isolation level AUTOCOMMIT, so it has no transactions; "
                    "leave that out"
                )
            with _understood():
                number = connection.execute(
                    _BEGIN,
                    {
                        "run": call.run.run_id,
                        "step": call.step_id,
                        "action": call.action,
                        "key": call.idempotency_key,
                        "tables": [names[name] for name in self._tables],
                    },
                ).scalar_one()
            return PostgresSet(self, connection, number, [names[name] for name in self._ignore])
        except BaseException:
            connection.close()
            raise

    def database(self) -> str:
        """See `ChangeStore`."""
        return str(self._ask("SELECT rescind_changes.database_id()"))

    def look(self, number: int, *, rows: bool) -> Standing:
        """See `ChangeStore`."""
        question = "SELECT rescind_changes.look(:number)" if rows else "SELECT rescind_changes.stands(:number)"
        return cast("Standing", self._ask(question, number=number))

    def put_back(self, number: int, goal: Literal["undone", "done"]) -> None:
        """See `ChangeStore`."""
        try:
            with _understood(), self._engine.begin() as connection:
                connection.execute(
                    sa.text("SELECT rescind_changes.put_back(:number, :goal)"), {"number": number, "goal": goal}
                )
        except exc.IntegrityError as error:
            raise Conflict(f"the rows cannot be put back, so nothing was changed: {error.orig}") from error
        except exc.SQLAlchemyError as error:
            if is_transient(error):
                raise Transient(str(error)) from error
            raise

    def install(self, agents: Sequence[str], undoers: Sequence[str]) -> None:
        """See `ChangeStore`."""
        script = self.install_sql(agents, undoers)
        with _understood(), self._engine.begin() as connection:
            # By the driver, and without parameters: several statements, and per cent signs that stand for themselves.
            connection.execution_options(no_parameters=True).exec_driver_sql(script)

    def install_sql(self, agents: Sequence[str], undoers: Sequence[str]) -> str:
        """See `ChangeStore`."""
        schema = (files("rescind.compensation.effects") / "schema" / "changes_postgres.sql").read_text(encoding="utf-8")
        names = self._qualified(fresh=True)
        guards = "".join(f"SELECT rescind_changes.guard_table({_text(names[name])});\n" for name in self._tables)
        admitted = f"SELECT rescind_changes.admit({_roles(agents)}, {_roles(undoers)});\n"
        alone = "SELECT pg_advisory_xact_lock(hashtextextended('rescind install', 0));\n"
        return f"SET LOCAL client_min_messages = warning;\n{alone}{schema}\n{guards}{admitted}"

    def purge(self, older_than: timedelta) -> int:
        """See `ChangeStore`."""
        with self._engine.begin() as connection:
            done = connection.execute(
                sa.text("SELECT rescind_changes.purge(clock_timestamp() - CAST(:age AS interval))"), {"age": older_than}
            )
            return int(done.scalar_one())

    def stands_anew(self, number: int) -> Standing:
        """Where it stands, asked over another connection of the engine."""
        return self.look(number, rows=False)

    def _ask(self, question: str, **parameters: Any) -> Any:
        with _understood(), self._engine.connect() as connection:
            return connection.execute(sa.text(question), parameters).scalar_one()

    def _qualified(self, *, fresh: bool = False) -> dict[str, str]:
        with self._lock:
            if self._names is None or fresh:
                with self._engine.connect() as connection:
                    rows = connection.execute(_QUALIFY, {"names": [*self._tables, *self._ignore]})
                    found = {str(row.name): row.qualified for row in rows}
                missing = [name for name, full in found.items() if full is None]
                if missing:
                    raise UsageError(f"the database {self._engine.url!r} has no table {', '.join(missing)}")
                self._names = found
            return self._names


class PostgresSet:
    """See `OpenSet`."""

    def __init__(self, store: PostgresChanges, connection: Connection, number: int, ignored: list[str]) -> None:
        self._store, self.connection, self._ignored = store, connection, ignored
        self.number = number
        self._ending = self._interfered = False
        for name in ("commit", "rollback"):
            event.listen(connection, name, self._refuse_to_end)

    def settle(self, *, handed_out: bool) -> Settled:
        """See `OpenSet`."""
        try:
            if not handed_out:
                self._roll_back()
                raise never_handed_out()
            if self._interfered:
                self._roll_back()
                raise UsageError("the tool ended the transaction of its effect; leave that to the effect")
            rows = self._net()
            self._ending = True
            self.connection.commit()
        finally:
            self._close()
        tables = {row.rel: {"inserted": row.inserted, "updated": row.updated, "deleted": row.deleted} for row in rows}
        digests = sorted((row.rel, row.digest) for row in rows)
        return Settled(tables=tables, digest=_digest(digests))

    def abandon(self) -> bool:
        """See `OpenSet`."""
        self._roll_back()
        self._close()
        try:  # the connection may be gone; what became of its transaction is asked over another
            return self._store.stands_anew(self.number) == "absent"
        except (exc.SQLAlchemyError, UsageError):
            return False

    def _net(self) -> Sequence[Any]:
        try:
            # What is deferred to the commit happens now, or the change set would not have it. As the tool's own role.
            self.connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
            with _understood():
                parameters = {"number": self.number, "ignored": self._ignored}
                return self.connection.execute(_SETTLE, parameters).all()
        except exc.IntegrityError as error:
            self._roll_back()
            raise NothingChanged(f"what the tool did was rolled back: {error.orig}") from error
        except BaseException:
            self._roll_back()
            raise

    def _refuse_to_end(self, _: Connection) -> None:
        if not self._ending:
            self._interfered = True
            raise UsageError("the transaction is the effect's; do not commit, roll back or close its connection")

    def _roll_back(self) -> None:
        self._ending = True
        roll_back(self.connection)

    def _close(self) -> None:
        self._roll_back()
        self.connection.close()


@contextmanager
def _understood() -> Generator[None]:
    """Errors of the functions, as ours."""
    try:
        yield
    except exc.DBAPIError as error:
        code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        words = str(error.orig).splitlines()[0]
        match code:
            case "RSC01":
                raise Conflict(words) from error
            case "RSC02" | "3F000" | "42883":  # no such schema, no such function
                raise UsageError(f"{words}. Run SqlChanges.install() as the owner of the tables, then again") from error
            case "RSC03":
                raise stray_writes(words) from error
            case "RSC04":
                raise UsageError(f"{words}; leave that to the effect") from error
            case "RSC06":
                raise UsageError(words) from error
            case "RSC05":
                raise Transient(words) from error
            case _:
                raise


def _digest(parts: list[tuple[str, str]]) -> str:
    import hashlib

    return "sha256:" + hashlib.sha256(canonical_json(parts)).hexdigest()


def _roles(names: Sequence[str]) -> str:
    if isinstance(names, str):
        raise UsageError("agents= and undoers= are lists of names of roles")
    for name in names:
        if not _ROLE.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a role")
    return f"ARRAY[{', '.join(map(_text, names))}]::name[]"


def _text(value: str) -> str:
    """A literal. Quotes are doubled; with a backslash in it, it is an escape string, whatever the server's settings."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in value else f"'{escaped}'"
