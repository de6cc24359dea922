"""Change sets on SQLite: changesets of the session extension, kept in the database that they are about.

A changeset has the net effect on each row: for an update the key and the columns that changed, both ways. Content is
what counts: somebody who changed a row and changed it back has, for an undo, changed nothing; and a later change of
other columns of a row stays, for the undo writes its own columns only.

While the tool runs, an authorizer on its connection refuses what would get around the capture, and notes which tables
are written to. Other connections may write before and after; in between, SQLite locks them out.
"""

import functools
import hashlib
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

try:
    import apsw
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "SqlChanges on SQLite needs apsw: pip install 'rescind[sqlite-rows]'", name=missing.name
    ) from missing

from rescind.compensation.effects import one_sqlite
from rescind.compensation.effects.changes import Settled, Standing, never_handed_out, stray_writes
from rescind.compensation.effects.changes_sqlite_rows import Tables, compare, counts_of, rows_of
from rescind.errors import Conflict, DeclarationError, NothingChanged, Transient, UsageError
from rescind.guard.effect import Call

_BUSY_MS = 5000  # as long as the standard library's driver waits
_NUMBER_BITS = 53  # JSON's readers elsewhere have no larger whole numbers
_ASKED_MAX = (
    1024  # answers of the authorizer that are kept; a tool's statements name the same few columns again and again
)
_KEPT = "rescind_change_set"
_INSERT = (
    f"INSERT INTO {_KEPT} (number, run_id, step_id, action, idempotency_key, state, signature, digest, changeset) "  # noqa: S608
    "VALUES (?, ?, ?, ?, ?, 'done', ?, ?, ?)"
)
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
_REFUSED = {
    apsw.SQLITE_TRANSACTION,  # savepoints have a code of their own
    apsw.SQLITE_ATTACH,
    apsw.SQLITE_DETACH,
    apsw.SQLITE_ALTER_TABLE,
    apsw.SQLITE_DROP_TABLE,
    apsw.SQLITE_DROP_TRIGGER,
    apsw.SQLITE_CREATE_TRIGGER,
}


