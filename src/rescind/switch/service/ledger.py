"""A switch's file: records, audit log, tokens, and which guards may be out there. Every call is one transaction.

Laws:
LG1. What `append` has returned is on disk, together with its lines of the audit log; or neither is.
LG2. A record is kept once, whichever way and however often it comes, and so is its line of the audit log.
LG3. A disk that cannot take a record refuses it aloud (`OrdersUnavailable`); nothing is half there.

One thread at a time; the service gives it one thread of its own, so that a disk that hangs holds up nothing else.
"""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import msgspec

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable, UsageError
from rescind.switch import database
from rescind.switch.service.records import Record
from rescind.switch.wire import Report
from rescind.web.tokens import Role, Token

LEDGER_NAME = "switch.db"
LOCK_NAME = "switch.lock"

_OURS = ("switch.db", LOCK_NAME)
"""How the names of our files begin."""

LEDGER = database.Kind(
    "a switch's ledger",
    0x72737731,  # "rsw1"
    "rescind.switch.service",
    ("schema/001_switch.sql", "schema/002_verifiers.sql", "schema/003_approvals.sql"),
)

_SINCE = "SELECT sequence, kind, subject, body FROM records WHERE sequence > ? ORDER BY sequence LIMIT ?"
_KNOWN = "SELECT sequence FROM records WHERE digest = ?"
_ADD = "INSERT INTO records (digest, kind, subject, body, received_at_us) VALUES (?, ?, ?, ?, ?)"
_AUDIT = "SELECT sequence, at_us, what, subject, actor, person, origin, detail, hash FROM audit"
_AUDIT_ADD = (
    "INSERT INTO audit (sequence, at_us, what, subject, actor, person, origin, detail, hash)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_TOKENS = "SELECT token_id, hash, role, name, identity, created_at_us, revoked_at_us FROM tokens ORDER BY created_at_us"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said in the audit log. See the table for its fields."""

    what: str
    subject: str
    actor: str = ""
    person: str = ""
    origin: str = ""
    detail: str = ""


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log. `hash` covers this line and the hash before it."""

    sequence: int
    at_us: int
    what: str
    subject: str
    actor: str
    person: str
    origin: str
    detail: str
    hash: str


class Entry(msgspec.Struct, frozen=True):
    """A record, and what the audit log is to say of it; nothing, if another entry beside it says it."""

    record: Record
    note: Note | None = None


class Seen(msgspec.Struct, frozen=True):
    """A guard that may be out there: whose it is, and what lasts of its report."""

    guard_id: str
    owner: str
    report: Report


class Appended(msgspec.Struct, frozen=True):
    """What became of a record: its place, and whether it was new."""

    record: Record
    sequence: int
    is_new: bool


class Ledger:
    """The file of one switch."""

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        """Open the ledger in this folder; make folder and file where there are none.

        Raises:
            StoreFormatError: What is there is not ours, or from a newer rescind. It was left alone.
            OrdersUnavailable: It cannot be opened or made.
        """
        self.path = directory.absolute() / LEDGER_NAME
        self._clock = clock
        database.create_if_missing(self.path, LEDGER)
        with database.translating(self.path):
            self._connection = database.open_file(self.path)
            try:
                database.check_format(self._connection, self.path, LEDGER)
                database.upgrade(self._connection, LEDGER)
                (self.switch_id,) = self._connection.execute("SELECT switch_id FROM switch").fetchone()
            except BaseException:
                self._connection.close()
                raise
        self._identity = database.identity_of(self.path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    # --- records ---

    def append(self, entries: Sequence[Entry]) -> tuple[Appended, ...]:
        """Add what is not there yet, and the notes of what was added (LG1, LG2). In the order of the entries.

        Raises: OrdersUnavailable, and then nothing was added.
        """
        with self._writing() as connection:
            appended = tuple(self._add(connection, entry.record) for entry in entries)
            added = [entry.note for entry, each in zip(entries, appended, strict=True) if each.is_new]
            self._note(connection, [note for note in added if note is not None])
            return appended

    def records(self, after: int, limit: int) -> tuple[tuple[int, Record], ...]:
        """Records after a place, in their order, at most `limit`.

        Raises: OrdersUnavailable.
        """
        with database.translating(self.path):
            rows = self._connection.execute(_SINCE, (after, limit))
            return tuple(
                (sequence, Record(kind=kind, subject=subject, body=body)) for sequence, kind, subject, body in rows
            )

    def beat_disk(self) -> None:
        """Make something durable, to see whether a stop could be. Raises: OrdersUnavailable."""
        with self._writing() as connection:
            connection.execute("UPDATE pulse SET at_us = ?", (self._clock.now_us(),))

    def _add(self, connection: sqlite3.Connection, record: Record) -> Appended:
        digest = record.digest
        known = connection.execute(_KNOWN, (digest,)).fetchone()
        if known is not None:
            return Appended(record, known[0], is_new=False)
        row = (digest, record.kind, record.subject, record.body, self._clock.now_us())
        sequence = connection.execute(_ADD, row).lastrowid
        assert sequence is not None
        return Appended(record, sequence, is_new=True)

    # --- audit ---

    def note(self, *notes: Note) -> None:
        """Add to the audit log alone. Raises: OrdersUnavailable."""
        with self._writing() as connection:
            self._note(connection, notes)

    def audit(self, after: int, limit: int) -> tuple[AuditLine, ...]:
        """Lines after a place, in their order. Raises: OrdersUnavailable."""
        with database.translating(self.path):
            rows = self._connection.execute(f"{_AUDIT} WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
            return tuple(_audit_line(row) for row in rows)

    def audit_break(self) -> int | None:
        """The first line whose hash does not fit; None if all do. Raises: OrdersUnavailable."""
        before, expected = "", 1
        with database.translating(self.path):
            for row in self._connection.execute(f"{_AUDIT} ORDER BY sequence"):
                line = _audit_line(row)
                if line.sequence != expected or line.hash != _hash(before, line):
                    return line.sequence
                before, expected = line.hash, expected + 1
        return None

    def _note(self, connection: sqlite3.Connection, notes: Iterable[Note]) -> None:
        last = connection.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
        sequence, before = last or (0, "")
        for note in notes:
            sequence += 1
            line = AuditLine(
                sequence=sequence,
                at_us=self._clock.now_us(),
                what=note.what,
                subject=note.subject,
                actor=note.actor,
                person=note.person,
                origin=note.origin,
                detail=note.detail,
                hash="",
            )
            before = _hash(before, line)
            connection.execute(_AUDIT_ADD, (*msgspec.structs.astuple(line)[:-1], before))

    # --- tokens ---

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, revoked ones too, oldest first. Raises: OrdersUnavailable."""
        with database.translating(self.path):
            return tuple(
                Token(
                    token_id=token_id,
                    hash=hashed,
                    role=Role(role),
                    name=name,
                    identity=identity,
                    created_at_us=created_at_us,
                    revoked_at_us=revoked_at_us,
                )
                for token_id, hashed, role, name, identity, created_at_us, revoked_at_us in self._connection.execute(
                    _TOKENS
                )
            )

    def tokens_changed(self) -> int:
        """A number that moves when another process has written to the file. Raises: OrdersUnavailable."""
        with database.translating(self.path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def add_token(self, token: Token, note: Note) -> None:
        """Keep a token's hash. Raises: OrdersUnavailable."""
        with self._writing() as connection:
            row = msgspec.structs.astuple(token)
            connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", (*row[:2], str(row[2]), *row[3:]))
            self._note(connection, [note])

    def revoke_token(self, token_id: str, note: Note) -> None:
        """Make a token worthless. Raises: OrdersUnavailable."""
        with self._writing() as connection:
            now_us = self._clock.now_us()
            connection.execute(
                "UPDATE tokens SET revoked_at_us = ? WHERE token_id = ? AND revoked_at_us IS NULL", (now_us, token_id)
            )
            self._note(connection, [note])

    # --- guards ---

    def save_guards(self, seen: Sequence[Seen], left: Sequence[str]) -> None:
        """Keep who was seen, and forget who has left. Raises: OrdersUnavailable."""
        with self._writing() as connection:
            now_us = self._clock.now_us()
            connection.executemany(
                "INSERT OR REPLACE INTO guards VALUES (?, ?, ?, ?)",
                ((each.guard_id, each.owner, msgspec.json.encode(each.report).decode(), now_us) for each in seen),
            )
            connection.executemany("DELETE FROM guards WHERE guard_id = ?", ((guard_id,) for guard_id in left))

    def guards(self) -> tuple[Seen, ...]:
        """Who was seen and has not left, by id. Raises: OrdersUnavailable."""
        with database.translating(self.path):
            rows = self._connection.execute("SELECT guard_id, owner, report FROM guards ORDER BY guard_id")
            return tuple(
                Seen(guard_id, owner, msgspec.json.decode(report, type=Report)) for guard_id, owner, report in rows
            )

    # --- the file ---

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        with database.translating(self.path):
            if database.identity_of(self.path) != self._identity:
                raise OrdersUnavailable(
                    f"{self.path} was deleted or replaced while the switch was using it, so nothing would last; put it "
                    "back, or restart the switch"
                )
            with database.transaction(self._connection, "BEGIN IMMEDIATE"):
                yield self._connection


def restrict(directory: Path) -> None:
    """Make the folder, readable by its owner alone: it holds hashes of tokens, and the power to lift.

    One that holds files of others too, such as somebody's home, is left as it is; our files in it are private anyhow.

    Raises: OrdersUnavailable.
    """
    with database.translating(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if all(name.startswith(_OURS) for name in os.listdir(directory)):
            os.chmod(directory, 0o700)


@contextlib.contextmanager
def sole_use(directory: Path) -> Generator[None]:
    """Serve this folder alone: two switches on one ledger would each know half of what stands.

    Raises: UsageError, if another process serves it; OrdersUnavailable.
    """
    with database.translating(directory):
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # The kernel lets go of it when the process ends, however that is.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another switch runs on {directory.absolute()}; stop it first, or name another folder with --data"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _audit_line(row: tuple[int, int, str, str, str, str, str, str, str]) -> AuditLine:
    sequence, at_us, what, subject, actor, person, origin, detail, hashed = row
    return AuditLine(
        sequence=sequence,
        at_us=at_us,
        what=what,
        subject=subject,
        actor=actor,
        person=person,
        origin=origin,
        detail=detail,
        hash=hashed,
    )


def _hash(before: str, line: AuditLine) -> str:
    # A JSON list: no two different lines are the same text.
    content = msgspec.json.encode([before, *msgspec.structs.astuple(line)[:-1]])
    return hashlib.sha256(content).hexdigest()
