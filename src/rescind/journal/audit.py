"""Is the record complete? Reads a whole journal and names every place where it is not as it was written.

First the schema, in which a trigger could hide. Then three walks, each in constant memory: by run, for the chains and
what the indexes say of each entry; by sequence, for gaps, time ranges and seals; and over keyed intents and their ends,
for the slots that must stand. All of them see one moment, and nothing is written.
"""

import contextlib
import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.errors import StoreFormatError, UsageError
from rescind.journal.admission import frees_slot
from rescind.journal.chain import ChainWalk, Link
from rescind.journal.codec import KIND_OF, decode_event, target_digest
from rescind.journal.connection import check_format, connect_reader, schema, translating
from rescind.journal.queries import EXTENT
from rescind.journal.rows import RUN_COLUMNS, SPAN_SHIFT, run_of
from rescind.journal.seal import Noted, Seal, journal_id, noted_seals, read_seals, seal_genesis, seals_path
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import CompensationEnded, Ended, Event, Intended, RunOpened
from rescind.model.step import RunInfo

if TYPE_CHECKING:
    from rescind.journal.postgres import PostgresJournal

FINDINGS_MAX = 1_000  # Nobody reads more, and a journal whose every entry was changed must not fill the memory.

_BY_RUN = "SELECT run_key, sequence FROM entries ORDER BY run_key, sequence"  # Not by the index, which may be wrong.
_ENTRY = (
    # The casts: SQLite stores any type anywhere, and whoever tampers need not keep to ours.
    "SELECT CAST(position AS INTEGER), CAST(recorded_at_us AS INTEGER), kind, target, CAST(hash AS BLOB),"
    " CAST(body AS BLOB) FROM entries WHERE sequence = ?"
)
_RUN = (
    f"SELECT {RUN_COLUMNS}, h.sequence, h.position, h.hash FROM runs r"  # noqa: S608  # our own constants
    " LEFT JOIN heads h ON h.run_key = r.run_key WHERE r.run_key = ?"
)
_EMPTY_RUNS = "SELECT r.run_key, r.run_id FROM runs r WHERE r.run_key NOT IN (SELECT run_key FROM entries)"
_BY_SEQUENCE = (
    "SELECT e.sequence, e.recorded_at_us BETWEEN s.first_at_us AND s.last_at_us, x.sequence IS NOT NULL,"  # noqa: S608
    " e.target IS NULL OR t.sequence IS NOT NULL, CAST(e.hash AS BLOB) FROM entries e"
    f" LEFT JOIN spans s ON s.span = e.sequence >> {SPAN_SHIFT}"
    " LEFT JOIN run_entries x ON x.run_key = e.run_key AND x.sequence = e.sequence"
    " LEFT JOIN target_entries t ON t.target = e.target AND t.sequence = e.sequence ORDER BY e.sequence"
)
_STRAYS = (
    "SELECT sequence, 'runs' FROM run_entries x WHERE NOT EXISTS"
    " (SELECT 1 FROM entries e WHERE e.sequence = x.sequence AND e.run_key = x.run_key) UNION ALL"
    " SELECT sequence, 'targets' FROM target_entries x WHERE NOT EXISTS"
    " (SELECT 1 FROM entries e WHERE e.sequence = x.sequence AND e.target = x.target)"
)
_SCHEMA = "SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'"
_SLOT_EVENTS = (
    "SELECT e.sequence, e.run_key, r.tenant, CAST(e.body AS BLOB) FROM entries e JOIN runs r ON r.run_key = e.run_key"
    " WHERE e.kind IN ('intended', 'ended', 'compensation_ended') ORDER BY e.sequence"
)
_SLOTS = (
    "SELECT s.tenant, s.key, s.digest, s.run_key, s.step_id, s.intent_sequence, s.outcome_sequence, r.run_id"
    " FROM slots s LEFT JOIN runs r ON r.run_key = s.run_key"
)
_DUE_TABLE = (
    "CREATE TABLE due (tenant TEXT, key TEXT, digest TEXT, run_key INTEGER, step_id TEXT, intent INTEGER,"
    " outcome INTEGER, PRIMARY KEY (tenant, key)) WITHOUT ROWID; CREATE INDEX due_step ON due (run_key, step_id)"
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was written. Sequence, run and position are None or empty where there is none."""

    problem: str
    sequence: int | None = None
    run_id: str = ""
    position: int | None = None

    def __str__(self) -> str:
        place = [] if self.sequence is None else [f"entry {self.sequence}"]
        if self.run_id:
            place.append(f"run {self.run_id}" + ("" if self.position is None else f" position {self.position}"))
        return f"{', '.join(place)}: {self.problem}" if place else self.problem


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found.

    Attributes:
        findings: In the order of the walks; empty if all is as it was written. At most a thousand.
        more_findings: How many there were beyond those.
        entries: Entries read.
        runs: Runs read.
        seals: Seals read.
        sealed_through: The last sequence that a seal covers: after it, a removed end can be seen only by the heads.
    """

    findings: tuple[Finding, ...]
    more_findings: int
    entries: int
    runs: int
    seals: int
    sealed_through: int

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(journal: "str | Path | SqliteJournal | PostgresJournal") -> AuditReport:
    """Verify a whole journal against its chains, its indexes and its seals.

    Raises:
        UsageError: There is no such file.
        StoreFormatError: It is not a journal, or from a newer rescind.
        JournalUnavailable: It cannot be read at all.
    """
    if not isinstance(journal, str | Path | SqliteJournal):
        from rescind.journal.postgres.audit import verify_database  # with its driver

        return verify_database(journal.address, schema=journal.schema)
    path = journal.path if isinstance(journal, SqliteJournal) else Path(journal).absolute()
    if not path.exists():
        raise UsageError(f"there is no journal at {path}; check the path")
    with translating(path), contextlib.closing(connect_reader(path, timeout_s=5.0)) as connection:
        if not check_format(connection, path):
            raise StoreFormatError(f"{path} is empty, not a journal; name another file")
        connection.execute("BEGIN")
        return _Audit(connection, path).report()


class _Audit:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self._entries = self._runs = self._seals = self._sealed_through = 0

    def report(self) -> AuditReport:
        findings, more = at_most(self._findings())
        return AuditReport(
            findings=findings,
            more_findings=more,
            entries=self._entries,
            runs=self._runs,
            seals=self._seals,
            sealed_through=self._sealed_through,
        )

    def _findings(self) -> Iterator[Finding]:
        try:
            # First of all, whether SQLite's own indexes and tables agree: the walks rely on them.
            for (problem,) in self._connection.execute("PRAGMA integrity_check(100)"):
                if problem != "ok":
                    yield Finding(problem=f"the file is damaged: {problem}")
            yield from self._schema()
            yield from self._chains()
            yield from self._sequence()
            yield from self._slots()
        except sqlite3.DatabaseError as error:
            yield Finding(problem=f"the file is damaged, and could not be read to the end: {error}")

    # --- the schema ---

    def _schema(self) -> Iterator[Finding]:
        """A trigger changes what is written from now on, and leaves no other trace."""
        with contextlib.closing(sqlite3.connect(":memory:")) as pristine:
            pristine.executescript(schema())
            known = {name: _bare(sql) for name, sql in pristine.execute(_SCHEMA)}
        here = {name: _bare(sql) for name, sql in self._connection.execute(_SCHEMA)}
        for name in sorted(known.keys() | here.keys()):
            if name not in known:
                yield Finding(problem=f"the schema has a {name} that rescind did not make")
            elif name not in here:
                yield Finding(problem=f"the schema has lost its {name}")
            elif known[name] != here[name]:
                yield Finding(problem=f"the {name} of the schema was changed")

    # --- by run ---

    def _chains(self) -> Iterator[Finding]:
        for run_key, rows in groupby(self._connection.execute(_BY_RUN), key=lambda row: row[0]):
            self._runs += 1
            yield from self._chain(run_key, rows)
        for run_key, run_id in self._connection.execute(_EMPTY_RUNS):
            yield Finding(sequence=run_key, run_id=run_id, problem="every entry of the run is missing")
        yield from self._ownerless_heads()

    def _ownerless_heads(self) -> Iterator[Finding]:
        sql = "SELECT run_key, position FROM heads WHERE run_key NOT IN (SELECT run_key FROM runs)"
        for run_key, position in self._connection.execute(sql):
            yield Finding(
                sequence=run_key,
                problem=f"a run of {position + 1} entries began here; the record of the run is missing",
            )

    def _chain(self, run_key: int, rows: Iterator[tuple[Any, ...]]) -> Iterator[Finding]:
        known = self._connection.execute(_RUN, (run_key,)).fetchone()
        if known is None:
            yield from self._unknown_run(run_key, rows)
            return
        run = run_of(known)[1]
        walk, link = ChainWalk(run.run_id), Link(0, -1, 0, b"", b"")
        for _, sequence in rows:
            self._entries += 1
            position, at_us, kind, target, digest, body = self._connection.execute(_ENTRY, (sequence,)).fetchone()
            link = Link(sequence, position, at_us, body, digest)
            problems = [found.problem for found in walk.follow(link)]
            problems += index_problems(run, run_key, link, kind, target)
            for problem in problems:
                yield Finding(sequence=sequence, run_id=run.run_id, position=position, problem=problem)
        yield from head_findings(run, link, known[9:])

    def _unknown_run(self, run_key: int, rows: Iterable[tuple[Any, ...]]) -> Iterator[Finding]:
        for _, sequence in rows:
            self._entries += 1
            yield Finding(sequence=sequence, problem=f"it names run key {run_key}, of which there is no record")

    # --- by sequence ---

    def _sequence(self) -> Iterator[Finding]:
        place, noted = seals_path(self._path).name, noted_seals(self._connection)
        seals = SealWalk(read_seals(self._path), place, journal_id(self._connection), noted)
        due = 1
        indexed = self._connection.execute(EXTENT).fetchone()[0]
        for sequence, in_time, in_run, on_target, digest in self._connection.execute(_BY_SEQUENCE):
            if sequence != due:
                yield missing(due, sequence - 1)
            if sequence <= indexed and not in_time:
                yield Finding(sequence=sequence, problem="its time is not in the recorded time range of its span")
            if sequence <= indexed and not (in_run and on_target):
                yield Finding(
                    sequence=sequence, problem="the index of " + ("targets" if in_run else "runs") + " omits it"
                )
            yield from seals.entry(sequence, digest)
            due = sequence + 1
        length = self._connection.execute("SELECT coalesce(max(sequence), 0) FROM heads").fetchone()[0]
        if due <= length:
            yield missing(due, length)
        for sequence, index in self._connection.execute(_STRAYS):
            yield Finding(sequence=sequence, problem=f"the index of {index} names it, and it is missing or another")
        yield from seals.end(due - 1)
        self._seals, self._sealed_through = seals.count, seals.through

    # --- slots ---

    def _slots(self) -> Iterator[Finding]:
        return slot_findings(self._connection.execute(_SLOT_EVENTS), self._connection.execute(_SLOTS))


class SealWalk:
    """Follows the seals along the entries.

    Args:
        seals: Oldest first.
        place: Where they stand, for people.
        name: The journal's id.
        noted: What the journal says of its seals.
    """

    def __init__(self, seals: Iterator[Seal], place: str, name: str, noted: Noted | None) -> None:
        self._noted, self._last_digest, self._broken = noted, "", False
        self._place, self._seals = place, seals
        self._running = hashlib.sha256(seal_genesis(name))
        self._entries = 0
        self.count = self.through = 0
        self._problem = ""
        self._next = self._read()

    def entry(self, sequence: int, digest: bytes) -> Iterator[Finding]:
        """The next entry. What its seals say of it."""
        while self._next is not None and self._next.through_sequence < sequence:
            yield from self._close()  # The entry that this seal ends with is missing.
        self._running.update(digest)
        self._entries += 1
        if self._next is not None and self._next.through_sequence == sequence:
            yield from self._close()

    def end(self, last_sequence: int) -> Iterator[Finding]:
        """No more entries. Seals that reach further show that there were more."""
        while self._next is not None:
            if self._next.through_sequence > last_sequence:
                yield Finding(
                    sequence=self._next.through_sequence,
                    problem=f"the journal was sealed up to here at {self._next.sealed_at.isoformat()}, "
                    f"and now ends at {last_sequence}: the end is missing",
                )
            yield from self._close(silent=True)
        if self._problem:
            yield Finding(problem=self._problem)
        else:
            yield from self._compare_with_note()

    def _compare_with_note(self) -> Iterator[Finding]:
        if self._noted is None:
            return  # Nothing was sealed, or a crash came between the first seal and its note.
        if self.count < self._noted.seals:
            yield Finding(problem=f"the seals are missing: {self._noted.seals} were written, {self.count} are there")
        elif self.count == self._noted.seals and self._last_digest != self._noted.digest and not self._broken:
            yield Finding(problem=f"the last seal in {self._place} is not the one that was written last")

    def _close(self, *, silent: bool = False) -> Iterator[Finding]:
        seal = self._next
        assert seal is not None
        holds = seal.digest == self._running.hexdigest() and seal.entries == self._entries
        self._broken = self._broken or not holds
        if not holds and not silent:
            yield Finding(
                sequence=seal.through_sequence,
                problem=f"entries {self.through + 1} to {seal.through_sequence} are not those that were sealed at "
                f"{seal.sealed_at.isoformat()}: some were changed, removed or put in another order",
            )
        # The next seal continues from what this one says, so that one change is not reported by every later seal.
        self._running, self._entries = hashlib.sha256(bytes.fromhex(seal.digest)), 0
        self.through, self._last_digest = seal.through_sequence, seal.digest
        self._next = self._read()

    def _read(self) -> Seal | None:
        try:
            seal = next(self._seals, None)
        except StoreFormatError as error:
            self._problem = str(error)
            return None
        if seal is None:
            return None
        self.count += 1
        if seal.through_sequence <= self.through:
            self._problem = f"the seals in {self._place} are out of order at {seal.through_sequence}"
            return None
        return seal


def at_most(found: Iterable[Finding]) -> tuple[tuple[Finding, ...], int]:
    """What a report holds of what was found, and how many more there were."""
    kept: list[Finding] = []
    more = 0
    for finding in found:
        if len(kept) < FINDINGS_MAX:
            kept.append(finding)
        else:
            more += 1
    return tuple(kept), more


def slot_findings(events: Iterable[Sequence[Any]], slots: Iterable[Sequence[Any]]) -> Iterator[Finding]:
    """Where the slots are not what the entries say.

    Args:
        events: Sequence, run key, tenant and body of each intent, end and end of a compensation, by sequence.
        slots: The rows of `slots`, each with its run's id behind it.
    """
    # An unnamed database: SQLite keeps it in memory while it is small, and then in a file that nobody else sees.
    with contextlib.closing(sqlite3.connect("", isolation_level=None)) as due:
        due.executescript(_DUE_TABLE)
        due.execute("BEGIN")  # Without one, each change of the scratch table would be committed by itself.
        yield from _due_slots(due, events)
        for tenant, key, *here, run_id in slots:
            taken = "DELETE FROM due WHERE tenant = ? AND key = ? RETURNING digest, run_key, step_id, intent, outcome"
            row = due.execute(taken, (tenant, key)).fetchall()
            problem = _slot_problem(here, row[0]) if row else "no entry claims it, or the one that did freed it"
            if problem:
                yield _slot_finding(key, here[3], problem, run_id)
        for key, sequence in due.execute("SELECT key, intent FROM due ORDER BY intent"):
            yield _slot_finding(key, sequence, "its slot is missing, so the effect could be repeated")


def _due_slots(due: sqlite3.Connection, events: Iterable[Sequence[Any]]) -> Iterator[Finding]:
    """Fill the table with the slots that must stand, by what the entries say."""
    for sequence, run_key, tenant, body in events:
        try:
            event = decode_event(sequence, body)
        except StoreFormatError:
            continue  # The walk by run has named it.
        if isinstance(event, Intended):
            if event.step.keyed:
                yield from _claim(due, tenant, run_key, sequence, event)
        elif isinstance(event, Ended | CompensationEnded):
            if frees_slot(event):
                due.execute("DELETE FROM due WHERE run_key = ? AND step_id = ?", (run_key, event.step_id))
            elif isinstance(event, Ended):
                settle = "UPDATE due SET outcome = ? WHERE run_key = ? AND step_id = ?"
                due.execute(settle, (sequence, run_key, event.step_id))


def index_problems(run: RunInfo, run_key: int, link: Link, kind: str, target: bytes | None) -> Iterator[str]:
    """What the columns say that the body does not."""
    try:
        event = decode_event(link.sequence, link.body)
    except StoreFormatError as error:
        yield f"it cannot be read: {error.__cause__}"
        return
    if kind != KIND_OF[type(event)]:
        yield f"the column kind says {kind}, the entry {KIND_OF[type(event)]}"
    named = event.step.target if isinstance(event, Intended) else None
    if target != (None if named is None else target_digest(named)):
        yield "the column target is not that of the entry"
    if link.position == 0:
        yield from _opening_problems(run, run_key, link.sequence, event)


def _opening_problems(run: RunInfo, run_key: int, sequence: int, event: Event) -> Iterator[str]:
    if not isinstance(event, RunOpened):
        yield "the first entry of a run does not open it"
    elif event.run != run:
        fields = [name for name in RunInfo.__struct_fields__ if getattr(run, name) != getattr(event.run, name)]
        yield f"the record of the run differs from what the run was opened with: {', '.join(fields)}"
    if run_key != sequence:
        yield f"the record of the run says that it began at entry {run_key}"


def head_findings(run: RunInfo, last: Link, head: tuple[int | None, int, bytes]) -> Iterator[Finding]:
    """Whether the last entry of a run is the one that its head (sequence, position, hash) names."""
    sequence, position, digest = head
    if sequence is None:
        yield Finding(run_id=run.run_id, problem="the head of its chain is missing")
    elif position > last.position:
        yield Finding(
            sequence=sequence,
            run_id=run.run_id,
            position=position,
            problem=f"the end of the run is missing: it went up to position {position}, now to {last.position}",
        )
    elif (sequence, position, digest) != (last.sequence, last.position, last.hash):
        yield Finding(
            sequence=last.sequence,
            run_id=run.run_id,
            position=last.position,
            problem="the last entry is not the one that the head of the chain names",
        )


def _claim(due: sqlite3.Connection, tenant: str, run_key: int, sequence: int, event: Intended) -> Iterator[Finding]:
    step = event.step
    held = due.execute("SELECT intent FROM due WHERE tenant = ? AND key = ?", (tenant, step.idempotency_key)).fetchone()
    if held is not None:
        problem = (
            f"claimed again while entry {held[0]} held it: its slot was removed, and the effect may be there twice"
        )
        yield _slot_finding(step.idempotency_key, sequence, problem)
    due.execute(
        "INSERT OR REPLACE INTO due VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (tenant, step.idempotency_key, step.arguments_digest, run_key, step.step_id, sequence),
    )


def _slot_problem(here: Sequence[Any], due: Sequence[Any]) -> str:
    names = ("digest", "run", "step", "intent", "outcome")
    differ = [name for name, is_, should in zip(names, here, due, strict=True) if is_ != should]
    if not differ:
        return ""
    return f"its slot is not what the entries say; changed: {', '.join(differ)}"


def _slot_finding(key: Any, sequence: Any, problem: str, run_id: str | None = None) -> Finding:
    where = sequence if isinstance(sequence, int) else None  # Whoever tampers may store anything.
    return Finding(sequence=where, run_id=run_id or "", problem=f"idempotency key {key!r}: {problem}")


def _bare(sql: str | None) -> str:
    """A statement of the schema without comments and line breaks, which mean nothing."""
    return " ".join(re.sub(r"--[^\n]*", "", sql or "").split())


def missing(first: int, last: int) -> Finding:
    """That these sequences are not there."""
    what = "the entry is" if first == last else f"entries {first} to {last} are"
    return Finding(sequence=first, problem=f"{what} missing from the journal")
