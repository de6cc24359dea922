"""Plans for somebody without the tools: laws PA1 to PA4, also while workers die between any two calls."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from compensation.crew import RUN, Crew, events, refunds
from compensation.dying import Died, FusedJournal
from compensation.test_coordinator import spoil
from compensation.undo_world import Shop
from rescind.clock import SystemIds
from rescind.compensation.planning.selection import Selection
from rescind.compensation.port import Compensator
from rescind.compensation.sharing.planner import ITEMS_OF_PART, Planner
from rescind.compensation.sharing.requests import (
    OpenRequests,
    PlanRequest,
    ask_for_plan,
    ask_to_apply,
    find_request,
    items_of,
    read_request,
    refuse_lacking,
)
from rescind.compensation.sharing.submission import append, read_submission
from rescind.config import UndoConfig
from rescind.errors import AlreadySettled, EntryUnreadable, NameUnknown, UsageError
from rescind.journal.port import Query
from rescind.model.entry import PlanRequested, PlanSubmitted, RequestAnswered, RequestTaken
from rescind.recovery.control import plan_run_id
from rescind.testing import ManualClock


class Desk:
    """Workers that answer requests about one shop."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop, self.crew = shop, Crew(shop, folder)
        self.may_write: list[str] = []

    def hire(self, compensators: Mapping[str, Compensator] | None = None) -> Planner:
        tools = self.shop.compensators if compensators is None else compensators
        hand = self.crew.hire(tools)
        return Planner(
            hand.worker_id,
            FusedJournal(self.shop.journal, self.crew.fuse),  # type: ignore[arg-type]  # it is one
            tools,
            workers=self.crew.living,
            ring=self.crew.ring,
            clock=self.shop.clock,
            ids=SystemIds(),
            undo=UndoConfig(parallel=1),
            live_runs=self.crew.look_who_acts,
            may_write=self._still_writing,
        )

    def _still_writing(self, runs: Sequence[str]) -> list[str]:
        return [run for run in runs if run in self.may_write]

    def ask(self, selection: Selection = RUN, **fields: Any) -> PlanRequest:
        options: dict[str, Any] = {"actor": "ann", "reason": "wrong customers"} | fields
        return ask_for_plan(self.shop.journal, selection, clock=self.shop.clock, ids=SystemIds(), **options)

    def apply(self, digest: str, actor: str = "ann") -> PlanRequest:
        return ask_to_apply(self.shop.journal, digest, actor=actor, reason="go", clock=self.shop.clock)

    def there(self, request: PlanRequest) -> PlanRequest:
        return find_request(self.shop.journal, request.request_id)

    def answered(self, request: PlanRequest) -> RequestAnswered:
        found = self.there(request).answer
        assert found is not None
        return found

    def see_answered(self, request: PlanRequest) -> RequestAnswered:
        """One worker after the other, each until it dies or has answered."""
        for _ in range(50):
            worker = self.hire()
            try:
                worker.answer_open()
            except Died:
                self.crew.dead.add(list(self.crew.infos)[-1])
                self.crew.fuse.left = -1
            else:
                return self.answered(request)
        raise AssertionError("it is not answered")


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    for _ in range(3):
        shop.charge()
    shop.mail()
    return shop


@pytest.fixture
def desk(shop: Shop, tmp_path: Path) -> Desk:
    return Desk(shop, tmp_path)


def test_a_plan_is_shown_by_a_worker_and_exactly_that_one_is_submitted(desk: Desk, shop: Shop) -> None:
    planner = desk.hire()
    request = desk.ask()
    assert (request.state, planner.answer_open()) == ("waiting", f"request {request.request_id}: shown")

    plan = shop.plan()
    shown = desk.answered(request)
    assert (shown.digest, shown.facts["counts"], shown.facts["steps"]) == (plan.digest, plan.counts, 4)
    items = items_of(shop.journal, desk.there(request), limit=10)
    assert [item["step"]["step_id"] for item in items] == [item.step.step_id for item in plan.items]
    assert items_of(shop.journal, desk.there(request), after=1, limit=2) == items[1:3]
    assert not events(shop.journal, PlanSubmitted)

    desk.apply(plan.digest[:12])
    planner.answer_open()
    assert desk.answered(request).how == "submitted"
    submission = read_submission(shop.journal, plan_run_id(plan.digest))
    assert submission is not None
    assert (submission.submitted.plan_digest, submission.submitted.actor) == (plan.digest, "ann")
    assert desk.crew.see_to_its_end(submission).finished
    assert refunds(shop) == {1}


def test_pa3_a_plan_that_has_changed_is_not_applied(desk: Desk, shop: Shop) -> None:
    planner = desk.hire()
    request = desk.ask()
    planner.answer_open()
    digest = desk.answered(request).digest
    shop.charge()
    desk.apply(digest)
    planner.answer_open()

    answer = desk.answered(request)
    assert (answer.how, answer.digest, "has changed" in answer.detail) == ("outdated", shop.plan().digest, True)
    assert not events(shop.journal, PlanSubmitted)
    with pytest.raises(NameUnknown):
        desk.apply("0123456789abcdef")
    with pytest.raises(NameUnknown):
        desk.apply(answer.digest)  # nobody was shown that one


