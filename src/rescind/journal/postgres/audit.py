"""Whether a journal in a database is as it was written: its sequence, its chains, and the seals that were kept of it.

Nothing seals it by itself: whoever can write in the database could write beside it too. `seal_database` says what it
holds now in one line, to be kept elsewhere:

    digest = SHA-256(genesis of the journal's id + the hashes of all entries up to here, in order of sequence)
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from typing import Any

from rescind.clock import from_us
from rescind.database import SCHEMA
from rescind.database.address import Address
from rescind.database.connecting import translating
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.audit import AuditReport, Finding
from rescind.journal.chain import ChainWalk, Link
from rescind.journal.postgres.connection import Connection, connect_journal
from rescind.journal.seal import Seal, seal_genesis

_FINDINGS_MAX = 1_000
_FETCHED = 2_000  # entries at a time: some megabytes
_TIMEOUT_S = 3_600.0  # A statement reads the whole journal.

_JOURNAL = "SELECT journal_id, last_sequence FROM journal"
_ENTRIES = (
    "SELECT e.sequence, e.run_key, e.position, e.recorded_at_us, e.body, e.hash, r.run_id"
    " FROM entries e LEFT JOIN runs r ON r.run_key = e.run_key ORDER BY e.sequence"
)
_HASHES = "SELECT sequence, hash FROM entries ORDER BY sequence"
_HEADS = "SELECT h.run_key, h.sequence, h.position, h.hash FROM heads h ORDER BY h.run_key"
_EMPTY_RUNS = "SELECT run_key, run_id FROM runs WHERE run_key NOT IN (SELECT run_key FROM heads) ORDER BY run_key"


def verify_database(address: Address, kept: Sequence[Seal] = ()) -> AuditReport:
    """Verify a whole journal against its sequence, its chains and their heads, and against seals that were kept.

    Memory grows with its runs and not with its entries: about a kilobyte for each.

    Raises: UsageError, if there is no journal; JournalUnavailable, if it cannot be read.
    """
    with _reading(address) as connection:
        return _Audit(connection, kept).report()


def seal_database(address: Address, *, now_us: int) -> Seal | None:
    """What the journal holds now; None if that is nothing. Raises: as `verify_database`."""
    with _reading(address) as connection:
        journal_id, through = _one(connection, _JOURNAL)
        digest = hashlib.sha256(seal_genesis(journal_id))
        for _, link in _rows(connection, _HASHES):
            digest.update(link)
    return _seal(through, digest.hexdigest(), from_us(now_us)) if through else None


def _seal(through: int, digest: str, sealed_at: datetime) -> Seal:
    return Seal(through_sequence=through, entries=through, digest=digest, sealed_at=sealed_at)


class _Audit:
    def __init__(self, connection: Connection, kept: Sequence[Seal]) -> None:
        self._connection = connection
        self._kept: dict[int, list[Seal]] = {}
        for seal in kept:
            self._kept.setdefault(seal.through_sequence, []).append(seal)
        self._walks: dict[int, tuple[ChainWalk, Link]] = {}
        self._ids: dict[int, str] = {}
        self._entries = 0

    def report(self) -> AuditReport:
        findings: list[Finding] = []
        more = 0
        for finding in self._findings():
            if len(findings) < _FINDINGS_MAX:
                findings.append(finding)
            else:
                more += 1
        return AuditReport(
            findings=tuple(findings),
            more_findings=more,
            entries=self._entries,
            runs=len(self._walks),
            seals=0,
            sealed_through=0,
        )

    def _findings(self) -> Iterator[Finding]:
        journal_id, length = _one(self._connection, _JOURNAL)
        digest = hashlib.sha256(seal_genesis(journal_id))
        due = 1
        for row in _rows(self._connection, _ENTRIES):
            sequence = row[0]
            if sequence != due:
                yield _missing(due, sequence - 1)
            due = sequence + 1
            digest.update(row[5])
            yield from self._entry(*row)
            for seal in self._kept.pop(sequence, ()):
                if seal.digest != digest.hexdigest():
                    yield _not_sealed(seal)
        if due <= length:
            yield _missing(due, length)
        for seals in self._kept.values():
            yield from map(_not_sealed, seals)
        yield from self._heads()

    def _entry(
        self, sequence: int, run_key: int, position: int, at_us: int, body: bytes, digest: bytes, run_id: str | None
    ) -> Iterator[Finding]:
        self._entries += 1
        if run_id is None:
            yield Finding(sequence=sequence, problem=f"it names run key {run_key}, of which there is no record")
            return
        known = self._walks.get(run_key)
        walk = ChainWalk(run_id) if known is None else known[0]
        link = Link(sequence, position, at_us, bytes(body), bytes(digest))
        self._ids[run_key] = run_id
        self._walks[run_key] = (walk, Link(sequence, position, 0, b"", link.hash))
        for found in walk.follow(link):
            yield Finding(sequence=sequence, run_id=run_id, position=position, problem=found.problem)

    def _heads(self) -> Iterator[Finding]:
        headless = set(self._walks)
        for run_key, sequence, position, digest in _rows(self._connection, _HEADS):
            headless.discard(run_key)
            known = self._walks.get(run_key)
            if known is None:
                yield Finding(sequence=run_key, problem=f"a run of {position + 1} entries began here, and is missing")
            elif (sequence, position, bytes(digest)) != (known[1].sequence, known[1].position, known[1].hash):
                problem = "the last entry is not the one that the head of the chain names: an end is missing or changed"
                yield Finding(sequence=sequence, run_id=self._ids[run_key], position=position, problem=problem)
        for run_key in sorted(headless):
            yield Finding(run_id=self._ids[run_key], problem="the head of its chain is missing")
        for run_key, run_id in _rows(self._connection, _EMPTY_RUNS):
            if run_key not in headless:
                yield Finding(sequence=run_key, run_id=run_id, problem="every entry of the run is missing")


def _missing(first: int, last: int) -> Finding:
    what = f"entry {first} is missing" if first == last else f"entries {first} to {last} are missing"
    return Finding(sequence=first, problem=what)


def _not_sealed(seal: Seal) -> Finding:
    when = seal.sealed_at.isoformat()
    problem = f"the seal that was kept of the journal up to here ({when}) is not this journal's"
    return Finding(sequence=seal.through_sequence, problem=problem)


@contextlib.contextmanager
def _reading(address: Address) -> Generator[Connection]:
    """A connection on which everything is of one moment."""
    from rescind.database.migrating import exists
    from rescind.journal.postgres.journal import JOURNAL

    with (
        translating(address, JournalUnavailable, what="the journal"),
        connect_journal(address, SCHEMA, name="audit", timeout_s=_TIMEOUT_S, writes=False) as connection,
    ):
        if not exists(connection, JOURNAL):
            raise UsageError(f"{address} has no journal yet: no guard has recorded anything in it")
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    if row is None:
        raise JournalUnavailable("the journal has lost the row that says how long it is; restore a backup")
    return tuple(row)


def _rows(connection: Connection, query: str) -> Iterator[tuple[Any, ...]]:
    with connection.cursor("audit", binary=True) as cursor:  # kept at the server: it may be millions
        cursor.itersize = _FETCHED
        yield from cursor.execute(query.encode())
