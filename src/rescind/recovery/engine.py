"""The engine's seam: who keeps jobs alive, and spreads them over workers. What a job does is the caller's.

A job is one coarse piece of work: a plan to look after, a share of a plan to apply. The laws, which tests cite:

EN1. *Kept.* A job that `start` has returned for is carried out to its end, as soon as a worker listens on its queue,
    whoever dies in between.
EN2. *Once by its id.* A second start of the same id does nothing, whoever makes it.
EN3. *One at a time.* While its worker lives, nobody else carries it out. A worker that was taken for dead and wakes
    again may meet its successor, so what a job does must be safe for two.
EN4. *Handed over.* When `hand_over` has returned, the jobs of that worker wait on their queues again.
EN5. *From the beginning.* An engine remembers nothing of the inside of a job: one whose worker died begins anew.
EN6. *Nothing but liveness.* What only the engine knows may be lost: every job can be found out again from the journal.
"""

import enum
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work.

    Attributes:
        job_id: Unique; says the same of the same work, whoever starts it (EN2).
        kind: What it is, for whoever carries it out.
        queue: The queue it waits on; workers listen on those that they can serve.
        payload: What it is about, as JSON values.
    """

    job_id: str
    kind: str
    queue: str
    payload: dict[str, Any] = {}


class JobState(enum.StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"
    GIVEN_UP = "given_up"  # it has killed too many workers


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine knows of a job.

    Attributes:
        queue: The queue it waits on, or came from.
        worker_id: Who carries it out, or did; empty while it waits.
        result: What it returned, as JSON values; empty until it has ended.
        problem: What it raised, in words; empty if nothing.
    """

    job_id: str
    state: JobState
    queue: str = ""
    worker_id: str = ""
    result: dict[str, Any] = {}
    problem: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nobody will carry it out any more."""
        return self.state not in (JobState.WAITING, JobState.RUNNING)


Perform = Callable[[Job], dict[str, Any]]
"""Carries out a job, and returns its result as JSON values. What it raises ends the job with a problem."""


class Engine(Protocol):
    """See the laws above. Thread-safe. Every method may raise `EngineUnavailable`: ask again later."""

    def start(self, jobs: Collection[Job]) -> None:
        """Let these jobs wait for a worker; durable on return (EN1, EN2)."""
        ...

    def reports(self, prefix: str) -> dict[str, JobReport]:
        """The jobs whose ids begin so, by id."""
        ...

    def wait(self, prefix: str, seen: Mapping[str, JobState], *, timeout_s: float) -> dict[str, JobReport]:
        """As `reports`, as soon as one of them is in another state than `seen` says, or after so many seconds."""
        ...

    def cancel(self, job_id: str) -> None:
        """Give the job up. Whoever carries it out already is not interrupted by this."""
        ...

    def hand_over(self, worker_id: str) -> int:
        """Let the jobs of a dead worker wait again (EN4). Returns how many."""
        ...

    def listen(self, queues: Mapping[str, int], perform: Perform) -> None:
        """Carry out jobs of these queues, at most so many of each at once, in threads of the engine's own."""
        ...

    def wake(self) -> None:
        """Look for jobs now: there may be some."""
        ...

    def leave(self) -> None:
        """Take no further jobs. Those under way go on."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
