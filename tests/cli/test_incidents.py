"""Incidents on the command line, for somebody who has just been woken."""

import importlib
import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builders import spoil_file
from cli.conftest import Rescind
from rescind.clock import SystemClock, SystemIds, to_us
from rescind.containment.incident import note, open_or_join
from rescind.journal.port import Draft
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import RunOpened, RunSnapshot
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import RunInfo
from rescind.switch.desk import new_order, open_store, place_order

HOSTILE = "refunded \x1b[2Jeverything\nincident closed"


class Case:
    """A store in which an agent was noticed, contained and recorded."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / ".rescind"
        self.clock, self.ids = SystemClock(), SystemIds()
        self.orders = open_store(self.store, create=True)
        self.journal = SqliteJournal(self.store / "journal.db")

    def notice(self, signal_id: str = "sig-1", detail: str = "101 records in this run, 100 are allowed") -> str:
        signal = Signal(
            signal_id=signal_id,
            kind=SignalKind.BLAST_RADIUS,
            rule="records_per_run",
            severity=Severity.CRITICAL,
            scope=Scope.parse("run:run-1"),
            detail=detail,
            facts={"records": 101},
            noticed_at=datetime.now(UTC),
            run_id="run-1",
            step_id="7",
            source="guard-1",
        )
        return open_or_join(self.journal, signal, clock=self.clock, guard_id="guard-1").incident_id

    def contain(self, incident_id: str) -> str:
        order = new_order(
            Scope.parse("run:run-1"),
            Level.HALTED,
            measure=Measure.QUARANTINE,
            reason="101 records",
            actor="policy",
            cause="sig-1",
            trigger="blast radius of a run",
            clock=self.clock,
            ids=self.ids,
        )
        place_order(self.orders, order, clock=self.clock)
        what = "quarantine at halted on run:run-1 by rule blast radius of a run"
        note(self.journal, incident_id, "order", order.order_id, what, clock=self.clock, actor="policy")
        snapshot = RunSnapshot(order_id=order.order_id, level="halted", calls=120, steps=101, in_flight=("run-1/101",))
        at_us = to_us(datetime.now(UTC))
        opened = RunOpened(run=RunInfo(run_id="run-1", agent_name="billing-agent"), guard_id="guard-1")
        self.journal.append([Draft(run_id="run-1", event=event, recorded_at_us=at_us) for event in (opened, snapshot)])
        return order.order_id

    def close(self) -> None:
        self.journal.close()
        self.orders.close()


@pytest.fixture
def case(folder: Path) -> Iterator[Case]:
    case = Case(folder)
    yield case
    case.close()


def test_an_open_incident_is_listed_with_what_was_noticed(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    case.notice("sig-2")

    listed = rescind("incidents", "list")

    assert listed.status == 0
    assert f"{incident_id}  critical  open  blast_radius.records_per_run run:run-1" in listed.out
    assert "101 records in this run, 100 are allowed" in listed.out
    assert "2 signals" in listed.out
    (incident,) = rescind("incidents", "list", "--json").json["incidents"]
    assert (incident["incident_id"], incident["severity"], incident["signals"]) == (incident_id, "critical", 2)


def test_it_is_shown_with_numbers_orders_and_the_command_that_lifts_what_is_held(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    order_id = case.contain(incident_id)

    shown = rescind("incidents", "show", incident_id[:8])

    assert "quarantine run:run-1 (halted)" in shown.out
    assert f"{order_id} by policy, for sig-1, by the rule blast radius of a run" in shown.out
    assert "run run-1 step 7  records=101  by guard-1" in shown.out
    assert "run-1  halted, 120 calls, 101 steps, 1 step in flight" in shown.out
    assert "rescind undo --run run-1" in shown.out
    (lift,) = [line.partition("lift  ")[2] for line in shown.out.splitlines() if "lift  rescind" in line]
    lifted = rescind(*shlex.split(lift.replace("…", "it was a test"))[1:])
    assert lifted.status == 0
    after = rescind("incidents", "show", incident_id)
    assert "nothing of it is held any more" in after.out
    assert f"lifted: {order_id}" in after.out


def test_programs_get_the_same(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    order_id = case.contain(incident_id)
    note(case.journal, incident_id, "order", "ord_elsewhere", "halted everything", clock=case.clock)

    answer = rescind("incidents", "show", incident_id, "--json").json

    assert [line["what"] for line in answer["incident"]["timeline"]] == ["signal", "alert", "order", "order"]
    (held,) = answer["held"]
    assert (held["order_id"], held["lift"].startswith(f"rescind resume {order_id}")) == (order_id, True)
    assert answer["elsewhere"] == ["ord_elsewhere"]
    assert [snapshot["run_id"] for snapshot in answer["snapshots"]] == ["run-1"]


def test_many_signals_are_a_screen_and_not_a_hundred_lines(rescind: Rescind, case: Case) -> None:
    for number in range(110):
        incident_id = case.notice(f"sig-{number}")

    shown, whole = rescind("incidents", "show", incident_id).out, rescind("incidents", "show", incident_id, "--all").out

    assert "and 88 further signals; --all shows them" in shown
    assert shown.count("run run-1 step 7") == 12
    assert whole.count("run run-1 step 7") == 100


def test_a_closed_incident_says_what_it_leaves_held_and_cannot_be_closed_again(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    case.contain(incident_id)

    closed = rescind("incidents", "close", incident_id, "--note", "the invoices were right", "--actor", "ann")

    assert closed.status == 0
    assert "closing lifts nothing; still held by 1 order" in closed.out
    assert "no incident is open" in rescind("incidents", "list").out
    assert "closed by ann" in rescind("incidents", "list", "--all").out
    again = rescind("incidents", "close", incident_id, "--note", "twice")
    assert again.status == 2
    assert "was closed by ann" in again.err


def test_hostile_text_reaches_no_terminal(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice(detail=HOSTILE)
    note(case.journal, incident_id, "note", HOSTILE, HOSTILE, clock=case.clock, actor=HOSTILE)
    for command in (("list",), ("show", incident_id), ("show", incident_id, "--all")):
        printed = rescind("incidents", *command).out
        assert "\x1b" not in printed
        assert "\nincident closed" not in printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "inc_nobody"), "the journal knows no incident 'inc_nobody'"),
        (("close", "inc_nobody", "--note", "x"), "the journal knows no incident"),
        (("close", "inc_nobody", "--note", " "), "takes a note"),
        (("close", "inc_nobody"), "--note"),
    ],
)
def test_a_slip_is_answered_with_a_remedy(rescind: Rescind, case: Case, words: tuple[str, ...], says: str) -> None:
    answer = rescind("incidents", *words)
    assert answer.status == 2
    assert says in answer.err


def test_where_nothing_was_noticed_nothing_is_listed(rescind: Rescind, case: Case) -> None:
    assert "no incident is open" in rescind("incidents", "list").out
    assert rescind("incidents", "list", "--all", "--json").json == {"incidents": [], "unreadable": []}


def test_an_incident_that_cannot_be_read_is_told_and_not_closed_and_the_others_are_listed(
    rescind: Rescind, case: Case
) -> None:
    hidden = case.notice()
    case.journal.close()
    sequence = spoil_file(case.store / "journal.db", hidden, "incident_noted")
    names = f"entry {sequence} of the journal cannot be read"

    listed = rescind("incidents", "list")
    assert listed.status == 1
    assert names in " ".join(listed.err.split())
    assert rescind("incidents", "list", "--json").json["unreadable"] == [sequence]
    for words in (("show", hidden), ("close", hidden, "--note", "over"), ("report", hidden)):
        answer = rescind("incidents", *words)
        assert answer.status == 2
        assert names in answer.err


# --- orders that cannot be read are not "none" ---


def test_orders_that_are_not_ours_are_an_error_and_not_nothing_held(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    case.contain(incident_id)
    case.orders.close()
    for rest in case.store.glob("orders.db*"):
        rest.unlink()
    (case.store / "orders.db").write_bytes(b"somebody else's file, and no database at all" * 100)

    shown = rescind("incidents", "show", incident_id)
    closed = rescind("incidents", "close", incident_id, "--note", "it is over")

    assert (shown.status, closed.status) == (2, 2)
    assert "orders.db" in shown.err
    assert "held" not in shown.out
    assert incident_id in rescind("incidents", "list").out  # it is open still


def test_a_journal_without_a_store_of_orders_holds_nothing(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    case.orders.close()
    for name in ("orders.db", "orders.db-wal", "orders.db-shm", "orders.stamp"):
        (case.store / name).unlink(missing_ok=True)

    shown = rescind("incidents", "show", incident_id, "--json")

    assert (shown.status, shown.json["held"]) == (0, [])


APP = """
import rescind
guard = rescind.Guard.at(".rescind")
charged = []

