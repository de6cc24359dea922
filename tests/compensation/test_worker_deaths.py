"""One of two workers dies at the k-th call, before it and after it, for every k, and the other one goes on.

Calls are all that a worker asks of somebody else: of the engine (start, reports, cancel, hand over, taking a job,
ending one), of the journal, of the register (look, remove, ring) and of the tools (look, undo). Workers take turns:
while one waits for a job, the other one has its turn. So every run is the same again, and a failure is found by its
number.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from compensation.crew import Crew, Hand, events
from compensation.dying import Died, Fuse
from compensation.undo_world import Charging, RowSetting, Shop
from rescind.compensation.sharing.submission import Submission
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import CompensationIntended, Overwrites, PlanFinished
from rescind.model.history import StepRecord
from rescind.model.step import Arguments, Snapshot
from rescind.recovery.review import list_tasks

if TYPE_CHECKING:
    from rescind.compensation.port import Compensator

MOMENTS_MAX = 2_000


class FusedTool:
    """A tool whose process may die before and after each look and each undo."""

    def __init__(self, tool: Any, fuse: Fuse) -> None:
        self._tool, self._fuse = tool, fuse
        self.action: Action = tool.action
        self.parallel: bool = tool.parallel

    def accepts(self, arguments: Arguments) -> str:
        found: str = self._tool.accepts(arguments)
        return found

    def observe(self, record: StepRecord) -> Any:
        return self._fuse.around(lambda: self._tool.observe(record))

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        return self._fuse.around(lambda: self._tool.undo(record, idempotency_key))


class World:
    """A shop, what is to be done there by workers, and two of them with a fuse each."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop()
        self.shop.rows.update(tea=0, jam=0)
        action = Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=OnConflict.FORCE)
        self.shop.setting = RowSetting(self.shop.rows, action)
        self.shop.charging = Charging()
        self.shop.charging.parallel = False  # so that it is a share of its own
        self.shop.set("tea", 1), self.shop.set("tea", 2), self.shop.set("jam", 1)
        self.shop.charge()
        self.crew = Crew(self.shop, folder)
        self.hands = [self.hire(), self.hire()]
        self.deaths = 0
        self.at_death: Callable[[], None] = lambda: None

    def hire(self) -> Hand:
        fuse = Fuse()
        tools: Mapping[str, Compensator] = {
            name: FusedTool(tool, fuse) for name, tool in self.shop.compensators.items() if name != "mail.send"
        }
        hand = self.crew.hire({**tools, "mail.send": self.shop.mailing}, fuse=fuse)
        hand.engine.while_waiting = lambda: self.while_waiting(hand)
        return hand

    @property
    def living(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.worker_id not in self.crew.dead]

    def while_waiting(self, hand: Hand) -> None:
        for other in self.living:
            if other is not hand and self.turn_of(other):
                return
        hand.keeper.keep()
        hand.engine.run_next()

    def turn_of(self, hand: Hand) -> bool:
        """Let it look after what there is, and carry out one job. Whether it did."""
        try:
            hand.keeper.keep()
            return hand.engine.run_next()
        except Died:
            if hand.worker_id not in self.crew.dead:  # the shell of a call in which it had died before
                self.crew.dead.add(hand.worker_id)
                self.deaths += 1
                self.at_death()
            return True

    def see_to_its_end(self, submission: Submission) -> Submission:
        for _ in range(200):
            there = self.crew.there(submission)
            if there.is_over:
                return there
            for hand in self.living or [self.replaced()]:
                self.turn_of(hand)
        raise AssertionError("it does not end")

    def replaced(self) -> Hand:
        self.hands.append(self.hire())
        return self.hands[-1]

    def check_end(self, ended: Submission, check: "Callable[[World], None]") -> None:
        """It ended once, and as it should; or nothing was begun, since it was no longer as it had been shown (Y1)."""
        if ended.stopped is not None:
            assert (ended.stopped.why, ended.started) == ("stale", False)
            assert self.shop.rows == {"tea": "newer", "jam": 1}
            return
        finished = [each.plan_digest for each in events(self.shop.journal, PlanFinished)]
        assert finished.count(ended.submitted.plan_digest) == 1
        check(self)

    # --- what is to be done, and what is to be then ---

    def submit_undo(self) -> Submission:
        self.shop.mail(), self.shop.mail()
        return self.crew.submit()

    def check_undone(self) -> None:
        assert self.shop.rows == {"tea": 0, "jam": 0}
        self.charge_is_accounted_for()
        assert self.tasks("irreversible") == [2], "one task for both, and not twice"

    def submit_forced(self) -> Submission:
        self.shop.rows["tea"] = "somebody's"
        return self.crew.submit(may_force=True, actor="ann")

    def check_forced(self) -> None:
        assert self.shop.rows == {"tea": 0, "jam": 0}
        self.charge_is_accounted_for()
        assert {(each.version, each.actor) for each in self.overwritten()} == {
            (Snapshot.of("somebody's").version, "ann")
        }
        assert self.tasks("conflict") == []

    def submit_forced_and_change_again(self) -> Submission:
        def change_again() -> None:
            self.shop.rows["tea"] = "newer"

        self.at_death = change_again
        return self.submit_forced()

    def check_newer_is_left(self) -> None:
        """SH5: whoever goes on plans anew, and it is a change like any other to him."""
        if not self.deaths:
            self.check_forced()
            return
        assert self.shop.rows["tea"] == "newer"
        assert {each.version for each in self.overwritten()} <= {Snapshot.of("somebody's").version}

    def submit_redo(self) -> Submission:
        plan = self.shop.plan()
        self.shop.apply(plan)
        assert self.shop.rows == {"tea": 0, "jam": 0}
        return self.crew.submit_plan(self.shop.redo_plan(plan.digest))

    def check_redone(self) -> None:
        assert self.shop.rows == {"tea": 2, "jam": 1}
        assert self.tasks("compensated") == [1]
        assert sum(self.tasks()) == 1
        assert sum(self.shop.charging.refunds.values()) == 1
        assert len(self.shop.setting.restores) == 6, "each put back once, and put there once again"

    def charge_is_accounted_for(self) -> None:
        refunds = self.shop.charging.refunds
        assert max(refunds.values(), default=0) <= 1, "nothing twice"
        if not refunds:
            assert self.tasks("in_doubt") == [1], "nobody knows, since it died beside the call"
        assert sum(self.tasks("in_doubt")) <= self.deaths

    def overwritten(self) -> list[Overwrites]:
        found = [event.overwrites for event in events(self.shop.journal, CompensationIntended)]
        return [each for each in found if isinstance(each, Overwrites)]

    def tasks(self, reason: str = "") -> list[int]:
        return [len(task.steps) for task in list_tasks(self.shop.journal) if reason in (task.reason, "")]


JOBS: dict[str, tuple[Callable[[World], Submission], Callable[[World], None]]] = {
    "undo": (World.submit_undo, World.check_undone),
    "force": (World.submit_forced, World.check_forced),
    "force, and it is changed again": (World.submit_forced_and_change_again, World.check_newer_is_left),
    "redo": (World.submit_redo, World.check_redone),
}


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("job", JOBS)
def test_either_of_two_workers_may_die_at_any_call(job: str, victim: int, tmp_path: Path) -> None:
    submit, check = JOBS[job]
    for moment in range(MOMENTS_MAX):
        world = World(tmp_path)
        submission = submit(world)
        world.hands[victim].fuse.left = moment
        world.check_end(world.see_to_its_end(submission), check)
        if not world.deaths:
            assert moment > 40, "so many moments were tried"
            return
    raise AssertionError("it never came to its end without a death")


@pytest.mark.parametrize("job", JOBS)
def test_both_of_them_may_die_and_a_third_goes_on(job: str, tmp_path: Path) -> None:
    submit, check = JOBS[job]
    for moment in range(0, MOMENTS_MAX, 3):
        world = World(tmp_path)
        submission = submit(world)
        for hand, left in zip(world.hands, (moment, moment * 7 % 83), strict=True):
            hand.fuse.left = left
        world.check_end(world.see_to_its_end(submission), check)
        if world.deaths < 2 and moment > 83:
            return
    raise AssertionError("it never came to its end with one of them")
