"""Is the record on a server complete? As `rescind.journal.audit`, and with its words, for PostgreSQL.

First whether what keeps the tables from being changed is in place. Then the walks: by run, for the chains and what the
columns say of each entry; by sequence, for gaps, time ranges and seals that were kept elsewhere; over keyed intents and
their ends, for the slots. All of them see one moment; what is read comes from the server in portions; nothing is
written.

The journal is sealed while it is written, in the table `seals`: no role that may append can write there by itself, and
the owner, who can, shows in seals that were kept elsewhere. `seal_database` says what the journal holds now in one line
for that, whatever stands in the table:

    digest = SHA-256(genesis of the journal's id + the hashes of all entries up to here, in order of sequence)

which is the first seal of a journal that was never sealed. A seal of the table may be kept as well.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rescind.clock import from_us
from rescind.database import SCHEMA
from rescind.database.address import Address
from rescind.database.connecting import translating
from rescind.database.migrating import exists
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.audit import (
    AuditReport,
    Finding,
    SealWalk,
    at_most,
    head_findings,
    index_problems,
    missing,
    slot_findings,
)
from rescind.journal.chain import ChainWalk, Link
from rescind.journal.postgres.connection import Connection, connect_journal
from rescind.journal.postgres.journal import JOURNAL
from rescind.journal.rows import RUN_COLUMNS, SPAN_SHIFT, run_of
from rescind.journal.seal import Noted, Seal, seal_genesis

_TIMEOUT_S = 3_600.0  # A portion comes at once, but the first may have to wait until the server has sorted all.
_PORTION = 1_000

_GUARDS = {"entries": ("append_only", "never_emptied"), "runs": ("append_only", "never_emptied"),
           "journal": ("never_back", "never_emptied"), "seals": ("append_only", "never_emptied"),
           # The orders of a shared store are beside it in the same schema, and kept from changes of the past as well.
           "orders": ("orders_kept",), "lifts": ("lifts_kept",), "lifted": ("lifted_kept",), "probes": ("probes_kept",),
           "probe_ends": ("probe_ends_kept",), "orders_state": ("orders_state_kept", "orders_state_moves")}  # fmt: skip
_TRIGGERS = (
    "SELECT coalesce(p.relname, c.relname), c.relname, coalesce(array_agg(t.tgname::text)"
    " FILTER (WHERE t.tgenabled IN ('O', 'A')), '{}'), coalesce(array_agg(t.tgname::text)"
    " FILTER (WHERE t.tgname IS NOT NULL), '{}')"
    " FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent"
    " LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal OR t.tgrelid = c.oid AND t.tgparentid <> 0"
    " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') GROUP BY 1, 2 ORDER BY 1, 2"
)
_BY_RUN = (
    "SELECT run_key, sequence, position, recorded_at_us, kind, target, hash, body FROM entries"
    " ORDER BY run_key, sequence"
)
_RUN = (
    f"SELECT {RUN_COLUMNS}, h.sequence, h.position, h.hash FROM runs r"  # noqa: S608  # our own constants
    " LEFT JOIN heads h ON h.run_key = r.run_key WHERE r.run_key = %s"
)
_EMPTY_RUNS = (
    "SELECT r.run_key, r.run_id FROM runs r WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.run_key = r.run_key)"
    " ORDER BY 1"
)
_OWNERLESS_HEADS = (
    "SELECT h.run_key, h.position FROM heads h"
    " WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_key = h.run_key) ORDER BY 1"
)
_JOURNAL = "SELECT journal_id, last_sequence FROM journal"
_HASHES = "SELECT sequence, hash FROM entries ORDER BY sequence"
_SEALS = "SELECT through_sequence, entries, digest, sealed_at FROM seals ORDER BY through_sequence"
_SEALED = "SELECT seals, digest FROM sealed"
_HAS_SEALS = "SELECT to_regclass('seals') IS NOT NULL"
_OUT_OF_TIME = (
    f"SELECT e.sequence FROM entries e LEFT JOIN spans s ON s.span = e.sequence >> {SPAN_SHIFT}"  # noqa: S608
    " WHERE s.span IS NULL OR e.recorded_at_us NOT BETWEEN s.first_at_us AND s.last_at_us ORDER BY 1"
)
_SLOT_EVENTS = (
    "SELECT e.sequence, e.run_key, r.tenant, e.body FROM entries e JOIN runs r ON r.run_key = e.run_key"
    " WHERE e.kind IN ('intended', 'ended', 'compensation_ended') ORDER BY e.sequence"
)
_SLOTS = (
    "SELECT s.tenant, s.key, s.digest, s.run_key, s.step_id, s.intent_sequence, s.outcome_sequence, r.run_id"
    " FROM slots s LEFT JOIN runs r ON r.run_key = s.run_key ORDER BY s.tenant, s.key"
)


def verify_database(address: Address, kept: Sequence[Seal] = (), *, schema: str = SCHEMA) -> AuditReport:
    """Verify a whole journal against its chains, heads, columns and slots, and against seals that were kept.

    Raises: UsageError, if there is no journal; JournalUnavailable, if it cannot be read.
    """
    with _reading(address, schema) as connection:
        audit = _Audit(connection, kept)
        findings, more = at_most(audit.findings())
        return AuditReport(
            findings=findings,
            more_findings=more,
            entries=audit.entries,
            runs=audit.runs,
            seals=audit.seals,
            sealed_through=audit.sealed_through,
        )


def seal_database(address: Address, *, now_us: int, schema: str = SCHEMA) -> Seal | None:
    """What the journal holds now; None if that is nothing. Raises: as `verify_database`."""
    with _reading(address, schema) as connection:
        journal_id, through = _identity(connection)
        digest = hashlib.sha256(seal_genesis(journal_id))
        for _, link in _portions(connection, _HASHES):
            digest.update(link)
    if not through:
        return None
    return Seal(through_sequence=through, entries=through, digest=digest.hexdigest(), sealed_at=from_us(now_us))


class _Audit:
    def __init__(self, connection: Connection, kept: Sequence[Seal]) -> None:
        self._connection = connection
        self._kept: dict[int, list[Seal]] = {}
        for seal in kept:
            self._kept.setdefault(seal.through_sequence, []).append(seal)
        self.entries = self.runs = self.seals = self.sealed_through = 0

    def findings(self) -> Iterator[Finding]:
        yield from self._guards()
        for run_key, rows in groupby(self._portions(_BY_RUN), key=itemgetter(0)):
            self.runs += 1
            yield from self._chain(run_key, rows)
        for run_key, run_id in self._portions(_EMPTY_RUNS):
            yield Finding(sequence=run_key, run_id=run_id, problem="every entry of the run is missing")
        for run_key, position in self._portions(_OWNERLESS_HEADS):
            problem = f"a run of {position + 1} entries began here; the record of the run is missing"
            yield Finding(sequence=run_key, problem=problem)
        yield from self._sequence()
        yield from slot_findings(self._portions(_SLOT_EVENTS), self._portions(_SLOTS))

    def _guards(self) -> Iterator[Finding]:
        """A trigger of somebody else changes what is written, and without ours anything can be changed."""
        for table, name, enabled, there in self._portions(_TRIGGERS):
            ours = _GUARDS.get(table, ())
            for trigger in ours:
                if trigger not in enabled:
                    yield Finding(problem=f"the table {name} can be changed: its trigger {trigger} is gone or disabled")
            for trigger in there:
                if trigger not in ours:
                    yield Finding(problem=f"the table {name} has a trigger that rescind did not make: {trigger}")

    def _chain(self, run_key: int, rows: Iterator[tuple[Any, ...]]) -> Iterator[Finding]:
        known = self._connection.execute(_RUN.encode(), (run_key,), binary=True).fetchone()
        run = None if known is None else run_of(known)[1]
        walk, link = ChainWalk("" if run is None else run.run_id), Link(0, -1, 0, b"", b"")
        for _, sequence, position, at_us, kind, target, digest, body in rows:
            self.entries += 1
            if run is None:
                yield Finding(sequence=sequence, problem=f"it names run key {run_key}, of which there is no record")
                continue
            link = Link(sequence, position, at_us, body, digest)
            problems = [found.problem for found in walk.follow(link)]
            problems += index_problems(run, run_key, link, kind, target)
            for problem in problems:
                yield Finding(sequence=sequence, run_id=run.run_id, position=position, problem=problem)
        if run is not None and known is not None:
            yield from head_findings(run, link, (known[9], known[10], known[11]))

    def _sequence(self) -> Iterator[Finding]:
        journal_id, length = _identity(self._connection)
        whole = hashlib.sha256(seal_genesis(journal_id))
        seals = _seals_of(self._connection)
        here = {seal.through_sequence: seal.digest for seal in seals}
        walk = SealWalk(iter(seals), "the table seals", journal_id, _noted(self._connection))
        last = 0
        for sequence, link in self._portions(_HASHES):
            if sequence == last:
                yield Finding(sequence=sequence, problem="there are two entries with this sequence")
            elif sequence != last + 1:
                yield missing(last + 1, sequence - 1)
            last = sequence
            whole.update(link)
            yield from walk.entry(sequence, link)
            for kept in self._kept.pop(sequence, ()):
                if kept.digest not in (here.get(sequence), whole.hexdigest()):
                    yield _not_sealed(kept)
        yield from walk.end(last)
        self.seals, self.sealed_through = walk.count, walk.through
        if last < length:
            yield missing(last + 1, length)
        for seals in self._kept.values():
            yield from map(_not_sealed, seals)
        for (sequence,) in self._portions(_OUT_OF_TIME):
            yield Finding(sequence=sequence, problem="its time is not in the recorded time range of its span")

    def _portions(self, sql: str) -> Iterator[tuple[Any, ...]]:
        return _portions(self._connection, sql)


def _portions(connection: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a statement, by a cursor that the server keeps: there may be millions."""
    with connection.cursor(f"audit_{hashlib.sha256(sql.encode()).hexdigest()[:16]}", binary=True) as cursor:
        cursor.itersize = _PORTION
        yield from cursor.execute(sql.encode())


