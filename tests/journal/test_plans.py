"""Every query walks an index: none reads all entries, and none sorts a whole result for one page."""

import contextlib
import itertools
import sqlite3
from pathlib import Path

import pytest

from builders import NOON, opened
from rescind.journal.conditions import Values
from rescind.journal.port import Query
from rescind.journal.queries import entries_plan, runs_plan
from rescind.journal.sqlite import SqliteJournal
from rescind.model.step import Target

CONDITIONS: dict[str, dict[str, object]] = {
    "run": {"run_id": "r"},
    "trace": {"trace_id": "t"},
    "tenant": {"tenant": "acme"},
    "agent": {"agent_name": "billing-agent"},
    "version": {"agent_name": "billing-agent", "agent_version": "1"},
    "target": {"target": Target("erp", "invoice", "1")},
    "time": {"since": NOON, "until": NOON},
    "reviews": {"reviews": True},
}
COMBINATIONS = [
    pytest.param(Query(**(CONDITIONS[one] | CONDITIONS[other])), id=f"{one}-{other}")  # type: ignore[arg-type]
    for one, other in itertools.combinations_with_replacement(CONDITIONS, 2)
]


def explained(path: Path, sql: str, values: Values) -> list[str]:
    SqliteJournal(path).close()
    page = {"after": 5, "upto": 900, "tail": 900, "limit": 10, "after_run": "a"}
    connection = sqlite3.connect(path)
    details = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values | page)]
    connection.close()
    return details


@pytest.mark.parametrize("query", COMBINATIONS)
def test_no_page_of_entries_scans_the_journal(query: Query, tmp_path: Path) -> None:
    plan = entries_plan(query)

    for sql, windowed in [(plan.indexed, plan.windowed), (plan.tail, False)]:
        details = explained(tmp_path / "journal.db", sql, plan.values)

        assert not [line for line in details if line.startswith("SCAN")], details
        # A page through many runs sorts its window of sequences, and nothing else sorts at all.
        assert windowed or not [line for line in details if "TEMP B-TREE" in line], details


@pytest.mark.parametrize("query", COMBINATIONS)
def test_no_page_of_runs_scans_the_journal(query: Query, tmp_path: Path) -> None:
    details = explained(tmp_path / "journal.db", *runs_plan(query))

    scans = [line for line in details if line.startswith("SCAN")]
    assert not scans or (query.reviews and scans == ["SCAN e USING INDEX entries_of_reviews"]), details


def test_a_journal_from_before_tasks_had_notes_gets_the_index_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.append([opened()])
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP INDEX entries_of_reviews; CREATE INDEX entries_review ON entries (sequence)"
            " WHERE kind IN ('review_opened', 'review_resolved');"
        )

    journal = SqliteJournal(path)
    assert [entry.sequence for entry in journal.entries(Query())] == [1]
    journal.close()

    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert "entries_of_reviews" in names
    assert "entries_review" not in names