class SqliteChanges:
    """See `ChangeStore`."""

    sees_aba = False

    def __init__(self, path: str, tables: tuple[str, ...], ignore: tuple[str, ...]) -> None:
        if path in ("", ":memory:") or path.startswith("file::memory:"):
            raise DeclarationError("SqlChanges on SQLite needs a database in a file: it opens connections of its own")
        self._path, self._names, self._ignore = Path(path), tables, ignore

    def begin(self, call: Call) -> "SqliteSet":
        """See `ChangeStore`. Raises: UsageError, if a table cannot be guarded."""
        connection = self._connect()
        try:
            with _understood():
                rows_of(connection, "BEGIN IMMEDIATE")
                tables = Tables(connection, self._names)
                tables.refuse_rows_without_key()
            return SqliteSet(connection, tables, secrets.randbits(_NUMBER_BITS), call, self._ignore, self)
        except BaseException:
            self.close(connection)
            raise

    def database(self) -> str:
        """See `ChangeStore`."""
        with self._reading() as connection:
            return str(rows_of(connection, "SELECT id FROM rescind_change_database")[0][0])

    def look(self, number: int, *, rows: bool) -> Standing:
        """See `ChangeStore`."""
        with self._reading() as connection:
            found = _find(connection, number)
            if found is not None:
                state: Standing = found[0]
                if state != "done" or not rows:
                    return state
                outcome = compare(connection, Tables.of_changeset(connection, found[2]), found[2])
                return "undone" if outcome.back else "done" if outcome.as_left else "changed"
        return self._absent_or_open(number)

    def put_back(self, number: int, goal: Literal["undone", "done"]) -> None:
        """See `ChangeStore`."""
        with self._writing() as connection:
            # What a user's triggers did when the step ran is in the changeset, and is put back with it.
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            found = _find(connection, number)
            if found is None:
                if goal == "undone":
                    return  # it never took effect
                raise Conflict(f"there is no change set {number}")
            state, signature, changeset, digest = found
            if state == goal:
                return
            if state == "purged":
                raise Conflict(f"the rows that were kept for change set {number} have been purged")
            if hashlib.sha256(changeset).hexdigest() != digest:
                raise Conflict(f"what was kept for change set {number} is damaged")
            tables = Tables.of_changeset(connection, changeset)
            if tables.signature(tables.names) != signature:
                raise Conflict(
                    f"columns or the key changed since the step: {', '.join(tables.names)}; nobody can tell what a row "
                    "as it was would hold now"
                )
            _apply(connection, tables, changeset, goal)
            rows_of(connection, f"UPDATE {_KEPT} SET state = ? WHERE number = ?", goal, number)  # noqa: S608

    def install(self, agents: Sequence[str], undoers: Sequence[str]) -> None:
        """See `ChangeStore`."""
        script = self.install_sql(agents, undoers)
        with self._writing() as connection:
            Tables(connection, self._names)
            rows_of(connection, script)

    def install_sql(self, agents: Sequence[str], undoers: Sequence[str]) -> str:
        """See `ChangeStore`."""
        if agents or undoers:
            raise UsageError("SQLite has no roles: whoever may write to the file may do everything; leave them out")
        return (files("rescind.compensation.effects") / "schema" / "changes_sqlite.sql").read_text(encoding="utf-8")

    def purge(self, older_than: timedelta) -> int:
        """See `ChangeStore`."""
        with self._writing() as connection:
            rows_of(
                connection,
                f"UPDATE {_KEPT} SET state = 'purged', changeset = NULL WHERE state <> 'purged' "  # noqa: S608
                "AND julianday('now') - julianday(made_at) >= ?",
                older_than / timedelta(days=1),
            )
            return connection.changes()

    def _absent_or_open(self, number: int) -> Standing:
        """Whoever holds the write lock may be about to commit it; with the lock in hand, what is not there is not."""
        connection = self._connect()
        try:
            connection.set_busy_timeout(0)
            rows_of(connection, "BEGIN IMMEDIATE")
            found = _find(connection, number)
            return "absent" if found is None else found[0]
        except apsw.BusyError:
            return "open"
        finally:
            self.close(connection)

    def _connect(self) -> "apsw.Connection":
        if not self._path.exists():
            raise UsageError(f"there is no database file {self._path}")
        connection = one_sqlite.connect(self._path)
        try:
            connection.set_busy_timeout(_BUSY_MS)
            with _understood():
                rows_of(connection, "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL")
        except BaseException:
            self.close(connection)
            raise
        return connection

    def close(self, connection: "apsw.Connection") -> None:
        """Close a connection to this database; what it had begun is rolled back."""
        one_sqlite.close(connection)

    def why_not_to_commit(self, connection: "apsw.Connection") -> str:
        """Why a commit might be lost, in words; empty if nothing speaks against it."""
        return one_sqlite.why_not_to_commit(connection, self._path)

    @contextmanager
    def _reading(self) -> Generator["apsw.Connection"]:
        connection = self._connect()
        try:
            with _understood():
                rows_of(connection, "BEGIN")
                yield connection
        finally:
            self.close(connection)

    @contextmanager
    def _writing(self) -> Generator["apsw.Connection"]:
        connection = self._connect()
        try:
            with _understood():
                rows_of(connection, "BEGIN IMMEDIATE")
                yield connection
                if why := self.why_not_to_commit(connection):
                    raise Transient(f"nothing was changed: {why}")
                rows_of(connection, "COMMIT")
        finally:
            self.close(connection)  # and so rolled back, if it did not come to the commit


