"""Whoever changes the file behind the journal's back is found out, and the audit says where."""

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from builders import a_draft, a_step, ended, intended, opened
from journal.stores import CLAIM, keyed
from rescind.errors import UsageError
from rescind.journal.audit import AuditReport, Finding, verify
from rescind.journal.port import Draft, SlotClaim
from rescind.journal.seal import read_seals, seals_path
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import CompensationEnded, Disposition, Intended
from rescind.model.outcome import Failed, Unknown
from rescind.model.step import Target

CHANGED = "its content or its hash was changed, or it was moved here"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two runs of five entries, interleaved (a: 1 3 5 7 9, b: 2 4 6 8 10), one keyed step, sealed."""
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.append([opened("a"), opened("b")])
    for number in (1, 2):
        for name in ("a", "b"):
            claim = CLAIM if (name, number) == ("a", 1) else None
            key = {} if claim is None else keyed(claim)
            step = a_step(str(number), target=Target("erp", "invoice", f"{name}-{number}"), **key)
            journal.append([intended(step, name, claim)])
        for name in ("a", "b"):
            journal.append([ended(str(number), run_id=name)])
    journal.close()
    return path


def tamper(path: Path, *statements: str) -> AuditReport:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount != 0, statement
    connection.close()
    return verify(path)


def found(report: AuditReport) -> list[tuple[int | None, str, int | None]]:
    return [(finding.sequence, finding.run_id, finding.position) for finding in report.findings]


def unseal(path: Path) -> None:
    """Tampering that the chain alone has to show: as if nothing had been sealed yet."""
    seals_path(path).unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM sealed")


def test_an_untouched_journal_is_intact(path: Path) -> None:
    report = verify(path)

    assert report.intact
    assert report == AuditReport(findings=(), more_findings=0, entries=10, runs=2, seals=1, sealed_through=10)


def test_an_open_journal_can_be_audited(path: Path) -> None:
    journal = SqliteJournal(path)
    journal.append([opened("c")])

    report = verify(journal)

    journal.close()
    assert (report.findings, report.entries, report.sealed_through) == ((), 11, 10)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("body = replace(body, 'inv_1', 'inv_2')", id="body"),
        pytest.param("hash = zeroblob(32)", id="hash"),
        pytest.param("position = 7", id="position"),
    ],
)
def test_an_edited_entry_is_named(path: Path, change: str) -> None:
    unseal(path)
    report = tamper(path, f"UPDATE entries SET {change} WHERE sequence = 3")

    named = found(report)[0]
    assert named[:2] == (3, "a")
    assert str(report.findings[0]).startswith("entry 3, run a position ")


def test_an_edited_time_is_named(path: Path) -> None:
    unseal(path)
    report = tamper(path, "UPDATE entries SET recorded_at_us = recorded_at_us + 1 WHERE sequence = 3")

    assert report.findings == (Finding(sequence=3, run_id="a", position=1, problem=CHANGED),)


def test_an_entry_removed_from_the_middle_is_named(path: Path) -> None:
    report = tamper(path, "DELETE FROM entries WHERE sequence = 4")

    assert [str(finding) for finding in report.findings][:2] == [
        "entry 6, run b position 2: position 1 is missing before it",
        "entry 4: the entry is missing from the journal",
    ]
    assert "entries 1 to 10 are not those that were sealed" in str(report.findings[2])


def test_the_end_of_a_run_that_was_cut_off_is_named(path: Path) -> None:
    unseal(path)
    report = tamper(path, "DELETE FROM entries WHERE sequence = 9")

    assert [str(finding) for finding in report.findings] == [
        "entry 9, run a position 4: the end of the run is missing: it went up to position 4, now to 3",
        "entry 9: the entry is missing from the journal",
    ]


def test_the_end_of_the_journal_that_was_cut_off_is_named(path: Path) -> None:
    unseal(path)
    report = tamper(path, "DELETE FROM entries WHERE sequence >= 9")

    assert "entry 9: entries 9 to 10 are missing from the journal" in [str(finding) for finding in report.findings]
    assert {"a", "b"} <= {finding.run_id for finding in report.findings}


def test_an_end_that_was_cut_off_consistently_is_shown_by_the_seal(path: Path) -> None:
    report = tamper(
        path,
        "DELETE FROM entries WHERE sequence = 10",
        "UPDATE heads SET (sequence, position, hash) = (SELECT sequence, position, hash FROM entries"
        " WHERE sequence = 8) WHERE run_key = 2",
    )

    assert found(report) == [(10, "", None)]
    assert "the end is missing" in report.findings[0].problem


def test_a_history_that_was_written_anew_is_shown_by_the_seal(path: Path) -> None:
    seals = seals_path(path).read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        id_of_journal = connection.execute("SELECT journal_id FROM journal").fetchone()[0]
    for file in path.parent.iterdir():
        file.unlink()
    forged = SqliteJournal(path)
    forged.append([opened("a"), *(intended(a_step(str(number)), "a") for number in range(9))])
    forged.close()
    seals_path(path).write_bytes(seals)

    report = tamper(path, f"UPDATE journal SET journal_id = '{id_of_journal}'")

    assert [finding.sequence for finding in report.findings] == [10]
    assert "not those that were sealed" in report.findings[0].problem


def test_two_exchanged_entries_of_a_run_are_named(path: Path) -> None:
    unseal(path)
    report = tamper(
        path,
        "UPDATE entries SET sequence = 99 WHERE sequence = 3",
        "UPDATE entries SET sequence = 3 WHERE sequence = 5",
        "UPDATE entries SET sequence = 5 WHERE sequence = 99",
    )

    assert {3, 5} <= {finding.sequence for finding in report.findings if finding.run_id == "a"}


def test_two_exchanged_entries_of_different_runs_are_shown_by_the_seal(path: Path) -> None:
    report = tamper(
        path,
        "UPDATE entries SET sequence = 99 WHERE sequence = 3",
        "UPDATE entries SET sequence = 3 WHERE sequence = 4",
        "UPDATE entries SET sequence = 4 WHERE sequence = 99",
        "UPDATE slots SET intent_sequence = 4",
    )

    assert [finding.sequence for finding in report.findings] == [10]
    assert "put in another order" in report.findings[0].problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("kind = 'ended'", "the column kind says ended, the entry intended"),
        ("target = zeroblob(16)", "the column target is not that of the entry"),
        ("target = NULL", "the column target is not that of the entry"),
    ],
)
def test_a_column_that_hides_an_entry_from_a_query_is_named(path: Path, change: str, problem: str) -> None:
    report = tamper(path, f"UPDATE entries SET {change} WHERE sequence = 4")

    assert report.findings == (Finding(sequence=4, run_id="b", position=1, problem=problem),)


def test_an_entry_moved_to_another_run_is_named(path: Path) -> None:
    unseal(path)
    report = tamper(path, "UPDATE entries SET run_key = 2 WHERE sequence = 5")

    assert (5, "b", 2) in found(report)
    assert (7, "a", 3) in found(report)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """One run of 2,100 entries: two complete spans, and some after them."""
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.append([opened(), *(intended(a_step(str(number))) for number in range(2_099))])
    journal.close()
    return journal.path


def test_a_long_journal_is_intact(long: Path) -> None:
    assert verify(long) == AuditReport(
        findings=(), more_findings=0, entries=2_100, runs=1, seals=1, sealed_through=2_100
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM run_entries WHERE sequence = 1500", "the index of runs omits it"),
        ("UPDATE run_entries SET run_key = 9 WHERE sequence = 1500", "the index of runs omits it"),
        ("DELETE FROM target_entries WHERE sequence = 1500", "the index of targets omits it"),
        (
            "INSERT INTO target_entries VALUES (zeroblob(16), 1500)",
            "the index of targets names it, and it is missing or another",
        ),
        ("INSERT INTO run_entries VALUES (9, 1500)", "the index of runs names it, and it is missing or another"),
    ],
)
def test_an_index_that_hides_or_invents_an_entry_is_named(long: Path, change: str, problem: str) -> None:
    report = tamper(long, change)

    assert report.findings[0] == Finding(sequence=1500, problem=problem)


@pytest.mark.parametrize("change", ["UPDATE spans SET last_at_us = first_at_us - 1", "DELETE FROM spans"])
def test_a_time_range_that_hides_entries_is_named(long: Path, change: str) -> None:
    report = tamper(long, f"{change} WHERE span = 0")

    assert [finding.sequence for finding in report.findings] == list(range(1, 1_001))
    assert report.more_findings == 23


@pytest.mark.parametrize("column", ["tenant", "agent_name", "agent_version", "trace_id", "session", "workflow"])
def test_a_changed_record_of_a_run_is_named(path: Path, column: str) -> None:
    report = tamper(path, f"UPDATE runs SET {column} = 'somebody-else' WHERE run_key = 2")

    problem = f"the record of the run differs from what the run was opened with: {column}"
    assert report.findings == (Finding(sequence=2, run_id="b", position=0, problem=problem),)


@pytest.mark.parametrize(
    ("tables", "first"),
    [
        (["entries"], "entry 2, run b: every entry of the run is missing"),
        (["entries", "runs"], "entry 2: a run of 5 entries began here; the record of the run is missing"),
        (["entries", "runs", "heads"], "entry 2: the entry is missing from the journal"),
        (["runs"], "entry 2: it names run key 2, of which there is no record"),
        (["heads"], "run b: the head of its chain is missing"),
    ],
)
def test_a_run_that_was_dropped_is_named(path: Path, tables: list[str], first: str) -> None:
    report = tamper(path, *(f"DELETE FROM {table} WHERE run_key = 2" for table in tables))

    assert str(report.findings[0]) == first


def test_a_head_that_is_not_the_last_entry_is_named(path: Path) -> None:
    report = tamper(path, "UPDATE heads SET hash = zeroblob(32) WHERE run_key = 2")

    problem = "the last entry is not the one that the head of the chain names"
    assert report.findings == (Finding(sequence=10, run_id="b", position=4, problem=problem),)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("intent_sequence = 4", "intent"),
        ("intent_sequence = 'x'", "intent"),
        ("outcome_sequence = 99", "outcome"),
        ("outcome_sequence = NULL", "outcome"),
        ("step_id = '2'", "step"),
        ("digest = 'another'", "digest"),
        ("run_key = 2", "run"),
    ],
)
def test_a_changed_slot_is_named(path: Path, change: str, changed: str) -> None:
    report = tamper(path, f"UPDATE slots SET {change}")

    words = f"idempotency key 'key-1': its slot is not what the entries say; changed: {changed}"
    assert [finding.problem for finding in report.findings] == [words]


def test_a_removed_slot_is_named(path: Path) -> None:
    report = tamper(path, "DELETE FROM slots")

    problem = "idempotency key 'key-1': its slot is missing, so the effect could be repeated"
    assert report.findings == (Finding(sequence=3, problem=problem),)


@pytest.mark.parametrize("key", ["'key-2'", "CAST('key-1' AS BLOB)"])
def test_a_slot_under_another_key_is_named_and_missed(path: Path, key: str) -> None:
    report = tamper(path, f"UPDATE slots SET key = {key}")

    invented, missing = report.findings
    assert "no entry claims it, or the one that did freed it" in invented.problem
    assert "'key-1': its slot is missing" in missing.problem


def test_an_effect_that_was_repeated_after_its_slot_was_removed_is_named(path: Path) -> None:
    tamper(path, "DELETE FROM slots")
    journal = SqliteJournal(path)
    journal.append([intended(a_step("3", **keyed(CLAIM)), "a", CLAIM), ended("3", run_id="a")])
    journal.close()

    (finding,) = verify(path).findings

    assert finding.sequence == 11
    assert "claimed again while entry 3 held it" in finding.problem


@pytest.mark.parametrize(
    "freeing",
    [
        ended("9", Failed("no"), "a"),
        a_draft(
            CompensationEnded(step_id="9", disposition=Disposition.RESTORED, plan_digest="p"),
            "a",
        ),
    ],
)
def test_a_freed_key_needs_no_slot_and_may_be_claimed_again(path: Path, freeing: Draft) -> None:
    claim = SlotClaim("acme", "key-9", "d")
    journal = SqliteJournal(path)
    journal.append([intended(a_step("9", **keyed(claim)), "a", claim), freeing])
    assert verify(path).findings == ()
    journal.append([intended(a_step("10", **keyed(claim)), "b", claim)])
    journal.append([ended("10", Unknown("lost"), "b")])
    journal.close()

    assert verify(path).findings == ()
    (finding,) = tamper(path, "DELETE FROM slots WHERE key = 'key-9'").findings
    assert finding.sequence == 13


# --- the schema ---


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "CREATE TRIGGER eat AFTER INSERT ON slots BEGIN DELETE FROM slots; END",
            "the schema has a trigger eat that rescind did not make",
        ),
        ("CREATE VIEW spare AS SELECT 1", "the schema has a view spare that rescind did not make"),
        ("DROP INDEX slots_step", "the schema has lost its index slots_step"),
        ("ALTER TABLE heads ADD COLUMN spare", "the table heads of the schema was changed"),
    ],
)
def test_a_changed_schema_is_named(path: Path, change: str, problem: str) -> None:
    assert tamper(path, change).findings == (Finding(problem=problem),)


def test_what_analyze_leaves_is_no_change_of_the_schema(path: Path) -> None:
    assert tamper(path, "ANALYZE").findings == ()


def test_an_unreadable_body_is_named_and_the_rest_is_still_read(path: Path) -> None:
    report = tamper(path, "UPDATE entries SET body = 'no json' WHERE sequence = 4")

    assert (report.entries, report.runs) == (10, 2)
    assert {(4, "b", 1)} <= set(found(report))
    assert any("cannot be read" in finding.problem for finding in report.findings)


def test_a_damaged_file_is_a_finding_and_not_a_crash(path: Path) -> None:
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    for page in range(1, pages):
        data[page * 4096 + 100 : page * 4096 + 200] = b"\xff" * 100
        data[page * 4096] = 0x7F
    path.write_bytes(data)

    report = verify(path)

    assert not report.intact
    assert "damaged" in report.findings[0].problem


def test_findings_are_bounded_and_the_rest_is_counted(long: Path) -> None:
    report = tamper(long, "UPDATE entries SET kind = 'x'")

    assert (len(report.findings), report.more_findings) == (1_000, 1_100)


def test_there_must_be_a_journal(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no journal at"):
        verify(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


# --- seals ---


def test_each_close_seals_what_was_written_and_each_seal_covers_what_came_since(path: Path) -> None:
    for _ in range(2):
        journal = SqliteJournal(path)
        journal.append([opened("c")])
        journal.append([a_draft(Intended(a_step()), "c")])
        journal.close()
    SqliteJournal(path).close()  # wrote nothing

    seals = list(read_seals(path))

    assert [(seal.through_sequence, seal.entries) for seal in seals] == [(10, 10), (12, 2), (14, 2)]
    assert verify(path).seals == 3


def test_a_changed_entry_is_reported_by_its_own_seal_only(path: Path) -> None:
    journal = SqliteJournal(path)
    journal.append([opened("c")])
    journal.close()

    report = tamper(path, "UPDATE entries SET hash = zeroblob(32) WHERE sequence = 10", "DELETE FROM heads")

    assert [f.sequence for f in report.findings if "sealed" in f.problem] == [10]


def test_a_long_journal_is_sealed_while_it_is_written(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    drafts = [opened(), *(intended(a_step(str(number))) for number in range(4_999))]
    journal.append(drafts)
    journal.append(drafts)
    journal.append([opened()])

    assert [seal.through_sequence for seal in read_seals(journal.path)] == [10_000]
    journal.close()
    assert verify(journal.path).sealed_through == 10_001


def test_what_a_crash_left_of_a_seal_is_cut_off(path: Path) -> None:
    whole = seals_path(path).read_bytes()
    seals_path(path).write_bytes(whole + b'{"through_sequence":1')
    assert verify(path).seals == 1

    journal = SqliteJournal(path)
    journal.append([opened("c")])
    journal.close()

    assert seals_path(path).read_bytes().startswith(whole + b'{"through_sequence":11,')
    assert verify(path).findings == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not a seal\n", "line 2 of journal.seals is not a seal"),
        (None, "the seals in journal.seals are out of order at 10"),
        (
            b'{"through_sequence":11,"entries":1,"digest":"' + b"z" * 64 + b'","sealed_at":"2026-11-21T12:00:00Z"}\n',
            "line 2 of journal.seals is not a seal",
        ),
        (
            b'{"through_sequence":11,"entries":1,"digest":"00","sealed_at":"2026-11-21T12:00:00Z"}\n',
            "line 2 of journal.seals is not a seal",
        ),
    ],
)
def test_seals_that_are_none_are_named(path: Path, line: bytes | None, words: str) -> None:
    whole = seals_path(path).read_bytes()
    seals_path(path).write_bytes(whole + (line or whole))

    report = verify(path)

    assert len(report.findings) == 1
    assert words in report.findings[0].problem.replace(str(path.parent) + "/", "")


def test_a_forged_seal_is_named(path: Path) -> None:
    (seal,) = read_seals(path)
    forged = msgspec.structs.replace(seal, digest="00" * 32)
    seals_path(path).write_bytes(msgspec.json.encode(forged) + b"\n")

    assert found(verify(path)) == [(10, "", None)]


def test_a_journal_that_cannot_be_sealed_is_none_the_worse(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seals_path(path).unlink()
    seals_path(path).mkdir()

    journal = SqliteJournal(path)
    journal.append([opened("c"), intended(a_step("1"), "c"), ended("1", Failed("no"), "c")])
    journal.close()

    assert "could not be sealed" in caplog.text
    seals_path(path).rmdir()
    assert verify(path).entries == 13


def test_a_seal_is_not_added_after_one_that_is_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = seals_path(path).read_bytes()
    seals_path(path).write_bytes(whole.replace(b'"digest":"', b'"digest":"z'))
    journal = SqliteJournal(path)
    journal.append([opened("c")])
    journal.close()

    assert "is not a seal" in caplog.text
    assert "is not a seal" in verify(path).findings[0].problem


@pytest.fixture
def thrice(path: Path) -> Path:
    """The journal with three seals."""
    for _ in range(2):
        journal = SqliteJournal(path)
        journal.append([opened("c")])
        journal.close()
    return path


@pytest.mark.parametrize("left", [0, 1, 2])
def test_seals_that_were_taken_away_are_missed(thrice: Path, left: int) -> None:
    lines = seals_path(thrice).read_bytes().splitlines(keepends=True)
    seals_path(thrice).write_bytes(b"".join(lines[:left]))

    problem = f"the seals are missing: 3 were written, {left} are there"
    assert verify(thrice).findings == (Finding(problem=problem),)


def test_seals_that_were_taken_away_are_missed_still_after_the_next_seal(thrice: Path) -> None:
    seals_path(thrice).unlink()
    journal = SqliteJournal(thrice)
    journal.append([opened("c")])
    journal.close()

    assert verify(thrice).findings == (Finding(problem="the seals are missing: 4 were written, 1 are there"),)


def test_a_last_seal_that_is_another_is_named(path: Path) -> None:
    report = tamper(path, "UPDATE sealed SET digest = 'another'")

    problem = "the last seal in journal.seals is not the one that was written last"
    assert report.findings == (Finding(problem=problem),)


def test_a_journal_of_before_there_were_notes_gets_them_with_its_next_seal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE sealed")
    journal = SqliteJournal(path)
    journal.append([opened("c")])
    journal.close()

    assert verify(path).findings == ()
    seals_path(path).unlink()
    assert "2 were written, 0 are there" in verify(path).findings[0].problem
