"""Keeping undos alive: what every worker does for all of them, once in a second and whenever it is rung for.

    whose worker is dead or stuck?                 ─▶ its jobs are handed over
    which submitted plan does nobody look after?   ─▶ the job that does is started

Since a job is started once by its id, and handed over once, the workers need not agree on who does it. It begins with
the journal: a plan whose jobs were all lost together with the engine's file is carried on as well.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from rescind.clock import Clock
from rescind.compensation.sharing.coordinator import PLAN_QUEUE, look_after_job
from rescind.compensation.sharing.submission import Submission, append
from rescind.compensation.sharing.under_way import OpenSubmissions
from rescind.errors import SequenceConflict
from rescind.journal.port import Journal
from rescind.model.entry import PlanLeft
from rescind.recovery.engine import Engine, JobReport, JobState
from rescind.recovery.workers import DEAD_AFTER_S, Seen, Workers

_FAILURES_MAX = 10  # Of looking after one plan, each a second apart or more, before it is said that it cannot be done.

_log = logging.getLogger("rescind.worker")


class Keeper:
    """One worker's rounds of keeping."""

    def __init__(
        self,
        worker_id: str,
        journal: Journal,
        engine: Engine,
        register: Workers,
        clock: Clock,
        is_leaving: Callable[[], bool],
    ) -> None:
        self._worker_id, self._journal, self._engine, self._register = worker_id, journal, engine, register
        self._clock, self._is_leaving = clock, is_leaving
        self._open = OpenSubmissions(journal)

    def keep(self) -> None:
        """One round of keeping: hand over what the dead have left, and let no submitted plan be forgotten.

        Raises: JournalUnavailable, EngineUnavailable.
        """
        seen = self._register.look(now_us=self._clock.now_us())
        for submission in self._open.read():
            reports = self._engine.reports(submission.prefix)
            self._hand_over(reports, seen)
            self._look_after(submission, reports)
        for each in seen:
            if not each.living:
                self._register.remove(each.worker_id)

    def _hand_over(self, reports: Mapping[str, JobReport], seen: Sequence[Seen]) -> None:
        there = {each.worker_id for each in seen if each.living and each.silent_s < DEAD_AFTER_S}
        there.add(self._worker_id)
        running = {each.worker_id for each in reports.values() if each.state is JobState.RUNNING}
        for worker_id in sorted(running - there):
            count = self._engine.hand_over(worker_id)
            if count:
                _log.warning("worker %s is dead or stuck; %d of its jobs go to others", worker_id, count)
                self._register.ring()

    def _look_after(self, submission: Submission, reports: Mapping[str, JobReport]) -> None:
        prefix = f"{submission.prefix}plan."
        mine = {int(name.removeprefix(prefix)): each for name, each in reports.items() if name.startswith(prefix)}
        # One that waits where only workers of an older rescind listen may wait for ever: they may be gone.
        lost = {name for name, each in mine.items() if each.state is JobState.WAITING and each.queue != PLAN_QUEUE}
        if any(not each.is_over for name, each in mine.items() if name not in lost) or self._is_leaving():
            return
        for name in sorted(lost):
            self._engine.cancel(mine[name].job_id)
        problems = [each.problem for each in mine.values() if each.problem]
        if len(problems) >= _FAILURES_MAX:
            stopped = PlanLeft(plan_digest=submission.submitted.plan_digest, why="failed", detail=problems[-1])
            with contextlib.suppress(SequenceConflict):
                append(self._journal, self._clock, submission.plan_run, [stopped], after=submission.position)
            return
        self._engine.start([look_after_job(submission, max(mine, default=0) + 1)])
        self._register.ring()