@guard.write("card.charge")
def charge(name: str) -> str:
    charged.append(name)
    return name

@charge.compensate(idempotent=True)
def _(step):
    if step.arguments["name"] in charged:
        charged.remove(step.arguments["name"])
"""


def test_an_incident_is_recovered_step_by_step_with_a_persons_gates(
    rescind: Rescind, case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "till.py").write_text(APP)
    monkeypatch.syspath_prepend(str(folder))
    app = importlib.import_module("till")
    with app.guard.run("billing-agent@2.4.0", run_id="run-1") as run:
        run.checkpoint({"next": 0})
        app.charge("ann")
    app.guard.close()
    incident_id = case.notice(detail=HOSTILE)
    recover = ("incidents", "recover", incident_id[:12], "--app", "till")

    shown = rescind(*recover)
    assert shown.status == 0, shown.err
    assert "compensate  waits" in shown.out
    assert "a person has to approve the plan" in shown.out
    assert app.charged == ["ann"]
    assert "run-1" in rescind("status").out
    digest = rescind(*recover, "--json").json["subject"][:16]
    assert f"--approve {digest}" in shown.out

    wrong = rescind(*recover, "--approve", "0123456789abcdef")
    assert wrong.status == 2
    assert "no plan 0123456789abcdef was ever made for incident" in wrong.err
    assert app.charged == ["ann"]

    undone = rescind(*recover, "--approve", digest)
    assert undone.status == 0, undone.err
    assert app.charged == []
    assert "reconcile   done" in undone.out
    last = rescind(*recover, "--approve", digest)
    assert "every stage is done" in last.out
    assert "cp_" in last.out

    told = rescind("incidents", "report", incident_id)
    assert "| reconcile | done |" in told.out
    assert rescind("incidents", "report", incident_id, "--out", "report.json").out == "written to report.json\n"
    assert json.loads((folder / "report.json").read_text())["stages"]["resume"]["how"] == "done"
    assert rescind("incidents", "close", incident_id, "--note", "fixed").status == 0


def test_an_incident_whose_undo_is_not_reconciled_stays_open(
    rescind: Rescind, case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "till2.py").write_text(
        APP
        + """
