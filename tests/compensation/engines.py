"""An engine in memory, whose jobs are carried out one at a time by whoever waits: a test decides who dies when."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import msgspec

from rescind.recovery.engine import Engine, Job, JobReport, JobState, Perform


class Jobs:
    """What an engine keeps on disk."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.reports: dict[str, JobReport] = {}


class MemoryEngine(Engine):
    """One worker's engine over shared jobs. `around` is called around every call, and may raise what nobody catches."""

    def __init__(
        self, kept: Jobs, worker_id: str, around: Callable[[Callable[[], Any]], Any] = lambda call: call()
    ) -> None:
        self.kept, self.worker_id, self._around = kept, worker_id, around
        self._perform: Perform | None = None
        self._queues: Collection[str] = ()
        self.while_waiting: Callable[[], Any] = self.run_next
        """What happens while this worker waits for a job: by default, it carries out another one."""

    def start(self, jobs: Collection[Job]) -> None:
        for job in jobs:
            self._around(partial(self._start, job))

    def _start(self, job: Job) -> None:
        if job.job_id not in self.kept.jobs:
            # As any engine keeps it: in JSON.
            self.kept.jobs[job.job_id] = msgspec.json.decode(msgspec.json.encode(job), type=Job)
            self.kept.reports[job.job_id] = JobReport(job_id=job.job_id, state=JobState.WAITING, queue=job.queue)

    def reports(self, prefix: str) -> dict[str, JobReport]:
        found: dict[str, JobReport] = self._around(
            lambda: {name: each for name, each in sorted(self.kept.reports.items()) if name.startswith(prefix)}
        )
        return found

    def wait(self, prefix: str, seen: Mapping[str, JobState], *, timeout_s: float) -> dict[str, JobReport]:
        self.while_waiting()
        return self.reports(prefix)

    def cancel(self, job_id: str) -> None:
        self._around(lambda: self._set(job_id, state=JobState.CANCELLED))

    def hand_over(self, worker_id: str) -> int:
        count: int = self._around(lambda: self._hand_over(worker_id))
        return count

    def _hand_over(self, worker_id: str) -> int:
        mine = [
            name
            for name, each in self.kept.reports.items()
            if each.worker_id == worker_id and each.state is JobState.RUNNING
        ]
        for name in mine:
            self._set(name, state=JobState.WAITING, worker_id="")
        return len(mine)

    def listen(self, queues: Mapping[str, int], perform: Perform) -> None:
        self._queues, self._perform = tuple(queues), perform

    def wake(self) -> None:
        pass

    def leave(self) -> None:
        self._queues = ()

    def close(self) -> None:
        pass

    def run_next(self) -> bool:
        """Carry out the job that has waited longest, if there is one that this worker may take."""
        assert self._perform is not None
        for name, report in self.kept.reports.items():
            if report.state is JobState.WAITING and report.queue in self._queues:
                self._around(partial(self._set, name, state=JobState.RUNNING, worker_id=self.worker_id))
                try:
                    result, problem = self._perform(self.kept.jobs[name]), ""
                except Exception as error:  # noqa: BLE001  # as the real ones do
                    result, problem = {}, f"{type(error).__name__}: {error}"
                plain = msgspec.json.decode(msgspec.json.encode(result))
                self._around(partial(self._set, name, state=JobState.ENDED, result=plain, problem=problem))
                return True
        return False

    def _set(self, name: str, **fields: Any) -> None:
        self.kept.reports[name] = msgspec.structs.replace(self.kept.reports[name], **fields)
