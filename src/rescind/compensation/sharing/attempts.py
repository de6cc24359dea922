"""The tasks of a plan, each a job that is begun again until it has come to an end: Y2, Y3 and Y6 of `coordinator`."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rescind.clock import Clock
from rescind.compensation.sharing.submission import Submission
from rescind.model.step import canonical_json
from rescind.recovery.engine import Engine, Job, JobReport, JobState
from rescind.recovery.workers import WorkerInfo

_ATTEMPTS_MAX = 6
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.2, 5.0  # Between two attempts at a share that has failed: longer than a restart.
_WAIT_S = 1.0  # How often to look whether workers have come or gone, when no job says anything.


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be seen through, before it is known who will do it."""

    kind: str
    actions: tuple[str, ...]
    alone: bool
    payload: dict[str, Any]


class Attempts:
    """Has tasks done by whoever can.

    Args:
        engine: Who keeps the jobs.
        workers: Looks who lives now.
        clock: The pauses between two attempts.
        is_leaving: Whether this worker takes nothing further.
        ring: Tells the other workers that jobs wait for them.
    """

    def __init__(
        self,
        engine: Engine,
        workers: Callable[[], Sequence[WorkerInfo]],
        clock: Clock,
        is_leaving: Callable[[], bool],
        ring: Callable[[], None],
    ) -> None:
        self._ring = ring
        self._engine, self._workers, self._clock, self._is_leaving = engine, workers, clock, is_leaving

    def see_through(
        self, submission: Submission, stage: str, tasks: Sequence[Task], over: Callable[[], dict[str, Any] | None]
    ) -> list[JobReport] | None:
        """Have these tasks done, each by whoever can (Y2, Y3).

        Args:
            submission: Of what plan.
            stage: What names them, beside what is to be done.
            tasks: The tasks.
            over: The result of every task that is not under way, if nothing may begin any more (Y6); None if it may.

        Returns: Their last reports, in order; None if this worker leaves.
        """
        # Named by what is to be done: a successor that would do something else must not take this for it.
        prefix = f"{submission.prefix}{stage}-{_digest(tasks)}."
        while True:
            reports = self._engine.reports(prefix)
            tries = [_Tries.of(reports, f"{prefix}{number}.") for number in range(len(tasks))]
            if all(each.is_final for each in tries):
                return [each.last for each in tries if each.last is not None]
            if self._is_leaving():
                return None
            ended = over()
            if ended is not None and not any(each.is_running for each in tries):
                # What waits for a worker begins nothing any more: it finds the plan ended, or sees the same orders.
                none = JobReport(job_id="", state=JobState.CANCELLED, result=ended)
                return [each.last if each.is_final and each.last is not None else none for each in tries]
            due = [] if ended is not None else self._due(submission, tasks, tries)
            if due:
                self._clock.sleep(max(tries[number].pause_s for number, _ in due))
                self._engine.start([_job(submission, prefix, tasks[n], f"{n}.{tries[n].count + 1}", q) for n, q in due])
                self._ring()
                reports = self._engine.reports(prefix)
            seen = {name: report.state for name, report in reports.items()}
            self._engine.wait(prefix, seen, timeout_s=_WAIT_S)

    def _due(self, submission: Submission, tasks: Sequence[Task], tries: Sequence["_Tries"]) -> list[tuple[int, str]]:
        """The tasks to be begun now, each with the queue to wait on."""
        workers = self._workers()
        living = {worker.queue for worker in workers}
        due: list[tuple[int, str]] = []
        is_taken = any(task.alone and each.is_under_way for task, each in zip(tasks, tries, strict=True))
        for number, (task, each) in enumerate(zip(tasks, tries, strict=True)):
            queue = _queue_for(number, task, submission, workers)
            if each.is_final or queue is None:
                continue
            if each.last is not None and each.is_under_way:
                if each.last.state is not JobState.WAITING or each.last.queue in living:
                    continue
                self._engine.cancel(each.last.job_id)  # all who listened there are gone
            elif task.alone and is_taken:
                continue
            is_taken = is_taken or task.alone
            due.append((number, queue))
        return due


class _Tries(msgspec.Struct, frozen=True, kw_only=True):
    """All attempts at one task."""

    count: int = 0
    failures: int = 0
    last: JobReport | None = None

    @classmethod
    def of(cls, reports: Mapping[str, JobReport], prefix: str) -> "_Tries":
        mine = {int(name.removeprefix(prefix)): each for name, each in reports.items() if name.startswith(prefix)}
        failures = sum(bool(each.problem) for each in mine.values())
        return cls(count=max(mine, default=0), failures=failures, last=mine[max(mine)] if mine else None)

    @property
    def is_under_way(self) -> bool:
        return self.last is not None and not self.last.is_over

    @property
    def is_running(self) -> bool:
        return self.last is not None and self.last.state is JobState.RUNNING

    @property
    def is_final(self) -> bool:
        if self.last is None or not self.last.is_over or self.last.state is JobState.CANCELLED:
            return False
        if self.last.problem:
            return self.failures >= _ATTEMPTS_MAX
        return not self.last.result.get("again")

    @property
    def pause_s(self) -> float:
        if self.last is None or not self.last.problem:
            return 0.0
        return float(min(_PAUSE_FIRST_S * 2 ** (self.failures - 1), _PAUSE_MAX_S))


def share_numbers(submission: Submission, reports: Iterable[JobReport]) -> dict[int, list[JobReport]]:
    """Of these jobs, those that carry out the shares as they were submitted: by share, the last attempt last."""
    found: defaultdict[int, list[tuple[int, JobReport]]] = defaultdict(list)
    for report in reports:
        stage, _, rest = report.job_id.removeprefix(submission.prefix).partition("-")
        words = rest.split(".")
        if stage == "share0" and len(words) == 3 and words[1].isdigit() and words[2].isdigit():
            found[int(words[1])].append((int(words[2]), report))
    return {number: [report for _, report in sorted(each, key=_attempt)] for number, each in found.items()}


def _attempt(each: tuple[int, JobReport]) -> int:
    return each[0]


def _job(submission: Submission, prefix: str, task: Task, name: str, queue: str) -> Job:
    payload = {"plan_run": submission.plan_run, "number": submission.number, **task.payload}
    return Job(job_id=prefix + name, kind=task.kind, queue=queue, payload=payload)


def _queue_for(number: int, task: Task, submission: Submission, workers: Sequence[WorkerInfo]) -> str | None:
    able = sorted({worker.queue for worker in workers if submission.demand.is_met_by(worker, task.actions)})
    return able[number % len(able)] if able else None


def _digest(tasks: Sequence[Task]) -> str:
    return hashlib.sha256(canonical_json(list(tasks))).hexdigest()[:8]
