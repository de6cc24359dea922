"""Review tasks: laws RV1 to RV6, and X1 to X3 of their export."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from compensation.undo_world import Shop
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.entry import ReviewResolved
from rescind.recovery.review import (
    Resolved,
    assign_task,
    comment_on,
    find_task,
    list_tasks,
    resolve_task,
    resolved_tasks,
    set_due,
)
from rescind.recovery.review_export import REFUSED_MAX, export_tasks
from rescind.switch.alerts import Alert, Undelivered
from rescind.testing import ManualClock
from rescind.testing.faulty import FaultyJournal


@pytest.fixture
def shop() -> Shop:
    """Two open tasks: a mail, and an action that nobody declares."""
    shop = Shop()
    shop.mail()
    shop.charge(action="gone")
    shop.apply()
    return shop


def test_tasks_are_listed_oldest_first_and_open_ones_only_if_asked(shop: Shop) -> None:
    first, second = list_tasks(shop.journal)
    assert (first.action, second.action) == ("gone", "mail.send")

    resolve_task(shop.journal, first.task_id, "done", actor="ops", note="called them", clock=shop.clock)
    assert [task.task_id for task in list_tasks(shop.journal)] == [second.task_id]
    assert len(list_tasks(shop.journal, open_only=False)) == 2


def test_a_task_is_found_by_the_beginning_of_its_id(shop: Shop) -> None:
    task = list_tasks(shop.journal)[0]
    assert find_task(shop.journal, task.task_id) == task
    assert find_task(shop.journal, task.task_id[:14]) == task

    with pytest.raises(UsageError, match="could be any of 2"):
        find_task(shop.journal, "review")
    with pytest.raises(UsageError, match="no review task 'xyz'; there are 2"):
        find_task(shop.journal, "xyz")


def test_a_resolution_says_who_and_when_and_why(shop: Shop) -> None:
    task = list_tasks(shop.journal)[0]
    shop.clock.advance(60)
    resolved = resolve_task(
        shop.journal, task.task_id[:14], "not-needed", actor="ann", note="a test order", clock=shop.clock
    )

    assert (resolved.resolution, resolved.resolved_by, resolved.note) == ("not_needed", "ann", "a test order")
    assert resolved.resolved_at == shop.clock.now()


def test_a_task_is_resolved_once(shop: Shop) -> None:
    """RV1."""
    task_id = list_tasks(shop.journal)[0].task_id
    resolve_task(shop.journal, task_id, "done", actor="ann", clock=shop.clock)
    with pytest.raises(UsageError, match="resolved as done by ann"):
        resolve_task(shop.journal, task_id, "retry", actor="bob", clock=shop.clock)


def test_of_two_people_at_the_same_moment_one_is_told(shop: Shop) -> None:
    """RV1."""
    task = list_tasks(shop.journal)[0]

    def somebody_else_first(drafts: Sequence[Draft]) -> bool:
        event = ReviewResolved(task_id=task.task_id, resolution="done", actor="ann")
        shop.put(task.plan_run, event)
        return False

    journal = FaultyJournal(shop.journal, somebody_else_first)
    with pytest.raises(UsageError, match="resolved as done by ann"):
        resolve_task(journal, task.task_id, "retry", actor="bob", clock=shop.clock)


def test_what_cannot_be_decided_is_refused_with_what_can(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    with pytest.raises(UsageError, match="one of: done, compensated, not_needed, retry"):
        resolve_task(shop.journal, task_id, "maybe", actor="ann", clock=shop.clock)


def test_retried_tasks_are_kept_apart_from_settled_ones(shop: Shop) -> None:
    """RV2."""
    first, second = (task.task_id for task in list_tasks(shop.journal))
    resolve_task(shop.journal, first, "retry", actor="ann", clock=shop.clock)
    resolve_task(shop.journal, second, "done", actor="ann", clock=shop.clock)

    resolved = resolved_tasks(shop.journal)
    assert resolved == Resolved(retried=frozenset({first}), settled=frozenset({second}))


def test_a_journal_without_tasks_has_none() -> None:
    assert list_tasks(MemoryJournal()) == []
    with pytest.raises(UsageError, match="there is none"):
        find_task(MemoryJournal(), "review_1")


def test_what_was_offset_by_hand_is_named_and_settled(shop: Shop) -> None:
    """RV2."""
    task_id = list_tasks(shop.journal)[0].task_id
    with pytest.raises(UsageError, match="needs a reference: the credit note"):
        resolve_task(shop.journal, task_id, "compensated", actor="ann", clock=shop.clock)

    task = resolve_task(shop.journal, task_id, "compensated", actor="ann", reference="credit note 17", clock=shop.clock)
    assert (task.resolution, task.reference) == ("compensated", "credit note 17")
    assert resolved_tasks(shop.journal).settled == {task_id}
    assert "settled by a person" in str([item.decision for item in shop.plan().items])


def test_a_task_is_somebodys_until_it_is_somebody_elses(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    assert assign_task(shop.journal, task_id, "ann", actor="lead", clock=shop.clock).assignee == "ann"
    assert assign_task(shop.journal, task_id, "bob", actor="ann", clock=shop.clock).assignee == "bob"
    assert assign_task(shop.journal, task_id, "", actor="bob", clock=shop.clock).assignee == ""


def test_a_task_past_its_deadline_is_overdue_and_still_open(shop: Shop) -> None:
    """RV4."""
    task_id = list_tasks(shop.journal)[0].task_id
    due = shop.clock.now() + timedelta(hours=1)
    task = set_due(shop.journal, task_id, due, actor="lead", clock=shop.clock)
    assert not task.is_overdue(due - timedelta(seconds=1))
    assert task.is_overdue(due)

    shop.clock.advance(7200)
    assert task_id in {each.task_id for each in list_tasks(shop.journal)}
    resolved = resolve_task(shop.journal, task_id, "done", actor="ann", clock=shop.clock)
    assert not resolved.is_overdue(due)


def test_a_deadline_has_a_zone_and_is_to_come(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    with pytest.raises(UsageError, match="has no time zone"):
        set_due(shop.journal, task_id, datetime(2030, 1, 1), actor="ann", clock=shop.clock)  # noqa: DTZ001
    with pytest.raises(UsageError, match="has passed already"):
        set_due(shop.journal, task_id, shop.clock.now(), actor="ann", clock=shop.clock)
    set_due(shop.journal, task_id, shop.clock.now() + timedelta(days=1), actor="ann", clock=shop.clock)
    assert set_due(shop.journal, task_id, None, actor="ann", clock=shop.clock).due_at is None


def test_comments_are_kept_in_order_and_may_follow_the_decision(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    comment_on(shop.journal, task_id, "called them", actor="ann", clock=shop.clock)
    resolve_task(shop.journal, task_id, "done", actor="ann", clock=shop.clock)
    task = comment_on(shop.journal, task_id, "they called back", actor="bob", clock=shop.clock)
    assert [(each.actor, each.text) for each in task.comments] == [("ann", "called them"), ("bob", "they called back")]


def test_what_cannot_be_said_of_a_task_changes_nothing(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    with pytest.raises(UsageError, match="needs a text"):
        comment_on(shop.journal, task_id, " ", actor="ann", clock=shop.clock)
    with pytest.raises(UsageError, match="at most 4,000"):
        comment_on(shop.journal, task_id, "x" * 4_001, actor="ann", clock=shop.clock)
    resolve_task(shop.journal, task_id, "done", actor="ann", clock=shop.clock)
    before = len(shop.entries())
    with pytest.raises(UsageError, match="nothing left to decide"):
        assign_task(shop.journal, task_id, "bob", actor="ann", clock=shop.clock)
    assert len(shop.entries()) == before


# --- told to a webhook ---


class Told:
    """A receiver that is away as often as it is told to be."""

    name = "webhook http://tickets"

    def __init__(self, *, away: int = 0) -> None:
        self.alerts: list[Alert] = []
        self._away = away

    def prepare(self) -> None: ...

    def send(self, alert: Alert, *, timeout_s: float) -> None:
        if self._away:
            self._away -= 1
            raise Undelivered("it cannot be reached", again=True)
        self.alerts.append(alert)

    @property
    def kinds(self) -> list[str]:
        return [alert.kind for alert in self.alerts]


def test_each_task_is_told_when_it_is_opened_and_when_it_is_resolved(shop: Shop) -> None:
    """X1."""
    receiver = Told()
    first = list_tasks(shop.journal)[0]
    assert export_tasks(shop.journal, receiver, clock=shop.clock).told == tuple(
        (task.task_id, "opened") for task in list_tasks(shop.journal)
    )
    resolve_task(shop.journal, first.task_id, "done", actor="ann", note="by hand", clock=shop.clock)
    assert export_tasks(shop.journal, receiver, clock=shop.clock).told == ((first.task_id, "resolved"),)
    assert export_tasks(shop.journal, receiver, clock=shop.clock).told == ()
    assert receiver.kinds == ["review.opened", "review.opened", "review.resolved"]
    assert receiver.alerts[-1].data["review"]["note"] == "by hand"


def test_what_a_receiver_did_not_take_is_told_next_time_in_order(shop: Shop) -> None:
    """X3."""
    receiver = Told(away=1)
    first = list_tasks(shop.journal)[0]
    resolve_task(shop.journal, first.task_id, "done", actor="ann", clock=shop.clock)
    exported = export_tasks(shop.journal, receiver, clock=shop.clock)
    assert (exported.told, exported.left, exported.problem) == ((), 3, "it cannot be reached")

    export_tasks(shop.journal, receiver, clock=shop.clock)
    assert receiver.kinds == ["review.opened", "review.opened", "review.resolved"]


def test_a_task_that_a_receiver_refuses_for_good_holds_back_only_what_else_is_to_be_told_of_it(shop: Shop) -> None:
    """X3."""

    class Picky(Told):
        refuses = ""
        asked = 0

        def send(self, alert: Alert, *, timeout_s: float) -> None:
            self.asked += 1
            if alert.subject == f"review/{self.refuses}":
                raise Undelivered("422 and will not take this alert", again=False)
            super().send(alert, timeout_s=timeout_s)

    receiver = Picky()
    first, second = list_tasks(shop.journal)
    receiver.refuses = first.task_id
    resolve_task(shop.journal, first.task_id, "done", actor="ann", clock=shop.clock)
    exported = export_tasks(shop.journal, receiver, clock=shop.clock)
    assert (exported.told, exported.left) == (((second.task_id, "opened"),), 2)
    assert exported.problem == f"review task {first.task_id}: 422 and will not take this alert"
    receiver.refuses = ""
    assert export_tasks(shop.journal, receiver, clock=shop.clock).told == (
        (first.task_id, "opened"),
        (first.task_id, "resolved"),
    )


def test_a_receiver_that_refuses_everything_is_left_alone_after_some_messages() -> None:
    shop = Shop()
    for number in range(REFUSED_MAX + 5):
        shop.charge(action=f"gone-{number}")
    shop.apply()

    class Closed(Told):
        asked = 0

        def send(self, alert: Alert, *, timeout_s: float) -> None:
            self.asked += 1
            raise Undelivered("401", again=False)

    receiver = Closed()
    assert export_tasks(shop.journal, receiver, clock=shop.clock).left == REFUSED_MAX + 5
    assert receiver.asked == REFUSED_MAX + 1


def test_no_task_is_told_resolved_before_it_is_opened_though_the_clock_of_who_resolved_it_is_behind(shop: Shop) -> None:
    """X3."""
    receiver = Told()
    first = list_tasks(shop.journal)[0]
    behind = ManualClock(shop.clock.now() - timedelta(hours=1))
    resolve_task(shop.journal, first.task_id, "done", actor="ann", clock=behind)
    told = export_tasks(shop.journal, receiver, clock=shop.clock).told
    assert [state for task_id, state in told if task_id == first.task_id] == ["opened", "resolved"]


def test_a_crash_between_telling_and_recording_tells_again_under_the_same_id(shop: Shop) -> None:
    """X1."""
    receiver = Told()
    dying = FaultyJournal(shop.journal, lambda _: True)
    with pytest.raises(JournalUnavailable):
        export_tasks(dying, receiver, clock=shop.clock)
    export_tasks(shop.journal, receiver, clock=shop.clock)
    assert receiver.alerts[0].alert_id == receiver.alerts[1].alert_id
    assert len({alert.alert_id for alert in receiver.alerts}) == 2


def test_two_receivers_are_told_apart_from_each_other(shop: Shop) -> None:
    one, other = Told(), Told()
    other.name = "webhook http://chat"
    export_tasks(shop.journal, one, clock=shop.clock)
    export_tasks(shop.journal, other, clock=shop.clock)
    assert len(one.alerts) == len(other.alerts) == 2


def test_rv6_what_a_task_says_already_is_not_written_down_again(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    due_at = shop.clock.now() + timedelta(days=1)

    def say_all() -> None:
        assign_task(shop.journal, task_id, "bob", actor="ann", clock=shop.clock)
        set_due(shop.journal, task_id, due_at, actor="ann", clock=shop.clock)
        comment_on(shop.journal, task_id, "called them", actor="ann", clock=shop.clock)

    say_all()
    before = len(shop.entries())
    say_all()
    assert len(shop.entries()) == before
    # Somebody else's same words, and the same words after others, are said.
    comment_on(shop.journal, task_id, "called them", actor="bob", clock=shop.clock)
    comment_on(shop.journal, task_id, "called them", actor="ann", clock=shop.clock)
    assert [comment.actor for comment in find_task(shop.journal, task_id).comments] == ["ann", "bob", "ann"]
