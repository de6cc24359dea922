"""What an append to the journal on PostgreSQL costs, against a bare loop of psycopg with the same bytes.

The server waits for the disk, and is started for this alone. The bare table has one index and no chain, no slots and no
order over several writers.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from bench.form import Row, interleaved, row
from bench.servers import a_cluster
from rescind.journal.codec import prepare
from rescind.journal.port import Draft
from rescind.journal.postgres import PostgresJournal
from rescind.model.action import EffectClass
from rescind.model.entry import Intended, RunOpened
from rescind.model.step import RunInfo, Step, Target

APPENDS = 300
BATCHES, BATCH = 20, 100
THREADS, EACH = 16, 100
ROUNDS = 7


def measure() -> list[Row]:
    with a_cluster() as server:
        url = server.new_database()
        with contextlib.closing(PostgresJournal(url)) as journal, psycopg.connect(url, autocommit=True) as bare:
            bare.execute("CREATE TABLE raw (sequence bigserial PRIMARY KEY, body bytea)")
            return _rows(journal, bare)


def _rows(journal: PostgresJournal, bare: psycopg.Connection[Any]) -> list[Row]:
    body = (prepare([_intent("r0", 0)])[0].body,)
    insert = "INSERT INTO raw (body) VALUES (%s)"
    journal.append([_opening(f"r{number}") for number in range(THREADS)])

    def singles() -> None:
        for number in range(APPENDS):
            journal.append([_intent("r0", number)])

    def bare_singles() -> None:
        for _ in range(APPENDS):
            bare.execute(insert, body)

    def batches() -> None:
        for _ in range(BATCHES):
            journal.append([_intent("r0", number) for number in range(BATCH)])

    def bare_batches() -> None:
        for _ in range(BATCHES):
            with bare.transaction():
                bare.cursor().executemany(insert, [body] * BATCH)

    def threads() -> None:
        workers = [threading.Thread(target=_append_each, args=(journal, f"r{n}")) for n in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    one = interleaved(_rate(singles, APPENDS), _rate(bare_singles, APPENDS), rounds=ROUNDS)
    hundred = interleaved(_rate(batches, BATCHES * BATCH), _rate(bare_batches, BATCHES * BATCH), rounds=ROUNDS)
    many = interleaved(_rate(threads, THREADS * EACH), _rate(bare_singles, APPENDS), rounds=ROUNDS)
    return [
        _row("postgres journal, 1 per commit", one, "against one bare INSERT per commit"),
        _row(f"postgres journal, {BATCH} per append", hundred, f"against executemany of {BATCH} in a transaction"),
        _row(f"postgres journal, {THREADS} threads", many, "group commit, against one bare INSERT per commit"),
    ]


def _append_each(journal: PostgresJournal, run_id: str) -> None:
    for number in range(EACH):
        journal.append([_intent(run_id, number)])


def _rate(work: Callable[[], None], rows: int) -> Callable[[], float]:
    def rate() -> float:
        began = time.perf_counter()
        work()
        return rows / (time.perf_counter() - began)

    return rate


def _row(name: str, measured: tuple[float, float], note: str) -> Row:
    ours, reference = measured
    return row(
        name, ours=ours, reference=reference, unit="rows/s", target=None, n=ROUNDS, note=note, higher_is_better=True
    )


def _opening(run_id: str) -> Draft:
    run = RunInfo(run_id=run_id, agent_name="billing-agent", agent_version="2.4.0", tenant="acme")
    return Draft(run_id=run_id, event=RunOpened(run=run, guard_id="bench"), recorded_at_us=1)


def _intent(run_id: str, number: int) -> Draft:
    step = Step(
        step_id=str(number),
        action="invoice.status.update",
        effect_class=EffectClass.REVERSIBLE,
        requested={"invoice_id": "inv_88421", "status": "void"},
        target=Target("erp", "invoice", "inv_88421"),
        idempotency_key=f"{run_id}/{number}",
        arguments_digest="0" * 64,
    )
    return Draft(run_id=run_id, event=Intended(step), recorded_at_us=1_795_262_400_000_000 + number)
