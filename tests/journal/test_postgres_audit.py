"""What an audit of a journal in a database finds, and what it does not complain of."""

import msgspec
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
from rescind.journal.seal import Seal
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
    assert (report.seals, report.sealed_through) == (1, 8)  # by the close


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
    (finding,) = verify_database(address).findings
    assert "the journal was sealed up to here" in finding.problem
    tamper(address, "DELETE FROM rescind.seals")
    (finding,) = verify_database(address).findings
    assert "the seals are missing: 1 were written, 0 are there" in finding.problem
    tamper(address, "DELETE FROM rescind.sealed")

    assert verify_database(address).intact  # nothing within it can tell any more
    (finding,) = verify_database(address, [seal]).findings
    assert "is not this journal's" in finding.problem


# --- seals ---


def seals_of(address: Address) -> list[Seal]:
    """As an administrator copies them to another machine."""
    with psycopg.connect(address.url) as connection:
        rows = connection.execute(
            "SELECT row_to_json(s)::text FROM rescind.seals s ORDER BY through_sequence"
        ).fetchall()
    return [msgspec.json.decode(row[0], type=Seal) for row in rows]


def append(address: Address, *numbers: int, size: int = 1) -> PostgresJournal:
    """A journal to which so much was appended, and which is open still."""
    journal = PostgresJournal(address.url)
    for number in numbers:
        event = RunClosed(guard_id=f"guard-{number}", how="ended")
        journal.append([Draft(run_id="run-1", event=event, recorded_at_us=NOON_US + number)] * size)
    return journal


def test_each_close_seals_what_was_written_and_each_seal_covers_what_came_since(address: Address) -> None:
    append(address, 1, 2).close()
    append(address, 3).close()
    PostgresJournal(address.url).close()  # nothing was written

    seals = seals_of(address)
    assert [(seal.through_sequence, seal.entries) for seal in seals] == [(8, 8), (10, 2), (11, 1)]
    report = verify_database(address, seals)
    assert (report.findings, report.seals, report.sealed_through) == ((), 3, 11)


def test_a_long_journal_is_sealed_while_it_is_written(address: Address) -> None:
    journal = append(address, *range(9), size=1_000)

    assert [seal.through_sequence for seal in seals_of(address)] == [8, 9_008]
    journal.close()
    assert verify_database(address).sealed_through == 9_008


def test_a_changed_entry_is_reported_by_its_own_seal_only(address: Address) -> None:
    append(address, 1, 2).close()
    append(address, 3).close()
    tamper(address, "UPDATE rescind.entries SET hash = '\\x00' WHERE sequence = 9")

    sealed = [finding for finding in verify_database(address).findings if "that were sealed" in finding.problem]

    assert [finding.sequence for finding in sealed] == [10]


def test_a_history_that_was_written_anew_with_its_seals_is_shown_by_a_seal_that_was_kept(address: Address) -> None:
    append(address, 1).close()
    kept = seals_of(address)
    tamper(address, "UPDATE rescind.seals SET digest = repeat('0', 64) WHERE through_sequence = 9")
    tamper(address, "UPDATE rescind.sealed SET digest = repeat('0', 64)")

    findings = verify_database(address, kept).findings

    assert [finding.sequence for finding in findings] == [9, 9]  # not what was sealed, and not the seal that was kept


def test_a_journal_of_before_there_were_seals_is_sealed_piece_by_piece(address: Address) -> None:
    for table in ("seals", "sealed"):
        tamper(address, f"DELETE FROM rescind.{table}")
    tamper(  # as if it were long
        address,
        "INSERT INTO rescind.entries SELECT 8 + n, 1, 8 + n, 0, now(), 'x', NULL, sha256(n::text::bytea), ''"
        " FROM generate_series(1, 100000) n",
    )
    tamper(address, "UPDATE rescind.journal SET last_sequence = 100008")

    with psycopg.connect(address.url) as connection:
        more = [connection.execute("SELECT rescind.seal_journal()").fetchone() for _ in range(3)]

    assert more == [(True,), (False,), (False,)]
    assert [(seal.through_sequence, seal.entries) for seal in seals_of(address)] == [(100_000, 100_000), (100_008, 8)]
    assert not [it for it in verify_database(address, seals_of(address)).findings if "seal" in it.problem]


def test_a_journal_that_cannot_be_sealed_is_written_still(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    tamper(address, "DROP FUNCTION rescind.seal_journal()")

    append(address, 1).close()

    assert "could not be tidied up" in caplog.text
    assert verify_database(address).entries == 9


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
