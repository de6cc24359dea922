"""Undos as the journal tells of them."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from compensation.dying import Died
from compensation.test_control import ClockWithAlarm, at_step, order
from compensation.undo_world import Shop
from rescind.compensation.decision import Plan
from rescind.compensation.paperwork import Paperwork, plan_run_of
from rescind.errors import EngineUnavailable, Transient, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.pages import every_entry
from rescind.journal.port import PAGE_LIMIT, Draft, Query
from rescind.model.entry import Entry, PlanFinished, PlanLeft, PlanStarted
from rescind.recovery.appliers import FolderAppliers
from rescind.recovery.undo_status import UndoStatus
from rescind.recovery.undos import UndoFollower, follow, list_undos, open_undos, undo_status
from rescind.testing.faulty import FaultyJournal


@pytest.fixture
def shop() -> Shop:
    return Shop()


def looks(shop: Shop, plan_run: str, numbers: tuple[int, ...]) -> list[UndoStatus]:
    """What is seen while the steps of these numbers are undone; each step takes a second."""
    seen: list[UndoStatus] = []

    def pass_time(record: object) -> None:
        shop.clock.advance(1.0)
        if sum(shop.charging.refunds.values()) in numbers:
            seen.append(undo_status(shop.journal, plan_run))

    shop.charging.before_undo = pass_time
    return seen


def test_an_undo_says_how_far_it_is_and_how_long_the_rest_takes(shop: Shop) -> None:
    for _ in range(10):
        shop.charge()
    plan = shop.plan()
    seen = looks(shop, plan_run_of(plan), (0, 8))
    shop.apply(plan, reason="wrong prices")

    assert [(each.state, each.total) for each in seen] == [("running", 10), ("running", 10)]
    assert (seen[0].done, seen[0].eta_s, seen[0].reason) == (0, None, "wrong prices")
    assert seen[1].done in (7, 8)  # the last end may not be recorded yet
    assert seen[1].rate_per_s == pytest.approx(1.0)
    assert seen[1].eta_s == pytest.approx(10 - seen[1].done)
    last = undo_status(shop.journal, plan.digest[:8])
    assert (last.state, last.percent, last.by_disposition) == ("finished", 100.0, {"compensated": 10})


def test_what_was_done_before_is_not_counted_again(shop: Shop) -> None:
    for _ in range(4):
        shop.charge()
    shop.charging.before_undo = lambda record: shop.clock.advance(1.0)
    shop.apply(within_s=2.5)
    plan = shop.plan()
    shop.apply(plan)

    first, second = list_undos(shop.journal)
    assert (first.state, first.total, first.done, first.left_because) == ("continued", 4, 3, "out_of_time")
    assert (second.state, second.total, second.done) == ("finished", 1, 1)


def test_one_that_was_killed_and_continued_by_a_later_plan_is_counted_where_past_ones_are_asked_for(shop: Shop) -> None:
    for _ in range(4):
        shop.charge()
    killed = shop.plan()

    def die_at_the_third(record: object) -> None:
        if sum(shop.charging.refunds.values()) == 2:
            raise Died

    shop.charging.before_undo = die_at_the_third
    with pytest.raises(Died):
        shop.apply(killed)
    for entry in every_entry(shop.journal, Query(run_id=plan_run_of(killed))):
        assert not isinstance(entry.event, PlanFinished | PlanLeft)
    shop.charging.before_undo = lambda record: None
    shop.apply()

    first, second = list_undos(shop.journal, past_too=True)
    assert (first.state, first.total, first.done) == ("continued", 4, 2)
    assert (second.state, second.done) == ("finished", second.total)


def test_a_redo_says_how_far_it_is(shop: Shop) -> None:
    for name in "abc":
        shop.set(name, 1)
    undo = shop.plan()
    shop.apply(undo)
    plan, seen = shop.redo_plan(undo.digest), list[UndoStatus]()
    shop.setting.before_undo = lambda record: seen.append(undo_status(shop.journal, plan_run_of(plan)))
    shop.redo(undo.digest)

    assert [each.total for each in seen] == [3, 3, 3]
    assert seen[-1].done in (1, 2)
    last = undo_status(shop.journal, plan.digest)
    assert (last.state, last.by_disposition) == ("finished", {"restored": 3})


def test_a_paused_undo_says_by_whom_and_why(shop: Shop) -> None:
    for _ in range(3):
        shop.charge()
    plan = shop.plan()
    seen: list[UndoStatus] = []

    def look_and_cancel() -> None:
        seen.append(undo_status(shop.journal, plan_run_of(plan)))
        order(shop, plan, "cancel", reason="wrong run")
        seen.append(undo_status(shop.journal, plan_run_of(plan)))

    shop.clock = ClockWithAlarm(3, look_and_cancel)
    at_step(shop, 0, lambda: order(shop, plan, "pause", reason="the bank asks"))
    shop.apply(plan)
    seen.append(undo_status(shop.journal, plan_run_of(plan)))

    assert [(each.state, each.held_by, each.held_because) for each in seen] == [
        ("paused", "eve", "the bank asks"),
        ("cancelling", "eve", "wrong run"),
        ("cancelled", "eve", "wrong run"),
    ]
    assert seen[-1].left_detail == "by eve: wrong run"


def test_following_ends_with_the_undo_also_with_one_that_goes_on_as_another_plan(shop: Shop) -> None:
    for _ in range(4):
        shop.charge()
    plan = shop.plan()
    shop.charging.before_undo = lambda record: shop.clock.advance(1.0)
    shop.apply(plan, within_s=1.5)
    shop.apply()

    states = [status.state for status in follow(shop.journal, plan.digest, shop.clock)]
    assert states == ["continued", "finished"]


def test_a_follower_reads_only_what_is_new() -> None:
    read: list[Entry] = []

    class Counting(MemoryJournal):
        def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
            page = super().entries(query, after=after, limit=limit)
            read.extend(entry for entry in page if entry.run.agent_name != "rescind-undo")
            return page

    shop = Shop(Counting())
    for _ in range(300):
        shop.charge()
    plan = shop.plan()
    shop.apply(plan)
    follower = UndoFollower(shop.journal, plan.digest)
    assert follower.look().done == 300
    read.clear()

    assert follower.look().done == 300
    assert not read


def test_an_undo_of_many_runs_is_followed_in_all_of_them(shop: Shop) -> None:
    runs = tuple(f"run-{number}" for number in range(40))
    for run in runs:
        shop.charge(run)
    plan = shop.plan(*runs)
    shop.apply(plan)

    assert undo_status(shop.journal, plan.digest).by_disposition == {"compensated": 40}


def test_an_undo_that_left_because_a_system_is_down_says_so(shop: Shop) -> None:
    for _ in range(30):
        shop.charge()

    def down(record: object) -> None:
        raise Transient("503")

    shop.charging.before_undo = down
    shop.apply()
    (status,) = list_undos(shop.journal)
    assert (status.state, status.left_because) == ("left", "unavailable")
    assert "card.charge: Transient: 503" in status.left_detail


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("undo_0000", "knows no undo"),
        ("zzz", "names no undo"),
        ("", "names no undo"),
    ],
)
def test_an_undo_that_is_none_is_refused(shop: Shop, name: str, words: str) -> None:
    shop.charge()
    with pytest.raises(UsageError, match="none was ever applied" if name.startswith("undo") else words):
        undo_status(shop.journal, name)
    shop.apply()
    with pytest.raises(UsageError, match=words):
        undo_status(shop.journal, name)


class Seen:
    """Says who lives; `meanwhile` happens between the look at the journal and the answer."""

    def __init__(self, *living: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._living, self._meanwhile = frozenset(living), meanwhile

    @contextlib.contextmanager
    def here(self, plan_run: str) -> Iterator[bool]:
        yield True

    def living(self, plan_runs: Collection[str]) -> frozenset[str]:
        self._meanwhile()
        return self._living


class Mute(Seen):
    def living(self, plan_runs: Collection[str]) -> frozenset[str]:
        raise EngineUnavailable("away")


def begun(shop: Shop, *, shown: bool) -> tuple[Plan, str]:
    """A plan that was begun; its run."""
    plan = shop.plan()
    Paperwork(plan, shop.journal, shop.clock, shown=shown).open("undo_1", "ops", "", pending=len(plan.items))
    return plan, plan_run_of(plan)


@pytest.mark.parametrize(("is_living", "holder"), [(True, "process"), (False, "nobody")])
def test_who_applies_a_plan_is_known_by_its_presence(shop: Shop, is_living: bool, holder: str) -> None:
    shop.charge()
    _, run_id = begun(shop, shown=True)
    (undo,) = open_undos(shop.journal, appliers=Seen(*[run_id] * is_living))
    assert (undo.state, undo.holder, undo.heard_at is None) == ("running", holder, is_living)


def test_where_nobody_can_tell_it_is_said_when_something_was_heard_last(shop: Shop) -> None:
    shop.charge()
    begun(shop, shown=False)  # as a rescind does that shows nothing
    for appliers in (Seen(), None):
        (undo,) = open_undos(shop.journal, appliers=appliers)
        assert (undo.holder, undo.heard_at) == ("unknown", shop.clock.now())
    shop.clock.advance(60)
    shop.charge()  # whatever is recorded in the run: nothing of the undo can have come after it
    (undo,) = open_undos(shop.journal, appliers=Seen())
    assert undo.heard_at == shop.clock.now()


def test_where_presences_cannot_be_read_nobody_is_called_dead(shop: Shop) -> None:
    shop.charge()
    begun(shop, shown=True)
    (undo,) = open_undos(shop.journal, appliers=Mute())
    assert undo.holder == "unknown"


def test_al1_an_undo_that_ends_while_somebody_looks_is_not_called_dead(shop: Shop) -> None:
    shop.charge()
    plan, run_id = begun(shop, shown=True)
    finished = PlanFinished(plan_digest=plan.digest, counts={})
    assert open_undos(shop.journal, appliers=Seen(meanwhile=lambda: shop.put(run_id, finished))) == []


def test_al1_an_undo_that_is_applied_is_shown_before_its_start_is_on_record_and_until_its_end_is(
    shop: Shop, tmp_path: Path
) -> None:
    for _ in range(3):
        shop.charge()
    appliers, plan = FolderAppliers(tmp_path), shop.plan()
    found: list[str] = []

    class Watching(FaultyJournal):
        def append(self, drafts: Sequence[Draft]) -> Any:
            found.append("shown" if appliers.living([plan_run_of(plan)]) else "hidden")
            return super().append(drafts)

    journal, shop.journal = shop.journal, Watching(shop.journal, lambda _: False)
    shop.apply(plan, appliers=appliers)
    assert len(found) > 3
    assert set(found) == {"shown"}
    assert appliers.living([plan_run_of(plan)]) == frozenset()
    starts = [entry.event for entry in journal.entries(Query(run_id=plan_run_of(plan)))]
    assert [event.shown for event in starts if isinstance(event, PlanStarted)] == [True]
