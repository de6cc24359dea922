"""What `rescind status` says of what is unfinished: how much, the oldest of each kind, and what to type next."""

import os
import shlex
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind
from rescind.clock import SystemClock
from rescind.config import ApprovalConfig
from rescind.containment.incident import open_or_join
from rescind.errors import ApprovalPending
from rescind.journal.port import Draft
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import (
    Event,
    PlanControlled,
    PlanFinished,
    PlanStarted,
    ReviewNoted,
    ReviewOpened,
    RunOpened,
    StageEnded,
    StepRef,
)
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import RunInfo

HOSTILE = "\x1b[2Jpaid\nnothing is unfinished"

NOTHING = "no undo is under way, and nothing waits for a person"


def a_plan(journal: SqliteJournal, digest: str, *events: Event, selection: str = "x") -> None:
    run = RunInfo(run_id=f"undo_{digest[:16]}", agent_name="rescind-undo")
    started = PlanStarted(
        plan_digest=digest, selection={"agent": selection}, runs=("run-1",), steps=3, actor=HOSTILE, pending=3
    )
    write(journal, run.run_id, RunOpened(run=run, guard_id="undo_1"), started, *events)


def write(journal: SqliteJournal, run_id: str, *events: Event) -> None:
    now_us = SystemClock().now_us()
    journal.append([Draft(run_id=run_id, event=event, recorded_at_us=now_us) for event in events])


def paused(digest: str) -> PlanControlled:
    return PlanControlled(plan_digest=digest, what="pause", actor="ana", reason="the bank asks")


def an_incident(journal: SqliteJournal) -> str:
    signal = Signal(
        signal_id="sig-1",
        kind=SignalKind.BLAST_RADIUS,
        rule="records_per_run",
        severity=Severity.CRITICAL,
        scope=Scope.parse("run:run-1"),
        detail=HOSTILE,
        facts={},
        noticed_at=datetime.now(UTC),
        run_id="run-1",
        step_id="7",
        source="guard-1",
    )
    return open_or_join(journal, signal, clock=SystemClock(), guard_id="guard-1").incident_id


@pytest.fixture
def journal(shop: ModuleType) -> SqliteJournal:
    return SqliteJournal(Path(os.environ["RESCIND_STORE"], "journal.db"))


def commands_in(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("    rescind ")]


def test_where_nothing_is_unfinished_that_is_said_in_one_line(rescind: Rescind, shop: ModuleType) -> None:
    shown, answer = rescind("status"), rescind("status", "--json")

    assert (shown.status, answer.status) == (0, 0)
    assert NOTHING in shown.out
    assert answer.json["unfinished"] == {
        "undos": [],
        "approvals": [],
        "review_tasks": {"open": 0, "overdue": []},
        "incidents": [],
        "problem": "",
        "unreadable": [],
    }


def test_a_paused_undo_is_named_with_who_paused_it_and_the_command_that_lets_it_go_on(
    rescind: Rescind, journal: SqliteJournal
) -> None:
    digest = "8096baef412b2ef84672249a8f88ceca"
    a_plan(journal, digest, paused(digest))

    shown = rescind("status")

    known = "whether it is being applied cannot be told, last heard 0 s ago"  # of a rescind that shows nothing
    assert f"undo of agent x is paused by ana: the bank asks; {known}; 3 steps, begun 0 s ago by" in shown.out
    assert f"plan {digest[:16]}" in shown.out
    (undo,) = rescind("status", "--json").json["unfinished"]["undos"]
    assert (undo["plan_digest"], undo["state"], undo["held_by"]) == (digest, "paused", "ana")
    (command,) = commands_in(shown.out)
    assert command == ["plan", "resume", digest[:16]]
    assert rescind(*command).status == 0
    assert commands_in(rescind("status").out) == [["plan", "follow", digest[:16]]]
    assert "\x1b" not in shown.out


def test_many_undos_are_counted_and_those_that_have_ended_are_left_out(
    rescind: Rescind, journal: SqliteJournal
) -> None:
    first, second, ended = ("1" * 32, "2" * 32, "3" * 32)
    a_plan(journal, ended, PlanFinished(plan_digest=ended, counts={}), selection="c")
    a_plan(journal, first, paused(first), selection="a")
    a_plan(journal, second, selection="b")

    shown = rescind("status").out

    assert "2 undos: 1 paused, 1 running; the oldest: undo of agent a is paused" in shown
    assert commands_in(shown) == [["plan", "list"]]


def test_a_call_that_waits_is_named_with_who_asks(rescind: Rescind, shop: ModuleType) -> None:
    shop.guard.approval = ApprovalConfig(wait_s=0, expire_s=3_600)
    rescind("stop", "agent:shop-agent", "--level", "supervised", "--reason", "look first")
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"), pytest.raises(ApprovalPending) as caught:
        shop.set_price("a", 7)

    shown = rescind("status").out

    assert "1 call waits for an approval; the oldest: price.set of shop-agent@1.2.0, for 0 s" in shown
    assert commands_in(shown) == [["approvals", "list"]]
    (approval,) = rescind("status", "--json").json["unfinished"]["approvals"]
    assert approval["approval_id"] == caught.value.approval_id
    rescind("approvals", "deny", caught.value.approval_id)
    assert NOTHING in rescind("status").out


