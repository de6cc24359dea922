"""What only a journal on a server can meet: lost connections, other machines, a crash of the server, narrow rights."""

import asyncio
import contextlib
import functools
import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import rescind.journal.postgres
from builders import a_step, at_once, ended, intended, opened
from journal.proxy import Line, line_to
from journal.stores import CLAIM, everything, journal_database, keyed
from journal.test_processes import an_appender, in_a_process, output, steps_of
from rescind.database.address import Address
from rescind.database.migrating import Part, ensure
from rescind.errors import JournalUnavailable, StoreFormatError, UsageError
from rescind.journal.audit import verify
from rescind.journal.chain import entry_hash
from rescind.journal.port import Appended, Query, SlotClaim, SlotTaken
from rescind.journal.postgres import PostgresJournal
from rescind.model.entry import Intended
from rescind.model.outcome import Failed
from servers import Postgres, postgres_server


@pytest.fixture
def url(postgres: Postgres) -> str:
    return journal_database(postgres)


@pytest.fixture
def journal(url: str) -> Iterator[PostgresJournal]:
    journal = PostgresJournal(url, timeout_s=2.0)
    yield journal
    journal.close()


@pytest.fixture
def line(postgres: Postgres) -> Iterator[Line]:
    with line_to(postgres.port) as line:
        yield line


def by_line(url: str, line: Line, **options: Any) -> PostgresJournal:
    """A journal whose connections a test can cut."""
    before, _, database = url.rpartition("/")
    return PostgresJournal(f"{before.rpartition(':')[0]}:{line.port}/{database}", **options)


