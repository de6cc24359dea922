"""What a request has to do with: the store, the clock, who may ask, and what is shared between requests."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rescind.clock import Clock, IdSource
from rescind.compensation.sharing.attempts import share_numbers
from rescind.compensation.sharing.submission import Submission, read_submission
from rescind.database.address import StoreAt
from rescind.errors import (
    AlreadySettled,
    EngineUnavailable,
    JournalUnavailable,
    NameUnknown,
    OrdersUnavailable,
    PlanOutdated,
    PlanStale,
    PlanUnknown,
    RescindError,
    RunStillLive,
    StoreFormatError,
    UndoBusy,
    UsageError,
)
from rescind.journal.port import Journal
from rescind.plane.documents import ShareDoc
from rescind.plane.jobs import Jobs
from rescind.recovery.undo_status import UndoStatus
from rescind.web.limits import Limit
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, TokenBook, asker_of, caller_with, refusal_of_power

_SEEN_AS: tuple[tuple[type[RescindError], int], ...] = (
    (NameUnknown, 404),
    (PlanUnknown, 404),
    (AlreadySettled, 409),
    (PlanOutdated, 409),
    (PlanStale, 409),
    (RunStillLive, 409),
    (UndoBusy, 409),
    (JournalUnavailable, 503),
    (OrdersUnavailable, 503),
    (EngineUnavailable, 503),
    (StoreFormatError, 500),
    (UsageError, 400),
)
"""The first that an error is of. What is none of these has changed nothing, and may be asked again."""


ORDERS_AT_ONCE = 4
"""Orders to undos that are given at once. Each looks at one undo; who looks has the threads of the loop, some six."""


class Plane:
    """One server's view of one store. Threads may share it.

    Attributes:
        journal: The store's journal.
        store: Where it is.
        clock, ids: The time, and new names.
        tokens: Who may ask now; set by whoever looks after them.
    """

    def __init__(self, journal: Journal, store: StoreAt, jobs: Jobs, limit: Limit, clock: Clock, ids: IdSource) -> None:
        self.journal, self.store, self.clock, self.ids = journal, store, clock, ids
        self.tokens = TokenBook(())
        self._orders = ThreadPoolExecutor(ORDERS_AT_ONCE, "rescind-orders")
        self._jobs, self._limit = jobs, limit

    def caller(self, authorization: str, origin: str) -> Caller:
        """Who asks. Raises: Refused (401), if nobody with a token that is good here (PL1)."""
        return caller_with(authorization, origin, self.tokens)

    async def order(self, do: Callable[[], UndoStatus]) -> UndoStatus:
        """Give an order, in threads of its own: it waits for nobody who only looks, however long that takes."""
        return await asyncio.get_running_loop().run_in_executor(self._orders, do)

    def admits(self, power: Power) -> Callable[[Caller], None]:
        """Lets in who has this power, as often as anybody may ask. What it returns raises: Refused."""

        def admit(caller: Caller) -> None:
            if not caller.may(power):
                raise refusal_of_power(caller, power)
            self._limit.take(asker_of(caller))

        return admit

    def shares_of(self, status: UndoStatus) -> tuple[tuple[ShareDoc, ...], str]:
        """The shares of a plan that was left to workers, and why nobody knows who holds them; empty if it is known."""
        submission = read_submission(self.journal, status.plan_run)
        if submission is None:
            return (), ""
        try:
            reports = share_numbers(submission, self._jobs.reports(submission.prefix).values())
        except (EngineUnavailable, UsageError) as error:  # it is not installed here, or cannot be asked now
            return _plain_shares(submission), str(error)
        found: list[ShareDoc] = []
        for share in _plain_shares(submission):
            attempts = reports.get(share.number, [])
            last = attempts[-1] if attempts else None
            found.append(
                ShareDoc(
                    number=share.number,
                    steps=share.steps,
                    actions=share.actions,
                    state="waiting" if last is None and not submission.is_over else "" if last is None else last.state,
                    worker_id="" if last is None else last.worker_id,
                    attempts=len(attempts),
                )
            )
        return tuple(found), ""


def seen_as(error: RescindError) -> Refused:
    """What an error means to whoever asked: what is wrong, and that nothing was done."""
    for kind, status in _SEEN_AS:
        if isinstance(error, kind):
            return Refused(status, str(error), retry_after_s=1 if status == 503 else None)
    return Refused(503, str(error), retry_after_s=1)


def _plain_shares(submission: Submission) -> tuple[ShareDoc, ...]:
    return tuple(
        ShareDoc(number=share.number, steps=len(share.steps), actions=share.actions) for share in submission.shares
    )
