"""The laws of a switch's file: LG1 to LG3, and what others may have done to it."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import a_lift, an_order
from rescind.clock import SystemIds
from rescind.errors import OrdersUnavailable, StoreFormatError, UsageError
from rescind.model.order import Lift, Order
from rescind.switch import database
from rescind.switch.service.ledger import LEDGER, LEDGER_NAME, Entry, Ledger, Note, Seen, restrict, sole_use
from rescind.switch.service.records import record_of
from rescind.switch.wire import Report
from rescind.testing import ManualClock
from rescind.web.tokens import Role, new_token

PLACED = Note(what="order.placed", subject="ord-1", actor="ops", person="alice", origin="10.0.0.1", detail="a test")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "switch", clock=ManualClock())
    yield ledger
    ledger.close()


def an_entry(content: Order | Lift | None = None, note: Note | None = PLACED) -> Entry:
    return Entry(record_of(content or an_order()), note)


def changed_by_hand(ledger: Ledger, *statements: str) -> None:
    """As somebody would with a database tool."""
    with sqlite3.connect(ledger.path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


# --- LG1: durable with its line, or neither ---


@pytest.mark.parametrize(("dies", "stands"), [("before commit", False), ("after commit", True)])
def test_lg1_a_record_and_its_line_are_on_disk_or_neither_is(tmp_path: Path, dies: str, stands: bool) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from builders import an_order
from rescind.clock import SystemClock
from rescind.switch.service.ledger import Entry, Ledger, Note
from rescind.switch.service.records import record_of
ledger = Ledger(Path({str(tmp_path)!r}), clock=SystemClock())
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if {dies!r} == "before commit":
    ledger._connection.set_trace_callback(lambda statement: die() if statement == "COMMIT" else None)
ledger.append([Entry(record_of(an_order()), Note(what="order.placed", subject="ord-1"))])
die()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run([sys.executable, "-c", program], env=environment, timeout=30, check=False)
    assert died.returncode == -signal.SIGKILL

    ledger = Ledger(tmp_path, clock=ManualClock())
    assert [record.subject for _, record in ledger.records(0, 10)] == (["ord-1"] if stands else [])
    assert [line.subject for line in ledger.audit(0, 10)] == (["ord-1"] if stands else [])
    ledger.close()


def test_lg1_of_several_records_all_are_added_or_none(ledger: Ledger) -> None:
    too_much = Entry(record_of(an_order("ord-2")), Note(what=None, subject="ord-2"))  # type: ignore[arg-type]

    with pytest.raises(OrdersUnavailable):
        ledger.append([an_entry(), too_much])

    assert ledger.records(0, 10) == ()
    assert ledger.audit(0, 10) == ()


# --- LG2: once ---


def test_lg2_a_record_and_its_line_are_kept_once(ledger: Ledger) -> None:
    first = ledger.append([an_entry()])
    again = ledger.append([an_entry(), an_entry(an_order("ord-2"), Note(what="order.placed", subject="ord-2"))])

    assert [each.is_new for each in (*first, *again)] == [True, False, True]
    assert [each.sequence for each in (*first, *again)] == [1, 1, 2]
    assert [line.subject for line in ledger.audit(0, 10)] == ["ord-1", "ord-2"]


def test_records_are_read_in_their_order_and_in_pages(ledger: Ledger) -> None:
    ledger.append([an_entry(an_order(f"ord-{number}")) for number in range(5)])

    assert [record.subject for _, record in ledger.records(1, 2)] == ["ord-1", "ord-2"]
    assert ledger.records(5, 10) == ()


def test_a_record_says_the_same_after_it_was_kept(ledger: Ledger) -> None:
    order, lift = an_order(scope="tenant:acme+agent:x"), a_lift("ord-1", "ord-2")
    ledger.append([an_entry(order), an_entry(lift)])

    assert [record.content for _, record in ledger.records(0, 10)] == [order, lift]


# --- LG3: aloud ---


def test_lg3_a_full_disk_refuses_aloud_and_nothing_is_half_there(ledger: Ledger) -> None:
    ledger._connection.execute("PRAGMA max_page_count = 20")
    placed = 0
    with pytest.raises(OrdersUnavailable, match="disk is full"):
        for placed in range(1_000):
            ledger.append([an_entry(an_order(f"ord-{placed}"))])
    kept = len(ledger.records(0, 1_000))
    assert kept == placed == len(ledger.audit(0, 1_000))

    ledger._connection.execute("PRAGMA max_page_count = 10000")
    assert ledger.append([an_entry(an_order("ord-last"))])[0].is_new
    assert ledger.audit_break() is None


@pytest.mark.parametrize("replaced", [False, True])
def test_lg3_a_file_that_was_taken_away_takes_nothing(ledger: Ledger, replaced: bool) -> None:
    copy = ledger.path.with_name("copy")
    shutil.copy(ledger.path, copy)
    ledger.path.unlink()
    if replaced:
        copy.rename(ledger.path)

    for write in (lambda: ledger.append([an_entry()]), ledger.beat_disk, lambda: ledger.note(PLACED)):
        with pytest.raises(OrdersUnavailable, match="deleted or replaced"):
            write()


def test_lg3_a_file_that_somebody_holds_locked_refuses_after_a_second(ledger: Ledger) -> None:
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(OrdersUnavailable, match="holds its lock"):
        ledger.append([an_entry()])

    other.execute("ROLLBACK")
    other.close()
    assert ledger.append([an_entry()])[0].is_new


# --- what others may have done ---


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_text("not a database " * 100), "no database"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE theirs (x)").connection.close(), "something else"),
        (lambda path: _made_newer(path), "newer rescind"),
    ],
    ids=["no database", "somebody else's", "newer"],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, make: object, says: str) -> None:
    assert callable(make)
    path = tmp_path / LEDGER_NAME
    make(path)
    before = path.read_bytes()

    with pytest.raises(StoreFormatError, match=says):
        Ledger(tmp_path, clock=ManualClock())

    assert path.read_bytes() == before


def test_an_older_ledger_is_brought_up_to_date_with_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_NAME
    _made_older(path)

    ledger = Ledger(tmp_path, clock=ManualClock())
    _, verifier = new_token(Role.VERIFIER, "checks", "", clock=ManualClock(), ids=SystemIds())
    ledger.add_token(verifier, Note(what="token.created", subject="checks"))

    assert [(token.name, token.role) for token in ledger.tokens()] == [("olga", "operator"), ("checks", "verifier")]
    ledger.close()


def _made_older(path: Path) -> None:
    oldest = database.Kind(LEDGER.what, LEDGER.application_id, LEDGER.package, LEDGER.steps[:1])
    database.create_if_missing(path, oldest)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO tokens VALUES ('tok_1', 'hash-1', 'operator', 'olga', '', -1, NULL)")
    connection.commit()
    connection.close()


def _made_newer(path: Path) -> None:
    Ledger(path.parent, clock=ManualClock()).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '{}'",
        "DELETE FROM records",
        "INSERT OR REPLACE INTO records SELECT 1, 'x', kind, subject, body, 0 FROM records",
        "INSERT INTO records SELECT 9, 'x', 'order', 'o', '{}', 0 WHERE 0; DELETE FROM records",
        "UPDATE audit SET actor = 'somebody else'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT sequence, 0, what, subject, 'x', person, origin, detail, hash FROM audit",
        "UPDATE switch SET switch_id = 'sw_other'",
        "DELETE FROM switch",
        "INSERT INTO switch VALUES ('sw_other')",
    ],
)
def test_nobody_changes_what_was_ordered_by_a_slip(ledger: Ledger, statement: str) -> None:
    ledger.append([an_entry()])

    with pytest.raises(sqlite3.Error):
        changed_by_hand(ledger, *statement.split("; "))

    assert [record.subject for _, record in ledger.records(0, 10)] == ["ord-1"]


@pytest.mark.parametrize(
    ("crime", "found_at"),
    [
        ("UPDATE audit SET actor = 'somebody else' WHERE sequence = 3", 3),
        ("UPDATE audit SET at_us = at_us + 1 WHERE sequence = 1", 1),
        ("DELETE FROM audit WHERE sequence = 2", 3),
        ("UPDATE audit SET sequence = 99 WHERE sequence = 5", 99),
    ],
)
def test_who_changes_the_audit_log_on_purpose_breaks_its_chain(ledger: Ledger, crime: str, found_at: int) -> None:
    for number in range(5):
        ledger.note(Note(what="test", subject=f"{number}"))
    assert ledger.audit_break() is None

    changed_by_hand(ledger, "DROP TRIGGER audit_update", "DROP TRIGGER audit_delete", crime)

    assert ledger.audit_break() == found_at


# --- its folder ---


def test_folder_and_files_are_their_owner_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "switch"
    restrict(folder)
    with sole_use(folder):
        ledger = Ledger(folder, clock=ManualClock())
        ledger.append([an_entry()])

        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
            (path.name for path in folder.iterdir()), 0o600
        )
        ledger.close()


def test_a_folder_that_holds_other_things_keeps_its_mode(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "letters.txt").write_text("dear")

    restrict(home)

    assert stat.S_IMODE(home.stat().st_mode) == 0o755


def test_a_folder_of_ours_that_was_opened_up_is_closed_again(tmp_path: Path) -> None:
    Ledger(tmp_path / "switch", clock=ManualClock()).close()
    (tmp_path / "switch").chmod(0o755)

    restrict(tmp_path / "switch")

    assert stat.S_IMODE((tmp_path / "switch").stat().st_mode) == 0o700


def test_a_folder_serves_one_switch_at_a_time(tmp_path: Path) -> None:
    with sole_use(tmp_path), pytest.raises(UsageError, match="another switch runs on"), sole_use(tmp_path):
        pass
    with sole_use(tmp_path):
        pass


# --- tokens and guards ---


def test_tokens_are_kept_as_hashes_and_revoked_ones_stay_known(ledger: Ledger) -> None:
    clock = ManualClock()
    secret, token = new_token(Role.AGENT, "billing", "agent:billing-agent", clock=clock, ids=SystemIds())
    ledger.add_token(token, Note(what="token.created", subject="billing"))
    assert ledger.tokens() == (token,)

    ledger.revoke_token(token.token_id, Note(what="token.revoked", subject="billing"))

    (kept,) = ledger.tokens()
    assert kept.revoked_at_us is not None
    assert [line.what for line in ledger.audit(0, 10)] == ["token.created", "token.revoked"]
    assert secret.encode() not in b"".join(path.read_bytes() for path in ledger.path.parent.iterdir())


def test_somebody_else_s_writes_to_the_file_are_noticed(ledger: Ledger) -> None:
    before = ledger.tokens_changed()
    ledger.append([an_entry()])
    assert ledger.tokens_changed() == before

    other = Ledger(ledger.path.parent, clock=ManualClock())
    other.note(PLACED)
    other.close()
    assert ledger.tokens_changed() != before


def test_guards_are_remembered_with_their_owner_until_they_leave(ledger: Ledger) -> None:
    one = Seen("g1", "billing", Report(pid=7, hears=("sw_1",), switches=2))
    two = Seen("g2", "", Report(pid=8))
    ledger.save_guards([one, two], [])
    ledger.save_guards([one], ["g2", "g3"])

    assert ledger.guards() == (one,)
