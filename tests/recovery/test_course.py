"""The course of an incident: laws IC1 to IC6, with a real undo, and deaths before every append."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

import rescind
from builders import NOON, a_lift, at_once, events_of, spoil
from rescind.clock import SystemIds
from rescind.containment.incident import close, incident_of, open_or_join
from rescind.errors import JournalUnavailable, PlanUnknown, UsageError
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.action import IN_DOUBT_AFTER, EffectClass
from rescind.model.entry import Intended, StageApproved, StageEnded
from rescind.model.level import Level
from rescind.model.probe import Probe
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import Step
from rescind.recovery.course import Standing, approve, drive, read_course
from rescind.recovery.report import as_markdown, report_of
from rescind.recovery.review import list_tasks, resolve_task
from rescind.recovery.stage_work import Means
from rescind.recovery.stages import STAGES, Stage
from rescind.switch.memory import MemoryOrders
from rescind.testing.clock import ManualClock
from rescind.testing.faulty import FaultyJournal

HOSTILE = "~~~ refunded | everything\n# closed \x1b[2J<img>"


class Case:
    """An agent that charged three customers and mailed one, and the incident that was opened about it."""

    def __init__(self, kind: SignalKind = SignalKind.BLAST_RADIUS, *, mails: int = 0) -> None:
        self.clock = ManualClock(start=NOON)
        self.journal: Any = MemoryJournal()
        self.orders = MemoryOrders()
        self.guard = Guard.over(self.journal, self.orders, clock=self.clock)
        self.charged: list[str] = []
        self.broken = ""

        @self.guard.write("card.charge", target=lambda name: ("psp", "customer", name))
        def charge(name: str) -> str:
            self.charged.append(name)
            return name

        @charge.compensate(idempotent=True)
        def refund(step: rescind.PastStep) -> None:
            if step.arguments["name"] in self.charged:
                self.charged.remove(step.arguments["name"])

        @self.guard.write("mail.send", irreversible="a mail cannot be unsent")
        def mail(name: str) -> None: ...

        with self.guard.run("billing-agent@2.4.0", run_id="run-1", tenant="acme") as run:
            run.checkpoint({"next": 0})
            for name in ("ann", "bob", "cid"):
                charge(name)
            for _ in range(mails):
                mail("ann")
        self.charge = charge
        self.kind = kind
        self.incident_id = self.noticed("run-1")

    def noticed(self, run_id: str, *, scope: str = "run:run-1") -> str:
        """It is noticed at this run. Returns the incident."""
        signal = Signal(
            signal_id=f"sig-{scope}-{run_id}",
            kind=self.kind,
            rule="records_per_run",
            severity=Severity.CRITICAL,
            scope=Scope.parse(scope),
            detail=HOSTILE,
            noticed_at=self.clock.now(),
            run_id=run_id,
            source="guard-1",
        )
        return open_or_join(self.journal, signal, clock=self.clock, guard_id="guard-1").incident_id

    def means(self, **fields: Any) -> Means:
        defaults: dict[str, Any] = {
            "journal": self.journal,
            "orders": self.orders,
            "compensators": self.guard.compensators,
            "invariants": {"the books balance": lambda: self.broken},
            "clock": self.clock,
            "ids": SystemIds(),
            "actor": "ann",
        }
        return Means(**(defaults | fields))

    def drive(self, **fields: Any) -> Standing:
        return drive(self.incident_id, self.means(**fields))

    def approve(self, standing: Standing) -> None:
        assert standing.stage is not None
        approve(self.journal, self.incident_id, standing.stage, standing.subject, actor="bob", clock=self.clock)

    def through(self, **fields: Any) -> Standing:
        """Drive it to its end, approving whatever waits."""
        while True:
            standing = self.drive(**fields)
            if not standing.waits:
                return standing
            self.approve(standing)

    def stages(self) -> list[str]:
        return [event.stage for event in events_of(self.journal, self.incident_id) if isinstance(event, StageEnded)]


@pytest.mark.parametrize("lives", [False, True])
def test_a_call_of_a_process_that_still_lives_may_take_effect_whatever_its_target_says(lives: bool) -> None:
    """DT2."""
    case = Case()

    @case.guard.write("wire.send", target=lambda name: ("bank", "customer", name))
    def wire(name: str) -> None: ...

    @wire.compensate
    def recall(step: rescind.PastStep) -> None: ...

    @wire.probe
    def find(step: rescind.PastStep) -> Probe:
        return Probe.NOT_FOUND

    step = Step(
        step_id="99",
        action="wire.send",
        effect_class=EffectClass.COMPENSATABLE,
        idempotency_key="k-99",
        requested={"name": "ann"},
    )
    case.journal.append([Draft(run_id="run-1", event=Intended(step), recorded_at_us=case.clock.now_us())])
    case.clock.advance(IN_DOUBT_AFTER.total_seconds())

    standing = case.through(live_runs=lambda: {"run-1"} if lives else ())

    counts = standing.course.fact(Stage.COMPENSATE, "counts")
    assert counts == {"compensated": 3, "review" if lives else "never_took_effect": 1}


@pytest.fixture
def case() -> Case:
    return Case()


def test_ic6_a_run_that_cannot_be_read_is_left_as_it_is_and_told_and_the_others_are_undone(case: Case) -> None:
    with case.guard.run("billing-agent@2.4.0", run_id="run-2", tenant="acme"):
        case.charge("dan")
    case.noticed("run-2")
    sequence = spoil(case.journal, "run-2", "ended")
    names = f"run run-2: entry {sequence} of the journal cannot be read"

    standing = case.drive()
    assert names in standing.detail
    standing = case.through()
    assert case.charged == ["dan"]
    assert (standing.stage, standing.waits) == (Stage.RECONCILE, False)
    assert f"nothing of run run-2 was undone: entry {sequence}" in standing.detail
    assert incident_of(case.journal, case.incident_id).is_open
    assert names.replace("run run-2: ", "") in as_markdown(
        report_of(case.journal, incident_of(case.journal, case.incident_id))
    )


def test_ic6_nothing_is_undone_where_no_run_can_be_read(case: Case) -> None:
    spoil(case.journal, "run-1", "ended")
    with pytest.raises(UsageError, match="what its runs did cannot be told, so nothing is undone"):
        case.drive()
    assert len(case.charged) == 3


def test_ic1_the_stages_are_gone_through_in_order_and_each_is_on_record(case: Case) -> None:
    standing = case.through()
    assert standing.stage is None
    assert case.stages() == [stage.value for stage in STAGES]
    assert case.charged == []
    assert standing.course.fact(Stage.COMPENSATE, "counts") == {"compensated": 3}
    assert standing.course.fact(Stage.RESUME, "checkpoints")["run-1"].startswith("cp_")


def test_the_runs_are_contained_by_an_order_that_names_the_incident(case: Case) -> None:
    case.drive()
    (order,) = case.orders.standing().orders
    assert (str(order.scope), order.level, order.cause) == ("run:run-1", Level.READ_ONLY, case.incident_id)
    assert incident_of(case.journal, case.incident_id).holds("order", order.order_id)


def test_ic3_nothing_is_undone_before_a_person_has_approved_the_plan(case: Case) -> None:
    standing = case.drive()
    assert (standing.stage, standing.waits) == (Stage.COMPENSATE, True)
    assert case.charged == ["ann", "bob", "cid"]
    assert case.drive() == standing

    with pytest.raises(PlanUnknown, match="was ever made for incident"):
        approve(case.journal, case.incident_id, Stage.COMPENSATE, "0" * 16, actor="bob", clock=case.clock)
    with pytest.raises(UsageError, match="its next stage is compensate"):
        approve(case.journal, case.incident_id, Stage.RESUME, standing.subject, actor="bob", clock=case.clock)
    case.approve(standing)
    after = case.drive()
    assert (after.stage, after.waits) == (Stage.RESUME, True)
    assert case.charged == []


def test_ic3_a_plan_that_has_changed_since_its_approval_is_asked_for_again(case: Case) -> None:
    standing = case.drive()
    case.approve(standing)
    (order,) = case.orders.standing().orders
    from builders import a_lift

    case.orders.lift(a_lift(order.order_id))
    with case.guard.run("billing-agent@2.4.0", run_id="run-1", tenant="acme"):
        case.charge("dan")
    again = case.drive()
    assert (again.stage, again.waits) == (Stage.COMPENSATE, True)
    assert again.subject != standing.subject
    assert "changed since it was approved" in again.course.ended[Stage.CLASSIFY].detail
    assert case.charged == ["ann", "bob", "cid", "dan"]
    case.through()
    assert case.charged == []


@pytest.mark.parametrize(
    ("kind", "starts"),
    [(SignalKind.BLAST_RADIUS, True), (SignalKind.LOST_IDENTITY, True), (SignalKind.BEHAVIOUR, False)],
)
def test_ic3_compensation_starts_by_itself_only_on_the_kinds_that_may(kind: SignalKind, starts: bool) -> None:
    case = Case(kind)
    standing = case.drive(compensate_on=frozenset({kind}))
    assert (case.charged == []) is starts
    assert standing.stage is (Stage.RESUME if starts else Stage.COMPENSATE)
    assert standing.waits
    approvals = [event for event in events_of(case.journal, case.incident_id) if isinstance(event, StageApproved)]
    assert [event.actor for event in approvals] == (["rescind-recovery"] if starts else [])


def test_ic3_a_kind_that_the_policy_does_not_name_waits_for_a_person(case: Case) -> None:
    assert case.drive(compensate_on=frozenset({SignalKind.LOST_IDENTITY})).waits
    assert case.charged == ["ann", "bob", "cid"]


def test_ic3_what_is_noticed_at_another_run_after_the_approval_is_contained_and_asked_for_again(case: Case) -> None:
    case.approve(case.drive())
    with case.guard.run("billing-agent@2.4.0", run_id="run-2", tenant="acme"):
        case.charge("zed")
    assert case.noticed("run-2") == case.incident_id
    standing = case.drive()
    assert (standing.stage, standing.waits) == (Stage.COMPENSATE, True)
    assert case.charged == ["ann", "bob", "cid", "zed"]
    assert sorted(str(order.scope) for order in case.orders.standing().orders) == ["run:run-1", "run:run-2"]
    case.through()
    assert case.charged == []


def test_ic3_what_a_run_did_in_the_middle_of_the_undo_is_not_undone_unapproved(case: Case) -> None:
    case.approve(case.drive())

    class Killed(BaseException):
        pass

    def dies(_: object) -> None:
        raise Killed

    with contextlib.suppress(Killed):
        case.drive(progress=dies, parallel=1)
    assert len(case.charged) < 3
    left = len(case.charged)
    for order in case.orders.standing().orders:  # a person lets it go on, meanwhile
        case.orders.lift(a_lift(order.order_id))
    with case.guard.run("billing-agent@2.4.0", run_id="run-1", tenant="acme"):
        case.charge("zed")
    standing = case.drive()
    assert (standing.stage, standing.waits) == (Stage.COMPENSATE, True)
    assert "changed since it was approved" in standing.course.ended[Stage.CLASSIFY].detail
    assert len(case.charged) == left + 1


def test_ic4_what_is_worse_than_before_leaves_the_incident_open(case: Case) -> None:
    case.approve(case.drive())
    case.broken = ""
    means = case.means()
    seen = 0

    def breaks_after_the_undo() -> str:
        nonlocal seen
        seen += 1
        return "5 cents are missing" if not case.charged else ""

    standing = drive(case.incident_id, case.means(invariants={"the books balance": breaks_after_the_undo}))
    assert seen
    assert (standing.stage, standing.waits) == (Stage.RECONCILE, False)
    assert standing.detail == "the books balance: 5 cents are missing"
    assert drive(case.incident_id, means).stage is Stage.RESUME


def test_ic4_a_target_that_is_not_as_it_was_before_leaves_the_incident_open() -> None:
    case = Case()
    rows = {"ann": "free"}

    @case.guard.write("plan.set", effect=rescind.MappingKey(rows, key=lambda name, plan: name))
    def set_plan(name: str, plan: str) -> None:
        rows[name] = plan

    with case.guard.run("billing-agent@2.4.0", run_id="run-1", tenant="acme"):
        set_plan("ann", "pro")
        set_plan("bob", "pro")
    case.approve(case.drive())
    undone = case.drive()
    assert (undone.stage, undone.waits) == (Stage.RESUME, True)
    assert rows == {"ann": "free"}

    standing = _recovered_behind_somebodys_back(case, rows)
    assert (standing.stage, standing.waits) == (Stage.RECONCILE, False)
    assert "is not as it was before" in standing.detail
    rows["ann"] = "free"
    assert case.through().stage is None


def _recovered_behind_somebodys_back(case: Case, rows: dict[str, str]) -> Standing:
    """Undone and classified again, after somebody changed a row without any journal knowing."""
    rows["ann"] = "gold"
    course = read_course(case.journal, case.incident_id)
    again = StageEnded(
        incident_id=case.incident_id, stage="compensate", how="done", detail="", facts={"digest": "", "counts": {}}
    )
    case.journal.append(
        [
            Draft(
                run_id=case.incident_id,
                event=again,
                recorded_at_us=case.clock.now_us(),
                expected_position=course.length,
            )
        ]
    )
    return case.drive()


def test_ic4_what_was_broken_before_is_not_worse(case: Case) -> None:
    case.broken = "it was broken before"
    assert case.through().stage is None


def test_ic4_review_tasks_are_waited_for() -> None:
    case = Case(mails=2)
    standing = case.through()
    assert standing.stage is Stage.RECONCILE
    assert "1 review task left to a person" in standing.detail
    (task,) = list_tasks(case.journal)
    resolve_task(case.journal, task.task_id, "not_needed", actor="bob", clock=case.clock)
    assert case.through().stage is None


def test_a_task_to_be_tried_again_is_planned_and_asked_for_again() -> None:
    case = Case(mails=1)
    case.through()
    (task,) = list_tasks(case.journal)
    resolve_task(case.journal, task.task_id, "retry", actor="bob", clock=case.clock)
    standing = case.drive()
    assert (standing.stage, standing.waits) == (Stage.COMPENSATE, True)
    assert "to be undone yet" in standing.course.ended[Stage.CLASSIFY].detail


def test_ic5_nothing_is_lifted_and_the_incident_stays_open(case: Case) -> None:
    case.through()
    assert len(case.orders.standing().orders) == 1
    assert incident_of(case.journal, case.incident_id).is_open
    close(case.journal, case.incident_id, actor="ann", clock=case.clock)
    with pytest.raises(UsageError, match="is closed"):
        case.drive()


def test_an_incident_that_names_no_run_says_what_to_do_instead(case: Case) -> None:
    signal = Signal(
        signal_id="sig-2",
        kind=SignalKind.ERROR_RATE,
        rule="share",
        severity=Severity.HIGH,
        scope=Scope.parse("agent:billing-agent"),
        detail="half of its calls fail",
        noticed_at=case.clock.now(),
    )
    other = open_or_join(case.journal, signal, clock=case.clock, guard_id="guard-1").incident_id
    with pytest.raises(UsageError, match="names a run"):
        drive(other, case.means())


def test_ic2_of_many_who_drive_it_at_once_nothing_is_done_twice(case: Case) -> None:
    standings: list[Standing] = []
    at_once([lambda: standings.append(case.drive()) for _ in range(4)])
    case.approve(case.drive())
    at_once([lambda: standings.append(case.drive()) for _ in range(4)])
    assert case.charged == []
    assert len(case.orders.standing().orders) == 1
    course = read_course(case.journal, case.incident_id)
    assert course.next is Stage.RESUME


def test_ic2_cut_off_before_or_after_any_append_it_goes_on() -> None:
    """A driver that gets nothing durable any more, from its n-th append on, is as good as dead."""
    for cut_at, after in ((number // 2, bool(number % 2)) for number in itertools.count()):
        case = Case(mails=1)
        case.approve(case.drive())
        appends = itertools.count()

        def fails(
            drafts: Sequence[Draft],
            case: Case = case,
            cut_at: int = cut_at,
            after: bool = after,
            appends: Iterator[int] = appends,
        ) -> bool:
            number = next(appends)
            if number == cut_at and after:
                case.journal.append(drafts)
            return number >= cut_at

        with contextlib.suppress(JournalUnavailable):
            case.drive(journal=FaultyJournal(case.journal, fails))
        standing = case.through()
        assert case.charged == [], (cut_at, after)
        (task,) = list_tasks(case.journal)
        assert standing.stage is Stage.RECONCILE
        resolve_task(case.journal, task.task_id, "not_needed", actor="bob", clock=case.clock)
        assert case.through().stage is None
        if next(appends) <= cut_at:
            assert cut_at > 5
            return


def test_a_journal_that_fails_stops_it_and_nothing_is_lost(case: Case) -> None:
    with pytest.raises(JournalUnavailable):
        case.drive(journal=FaultyJournal(case.journal, lambda _: True))
    assert case.through().stage is None


def test_the_report_tells_it_all_and_hostile_text_stays_text() -> None:
    case = Case(mails=2)
    case.clock.advance(timedelta(minutes=3).total_seconds())
    case.through()
    (task,) = list_tasks(case.journal)
    resolve_task(case.journal, task.task_id, "compensated", actor="bob", reference="CN | 17", clock=case.clock)
    case.through()
    close(case.journal, case.incident_id, actor="ann", note="fixed in 2.4.1", clock=case.clock)

    report = report_of(case.journal, incident_of(case.journal, case.incident_id))
    told = as_markdown(report)
    assert "| compensate | done |" in told
    assert "approved by bob" in told
    assert "| 3 | compensated |" in told
    assert "compensated by bob (CN \\| 17)" in told
    assert "closed by ann: fixed in 2.4.1" in told
    assert "\n~" not in told  # it would fence off the rest
    assert "refunded \\| everything\\\\n\\# closed" in told
    assert "\x1b" not in told
    assert "<img>" not in told.replace("\\<img\\>", "")
    data = report.as_dict()
    assert data["stages"]["reconcile"]["how"] == "done"
    assert data["tasks"][0]["reference"] == "CN | 17"


def test_the_report_of_an_incident_that_nobody_recovered_says_so(case: Case) -> None:
    assert "Nothing yet." in as_markdown(report_of(case.journal, incident_of(case.journal, case.incident_id)))