def test_pa3_a_request_that_is_called_like_a_digest_is_not_taken_for_the_plan(desk: Desk, shop: Shop) -> None:
    planner = desk.hire()
    mine = desk.ask()
    planner.answer_open()
    digest = desk.answered(mine).digest
    other = desk.ask(Selection(run_ids=("run-1",), actions=("mail.send",)), actor="eve", request_id=digest[:16])
    planner.answer_open()
    there = read_request(shop.journal, other.run_id)
    assert there is not None
    assert there.shown is not None
    assert there.shown.digest != digest

    assert find_request(shop.journal, digest[:16]).request_id == mine.request_id
    assert desk.apply(digest[:16]).asked.digest == digest


def test_pa3_nothing_is_applied_by_the_id_of_a_request(desk: Desk, shop: Shop) -> None:
    desk.ask(request_id="mine-1")
    with pytest.raises(UsageError, match="'mine-1' is no digest of a plan; give 8 or more"):
        desk.apply("mine-1")
    desk.ask(request_id="0123456789")
    with pytest.raises(NameUnknown, match="workers have shown no plan '0123456789'"):
        desk.apply("0123456789")
    assert not [each for each in events(shop.journal, PlanRequested) if each.what == "apply"]


def test_the_last_that_was_shown_is_applied_though_its_asker_s_clock_is_behind(desk: Desk, shop: Shop) -> None:
    planner = desk.hire()
    first = desk.ask(request_id="first")
    planner.answer_open()
    digest = desk.answered(first).digest
    desk.apply(digest)
    desk.may_write = ["run-1"]
    planner.answer_open()
    behind = ManualClock(shop.clock.now() - timedelta(hours=1))
    second = ask_for_plan(shop.journal, RUN, actor="bob", request_id="second", clock=behind, ids=SystemIds())
    planner.answer_open()

    assert desk.answered(second).digest == digest
    assert desk.apply(digest).request_id == "second"


def test_a_run_that_may_still_write_is_not_undone(desk: Desk, shop: Shop) -> None:
    planner = desk.hire()
    request = desk.ask()
    planner.answer_open()
    desk.may_write = ["run-1"]
    desk.apply(desk.answered(request).digest)
    planner.answer_open()
    assert (desk.answered(request).how, events(shop.journal, PlanSubmitted)) == ("live", [])
    desk.may_write = []
    desk.apply(shop.plan().digest)  # asked again, since nothing was done
    planner.answer_open()
    assert desk.answered(request).how == "submitted"


def test_who_lacks_the_tools_leaves_it_to_who_has_them(desk: Desk, shop: Shop) -> None:
    other = desk.hire({"something.else": shop.compensators["card.charge"]})
    request = desk.ask()
    able = desk.hire()
    assert other.answer_open() == ""
    assert able.answer_open() != ""
    assert desk.answered(request).how == "shown"
    assert [taken.worker_id for taken in events(shop.journal, RequestTaken)] == ["worker_2"]


def test_where_nobody_has_the_tools_the_answer_says_whom_it_lacks(desk: Desk, shop: Shop) -> None:
    half = {"mail.send": shop.compensators["mail.send"]}
    planner = desk.hire(half)
    request = desk.ask()
    planner.answer_open()
    answer = desk.answered(request)
    assert answer.how == "lacking"
    assert "card.charge: declared by none of them" in answer.detail
    assert "mail.send: worker_1 (shop:guard)" in answer.detail
    with pytest.raises(UsageError, match="no worker lives here"):
        refuse_lacking(["card.charge"], [])


def test_pa4_the_same_request_is_one_and_an_id_is_not_used_twice(desk: Desk, shop: Shop) -> None:
    first = desk.ask(request_id="mine-1")
    assert desk.ask(request_id="mine-1") == first
    with pytest.raises(AlreadySettled, match="was asked by ann for something else"):
        desk.ask(request_id="mine-1", actor="bob")
    with pytest.raises(UsageError, match="1 to 64 letters"):
        desk.ask(request_id="../../etc")
    planner = desk.hire()
    planner.answer_open()
    digest = desk.answered(first).digest
    before = desk.apply(digest)
    assert desk.apply(digest) == before
    planner.answer_open()
    entries = len(shop.entries())
    assert desk.apply(digest).answer == desk.answered(first)
    assert len(shop.entries()) == entries
    assert desk.ask(request_id="mine-1").answer == desk.answered(first)


def test_a_worker_that_others_take_for_stuck_answers_with_the_tools_it_has(desk: Desk) -> None:
    planner = desk.hire()
    request = desk.ask()
    desk.crew.dead.add("worker_1")
    planner.answer_open()
    assert desk.answered(request).how == "shown"


