"""`rescind undo --apply --workers`: leave the plan to the workers, and follow it. Nothing is lost if nobody does."""

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from rescind.cli.out import Out
from rescind.cli.stores import command_line
from rescind.cli.undo_session import Session
from rescind.cli.words import count_of, why_left
from rescind.clock import SystemClock
from rescind.compensation.decision import Plan
from rescind.compensation.result import StepResult, UndoResult
from rescind.compensation.sharing.followed import result_of_submission
from rescind.compensation.sharing.submission import Submission, read_submission, shares_of
from rescind.errors import PlanStale
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.entry import StepRef
from rescind.recovery.places import register_of
from rescind.recovery.workers import WorkerInfo, Workers, working

if TYPE_CHECKING:
    from collections.abc import Generator

    from rescind.cli.progress import DrawnProgress
    from rescind.database.address import StoreAt

_LOOK_S, _ALONE_AFTER_S = 0.05, 3.0
"""Between two looks into the journal; and how long nobody has lived when that is said. A restart takes less."""


def refuse_without_workers(session: Session, plan: Plan) -> None:
    """Check that live workers can execute all of the plan. Raises: UsageError, and nothing was changed."""
    with closing(register_of(session.store)) as register:
        shares_of(plan, session.compensators, live_workers(register))


def live_workers(register: Workers) -> list[WorkerInfo]:
    """The workers that take jobs."""
    return working(register.look(now_us=SystemClock().now_us()))


def leave_to_workers(session: Session, plan: Plan, out: Out) -> UndoResult | None:
    """Submit the plan, and wait for its end; None if nobody wants to wait.

    Raises: UsageError, if no live worker can execute it, and PlanStale: nothing was changed then.
    """
    with closing(register_of(session.store)) as register:
        return _leave_to(register, session, plan, out)


def _leave_to(register: Workers, session: Session, plan: Plan, out: Out) -> UndoResult | None:
    workers = live_workers(register)
    submission = session.submit(plan, workers)
    register.ring()
    shares = count_of(len(submission.shares), "share")
    out.say(f"left to {count_of(len(workers), 'worker')} in {shares}, as {submission.plan_run}")
    if not session.request.wait:
        out.say(f"to follow it:\n  {follow_command(submission, session.store)}")
        out.emit(
            {
                "submitted": True,
                "digest": plan.digest,
                "plan_run": submission.plan_run,
                "shares": len(submission.shares),
                "workers": [worker.worker_id for worker in workers],
                "follow": follow_command(submission, session.store),
            }
        )
        return None
    ended = follow(session.journal, submission, register, session.store, out)
    return result_of_submission(session.journal, plan, ended)


def follow_command(submission: Submission, store: "StoreAt") -> str:
    """The command that follows this plan."""
    return command_line("worker", "--follow", submission.plan_run, store=store)


def follow(journal: Journal, submission: Submission, register: Workers, store: "StoreAt", out: Out) -> Submission:
    """Show how far it is until it has ended. Returns it as it is then.

    Raises: PlanStale; KeyboardInterrupt, after saying that it goes on.
    """
    try:
        with _drawn(submission, out) as drawn:
            ended = _Following(journal, submission, register, out).to_the_end(drawn)
    except KeyboardInterrupt:
        out.note(f"the workers go on with it; to follow it again:\n  {follow_command(submission, store)}")
        raise
    if ended.stopped is not None and ended.stopped.why == "stale":
        raise PlanStale(
            f"the workers did not begin the plan, since it is not as it was shown: {ended.stopped.detail}. "
            "Nothing was undone; look at the new plan and apply that one"
        )
    if ended.stopped is not None:
        out.note(f"the workers have left it; {why_left(ended.stopped.why, ended.stopped.detail)}", style="red")
    return ended


class _Following:
    def __init__(self, journal: Journal, submission: Submission, register: Workers, out: Out) -> None:
        self._journal, self._submission, self._register, self._out = journal, submission, register, out
        self._clock = SystemClock()
        self._steps = {step for share in submission.shares for step in share.steps}
        self._after = 0
        self._alone_since_s: float | None = None

    def to_the_end(self, drawn: "DrawnProgress | None") -> Submission:
        while True:
            there = read_submission(self._journal, self._submission.plan_run)
            assert there is not None, "nothing is ever removed from a journal"
            if drawn is not None:
                self._show_ends(drawn)
            if there.is_over or there.number != self._submission.number:
                return there
            self._say_if_nobody_lives()
            self._clock.sleep(_LOOK_S)

    def _show_ends(self, drawn: "DrawnProgress") -> None:
        for entry in every_entry(self._journal, Query(), after=self._after):
            self._after, event = entry.sequence, entry.event
            end = self._submission.way.hear(event)
            if end is not None and end.plan_digest == self._submission.submitted.plan_digest:
                step = StepRef(entry.run.run_id, end.step_id)
                if step in self._steps:
                    self._steps.discard(step)
                    drawn.advance(StepResult(step=step, action="", disposition=end.disposition, by=end.by or ""))

    def _say_if_nobody_lives(self) -> None:
        if working(self._register.look(now_us=self._clock.now_us())):
            self._alone_since_s = None
            return
        now_s = self._clock.monotonic_s()
        if self._alone_since_s is None:
            self._alone_since_s = now_s
        elif now_s - self._alone_since_s > _ALONE_AFTER_S:
            self._alone_since_s = float("inf")  # said once
            self._out.note(
                "no worker lives any more; the plan waits, and goes on when one is started: rescind worker MODULE",
                style="yellow",
            )


@contextmanager
def _drawn(submission: Submission, out: Out) -> "Generator[DrawnProgress | None]":
    if not out.is_live:
        yield None
        return
    from rescind.cli.progress import drawn_progress

    steps = dict.fromkeys((step for share in submission.shares for step in share.steps), "")
    with drawn_progress(steps, out.console()) as progress:
        yield progress
