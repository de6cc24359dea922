"""Seals: what the journal held at a moment, said outside of the journal.

A chain proves that a run's entries belong together; it cannot prove that the last ones are still there. A seal can: it
is a line in a file beside the journal, with the length of the journal and a digest over every entry's hash.

    digest(0) = SHA-256("rescind-seals-1:" + journal id)
    digest(n) = SHA-256(digest(n - 1) + the hashes of the entries since seal n - 1, in order of sequence)

Seals may be copied to another machine, where whoever can write the journal cannot write: a later audit against the
copy shows any change of what was sealed. The journal in turn notes how many seals were written and which is the last,
so that seals which are taken away are missed.
"""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from rescind.clock import from_us
from rescind.errors import JournalUnavailable, StoreFormatError
from rescind.journal.connection import connect_writer, schema_file

# A seal reads 32 bytes of each entry since the last one and syncs one line: 5 ms at this number, and at full speed
# once in a third of a second, between two batches. Fewer would leave more entries unsealed at a crash.
SEAL_EVERY = 8_192

_LINE_BYTES_MAX = 1_024
_CHUNK = 4_096
_NOTE_TIMEOUT_S = 1  # Another process's commit takes milliseconds; a note that comes later does no harm.


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the seals file: the journal up to and including `through_sequence`.

    Attributes:
        through_sequence: The last entry it covers.
        entries: How many it adds to the seal before.
        digest: See the module; hexadecimal.
        sealed_at: When; aware, UTC.
    """

    through_sequence: int
    entries: int
    digest: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    sealed_at: datetime


def seals_path(journal: Path) -> Path:
    """Where the seals of a journal are: `journal.seals` beside `journal.db`."""
    return journal.with_suffix(".seals")


def seal_genesis(journal_id: str) -> bytes:
    """What the first seal takes for the digest before it."""
    return hashlib.sha256(b"rescind-seals-1:" + journal_id.encode()).digest()


def seal(connection: sqlite3.Connection, journal: Path, *, now_us: int) -> Seal | None:
    """Seal what was committed since the last seal; durable on return. None if that is nothing.

    Several processes may do this at once; a lock on the file lets one after the other.
    Raises: JournalUnavailable or sqlite3.Error, if the seal could not be made; the journal is none the worse for it.
    """
    try:
        with open(os.open(seals_path(journal), os.O_RDWR | os.O_CREAT, 0o600), "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = _last_seal(file)
            new = _next_seal(connection, last, now_us)
            if new is None:
                return None
            file.seek(0, os.SEEK_END)
            file.write(msgspec.json.encode(new) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            # Only now: a note of a seal that a crash kept from being written would look like a seal taken away.
            _note(journal, file, last, new)
            return new
    except OSError as error:
        raise JournalUnavailable(
            f"the journal {journal} could not be sealed: {error}. Check that {seals_path(journal).name} and its folder "
            "may be written"
        ) from error


class Noted(msgspec.Struct, frozen=True):
    """What the journal itself says of its seals: how many were written, and the digest of the last."""

    seals: int
    digest: str


def noted_seals(connection: sqlite3.Connection) -> Noted | None:
    """The journal's own note of its seals; None if it has none, because nothing was sealed yet."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sealed'").fetchone() is None:
        return None  # A journal of before there were notes gets the table with its next seal.
    row = connection.execute("SELECT seals, digest FROM sealed").fetchone()
    return None if row is None else Noted(*row)


def _note(journal: Path, file: BinaryIO, last: Seal | None, new: Seal) -> None:
    # A connection of its own: the caller's may be one that only reads, or one that does not wait for locks.
    with contextlib.closing(connect_writer(journal)) as connection:
        connection.execute(f"PRAGMA busy_timeout = {_NOTE_TIMEOUT_S * 1_000}")
        connection.execute("PRAGMA synchronous = NORMAL")  # It may be lost in a power cut; the seals are not.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(schema_file("002_sealed.sql"))
        noted = noted_seals(connection)
        if noted is not None and last is not None and noted.digest == last.digest:
            seals = noted.seals + 1
        else:
            file.seek(0)
            seals = sum(1 for _ in file)
            # Fewer than were noted: some were taken away, and that must not be forgotten with the next seal.
            seals = seals if noted is None else max(seals, noted.seals + 1)
        connection.execute("INSERT OR REPLACE INTO sealed VALUES (1, ?, ?)", (seals, new.digest))
        connection.execute("COMMIT")


def read_seals(journal: Path) -> Iterator[Seal]:
    """The seals of a journal, oldest first; none if there is no file. An unfinished last line does not count.

    Raises: StoreFormatError, if a line is not a seal; JournalUnavailable, if the file cannot be read.
    """
    try:
        file = seals_path(journal).open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise JournalUnavailable(f"the seals of the journal {journal} cannot be read: {error}") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield msgspec.json.decode(line, type=Seal)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise StoreFormatError(f"line {number} of {seals_path(journal)} is not a seal: {error}") from error


def journal_id(connection: sqlite3.Connection) -> str:
    """What the journal was named when it was made."""
    found: str = connection.execute("SELECT journal_id FROM journal").fetchone()[0]
    return found


def _next_seal(connection: sqlite3.Connection, last: Seal | None, now_us: int) -> Seal | None:
    after = 0 if last is None else last.through_sequence
    previous = bytes.fromhex(last.digest) if last else seal_genesis(journal_id(connection))
    digest, through = _digest(connection, previous, after)
    if through == after:
        return None
    return Seal(through_sequence=through, entries=through - after, digest=digest.hex(), sealed_at=from_us(now_us))


def _digest(connection: sqlite3.Connection, previous: bytes, after: int) -> tuple[bytes, int]:
    """The digest over the hashes after `after`, and the sequence it reaches."""
    running, through = hashlib.sha256(previous), after
    rows = connection.execute("SELECT sequence, hash FROM entries WHERE sequence > ? ORDER BY sequence", (after,))
    while chunk := rows.fetchmany(_CHUNK):
        running.update(b"".join([row[1] for row in chunk]))
        through = chunk[-1][0]
    return running.digest(), through


def _last_seal(file: BinaryIO) -> Seal | None:
    """The last seal, after which the file ends: what a crash left of another is cut off."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * _LINE_BYTES_MAX)
    file.seek(start)
    tail = file.read()
    end = tail.rfind(b"\n") + 1
    if end < len(tail):
        file.truncate(start + end)
    if end == 0:
        return None
    line = tail[:end].splitlines()[-1]
    try:
        return msgspec.json.decode(line, type=Seal)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OSError(f"the last line of {file.name} is not a seal: {error}") from error
