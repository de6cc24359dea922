"""The undo on two workers, one of which is killed: left to them, watched in the journal, and accounted for.

    submitted ─▶ shares ─▶ a worker waits for the bank ─▶ kill -9 ─▶ the other one takes over ─▶ finished
                        └▶ finished: nobody was killed, which the demo calls a failure

Which worker has done what is found out from outside. The bank knows which process asked for which credit, a share is
carried out by one worker at a time, and whatever of it ended after the kill was ended by the other one.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rescind.clock import SystemClock, SystemIds, to_us
from rescind.compensation.decision import Compensate, Plan
from rescind.compensation.result import UndoResult
from rescind.compensation.sharing.followed import result_of_submission
from rescind.compensation.sharing.submission import Submission, read_submission, submit
from rescind.config import UndoConfig
from rescind.demo.bank import answer_all, keep_waiting
from rescind.demo.desk import DATABASE, STORE, Desk
from rescind.demo.verdict import HandoverResult
from rescind.demo.workers import Workers
from rescind.demo.world import World
from rescind.errors import RescindError
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, StepRef
from rescind.recovery.places import register_of
from rescind.recovery.workers import working

LOOK_EVERY_S = 0.02

SETTLED_AFTER_S, SETTLES_WITHIN_S = 0.15, 5.0
"""How long a worker asks the bank for nothing more until it is killed; and how long that is waited for."""

PATIENCE_S = 60.0
"""How long the workers may take. Some seconds are usual."""

_ANSWERS_MIN, _ANSWERS_OF = 3, 10
"""The smallest share has 8 credits, and no plan has more than 8 shares; so a tenth of all is before the end of one."""

_REACHED = (Disposition.RESTORED, Disposition.COMPENSATED)


class UndoHangs(RescindError):
    """The workers do not come to the end of the undo."""


@dataclass(frozen=True)
class Killed:
    """The kill: of which worker, when, how far it was, and what it had under way.

    Attributes:
        at_us: Wall-clock microseconds since 1970.
        undone: Writes that it had undone.
        unreported: Credits that it had booked, and of which the journal did not know yet.
        left: Steps of its share that were still to be undone; those with unreported credits are among them.
    """

    pid: int
    at_us: int
    undone: int
    unreported: int
    left: frozenset[StepRef]


class HandedOver:
    """One undo by the workers, from its submission to its end. `apply` is called once.

    Attributes:
        submission: The plan as it was left to the workers.
        killed: What is known of the kill; None as long as there was none.
    """

    def __init__(self, folder: Path, desk: Desk, workers: Workers, plan: Plan, *, actor: str) -> None:
        """Leave the plan to the workers. Raises: UsageError, if they cannot execute it."""
        self._database, self._world, self._workers, self._plan = folder / DATABASE, World(folder), workers, plan
        self._journal, self._clock = desk.guard.journal, SystemClock()
        self._after, self._keys, self._ends = 0, dict[str, StepRef](), dict[StepRef, Disposition]()
        self._resumed_us: int | None = None
        self.killed: Killed | None = None
        self._answered = _answered(plan)
        keep_waiting(self._database, after_requests=self._answered + 1)
        usual = UndoConfig()
        with closing(register_of(folder / STORE)) as register:
            self.submission: Submission = submit(
                plan,
                self._journal,
                desk.guard.compensators,
                working(register.look(now_us=self._clock.now_us())),
                self._clock,
                SystemIds(),
                parallel=usual.parallel,
                retries=usual.retries,
                actor=actor,
                reason="",
            )
            register.ring()

    def apply(
        self,
        *,
        progress: Callable[[int], None],
        when_killed: Callable[[Killed], None],
        when_taken_over: Callable[[int, float], None],
    ) -> UndoResult:
        """Watch it to its end, and kill one of the workers on the way.

        Args:
            progress: Told how many steps are accounted for.
            when_killed: Told of the kill, once the process is gone.
            when_taken_over: Told which process has gone on with its share, and how many milliseconds after the kill.

        Raises: NoWorker; UndoHangs.
        """
        until_s, is_told = self._clock.monotonic_s() + PATIENCE_S, False
        try:
            while True:
                there = read_submission(self._journal, self.submission.plan_run)
                assert there is not None, "nothing is ever removed from a journal"
                self._read_on()
                if not is_told and self.killed is not None and self._taken_over_ms is not None:
                    is_told = True
                    when_taken_over(self._other_than(self.killed.pid), self._taken_over_ms)
                progress(len(self._ends))
                if there.is_over:
                    return result_of_submission(self._journal, self._plan, there)
                if self.killed is None and (pid := self._world.kept_waiting()) is not None:
                    self._let_settle(pid)
                    self.killed = self._kill(pid)
                    when_killed(self.killed)
                self._workers.check(killed=None if self.killed is None else self.killed.pid)
                if self._clock.monotonic_s() > until_s:
                    far = f"{len(self._ends)} of {len(self._plan.items)} steps in {PATIENCE_S:g} s"
                    raise UndoHangs(f"the workers have accounted for {far}; with --keep, workers.log says more")
                self._clock.sleep(LOOK_EVERY_S)
        finally:
            answer_all(self._database)  # whoever waits is to leave when it is asked to

    def result(self) -> HandoverResult:
        """All that is known of it, after its end."""
        killed, asked = self.killed, self._world.credit_requests()
        undone = sum(end in _REACHED for end in self._ends.values())
        return HandoverResult(
            processes=tuple(self._workers.pids),
            shares=len(self.submission.shares),
            killed=None if killed is None else killed.pid,
            undone_by_killed=0 if killed is None else killed.undone,
            undone_by_others=undone - (0 if killed is None else killed.undone),
            left_at_kill=0 if killed is None else len(killed.left),
            unreported_at_kill=0 if killed is None else killed.unreported,
            taken_over_ms=self._taken_over_ms,
            asked_again=len(asked) - len({key for key, _, _ in asked}),
            credited_twice=self._world.credited_twice(),
        )

    @property
    def _taken_over_ms(self) -> float | None:
        if self.killed is None or self._resumed_us is None:
            return None
        return round((self._resumed_us - self.killed.at_us) / 1000, 1)

    def _other_than(self, pid: int) -> int:
        return next(each for each in self._workers.pids if each != pid)

    def _let_settle(self, pid: int) -> None:
        """Wait until the credits that this process got answers to are in the journal, and it asks for no more."""
        until_s, before = self._clock.monotonic_s() + SETTLES_WITHIN_S, -1
        while self._clock.monotonic_s() < until_s:
            asked_for = self._asked_for(pid)
            if len(asked_for & self._ends.keys()) >= self._answered and len(asked_for) == before:
                return
            before = len(asked_for)
            self._clock.sleep(SETTLED_AFTER_S)
            self._read_on()

    def _asked_for(self, pid: int) -> set[StepRef]:
        asked = {key for key, process, _ in self._world.credit_requests() if process == pid}
        return {step for key, step in self._keys.items() if key in asked}

    def _kill(self, pid: int) -> Killed:
        self._workers.kill(pid)
        at_us = self._clock.now_us()
        self._read_on()  # the process is gone, so this is the last of it; what the other one adds meanwhile is its own
        asked_for = self._asked_for(pid)
        undone, left = 0, set[StepRef]()
        for share in self.submission.shares:
            if not asked_for.isdisjoint(share.steps):
                person = {share.steps[place] for place in share.left}
                undone += sum(self._ends.get(step) in _REACHED for step in share.steps)
                left |= {*share.steps} - person - self._ends.keys()
        unreported = len(asked_for - self._ends.keys())
        return Killed(pid, at_us, undone=undone, unreported=unreported, left=frozenset(left))

    def _read_on(self) -> None:
        for entry in every_entry(self._journal, Query(), after=self._after):
            self._after, event = entry.sequence, entry.event
            if not isinstance(event, CompensationIntended | CompensationEnded):
                continue
            if event.plan_digest != self._plan.digest:
                continue
            step = StepRef(entry.run.run_id, event.step_id)
            if self._resumed_us is None and self.killed is not None and step in self.killed.left:
                self._resumed_us = to_us(entry.recorded_at)
            if isinstance(event, CompensationIntended):
                self._keys[event.idempotency_key] = step
            else:
                self._ends[step] = event.disposition


def _answered(plan: Plan) -> int:
    """How many credits the bank answers, before it keeps the worker waiting that was the first to get so many."""
    charges = sum(isinstance(item.decision, Compensate) for item in plan.items)
    return max(_ANSWERS_MIN, charges // _ANSWERS_OF)
