"""What a tool changes in the rows of guarded tables, by whatever statements, as an effect.

The laws, beside those of `Effect`; tests cite them by number:

CS1. *Nothing is missed.* Every insert, update and delete of the call's transaction in a guarded table is in its change
    set, also what triggers and cascades did; a write to a table that nobody guards ends the call, undone.
CS2. *Net.* A change set has one row for each row changed: how it was before the call, and that it is no longer so.
CS3. *With the effect.* A change set is committed by the transaction that it is about, or by none.
CS4. *All or nothing.* A restore is one transaction over sets of rows. Before it writes, all are locked and compared.
CS5. *Nobody else's.* A restore changes rows of its change set only. What would cascade further is a conflict.
CS6. *The tool cannot take it back.* On PostgreSQL, its role can neither write around the change set nor change it.

A change set is in the database that it is about, and the journal refers to it by its number. So a step of 100,000 rows
is one short entry, and what is needed to undo it is as durable as the effect itself.
"""

import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec

from rescind.errors import Conflict, DeclarationError, NothingChanged, Transient, UsageError
from rescind.guard.effect import Call, PastStep, Probe, Touch
from rescind.model.action import EffectClass
from rescind.model.step import Snapshot, Target

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

Standing = Literal["absent", "open", "purged", "unsettled", "done", "undone", "changed"]
"""Where a change set stands.

absent: it was never committed. open: its transaction is under way somewhere. purged: what was kept is gone. unsettled:
the tool committed by itself. done: all rows are as the call left them. undone: all are as before. changed: neither.
"""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The net effect of a call: rows by table, and a digest of how they were left. No tables: nothing changed."""

    tables: dict[str, dict[str, int]]
    digest: str


class OpenSet(Protocol):
    """The transaction of a call in progress. Exactly one of `settle` and `abandon` is called."""

    @property
    def number(self) -> int:
        """Names the change set in its database; never used twice."""
        ...

    @property
    def connection(self) -> Any:
        """The connection, for the tool."""
        ...

    def settle(self, *, handed_out: bool) -> Settled:
        """Work out the net effect and commit both (CS3). Raises: NothingChanged, if all was rolled back after all."""
        ...

    def abandon(self) -> bool:
        """Roll back; whether nothing was committed."""
        ...


class ChangeStore(Protocol):
    """A database that keeps change sets."""

    sees_aba: bool

    def begin(self, call: Call) -> OpenSet:
        """Begin a transaction that is captured."""
        ...

    def database(self) -> str:
        """Identity of the database: a copy that was loaded elsewhere has another one."""
        ...

    def look(self, number: int, *, rows: bool) -> Standing:
        """Where a change set stands; without `rows`, one whose rows were changed since counts as done."""
        ...

    def put_back(self, number: int, goal: Literal["undone", "done"]) -> None:
        """Bring its rows into this state (CS4, CS5). Raises: Conflict, Transient; then nothing was changed."""
        ...

    def install(self, agents: Sequence[str], undoers: Sequence[str]) -> None:
        """Make the tables guarded, or bring that up to date."""
        ...

    def install_sql(self, agents: Sequence[str], undoers: Sequence[str]) -> str:
        """What `install` executes, for a database administrator."""
        ...

    def purge(self, older_than: timedelta) -> int:
        """Forget what is kept for older change sets; how many."""
        ...


_open: ContextVar[tuple["_ChangesTouch", ...]] = ContextVar("rescind_changes", default=())


class SqlChanges:
    """Whatever a call changes in some tables, captured by the database; the undo puts it back, and only that.

        orders = SqlChanges(engine, tables=["orders", "order_lines", "stock"])
        orders.install()  # once, as the owner of the tables

        @guard.write("order.place", effect=orders)
        def place(customer: str, article: str, pieces: int) -> int:
            connection = orders.connection()
            ...  # any statements

    The tool takes its connection from `connection()`, executes what it likes, and neither commits nor rolls back
    (savepoints are fine). If it raises, everything is rolled back, and the step is *failed*.

    PostgreSQL 14 or later: `engine` is SQLAlchemy's, and so is the connection. `install` puts triggers on the tables
    and a schema `rescind_changes` beside them. With `agents`, roles that tools run as, the database refuses whatever
    these roles write to a guarded table outside a step.

    SQLite: needs `rescind[sqlite-rows]`; `engine` is SQLAlchemy's or the path of the file, the connection is apsw's.
    While Python's `sqlite3`, or an Engine, has the file open in the same process, everything is refused: see
    `one_sqlite`.

    A write to a table that is not guarded takes the whole call back, unless `ignore` names it.

    Not captured: sequences, which go on; definitions of tables; on PostgreSQL, TRUNCATE is refused.
    """

    parallel = True

    def __init__(
        self, engine: "Engine | str | PurePath", tables: Sequence[str], *, ignore: Sequence[str] = (), system: str = ""
    ) -> None:
        """Guard tables.

        Args:
            engine: The database.
            tables: Names of tables, with their schema where the search path does not find them. All have a primary key.
            ignore: Further tables that the tool may write to, and whose rows an undo leaves as they are.
            system: What targets call the database; by default its name.

        Raises: DeclarationError; ModuleNotFoundError, which names the extra.
        """
        if isinstance(tables, str) or not tables:
            raise DeclarationError("SqlChanges takes tables=, a list of at least one name")
        if isinstance(ignore, str):
            raise DeclarationError("ignore= is a list of names of tables")
        self.tables, self.ignore = tuple(tables), tuple(ignore)
        self._store, name = _store_of(engine, self.tables, self.ignore)
        self.sees_aba = self._store.sees_aba
        self._system = system or name
        self._identity: str | None = None
        self._lock = threading.Lock()

    @property
    def effect_class(self) -> EffectClass:
        """Reversible: the rows are put back."""
        return EffectClass.REVERSIBLE

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The whole database: which rows a call will touch is not known before. `target=` may say it better."""
        return Target(self._system, "database", "")

    def connection(self) -> Any:
        """The connection of the call in progress, for the tool. Do not commit, roll back or close it.

        Raises: UsageError outside such a call.
        """
        for touch in reversed(_open.get()):
            if touch.owner is self and not touch.is_over:
                return touch.hand_out()
        raise UsageError(
            f"no connection to {self._system} is open for a call: it is there only while a guarded call with this "
            "effect runs"
        )

    def install(self, *, agents: Sequence[str] = (), undoers: Sequence[str] = ()) -> None:
        """Make the tables guarded. Can be repeated, and must be after columns were added or dropped.

        Args:
            agents: PostgreSQL: roles that tools run as; they may write to guarded tables in steps only.
            undoers: PostgreSQL: roles that undo, besides the owner.

        Raises: UsageError, which says what is in the way; the database's errors.
        """
        self._store.install(agents, undoers)

    def install_sql(self, *, agents: Sequence[str] = (), undoers: Sequence[str] = ()) -> str:
        """What `install` would execute, as a script for the owner of the tables."""
        return self._store.install_sql(agents, undoers)

    def purge(self, older_than: timedelta) -> int:
        """Forget the rows kept for steps older than this; they can then not be undone any more. Returns: how many."""
        return self._store.purge(older_than)

    # --- the effect ---

    def open(self, call: Call) -> Touch:
        """See `Effect`."""
        database = self._here()  # before the transaction: it is asked over a connection of its own
        return _ChangesTouch(self, self._store.begin(call), database)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`. Raises: Transient, while the call's transaction is still under way somewhere."""
        number = self._number(step)
        if number is None:
            return None
        standing = self._store.look(number, rows=True)
        if standing == "open":
            raise Transient(f"the transaction of this step is still under way in {self._system}; look again later")
        if standing == "purged":
            return None
        return _snapshot(number, self._here(), standing)

    def restore(self, step: PastStep) -> None:
        """See `Effect`. A step whose two snapshots are exchanged is done again.

        Raises: Conflict, Transient; after either, nothing was changed.
        """
        number = self._number(step)
        if number is None:
            raise Conflict("no change set was recorded before the call, so there is nothing to put back")
        goal: Literal["undone", "done"] = "done" if _side(step.before_snapshot) == "done" else "undone"
        if _side(step.after_snapshot) not in ("", "done", "undone"):
            raise Conflict("not as the step left it; a change set goes back as a whole, and over no later change")
        if step.after_snapshot is None and self._store.look(number, rows=False) not in ("absent", "undone"):
            raise Conflict("how the step left the rows was not recorded, so they were not touched")
        self._store.put_back(number, goal)

    def probe(self, step: PastStep) -> Probe:
        """See `Probing`. The change set is committed by the transaction that it is about, so it says what became of it.

        While that transaction is still open somewhere, for whatever reason, nobody can tell.
        """
        number = self._number(step)
        standing = "purged" if number is None else self._store.look(number, rows=False)
        match standing:
            case "done" | "unsettled":
                return Probe.FOUND
            case "absent" | "undone":
                return Probe.NOT_FOUND
            case _:
                return Probe.CANNOT_TELL

    def _number(self, step: PastStep) -> int | None:
        recorded = step.before
        image = cast("dict[str, Any]", recorded) if isinstance(recorded, dict) else {}
        if "change_set" not in image:
            return None
        if image["database"] != self._here():
            raise Conflict(
                f"the step was made in another database than the one that is {self._system} now, or this is a copy "
                "that was loaded from a dump; its rows cannot be told apart from others'"
            )
        return int(image["change_set"])

    def _here(self) -> str:
        with self._lock:
            if self._identity is None:
                self._identity = self._store.database()
            return self._identity


class _ChangesTouch:
    """See `Touch`."""

    def __init__(self, owner: SqlChanges, opened: OpenSet, database: str) -> None:
        self.owner, self._opened, self._database = owner, opened, database
        self.before = _snapshot(opened.number, database, "undone", tables=list(owner.tables))
        self._handed_out = self.is_over = False
        _open.set((*_open.get(), self))

    def hand_out(self) -> Any:
        self._handed_out = True
        return self._opened.connection

    def settle(self, result: Any) -> Snapshot:
        opened = self._opened
        try:
            settled = opened.settle(handed_out=self._handed_out)
        finally:
            self._end()
        if not settled.tables:
            return self.before
        return _snapshot(opened.number, self._database, "done", changed=settled.tables, digest=settled.digest)

    def abandon(self) -> bool:
        try:
            return self._opened.abandon()
        finally:
            self._end()

    def _end(self) -> None:
        self.is_over = True  # for tasks that the tool started: they have it in their context still
        _open.set(tuple(touch for touch in _open.get() if touch is not self))


def never_handed_out() -> NothingChanged:
    """The error for a tool that did not ask for the connection."""
    return NothingChanged(
        "the tool returned without having asked for connection(), so nothing that it did could be captured; use it for "
        "all statements, also in a call that turns out to change nothing"
    )


def stray_writes(tables: str) -> NothingChanged:
    """The error for writes to tables that nobody guards."""
    return NothingChanged(
        f"the tool also wrote to {tables}, which no undo could put back, so the call was rolled back; name it in "
        "tables= and install again, or in ignore= if its rows may stay"
    )


def _snapshot(number: int, database: str, standing: Standing, **more: Any) -> Snapshot:
    """What is seen of a change set. One that never took effect is, for its step, the same as one undone."""
    side = "undone" if standing == "absent" else standing
    image = {"change_set": number, "database": database, "state": side, **more}
    return Snapshot.of(image, version=f"{database}#{number}:{side}")


def _side(snapshot: Snapshot | None) -> str:
    return "" if snapshot is None else str(snapshot.image.get("state", ""))


def _store_of(
    engine: "Engine | str | PurePath", tables: tuple[str, ...], ignore: tuple[str, ...]
) -> tuple[ChangeStore, str]:
    """The store for this database, and the database's name."""
    if isinstance(engine, str | PurePath):
        return _sqlite(str(engine), tables, ignore)
    dialect = getattr(getattr(engine, "dialect", None), "name", "")
    if dialect == "sqlite":
        return _sqlite(engine.url.database or "", tables, ignore)
    if dialect == "postgresql":
        from rescind.compensation.effects.changes_postgres import PostgresChanges

        return PostgresChanges(engine, tables, ignore), PurePath(engine.url.database or "").name or "postgresql"
    raise DeclarationError(
        f"SqlChanges takes a SQLAlchemy Engine of PostgreSQL or SQLite, or the path of a SQLite file, not {engine!r}"
    )


def _sqlite(path: str, tables: tuple[str, ...], ignore: tuple[str, ...]) -> tuple[ChangeStore, str]:
    from rescind.compensation.effects.changes_sqlite import SqliteChanges

    if "://" in path:
        raise DeclarationError(f"give SqlChanges an Engine, or the path of a SQLite file, not the URL {path!r}")
    return SqliteChanges(path, tables, ignore), PurePath(path).name
