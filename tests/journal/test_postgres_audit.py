"""What an audit of a journal in a database finds, and what it does not complain of."""

import psycopg
import pytest

from builders import NOON_US, a_step, an_order, ended, intended
from journal.stores import CLAIM, keyed, open_runs
from rescind.database.address import Address
from rescind.errors import UsageError
from rescind.journal.audit import verify
from rescind.journal.port import Draft
from rescind.journal.postgres import PostgresJournal
from rescind.journal.postgres.audit import seal_database, verify_database
from rescind.model.entry import RunClosed
from rescind.recovery.postgres.register import DatabaseWorkers
from rescind.switch.postgres.store import PostgresOrders
from servers import Postgres


@pytest.fixture
def address(postgres: Postgres) -> Address:
    address = Address.parse(postgres.new_database())
    journal = PostgresJournal(address.url)
    open_runs(journal, "run-1", "run-2")
    for number in range(6):
        event = RunClosed(guard_id=f"guard-{number}", how="ended")
        journal.append([Draft(run_id=f"run-{number % 2 + 1}", event=event, recorded_at_us=NOON_US + number)])
    journal.close()
    return address


def tamper(address: Address, statement: str) -> None:
    with psycopg.connect(address.url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode())


def test_a_journal_as_it_was_written_is_intact(address: Address) -> None:
    report = verify_database(address)
    assert (report.intact, report.entries, report.runs) == (True, 8, 2)


def test_the_orders_beside_it_are_no_finding_and_have_to_be_kept_from_changes_as_well(address: Address) -> None:
    orders = PostgresOrders(address.url)
    orders.place(an_order())
    orders.close()
    assert verify_database(address).intact

    tamper(address, "ALTER TABLE rescind.orders DISABLE TRIGGER orders_kept")
    (found,) = verify_database(address).findings
    assert found.problem == "the table orders can be changed: its trigger orders_kept is gone or disabled"


@pytest.mark.parametrize(
    ("statement", "sequence", "problem"),
    [
        ("UPDATE rescind.entries SET body = '{}' WHERE sequence = 4", 4, "its content or its hash was changed"),
        ("UPDATE rescind.entries SET recorded_at_us = 1 WHERE sequence = 5", 5, "its content or its hash was changed"),
        ("DELETE FROM rescind.entries WHERE sequence = 4", 4, "the entry is missing"),
        ("DELETE FROM rescind.entries WHERE sequence > 6", 7, "entries 7 to 8 are missing"),
        ("DELETE FROM rescind.heads WHERE run_key = 1", None, "the head of its chain is missing"),
        ("UPDATE rescind.heads SET position = 9 WHERE run_key = 1", 7, "the end of the run is missing"),
        ("DELETE FROM rescind.runs WHERE run_id = 'run-2'", 2, "no record"),
    ],
)
def test_what_was_changed_is_named(address: Address, statement: str, sequence: int | None, problem: str) -> None:
    tamper(address, statement)

    findings = verify_database(address).findings
    assert any(finding.sequence == sequence and problem in finding.problem for finding in findings), findings


def test_a_seal_that_was_kept_shows_an_end_that_was_cut_off_with_all_its_traces(address: Address) -> None:
    seal = seal_database(address, now_us=NOON_US)
    assert seal is not None
    assert seal.through_sequence == 8
    assert verify_database(address, [seal]).intact

    tamper(address, "DELETE FROM rescind.entries WHERE sequence = 8")
    tamper(address, "UPDATE rescind.journal SET last_sequence = 7")
    tamper(
        address,
        "UPDATE rescind.heads h SET (sequence, position, hash) = (SELECT sequence, position, hash FROM rescind.entries"
        " e WHERE e.run_key = h.run_key ORDER BY sequence DESC LIMIT 1)",
    )

    assert verify_database(address).intact  # nothing within it can tell
    (finding,) = verify_database(address, [seal]).findings
    assert "is not this journal's" in finding.problem


def test_an_audit_makes_no_journal(postgres: Postgres) -> None:
    address = Address.parse(postgres.new_database())
    with pytest.raises(UsageError, match="no journal yet"):
        verify_database(address)
    with psycopg.connect(address.url) as connection:
        assert connection.execute("SELECT to_regnamespace('rescind')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE rescind.entries SET kind = 'ended' WHERE sequence = 9", "column kind"),
        ("UPDATE rescind.entries SET target = NULL WHERE sequence = 9", "column target"),
        ("UPDATE rescind.runs SET tenant = 'globex'", "differs from what the run was opened with: tenant"),
        ("UPDATE rescind.heads SET hash = '\\x00'", "not the one that the head"),
        ("DELETE FROM rescind.slots", "its slot is missing"),
        ("UPDATE rescind.slots SET digest = 'x'", "changed: digest"),
        ("DELETE FROM rescind.spans", "time range"),
        (
            "INSERT INTO rescind.entries SELECT sequence, run_key, 9, 0, now() + interval '1 month', kind, target,"
            " hash, body FROM rescind.entries WHERE sequence = 3",
            "two entries with this sequence",
        ),
        ("ALTER TABLE rescind.runs DISABLE TRIGGER append_only", "trigger append_only is gone or disabled"),
        ("DROP TRIGGER append_only ON rescind.entries", "trigger append_only is gone or disabled"),
        (
            "CREATE TRIGGER spy BEFORE INSERT ON rescind.heads FOR EACH ROW EXECUTE FUNCTION rescind.refuse_change()",
            "did not make: spy",
        ),
    ],
)
def test_columns_slots_and_triggers_are_checked_too(address: Address, statement: str, words: str) -> None:
    journal = PostgresJournal(address.url)
    journal.append([intended(a_step("1", **keyed(CLAIM)), claim=CLAIM), ended("1")])
    assert verify(journal).findings == ()
    tamper(address, statement)

    assert [finding for finding in verify(journal).findings if words in str(finding)]
    journal.close()


def test_orders_and_workers_in_the_same_database_are_none_of_its_business(address: Address) -> None:
    journal = PostgresJournal(address.url)
    orders = PostgresOrders(address.url)
    orders.place(an_order())
    register = DatabaseWorkers(address)
    register.look(now_us=0)

    assert verify(journal).findings == ()
    orders.close()
    register.close()
    journal.close()