def sql(url: str, *statements: str, schema: str = "rescind") -> list[Any]:
    """Behind the journal's back, as the owner of its tables. The rows of the last statement."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET search_path TO {schema}".encode())
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def whole(journal: PostgresJournal) -> int:
    """That sequences have no gap, and chains, heads, columns and slots agree. How many entries there are."""
    report = verify(journal)
    assert report.findings == ()
    assert len(everything(journal)) == report.entries
    return report.entries


# --- several writers ---


def test_what_another_writer_wrote_is_known_to_the_next_append(url: str) -> None:
    ours, theirs = PostgresJournal(url), PostgresJournal(url)
    ours.append([opened(), intended(a_step("1", **keyed(CLAIM)), claim=CLAIM)])

    assert theirs.append([opened()]) == Appended((3,), (2,))
    assert isinstance(theirs.append([intended(a_step("2"), claim=CLAIM)]), SlotTaken)
    theirs.append([ended("1", Failed("no"))])
    assert ours.append([intended(a_step("3", **keyed(CLAIM)), claim=CLAIM)]) == Appended((5,), (4,))
    theirs.append([ended("3")])
    taken = ours.append([intended(a_step("4"), claim=SlotClaim("acme", "key-1", "x"))])

    assert isinstance(taken, SlotTaken)
    assert (taken.slot.step_id, taken.slot.state) == ("3", "completed")
    assert whole(ours) == 6
    ours.close()
    theirs.close()


def test_a_refusal_is_not_decided_on_what_is_out_of_date(url: str) -> None:
    ours, theirs = PostgresJournal(url), PostgresJournal(url)
    ours.append([opened(), intended(a_step("1"), claim=CLAIM)])
    assert isinstance(ours.append([intended(a_step("2"), claim=CLAIM)]), SlotTaken)
    theirs.append([ended("1", Failed("no"))])  # frees the key, which ours does not know

    assert ours.append([intended(a_step("2"), claim=CLAIM)]) == Appended((4,), (3,))
    ours.close()
    theirs.close()


def test_writers_of_several_machines_share_runs_without_loss(url: str) -> None:
    writers = [PostgresJournal(url) for _ in range(3)]
    writers[0].append([opened("shared"), opened("other")])

    def work(number: int) -> None:
        for step in range(30):
            name = "shared" if step % 2 else "other"
            writers[number].append([intended(a_step(f"{number}-{step}"), name), ended(f"{number}-{step}", run_id=name)])

    at_once(functools.partial(work, number) for number in range(3))

    assert whole(writers[0]) == 2 + 3 * 30 * 2
    for writer in writers:
        writer.close()


def test_processes_share_a_journal_and_race_to_make_it(postgres: Postgres) -> None:
    url = postgres.new_database()  # without a journal
    processes = [an_appender(url, f"p{number}", appends=40, threads=2) for number in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0

    journal = PostgresJournal(url)
    assert whole(journal) == 6 * 41
    for number in range(3):
        assert steps_of(journal, f"p{number}-1") == list(range(40))
    journal.close()


def test_j2_every_acknowledged_entry_survives_kill_9_of_its_process(url: str) -> None:
    process = an_appender(url, "victim", appends=100_000, threads=4)
    acknowledged = [output(process).readline().split() for _ in range(60)]
    process.kill()
    acknowledged += [line.split() for line in output(process) if line.endswith("\n")]
    process.wait()
    output(process).close()

    journal = PostgresJournal(url)
    kept = {name: set(steps_of(journal, name)) for name in {name for name, _ in acknowledged}}
    assert [(name, step) for name, step in acknowledged if int(step) not in kept[name]] == []
    assert isinstance(journal.append([opened("after"), intended(a_step(), "after")]), Appended)
    whole(journal)
    journal.close()


def test_a_batch_costs_one_journey_however_many_others_write_to_other_runs(url: str, line: Line) -> None:
    journal, other = by_line(url, line), PostgresJournal(url)
    journal.append([opened("ours")])
    other.append([opened("theirs")])

    def both_append(number: int) -> None:
        claim = SlotClaim("acme", f"key-{number}", "d")
        other.append([intended(a_step(str(number)), "theirs")])
        assert isinstance(
            journal.append([intended(a_step(f"{number}", **keyed(claim)), "ours", claim=claim)]), Appended
        )
        other.append([ended(str(number), run_id="theirs")])
        journal.append([ended(str(number), run_id="ours")])

    for number in range(10):
        both_append(number)  # until the driver has prepared its statements
    before = line.journeys
    for number in range(10, 15):
        both_append(number)

    assert line.journeys - before == 5 * (2 + 1)  # one for each append, and one that looks up key and step
    assert whole(journal) == 2 + 15 * 4
    assert [each.recorded_at for each in everything(other)] == [each.recorded_at for each in everything(journal)]
    journal.close()
    other.close()


def test_what_was_learned_of_another_run_s_key_is_not_believed_for_longer_than_it_holds(url: str) -> None:
    ours, theirs = PostgresJournal(url), PostgresJournal(url)
    theirs.append([opened("holder"), opened("next"), opened("asking")])
    theirs.append([intended(a_step("1", **keyed(CLAIM)), "holder", claim=CLAIM)])
    assert isinstance(ours.append([intended(a_step("2"), "asking", claim=CLAIM)]), SlotTaken)
    theirs.append([ended("1", Failed("no"), "holder")])
    theirs.append([intended(a_step("3", **keyed(CLAIM)), "next", claim=CLAIM)])

    ours.append([ended("1", Failed("said twice"), "holder")])  # whose run it has not met before

    held = ours.slot(CLAIM.tenant, CLAIM.key)
    assert held is not None
    assert (held.run_id, held.step_id) == ("next", "3")
    whole(ours)
    ours.close()
    theirs.close()


def test_two_writers_that_open_one_run_or_take_one_key_at_once_are_told_of_each_other(url: str) -> None:
    writers = [PostgresJournal(url) for _ in range(3)]
    answers: list[Any] = []

    def work(number: int) -> None:
        for each in range(15):
            claim = SlotClaim("acme", f"key-{each}", "d")
            step = a_step(f"{number}-{each}", **keyed(claim))
            answers.append(writers[number].append([opened(f"run-{each}"), intended(step, f"run-{each}", claim=claim)]))

    at_once(functools.partial(work, number) for number in range(3))

    assert sum(isinstance(answer, Appended) for answer in answers) == 15
    assert whole(writers[0]) == 30
    for writer in writers:
        writer.close()


def test_a_program_of_before_goes_on_beside_newer_ones_and_they_hear_of_each_other(url: str) -> None:
    journal = PostgresJournal(url)
    journal.append([opened()])
    body, digest = sql(url, "SELECT convert_from(body, 'UTF8'), encode(hash, 'hex') FROM entries")[0]
    chained = entry_hash(bytes.fromhex(digest), 1, 7, body.encode()).hex()
    older = (
        "SELECT append(%d, 'old', %d, '{1}', '{1}', '{7}', '{run_opened}', '{NULL}',"
        f" ARRAY['\\x{chained}'::bytea], ARRAY[convert_to('{body}', 'UTF8')], NULL, NULL, NULL)"
    )

    assert sql(url, older % (0, 1)) == [(1,)]  # it is not the last one: nothing happens
    assert sql(url, older % (1, 2)) == [(1,)]

    assert journal.append([intended(a_step())]) == Appended((3,), (2,))
    assert whole(journal) == 3
    journal.close()


# --- lost connections ---


@pytest.mark.parametrize("needle", ["append_batch(", "COMMIT", "lock_journal"])
@pytest.mark.parametrize("mishap", ["answer lost", "request lost"])
def test_j7_a_batch_whose_connection_broke_is_recorded_once_and_the_caller_does_not_notice(
    url: str, line: Line, mishap: str, needle: str
) -> None:
    journal, other = by_line(url, line), PostgresJournal(url)
    journal.append([opened()])
    before = 1
    if needle != "append_batch(":  # with the lock held over several requests, because another writer came between
        other.append([opened()])
        before = 2
    line.needle, line.mishap = needle.encode(), mishap

    answer = journal.append([intended(a_step("1"))])

    assert line.mishaps == 1
    assert answer == Appended((before + 1,), (before,))
    assert journal.append([ended("1")]) == Appended((before + 2,), (before + 1,))
    assert whole(journal) == before + 2
    journal.close()
    other.close()


def test_j7_a_batch_that_was_settled_as_not_recorded_does_nothing_when_it_arrives_after_all(
    url: str, line: Line
) -> None:
    journal = by_line(url, line)
    journal.append([opened()])
    line.mishap = "request late"

    assert journal.append([intended(a_step("1"))]) == Appended((2,), (1,))  # the second attempt
    line.deliver()

    assert whole(journal) == 2
    assert journal.append([ended("1")]) == Appended((3,), (2,))
    journal.close()


@pytest.mark.parametrize(("mishap", "entries"), [("answer lost", 2), ("request lost", 1)])
def test_j7_only_where_nobody_can_be_asked_is_the_doubt_handed_on_and_settled_later(
    url: str, line: Line, mishap: str, entries: int, caplog: pytest.LogCaptureFixture
) -> None:
    journal = by_line(url, line, doubt_timeout_s=0.3)
    journal.append([opened()])
    line.mishap = mishap
    threading.Thread(target=_close_after, args=(line,)).start()

    with pytest.raises(JournalUnavailable, match="whether it was recorded is not known"):
        journal.append([intended(a_step("1"))])

    line.closed = False
    with caplog.at_level(logging.WARNING, "rescind.journal.postgres.recorder"):
        assert journal.append([intended(a_step("2"))]) == Appended((entries + 1,), (entries,))
    assert ("that was in doubt is recorded" in caplog.text) == (entries == 2)
    assert ("that was in doubt is not recorded, and never will be" in caplog.text) == (entries == 1)
    assert whole(journal) == entries + 1
    journal.close()


def _close_after(line: Line) -> None:
    while not line.mishaps:
        time.sleep(0.001)
    line.closed = True


def test_connections_that_an_administrator_ends_are_made_anew(journal: PostgresJournal, url: str) -> None:
    journal.append([opened()])
    journal.entries(Query())
    stop = threading.Event()

    def terminate() -> None:
        while not stop.wait(0.02):
            sql(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'rescind %'")

    terminator = threading.Thread(target=terminate)
    terminator.start()
    appended = 0
    for number in range(40):
        try:
            journal.append([intended(a_step(str(number)))])
            appended += 1
        except JournalUnavailable:  # three times in a row, between connecting and asking
            continue
    stop.set()
    terminator.join()

    assert appended >= 20
    assert whole(journal) == 1 + appended


@pytest.mark.slow
def test_j2_and_j7_a_server_that_crashes_in_mid_append_keeps_what_was_acknowledged_and_nothing_else() -> None:
    with postgres_server(fsync="on") as server:
        journal = PostgresJournal(server.new_database(), doubt_timeout_s=60)
        stop = threading.Event()
        appended: list[str] = []
        refused: list[str] = []

        def work(name: str) -> None:
            journal.append([opened(name)])
            number = 0
            while not stop.is_set():
                step = f"{name}-{number}"
                try:
                    journal.append([intended(a_step(step), name)])
                    appended.append(step)
                except JournalUnavailable as error:
                    refused.append(str(error))
                number += 1

        workers = [threading.Thread(target=work, args=(f"run-{number}",)) for number in range(4)]
        for worker in workers:
            worker.start()
        for _ in range(3):
            time.sleep(0.5)
            server.crash()
            time.sleep(0.3)
            server.start()
        time.sleep(0.5)
        stop.set()
        for worker in workers:
            worker.join()

        whole(journal)
        kept = [entry.event.step.step_id for entry in everything(journal) if isinstance(entry.event, Intended)]
        assert sorted(kept) == sorted(appended)
        assert not [refusal for refusal in refused if "not known" in refusal]
        assert len(kept) > 20
        journal.close()


def test_j7_a_server_that_is_gone_refuses_and_goes_on_when_it_is_back() -> None:
    with postgres_server() as server:
        journal = PostgresJournal(server.new_database(), doubt_timeout_s=0.1)
        journal.append([opened()])
        server.crash()

        with pytest.raises(JournalUnavailable):
            journal.append([intended(a_step("1"))])
        with pytest.raises(JournalUnavailable):
            journal.append([intended(a_step("2"))])
        with pytest.raises(JournalUnavailable):
            journal.entries(Query())

        server.start()
        acknowledged = 1
        for number in itertools.count(3):  # a busy machine takes longer than the 0.1 s to tell what became of one
            with contextlib.suppress(JournalUnavailable):
                journal.append([intended(a_step(str(number)))])
                acknowledged += 1
                break
            assert number < 100, "it does not go on"
        kept = {entry.event.step.step_id for entry in everything(journal) if isinstance(entry.event, Intended)}
        assert str(number) in kept
        assert kept.isdisjoint({"1", "2"})
        assert whole(journal) >= acknowledged
        journal.close()


def ends(work: Callable[[], object]) -> BaseException | None:
    """What a piece of work raises, if it ends at all."""
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test is to see it
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60.0)
    assert not thread.is_alive(), "it waits for a server that says nothing"
    return raised[0] if raised else None


@pytest.mark.slow
def test_j7_a_server_that_is_frozen_refuses_and_what_was_sent_to_it_is_there_once_or_not_at_all() -> None:
    with postgres_server() as server:
        url = f"{server.new_database()}?connect_timeout=2"
        journal = PostgresJournal(url, timeout_s=0.3, doubt_timeout_s=0.2)
        journal.append([opened("run-1"), opened("run-2")])
        journal.entries(Query())  # so that there is a reader which is connected
        server.hang()
        try:
            in_doubt = ends(lambda: journal.append([intended(a_step("doubt"))]))
            refused = ends(lambda: journal.append([intended(a_step("refused"))]))
            unread = ends(lambda: journal.entries(Query()))
            never_made = ends(lambda: PostgresJournal(url, timeout_s=0.3))
        finally:
            server.wake()

        assert "not known" in str(in_doubt)
        for error in (in_doubt, refused, unread, never_made):
            assert isinstance(error, JournalUnavailable)
        assert isinstance(journal.append([intended(a_step("after"))]), Appended)
        steps = [entry.event.step.step_id for entry in everything(journal) if isinstance(entry.event, Intended)]
        assert steps in (["after"], ["doubt", "after"])
        assert whole(journal) == 2 + len(steps)
        journal.close()


# --- a server that says no ---


def test_j7_a_lock_held_too_long_refuses_and_recovers(url: str) -> None:
    journal = PostgresJournal(url, timeout_s=0.2)
    journal.append([opened()])
    with psycopg.connect(url) as other:
        other.execute("SELECT rescind.lock_journal()")
        with pytest.raises(JournalUnavailable, match="somebody holds its lock"):
            journal.append([intended(a_step())])
        with pytest.raises(JournalUnavailable, match="somebody holds its lock"):
            asyncio.run(journal.append_async([intended(a_step())]))
        assert len(everything(journal)) == 1  # readers do not wait

    assert journal.append([intended(a_step())]) == Appended((2,), (1,))
    journal.close()


def test_an_append_that_waits_does_not_block_the_loop(journal: PostgresJournal, url: str) -> None:
    journal.append([opened()])

    async def story() -> int:
        with psycopg.connect(url) as other:
            other.execute("SELECT rescind.lock_journal()")
            append = asyncio.ensure_future(journal.append_async([intended(a_step())]))
            ticks = 0
            while ticks < 20 and not append.done():
                await asyncio.sleep(0.005)
                ticks += 1
        assert await append == Appended((2,), (1,))
        return ticks

    assert asyncio.run(story()) == 20


def test_a_writer_that_hangs_in_its_transaction_is_ended_by_the_server(journal: PostgresJournal, url: str) -> None:
    journal.append([opened()])
    hanging = PostgresJournal(url, timeout_s=0.1)
    recorder: Any = hanging._writer._recorder
    recorder.begin()  # and nothing more, as a process that was stopped there

    deadline_s = time.monotonic() + 10
    while True:
        try:
            answer = journal.append([intended(a_step())])
            break
        except JournalUnavailable:
            assert time.monotonic() < deadline_s
    assert answer == Appended((2,), (1,))
    hanging.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [("disk_full", "make room"), ("insufficient_privilege", "the right"), ("data_corrupted", "broken")],
)
def test_j7_when_the_server_cannot_write_everybody_in_the_batch_is_refused(
    journal: PostgresJournal, url: str, code: str, words: str
) -> None:
    journal.append([opened()])
    sql(
        url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = '{code}'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON heads FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    )
    refused: list[str] = []

    def attempt(number: int) -> None:
        with pytest.raises(JournalUnavailable) as refusal:
            journal.append([intended(a_step(str(number)))])
        refused.append(str(refusal.value))

    at_once(functools.partial(attempt, number) for number in range(5))

    assert len(refused) == 5
    assert all(words in refusal for refusal in refused)
    sql(url, "DROP TRIGGER fail ON heads")
    assert whole(journal) == 1
    assert journal.append([intended(a_step())]) == Appended((2,), (1,))


def test_a_closed_journal_refuses(journal: PostgresJournal) -> None:
    journal.append([opened()])
    journal.close()

    with pytest.raises(JournalUnavailable, match="closed"):
        journal.append([opened()])


def test_a_name_that_postgres_cannot_store_is_a_mistake_of_that_append_alone(journal: PostgresJournal) -> None:
    journal.append([opened()])

    for draft in (opened("run\0"), opened("run-2", workflow="\0"), intended(a_step("\0")), ended("\0")):
        with pytest.raises(UsageError, match="zero character"):
            journal.append([draft])

    assert whole(journal) == 1


# --- the tables ---


def test_a_password_is_never_shown(postgres: Postgres) -> None:
    with pytest.raises(JournalUnavailable) as refusal:
        PostgresJournal("postgresql://agent:sesame@127.0.0.1:1/db")

    assert "sesame" not in f"{refusal.value}{refusal.value.__cause__}{refusal.value!r}"
    assert "agent" in str(refusal.value)


def test_a_journal_of_a_newer_rescind_is_left_alone(url: str) -> None:
    sql(url, "UPDATE journal_version SET version_num = '9999'")

    with pytest.raises(StoreFormatError, match="newer rescind"):
        PostgresJournal(url)


def test_a_database_of_before_is_brought_up_to_date_with_the_rights_it_gave_and_refuses_older_programs(
    postgres: Postgres, tmp_path: Path
) -> None:
    ours = Path(rescind.journal.postgres.__file__).parent
    for name in ("versions/r0001_journal.py", "schema/0001_journal.sql"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ours / name, tmp_path / name)
    first = Part("journal", "0001", tmp_path / "versions")
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        ensure(connection, Address.parse(url), first)
        sql(
            url,
            "DROP ROLE IF EXISTS older_agent",
            "CREATE ROLE older_agent LOGIN",
            "GRANT USAGE ON SCHEMA rescind TO older_agent",
            "GRANT SELECT ON ALL TABLES IN SCHEMA rescind TO older_agent",
            "GRANT EXECUTE ON FUNCTION lock_journal, append, settle_batch, make_partitions TO older_agent",
        )
        as_agent = url.replace("test@", "older_agent@")

        with pytest.raises(JournalUnavailable, match="right"):
            PostgresJournal(as_agent)  # it may not change tables
        PostgresJournal(url).close()
        journal = PostgresJournal(as_agent)

        assert journal.append([opened(), intended(a_step(**keyed(CLAIM)), claim=CLAIM)]) == Appended((1, 2), (0, 1))
        assert whole(journal) == 2
        with pytest.raises(StoreFormatError, match="newer rescind"):
            ensure(connection, Address.parse(url), first)
    journal.close()
    assert sql(url, "SELECT through_sequence FROM seals") == [(2,)]
    sql(url, "DROP OWNED BY older_agent", "DROP ROLE older_agent")


def test_journals_in_two_schemas_of_one_database_do_not_meet(postgres: Postgres, url: str) -> None:
    one, other = PostgresJournal(url), PostgresJournal(url, schema="second")
    one.append([opened("a")])
    other.append([opened("b")])

    assert [run.run_id for run in one.runs(Query())] == ["a"]
    assert [run.run_id for run in other.runs(Query())] == ["b"]
    with pytest.raises(UsageError, match="cannot be the journal's schema"):
        PostgresJournal(url, schema='x"; DROP')
    one.close()
    other.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET kind = 'x'",
        "DELETE FROM entries WHERE sequence = 1",
        "TRUNCATE entries",
        "UPDATE runs SET tenant = 'x'",
        "DELETE FROM runs",
        "UPDATE journal SET last_sequence = 0",
        "DELETE FROM journal",
    ],
)
def test_what_was_recorded_is_not_changed_even_by_its_owner(journal: PostgresJournal, url: str, change: str) -> None:
    journal.append([opened()])
    partition = sql(url, "SELECT tableoid::regclass::text FROM entries")[0][0]

    for statement in {change, change.replace("entries", partition)}:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql(url, statement)

    assert whole(journal) == 1


def test_an_agent_s_role_can_append_and_read_and_nothing_else(postgres: Postgres, url: str) -> None:
    sql(
        url,
        "DROP ROLE IF EXISTS appender",
        "CREATE ROLE appender LOGIN",
        "GRANT USAGE ON SCHEMA rescind TO appender",
        "GRANT SELECT ON ALL TABLES IN SCHEMA rescind TO appender",
        "GRANT EXECUTE ON FUNCTION rescind.lock_journal, rescind.append_batch, rescind.resolve_batch,"
        " rescind.make_partitions, rescind.seal_journal TO appender",
    )
    as_agent = url.replace("test@", "appender@")
    journal = PostgresJournal(as_agent)

    assert journal.append([opened(), intended(a_step(), claim=CLAIM)]) == Appended((1, 2), (0, 1))
    assert len(everything(journal)) == 2
    for statement in (
        "UPDATE heads SET position = 0",
        "DELETE FROM slots",
        "UPDATE journal SET last_sequence = 9",
        "INSERT INTO entries SELECT * FROM entries",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "CREATE TABLE rescind.mine (n int)",
        "INSERT INTO seals VALUES (2, 2, '', now())",
        "DELETE FROM sealed",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql(as_agent, statement)
    journal.close()
    assert sql(url, "SELECT through_sequence FROM seals") == [(2,)]
    sql(url, "DROP OWNED BY appender", "DROP ROLE appender")


def test_entries_stand_in_the_partition_of_their_month_and_what_has_none_in_the_default(
    journal: PostgresJournal, url: str
) -> None:
    journal.append([opened()])
    months = [
        row[0]
        for row in sql(url, "SELECT to_char(now() + n * interval '1 month', 'YYYY_MM') FROM generate_series(0, 2) n")
    ]
    assert sql(url, "SELECT make_partitions()") == [(0,)]  # made already, this month's and the next two
    sql(url, "UPDATE journal SET appended_at = date_trunc('month', now()) + interval '40 days'")
    journal.append([intended(a_step("1"))])
    sql(url, "UPDATE journal SET appended_at = now() + interval '3 years'")
    journal.append([ended("1")])

    found = [row[0] for row in sql(url, "SELECT tableoid::regclass::text FROM entries ORDER BY sequence")]

    assert found == [f"entries_{months[0]}", f"entries_{months[1]}", "entries_default"]
    assert whole(journal) == 3


def test_partitions_are_made_ahead_by_whoever_appends(journal: PostgresJournal, url: str) -> None:
    made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'entries'::regclass"
    for (name,) in sql(url, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'entries'::regclass"):
        if name != "entries_default":
            sql(url, f"DROP TABLE {name}")
    assert sql(url, made) == [(1,)]

    journal.append([opened()])  # into the default: that month gets none any more

    assert sql(url, made) == [(3,)]  # it and the two next months
    assert journal.append([intended(a_step())]) == Appended((2,), (1,))


def test_who_listens_is_told_once_for_a_batch(journal: PostgresJournal, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN rescind_journal")
        journal.append([opened(), intended(a_step()), ended("1")])

        assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1
        assert list(listener.notifies(timeout=0.1)) == []


def test_a_forked_child_and_its_parent_both_go_on(url: str) -> None:
    script = """
        import os, sys, threading
        from builders import a_step, intended, opened
        from rescind.journal.port import Query
        from rescind.journal.postgres import PostgresJournal

        journal = PostgresJournal(sys.argv[1])
        journal.append([opened("parent"), opened("busy")])
        stop = threading.Event()
        def busy():
            number = 0
            while not stop.is_set():
                journal.append([intended(a_step(str(number)), "busy")])
                journal.entries(Query(run_id="parent"))
                number += 1
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                journal.append([opened(f"child-{child}"), intended(a_step(), f"child-{child}")])
                assert len(journal.entries(Query(run_id=f"child-{child}"))) == 2
                journal.close()
                os._exit(0)
            journal.append([intended(a_step(str(child)), "parent")])
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        journal.close()
    """
    in_a_process(script, url)

    journal = PostgresJournal(url)
    assert steps_of(journal, "parent") == [0, 1, 2]
    assert [len(everything(journal, Query(run_id=f"child-{child}"))) for child in range(3)] == [2] * 3
    whole(journal)
    journal.close()


def test_a_page_is_read_whole_when_more_runs_were_seen_than_are_remembered(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescind.journal.postgres.journal, "RUNS_CACHED_MAX", 3)
    journal.append([opened(f"run-{number}") for number in range(5)])
    journal.entries(Query(), limit=3)  # as many as are remembered

    page = journal.entries(Query())  # of runs that are remembered, and of others

    assert [entry.run.run_id for entry in page] == [f"run-{number}" for number in range(5)]


def test_threads_that_read_other_runs_do_not_take_each_others_away(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescind.journal.postgres.journal, "RUNS_CACHED_MAX", 2)
    journal.append([opened(f"run-{number}") for number in range(12)])

    def read(first: int) -> None:
        for turn in range(60):
            after = (first + turn) % 10
            names = [entry.run.run_id for entry in journal.entries(Query(), after=after, limit=2)]
            assert names == [f"run-{after}", f"run-{after + 1}"]

    at_once(functools.partial(read, first) for first in range(4))
