"""L1 to L3: what a switch's file keeps, what it refuses, and what its audit log shows."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import a_lift, an_order
from rescind.clock import SystemClock, SystemIds
from rescind.errors import OrdersUnavailable, StoreFormatError
from rescind.switch.service.ledger import LEDGER_NAME, Entry, Ledger, Note
from rescind.switch.service.records import canonical, record_of
from rescind.switch.service.tokens import Role, TokenBook, new_token


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path, clock=SystemClock())
    yield ledger
    ledger.close()


def entry(order_id: str) -> Entry:
    return Entry(record_of(an_order(order_id)), Note(what="order.placed", subject=order_id, actor="ops"))


def test_l1_what_was_appended_is_there_for_the_next_process_with_its_line(tmp_path: Path) -> None:
    first = Ledger(tmp_path, clock=SystemClock())
    (appended,) = first.append([entry("ord-1")])
    switch_id = first.switch_id
    first.close()

    again = Ledger(tmp_path, clock=SystemClock())
    assert [(sequence, record.content) for sequence, record in again.records(0, 10)] == [
        (appended.sequence, an_order("ord-1"))
    ]
    assert [line.subject for line in again.audit(0, 10)] == ["ord-1"]
    assert again.switch_id == switch_id
    again.close()


def test_l2_a_record_is_kept_once_and_noted_once(ledger: Ledger) -> None:
    (first,) = ledger.append([entry("ord-1")])
    (second,) = ledger.append([entry("ord-1")])
    assert (first.is_new, second.is_new) == (True, False)
    assert first.sequence == second.sequence
    assert len(ledger.records(0, 10)) == len(ledger.audit(0, 10)) == 1


def test_l3_a_full_disk_refuses_aloud_and_leaves_nothing_half_done(ledger: Ledger) -> None:
    ledger.append([entry("ord-1")])
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OrdersUnavailable, match="disk is full"):
        for number in range(200):
            ledger.append([entry(f"ord-full-{number}")])
    ledger._connection.execute("PRAGMA max_page_count = 1000000")
    assert len(ledger.records(0, 1_000)) == len(ledger.audit(0, 1_000))
    ledger.append([entry("ord-after")])
    assert ledger.audit_break() is None


def test_a_line_that_was_changed_in_the_audit_log_is_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, clock=SystemClock())
    for number in range(5):
        ledger.append([entry(f"ord-{number}")])
    assert ledger.audit_break() is None
    ledger.close()
    with sqlite3.connect(tmp_path / LEDGER_NAME) as connection:
        connection.execute("DROP TRIGGER audit_update")
        connection.execute("UPDATE audit SET actor = 'somebody else' WHERE sequence = 3")
    connection.close()
    again = Ledger(tmp_path, clock=SystemClock())
    assert again.audit_break() == 3
    again.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '{}'",
        "DELETE FROM records",
        "INSERT OR REPLACE INTO records SELECT sequence, digest, kind, 'x', body, received_at_us FROM records",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "UPDATE switch SET switch_id = 'x'",
        "DELETE FROM switch",
    ],
)
def test_nobody_changes_what_was_said(tmp_path: Path, ledger: Ledger, statement: str) -> None:
    ledger.append([entry("ord-1")])
    connection = sqlite3.connect(tmp_path / LEDGER_NAME)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreFormatError, match="left alone"):
        Ledger(tmp_path, clock=SystemClock())
    assert path.read_bytes() == before


def test_a_file_that_was_taken_away_takes_no_more_orders(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / LEDGER_NAME).rename(tmp_path / "elsewhere.db")
    with pytest.raises(OrdersUnavailable, match="deleted or replaced"):
        ledger.append([entry("ord-1")])


def test_a_record_is_the_same_wherever_it_was_written() -> None:
    for content in (an_order(), a_lift("ord-2", "ord-1")):
        record = record_of(content)
        assert canonical(record) == record
        assert record.content == content


def test_a_token_is_kept_as_a_hash_and_worthless_once_revoked(tmp_path: Path, ledger: Ledger) -> None:
    secret, kept = new_token(Role.OPERATOR, "alice", "", clock=SystemClock(), ids=SystemIds())
    ledger.add_token(kept, Note(what="token.created", subject="alice"))
    found = TokenBook(ledger.tokens()).find(secret)
    assert found is not None
    assert found.name == "alice"
    ledger.revoke_token(kept.token_id, Note(what="token.revoked", subject="alice"))
    book = TokenBook(ledger.tokens())
    assert book.find(secret) is None
    assert not book.is_empty
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in stored
