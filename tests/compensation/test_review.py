"""Review tasks: laws R1 to R3."""

from collections.abc import Sequence

import pytest

from compensation.undo_world import Shop
from rescind.errors import UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.entry import ReviewResolved
from rescind.recovery.review import Resolved, find_task, list_tasks, resolve_task, resolved_tasks
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
    """R1."""
    task_id = list_tasks(shop.journal)[0].task_id
    resolve_task(shop.journal, task_id, "done", actor="ann", clock=shop.clock)
    with pytest.raises(UsageError, match="resolved as done by ann"):
        resolve_task(shop.journal, task_id, "retry", actor="bob", clock=shop.clock)


def test_of_two_people_at_the_same_moment_one_is_told(shop: Shop) -> None:
    """R1."""
    task = list_tasks(shop.journal)[0]

    def somebody_else_first(drafts: Sequence[Draft]) -> bool:
        event = ReviewResolved(task_id=task.task_id, resolution="done", actor="ann")
        shop.put(task.plan_run, event)
        return False

    journal = FaultyJournal(shop.journal, somebody_else_first)
    with pytest.raises(UsageError, match="resolved as done by ann"):
        resolve_task(journal, task.task_id, "retry", actor="bob", clock=shop.clock)


def test_only_three_things_can_be_decided(shop: Shop) -> None:
    task_id = list_tasks(shop.journal)[0].task_id
    with pytest.raises(UsageError, match="one of: done, not_needed, retry"):
        resolve_task(shop.journal, task_id, "maybe", actor="ann", clock=shop.clock)


def test_retried_tasks_are_kept_apart_from_settled_ones(shop: Shop) -> None:
    """R2."""
    first, second = (task.task_id for task in list_tasks(shop.journal))
    resolve_task(shop.journal, first, "retry", actor="ann", clock=shop.clock)
    resolve_task(shop.journal, second, "done", actor="ann", clock=shop.clock)

    resolved = resolved_tasks(shop.journal)
    assert resolved == Resolved(retried=frozenset({first}), settled=frozenset({second}))


def test_a_journal_without_tasks_has_none() -> None:
    assert list_tasks(MemoryJournal()) == []
    with pytest.raises(UsageError, match="there is none"):
        find_task(MemoryJournal(), "review_1")