@guard.write("mail.send", irreversible="a mail cannot be unsent")
def mail(name: str) -> None: ...
"""
    )
    monkeypatch.syspath_prepend(str(folder))
    app = importlib.import_module("till2")
    with app.guard.run("billing-agent@2.4.0", run_id="run-1"):
        app.mail("ann")
    app.guard.close()
    incident_id = case.notice()
    recover = ("incidents", "recover", incident_id, "--app", "till2")
    digest = rescind(*recover, "--json").json["subject"]
    left = rescind(*recover, "--approve", digest)
    assert left.status == 1
    assert "1 review task left to a person" in left.out

    refused = rescind("incidents", "close", incident_id, "--note", "x")
    assert refused.status == 2
    assert "stays open" in refused.err
    assert rescind("incidents", "close", incident_id, "--note", "x", "--anyway").status == 0


def test_an_incident_that_is_closed_before_its_undo_was_let_begin_says_that_nothing_was_undone(
    rescind: Rescind, case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "till3.py").write_text(APP)
    monkeypatch.syspath_prepend(str(folder))
    app = importlib.import_module("till3")
    with app.guard.run("billing-agent@2.4.0", run_id="run-1"):
        app.charge("ann")
    app.guard.close()
    incident_id = case.notice()
    assert rescind("incidents", "recover", incident_id, "--app", "till3").status == 0
    assert f"rescind incidents recover {incident_id} --app …" in rescind("incidents", "show", incident_id).out

    assert "nothing was undone by its recovery" in rescind("incidents", "close", incident_id, "--note", "no harm").out


def test_recovering_needs_the_application(rescind: Rescind, case: Case) -> None:
    incident_id = case.notice()
    answer = rescind("incidents", "recover", incident_id)
    assert answer.status == 2
    assert "name it with --app" in answer.err