def _seals_of(connection: Connection) -> list[Seal]:
    """The seals, oldest first, one per 8,192 entries or so; none where the journal is of before there were any."""
    if not _has_seals(connection):
        return []
    rows = connection.execute(_SEALS.encode()).fetchall()
    return [Seal(through_sequence=row[0], entries=row[1], digest=row[2], sealed_at=row[3]) for row in rows]


def _noted(connection: Connection) -> Noted | None:
    """What the journal itself says of its seals."""
    row = connection.execute(_SEALED.encode()).fetchone() if _has_seals(connection) else None
    return None if row is None else Noted(*row)


def _has_seals(connection: Connection) -> bool:
    return connection.execute(_HAS_SEALS).fetchone() == (True,)


def _not_sealed(seal: Seal) -> Finding:
    when = seal.sealed_at.isoformat()
    problem = f"the seal that was kept of the journal up to here ({when}) is not this journal's"
    return Finding(sequence=seal.through_sequence, problem=problem)


def _identity(connection: Connection) -> tuple[str, int]:
    """What the journal is called, and how long it is."""
    row = connection.execute(_JOURNAL.encode()).fetchone()
    if row is None:
        raise JournalUnavailable("the journal has lost the row that says how long it is; restore a backup")
    return row[0], row[1]


@contextlib.contextmanager
def _reading(address: Address, schema: str) -> Generator[Connection]:
    """A connection on which everything is of one moment."""
    with (
        translating(address, JournalUnavailable, what="the journal"),
        connect_journal(address, schema, name="audit", timeout_s=_TIMEOUT_S, writes=False) as connection,
    ):
        if not exists(connection, JOURNAL, schema=schema):
            raise UsageError(f"{address} has no journal yet: no guard has recorded anything in it")
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection
