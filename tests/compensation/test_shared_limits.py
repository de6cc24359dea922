"""The limits of a system hold for all workers together, however many they are (U18)."""

import threading
from pathlib import Path

import pytest

from compensation.crew import Crew
from compensation.undo_world import Shop
from rescind.clock import SystemIds
from rescind.compensation.planning.selection import Selection
from rescind.compensation.sharing.carrying import ShareResult, Shares
from rescind.compensation.sharing.submission import Submission
from rescind.config import SystemLimits
from rescind.model.history import StepRecord
from rescind.model.step import Target
from rescind.recovery.locks import UndoLocks
from rescind.testing import ManualClock

DEADLINE_S = 20.0


class Work:
    """Refunds at a system: each is under way until it may end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, record: StepRecord) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.begun.set()
        assert self.may_end.wait(DEADLINE_S)
        with self._lock:
            self._now -= 1


class Waiting(ManualClock):
    """Tells when somebody waits for a permit, who then waits until the work under way may end."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work, self.waits = work, threading.Event()

    def sleep(self, duration_s: float) -> None:
        self.waits.set()
        assert self._work.may_end.wait(DEADLINE_S)
        super().sleep(duration_s)


class Worker(threading.Thread):
    """One of many, with one share."""

    def __init__(self, crew: Crew, submission: Submission, limits: dict[str, SystemLimits], work: Work) -> None:
        super().__init__(daemon=True)
        self.clock = Waiting(work)
        shop, self._submission = crew.shop, submission
        self._shares = Shares(
            shop.journal,
            shop.compensators,
            shop.clock,
            SystemIds(),
            lambda: False,
            limits,
            locks=UndoLocks(crew.folder, self.clock),
            worker_id="worker_1",
        )
        self.result: ShareResult | None = None

    def run(self) -> None:
        (share,) = self._submission.shares
        self.result = self._shares.carry_out(self._submission, share, workers=8)

    def ended(self) -> ShareResult:
        self.join(DEADLINE_S)
        assert self.result is not None
        return self.result


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    crew = Crew(Shop(), tmp_path)
    crew.hire()
    return crew


def left(crew: Crew, run: str, system: str = "stripe") -> Submission:
    """A charge, and its undo left to the workers."""
    crew.shop.charge(run, target=Target(system, "charge", run))
    return crew.submit(Selection(run_ids=(run,)))


def test_of_eight_workers_only_so_many_have_steps_under_way_as_the_system_allows(crew: Crew) -> None:
    work = crew.shop.charging.before_undo = Work()
    limits = {"stripe": SystemLimits(parallel=1)}
    first, second = (Worker(crew, left(crew, run), limits, work) for run in ("run-1", "run-2"))
    first.start()
    assert work.begun.wait(DEADLINE_S)
    second.start()
    assert second.clock.waits.wait(DEADLINE_S)
    work.may_end.set()

    assert (first.ended().undone, second.ended().undone) == (1, 1)
    assert work.most == 1


def test_a_system_without_a_limit_of_that_kind_lets_all_of_them_work(crew: Crew) -> None:
    work = crew.shop.charging.before_undo = Work()
    limits = {"stripe": SystemLimits(parallel=1), "*": SystemLimits(rate_per_s=100_000, burst=100_000)}
    first, second = (Worker(crew, left(crew, run, "bank"), limits, work) for run in ("run-1", "run-2"))
    first.start()
    assert work.begun.wait(DEADLINE_S)
    work.begun.clear()
    second.start()
    assert work.begun.wait(DEADLINE_S)
    work.may_end.set()

    assert (first.ended().undone, second.ended().undone) == (1, 1)
    assert work.most == 2


def test_what_somebody_else_has_undone_while_a_worker_waited_is_not_undone_again(crew: Crew) -> None:
    work = crew.shop.charging.before_undo = Work()
    limits = {"stripe": SystemLimits(parallel=1)}
    submission = left(crew, "run-1")
    first, second = Worker(crew, submission, limits, work), Worker(crew, submission, limits, work)
    first.start()
    assert work.begun.wait(DEADLINE_S)
    work.begun.clear()
    second.start()
    work.may_end.set()

    assert first.ended().undone + second.ended().undone == 1
    assert list(crew.shop.charging.refunds.values()) == [1]