def test_review_tasks_past_their_time_are_counted_and_the_longest_overdue_is_named(
    rescind: Rescind, journal: SqliteJournal
) -> None:
    now = datetime.now(UTC)
    a_plan(journal, digest := "4" * 32)
    for number, due_at in enumerate(
        (None, now - timedelta(hours=1), now - timedelta(hours=3), now + timedelta(hours=1))
    ):
        opened = ReviewOpened(
            task_id=f"review_{number}",
            action=f"mail.{number}",
            reason="irreversible",
            detail="",
            steps=(StepRef("run-1", "3"),),
        )
        write(journal, f"undo_{digest[:16]}", opened)
        if due_at is not None:
            noted = ReviewNoted(task_id=opened.task_id, what="due", actor="ana", due_at=due_at)
            write(journal, f"undo_{digest[:16]}", noted)
    write(journal, f"undo_{digest[:16]}", PlanFinished(plan_digest=digest, counts={}))

    shown, answer = rescind("status"), rescind("status", "--json").json["unfinished"]["review_tasks"]

    assert (
        "4 review tasks, 2 of them overdue; the oldest: mail.2, overdue for 3 h, for nobody in particular" in shown.out
    )
    assert commands_in(shown.out) == [["review", "list", "--overdue"]]
    assert (answer["open"], [task["task_id"] for task in answer["overdue"]]) == (4, ["review_2", "review_1"])
    for number in (1, 2):
        rescind("review", "resolve", f"review_{number}", "--as", "done")
    assert "2 review tasks; the oldest: mail.0, open for 0 s" in rescind("status").out


def test_an_incident_whose_undo_waits_for_a_person_comes_before_one_that_nobody_has_begun(
    rescind: Rescind, journal: SqliteJournal
) -> None:
    incident = an_incident(journal)

    begun = rescind("status").out
    assert f"1 open incident; {incident}, 0 s ago: " in begun
    assert commands_in(begun) == [["incidents", "show", incident]]
    for stage in ("contain", "snapshot", "classify"):
        write(journal, incident, StageEnded(incident_id=incident, stage=stage, how="done", detail="", actor="ana"))

    shown = rescind("status").out

    assert f"1 open incident, stopped in mid-course; {incident}, 0 s ago: its undo waits" in shown
    assert f"rescind incidents recover {incident} --app …" in shown
    (told,) = rescind("status", "--json").json["unfinished"]["incidents"]
    assert (told["stage"], told["waits"]) == ("compensate", True)
    rescind("incidents", "close", incident, "--note", "over")
    assert NOTHING in rescind("status").out


def test_what_agents_and_people_wrote_forges_no_line(rescind: Rescind, journal: SqliteJournal) -> None:
    a_plan(journal, "5" * 32)
    an_incident(journal)

    shown = rescind("status").out

    assert "\x1b" not in shown
    assert not any(line.startswith("nothing is unfinished") for line in shown.splitlines())


def test_a_gap_is_said_and_the_rest_is_told(rescind: Rescind, journal: SqliteJournal) -> None:
    digest = "6" * 32
    a_plan(journal, digest, selection="a")
    incident = an_incident(journal)
    journal.close()
    with sqlite3.connect(journal.path) as raw:
        raw.execute("DROP TRIGGER IF EXISTS entries_kept")
        for trigger in [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
            raw.execute(f"DROP TRIGGER {trigger}")
        changed = raw.execute("UPDATE entries SET body = x'00' WHERE kind = 'plan_started'").rowcount
    raw.close()
    assert changed == 1

    answer = rescind("status")

    assert answer.status == 1
    assert "something unfinished may be missing here" in answer.err
    assert incident in answer.out


def test_a_journal_that_cannot_be_read_hides_no_orders(rescind: Rescind, journal: SqliteJournal) -> None:
    journal.close()
    rescind("stop", "agent:shop-agent", "--reason", "look first")
    for left in (journal.path, *(Path(f"{journal.path}-{each}") for each in ("wal", "shm"))):
        left.unlink(missing_ok=True)
    journal.path.write_bytes(b"no journal at all" * 100)

    shown, answer = rescind("status"), rescind("status", "--json")

    assert shown.status == 1
    assert "what is unfinished cannot be said" in shown.out
    assert "agent:shop-agent" in shown.out
    assert NOTHING not in shown.out
    assert answer.json["unfinished"]["undos"] is None
    assert answer.json["unfinished"]["problem"]


def test_a_store_of_orders_without_a_journal_has_nothing_unfinished(rescind: Rescind, folder: Path) -> None:
    from rescind.switch.desk import open_store

    open_store(folder / ".rescind", create=True).close()

    answer = rescind("status", "--json")

    assert (answer.status, answer.json["unfinished"]["undos"]) == (0, None)
    assert not list((folder / ".rescind").glob("journal*"))


def test_each_kind_takes_two_lines_where_nobody_reads_it_from_a_terminal(
    rescind: Rescind, journal: SqliteJournal
) -> None:
    a_plan(journal, "7" * 32)
    an_incident(journal)

    lines = rescind("status").out.splitlines()
    block = lines[lines.index("unfinished") : lines.index("", lines.index("unfinished"))]

    assert len(block) == 1 + 2 * 2