class SqliteSet:
    """See `OpenSet`."""

    def __init__(
        self,
        connection: "apsw.Connection",
        tables: Tables,
        number: int,
        call: Call,
        ignore: tuple[str, ...],
        store: SqliteChanges,
    ) -> None:
        self.connection, self.number = connection, number
        self._tables, self._call, self._store = tables, call, store
        self._allowed = {name.lower() for name in (*tables.names, *ignore)}
        self._stray: set[str] = set()
        # One for each table: so it is known without reading them which tables their changes are about.
        self._sessions = {name: apsw.Session(connection, "main") for name in tables.names}
        for name, session in self._sessions.items():
            session.attach(name)
        # It is asked for each column of each statement, and a look into a cache takes half as long as the answer.
        connection.authorizer = functools.lru_cache(maxsize=_ASKED_MAX)(self._authorize)

    def settle(self, *, handed_out: bool) -> Settled:
        """See `OpenSet`."""
        try:
            if not handed_out:
                raise never_handed_out()
            if not self.connection.in_transaction:
                raise UsageError("the tool ended the transaction of its effect; leave that to the effect")
            self.connection.authorizer = None
            if self._stray:
                raise stray_writes(", ".join(sorted(self._stray)))
            self._tables.refuse_rows_without_key()
            asked = {name: session.changeset() for name, session in self._sessions.items()}
            changesets = {name: changeset for name, changeset in asked.items() if changeset}
            changeset = b"".join(changesets.values())  # what one session for all of them would have said
            digest = hashlib.sha256(changeset).hexdigest()
            self._keep(changeset, digest, self._tables.signature(changesets))
            counts = {name: counts_of(changeset) for name, changeset in changesets.items()}
            if why := self._store.why_not_to_commit(self.connection):
                raise NothingChanged(f"what the tool did was rolled back: {why}")
            try:
                rows_of(self.connection, "COMMIT")
            except (apsw.ConstraintError, apsw.BusyError) as error:  # a deferred foreign key; others are reading
                raise NothingChanged(f"what the tool did was rolled back: {error}") from error
            return Settled(tables=counts, digest=f"sha256:{digest}")
        finally:
            self._close()

    def abandon(self) -> bool:
        """See `OpenSet`."""
        intact = self.connection.in_transaction
        self._close()
        return intact

    def _keep(self, changeset: bytes, digest: str, signature: str) -> None:
        call = self._call
        row = (self.number, call.run.run_id, call.step_id, call.action, call.idempotency_key, signature)
        rows_of(self.connection, _INSERT, *row, digest, changeset)

    def _authorize(self, code: int, one: str | None, two: str | None, database: str | None, _: str | None) -> int:
        if code in _REFUSED and database != "temp":
            return apsw.SQLITE_DENY
        if code in _WRITES and database == "main" and one is not None:
            name = one.lower()
            if name.startswith("rescind_change_"):
                return apsw.SQLITE_DENY
            if name not in self._allowed and not name.startswith("sqlite_"):
                self._stray.add(one)
        return apsw.SQLITE_OK

    def _close(self) -> None:
        with suppress(apsw.Error):
            self.connection.authorizer = None
            for session in self._sessions.values():
                session.close()
        self._store.close(self.connection)


def _apply(connection: "apsw.Connection", tables: Tables, changeset: bytes, goal: str) -> None:
    outcome = compare(connection, tables, changeset)
    at_goal, as_left = (outcome.back, outcome.as_left) if goal == "undone" else (outcome.as_left, outcome.back)
    if at_goal:
        return
    if not as_left:
        named = "; ".join(outcome.changed if goal == "undone" else outcome.unlike_before)
        raise Conflict(f"not as the step left it, so nothing was changed: {named}")
    problems: list[str] = []

    def refuse(reason: int, change: Any) -> int:
        if reason == apsw.SQLITE_CHANGESET_FOREIGN_KEY:  # omitting it would commit the violation
            problems.append(f"{change.fk_conflicts} rows would refer to rows that are not there")
        else:
            problems.append(f"a constraint of {change.name}")
        return apsw.SQLITE_CHANGESET_ABORT

    try:
        session: Any = apsw.Changeset  # its stubs use a type that older Pythons lack
        session.apply(
            session.invert(changeset) if goal == "undone" else changeset,
            connection,
            conflict=refuse,
            flags=apsw.SQLITE_CHANGESETAPPLY_FKNOACTION,  # or it would cascade into rows of others
        )
    except (apsw.AbortError, apsw.ConstraintError) as error:
        why = "; ".join(problems) or str(error)
        raise Conflict(f"the rows cannot be put back, so nothing was changed: {why}") from error


def _find(connection: "apsw.Connection", number: int) -> Any:
    """State, signature, changeset and digest; None if it is not there."""
    query = f"SELECT state, signature, changeset, digest FROM {_KEPT} WHERE number = ?"  # noqa: S608
    found = rows_of(connection, query, number)
    return found[0] if found else None


@contextmanager
def _understood() -> Generator[None]:
    """Errors of the driver, as ours."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise Transient(f"the database is locked by somebody else: {error}") from error
    except apsw.SQLError as error:
        if "no such table: rescind_change_" in str(error):
            raise UsageError(f"{error}. Run SqlChanges.install(), then again") from error
        raise