def test_a_request_that_cannot_be_answered_is_answered_with_that_and_holds_up_no_other(desk: Desk, shop: Shop) -> None:
    broken: Any = SimpleNamespace(action=shop.compensators["card.charge"].action)  # and nothing else that is needed
    planner = desk.hire()
    planner._compensators = {**shop.compensators, "card.charge": broken}
    first, second = desk.ask(), desk.ask(Selection(run_ids=("run-1",), actions=("mail.send",)))
    planner.answer_open()
    answer = desk.answered(first)
    assert (answer.how, answer.detail) == ("refused", "planning failed (AttributeError); the worker's log says more")
    assert desk.answered(second).how == "shown"


def test_an_entry_that_cannot_be_read_holds_up_no_other_request(desk: Desk, shop: Shop) -> None:
    class Gap(FusedJournal):
        def entries(self, query: Query, **options: Any) -> Any:
            page = super().entries(query, **options)
            for entry in page:
                if entry.run.run_id == "request_broken":
                    raise EntryUnreadable(sequence=entry.sequence, run_id=entry.run.run_id, problem="odd")
            return page

    desk.ask(request_id="broken")
    request = desk.ask()
    planner = desk.hire()
    journal: Any = Gap(shop.journal, desk.crew.fuse)  # type: ignore[arg-type]  # it is one
    planner._journal, planner._open = journal, OpenRequests(journal)
    planner.answer_open()
    assert desk.answered(request).how == "shown"
    assert find_request(journal, request.request_id).state == "shown"
    with pytest.raises(EntryUnreadable):
        find_request(journal, "broken")


def test_a_run_that_cannot_be_read_is_named_in_the_answer_and_holds_up_no_other_request(desk: Desk, shop: Shop) -> None:
    shop.charge("run-2")
    sequence = spoil(shop, "run-1", "ended")
    first, second = desk.ask(), desk.ask(Selection(run_ids=("run-2",)))
    planner = desk.hire()
    planner.answer_open()
    answer = desk.answered(first)
    assert answer.how == "refused"
    assert f"entry {sequence} of the journal cannot be read" in answer.detail
    assert "upgrade" in answer.detail
    assert desk.answered(second).how == "shown"


def test_what_a_newer_rescind_asks_is_refused_in_the_answer_and_holds_up_no_other_request(
    desk: Desk, shop: Shop
) -> None:
    first = desk.ask()
    asked = msgspec.structs.replace(first.asked, selection={"run_ids": {"of": "the future"}})
    append(shop.journal, shop.clock, first.run_id, [asked], after=first.position)
    second = desk.ask()
    desk.hire().answer_open()
    assert desk.answered(first).how == "refused"
    assert "run_ids" in desk.answered(first).detail
    assert desk.answered(second).how == "shown"


def test_an_entry_that_cannot_be_read_is_told_once_and_not_at_each_look(
    desk: Desk, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    desk.ask(request_id="broken")
    sequence = spoil(shop, "request_broken", "plan_requested")
    planner = desk.hire()
    for _ in range(3):
        planner.answer_open()
    assert len([line for line in caplog.messages if f"entry {sequence}" in line]) == 1


def test_what_was_selected_and_is_not_there_is_refused_in_the_answer(desk: Desk) -> None:
    planner = desk.hire()
    request = desk.ask(Selection(run_ids=("run-9",)))
    planner.answer_open()
    answer = desk.answered(request)
    assert (answer.how, "did you mean" in answer.detail) == ("refused", True)


def test_a_long_plan_is_shown_in_parts(desk: Desk, shop: Shop) -> None:
    for _ in range(2 * ITEMS_OF_PART):
        shop.mail()
    planner = desk.hire()
    request = desk.ask()
    planner.answer_open()
    assert desk.answered(request).parts == 3
    items = items_of(shop.journal, desk.there(request), limit=10_000)
    assert [item["step"]["step_id"] for item in items] == [item.step.step_id for item in shop.plan().items]


def test_pa1_and_pa2_it_is_answered_once_whoever_dies_between_any_two_calls(tmp_path: Path) -> None:
    deaths = 0
    for dies_after in range(10_000):
        shop = Shop()
        shop.charge(), shop.mail()
        desk = Desk(shop, tmp_path)
        request = desk.ask()
        desk.crew.fuse.left = dies_after
        digest = desk.see_answered(request).digest
        desk.apply(digest)
        assert desk.see_answered(request).how == "submitted", dies_after
        died, desk.crew.fuse.left = bool(desk.crew.dead), -1

        assert digest == shop.plan().digest
        assert len(events(shop.journal, PlanSubmitted)) == 1, "submitted once"
        assert [answer.how for answer in events(shop.journal, RequestAnswered)] == ["shown", "submitted"]
        if not died:
            break
        deaths += 1
    assert deaths > 10


def test_two_that_answer_at_once_answer_once(desk: Desk, shop: Shop) -> None:
    """A worker that was taken for dead wakes up after its successor has answered."""
    slow, quick = desk.hire(), desk.hire()
    request = desk.ask()
    desk.crew.dead.add("worker_2")
    taken = slow._take(desk.there(request))
    assert taken is not None
    desk.crew.dead = {"worker_1"}
    assert quick.answer_open() != ""
    slow.answer_open()
    assert [answer.worker_id for answer in events(shop.journal, RequestAnswered)] == ["worker_2"]
