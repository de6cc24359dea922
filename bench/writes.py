"""What a full guarded write costs on SQLite, against the commits it cannot do without.

One thread: two bare durable commits of the same bytes, made in the calling thread. Sixteen threads: a writer thread
with group commit and nothing else, that is no chain, no index, no encoding, fed with the same bytes.
"""

import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.form import Row, interleaved, row
from rescind.guard.guard import Guard
from rescind.journal.port import Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Ended, Intended
from rescind.switch.memory import MemoryOrders

THREADS = 16
WRITES_ONE = 300
WRITES_EACH = 150
ROUNDS = 7


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal.db")
        guard = Guard.over(journal, MemoryOrders())

        @guard.write("invoice.status.update", target=lambda invoice_id: ("erp", "invoice", invoice_id))
        def set_status(invoice_id: str, status: str) -> str:
            return "open"

        @set_status.compensate
        def _(step: object) -> None: ...

        def one_write() -> None:
            set_status("inv_88421", "void")

        try:
            with guard.run("billing-agent@2.4.0", tenant="acme") as run:
                one_write()
                intent, end = _bodies(journal)
                raw = RawGroupCommit(Path(folder) / "raw.db")
                bare = _bare_commits(Path(folder) / "bare.db", intent, end)
                one = interleaved(
                    lambda: _per_call(one_write, WRITES_ONE), lambda: _per_call(bare, WRITES_ONE), rounds=ROUNDS
                )

                def guarded_in_thread() -> None:
                    with run.activate():
                        for _ in range(WRITES_EACH):
                            one_write()

                def raw_in_thread() -> None:
                    for _ in range(WRITES_EACH):
                        raw.append(intent)
                        raw.append(end)

                many = interleaved(lambda: _rate(guarded_in_thread), lambda: _rate(raw_in_thread), rounds=ROUNDS)
                raw.close()
        finally:
            guard.close()
    return [
        row(
            "guarded write, 1 thread", ours=one[0], reference=one[1], unit="µs", target=1.3, n=ROUNDS,
            note="against two bare durable commits",
        ),
        row(
            f"guarded write, {THREADS} threads", ours=many[0], reference=many[1], unit="writes/s", target=1 / 0.6,
            n=ROUNDS, note="against a bare group commit of the same bytes", higher_is_better=True,
        ),
    ]  # fmt: skip


def _bodies(journal: SqliteJournal) -> tuple[bytes, bytes]:
    events = [entry.event for entry in journal.entries(Query())]
    intent = next(event for event in events if isinstance(event, Intended))
    end = next(event for event in events if isinstance(event, Ended))
    return msgspec.json.encode(intent), msgspec.json.encode(end)


def _per_call(call: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def _rate(work: Callable[[], None]) -> float:
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return THREADS * WRITES_EACH / (time.perf_counter() - began)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE raw (sequence INTEGER PRIMARY KEY, body BLOB)")
    return connection


def _bare_commits(path: Path, *bodies: bytes) -> Callable[[], None]:
    connection = _open(path)

    def commit() -> None:
        for body in bodies:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO raw (body) VALUES (?)", (body,))
            connection.execute("COMMIT")

    return commit


class RawGroupCommit:
    """A queue and one writer thread; whoever appends waits until the commit that holds his row."""

    def __init__(self, path: Path) -> None:
        self._queue: queue.SimpleQueue[tuple[bytes, threading.Lock] | None] = queue.SimpleQueue()
        self._connection = _open(path)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def append(self, body: bytes) -> None:
        done = threading.Lock()
        done.acquire()
        self._queue.put((body, done))
        done.acquire()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    self._queue.put(None)
                    break
                batch.append(item)
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO raw (body) VALUES (?)", [(body,) for body, _ in batch])
            self._connection.execute("COMMIT")
            for _, done in batch:
                done.release()
