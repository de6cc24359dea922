"""Plans for somebody who has no tools at hand: what was asked of the workers, and what they answered.

    asked for a plan ─▶ taken by a worker ─▶ parts of the plan ─▶ shown, with its digest (or why not)
    asked to apply that digest ─▶ taken ─▶ planned again ─▶ submitted, if it is the same (or why not)

PA1. *The journal first.* What was asked is durable before anybody answers it, and whoever dies is succeeded: a request
    is taken by one worker, and by another one only if that does not live any more.
PA2. *Answered once.* Of two that answer one request, one finds the other's record in its way.
PA3. *Exactly what was shown.* A plan is applied only by the digest under which it was shown, and only if planning again
    comes to the same digest (U4); else nothing is done, and the answer says which plan it is now.
PA4. *Asked again, once.* The same request under the same id is the same request; a plan that was submitted is not
    submitted again.
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from rescind.clock import Clock, IdSource
from rescind.compensation.planning.selection import Selection
from rescind.compensation.sharing.submission import append
from rescind.errors import AlreadySettled, EntryUnreadable, NameUnknown, SequenceConflict, UsageError
from rescind.journal.behind import again
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import (
    Entry,
    PlanPart,
    PlanRequested,
    RequestAnswered,
    RequestTaken,
    RunOpened,
)
from rescind.model.step import RunInfo, canonical_json
from rescind.recovery.reading import every_run, the_one_meant
from rescind.recovery.workers import WorkerInfo

REQUEST_AGENT = "rescind-request"
"""The agent name of the runs that hold requests."""

DONE = ("submitted", "settled")
"""Answers after which a plan is not applied again."""

_log = logging.getLogger("rescind.worker")

_PREFIX = "request_"
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGITS_MIN = 8


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it stands.

    Attributes:
        request_id: Its name.
        position: The last position of its run that was read.
        sequence: Where in the journal the last was asked.
        asked: What was asked last.
        asked_at: When; aware, UTC.
        taken_by: The worker that answers it; empty if none does.
        answer: The answer to that; None while there is none.
        shown: The last plan that was shown; None if none was.
    """

    request_id: str
    position: int
    sequence: int
    asked: PlanRequested
    asked_at: datetime
    taken_by: str = ""
    answer: RequestAnswered | None = None
    shown: RequestAnswered | None = None

    @property
    def run_id(self) -> str:
        """The run that holds it."""
        return _PREFIX + self.request_id

    @property
    def state(self) -> str:
        """How it was answered last; else `taken` by a worker, or `waiting` for one."""
        if self.answer is not None:
            return self.answer.how
        return "taken" if self.taken_by else "waiting"


# --- asking ---


def ask_for_plan(
    journal: Journal,
    selection: Selection,
    *,
    actor: str,
    reason: str = "",
    force: bool = False,
    parallel: int | None = None,
    within_s: float | None = None,
    request_id: str = "",
    clock: Clock,
    ids: IdSource,
) -> PlanRequest:
    """Ask the workers for a plan. Durable on return; ring for them afterwards.

    Args:
        journal: Where it is asked.
        selection: What is to be undone.
        actor: Who asks.
        reason: Why.
        force: Whether later changes may be overwritten where their action says `force`; whether `actor` may have that
            done is for the caller to know.
        parallel: Steps of a share at once; None for what the worker's configuration says.
        within_s: As for `submit`; None for what the worker's configuration says.
        request_id: Its name, so that the same request may be sent twice (PA4); a new one by default.
        clock: The time.
        ids: New names.

    Raises: UsageError, for an id that is none; AlreadySettled, if that id names another request.
    """
    refuse_no_request_id(request_id)
    asked = PlanRequested(
        what="plan",
        selection=selection.as_dict(),
        actor=actor,
        reason=reason,
        force=force,
        parallel=parallel,
        within_s=within_s,
    )
    name = request_id or ids.new_id("plan")
    there = read_request(journal, _PREFIX + name)
    if there is None:
        info = RunInfo(run_id=_PREFIX + name, agent_name=REQUEST_AGENT)
        opening = RunOpened(run=info, guard_id=ids.new_id("request"))
        with contextlib.suppress(SequenceConflict):  # the same request, sent twice at once
            append(journal, clock, info.run_id, [opening, asked], after=-1)
        there = read_request(journal, info.run_id)
        assert there is not None, "it was appended just now, by us or by somebody else"
    first = _first_of(journal, there.run_id)
    if canonical_json(first) != canonical_json(asked):
        raise AlreadySettled(f"request {name} was asked by {first.actor} for something else; give it another id")
    return there


def ask_to_apply(journal: Journal, plan: str, *, actor: str, reason: str, clock: Clock) -> PlanRequest:
    """Ask the workers to apply a plan that was shown. Durable on return; ring for them afterwards.

    Args:
        journal: Where it was shown.
        plan: Its digest, or 8 and more of its digits (PA3).
        actor: Who asks; whether that may have later changes overwritten, if the plan does, is for the caller to know.
        reason: Why.
        clock: The time.

    Raises: as `find_shown`; AlreadySettled, if the request is being answered.
    """

    def turn() -> PlanRequest:
        request = find_shown(journal, plan)
        assert request.shown is not None, "it was found by what was shown"
        asked = msgspec.structs.replace(
            request.asked, what="apply", digest=request.shown.digest, actor=actor, reason=reason
        )
        is_same = (request.asked.what, request.asked.digest) == ("apply", request.shown.digest)
        if is_same and (request.answer is None or request.answer.how in DONE):
            return request  # PA4
        if request.answer is None:
            raise AlreadySettled(f"request {request.request_id} is being answered; ask again when it was")
        append(journal, clock, request.run_id, [asked], after=request.position)
        return find_request(journal, request.request_id)

    return again(turn, busy=UsageError(f"the plan {plan[:16]} is being asked for by others all the time; try again"))


def refuse_no_request_id(text: str) -> None:
    """Raises: UsageError, if this is neither empty nor fit to be the id of a request."""
    if text and not _ID.fullmatch(text):
        raise UsageError("request_id is of 1 to 64 letters, digits, `_`, `.` and `-`; leave it out to get a new one")


def refuse_lacking(actions: Iterable[str], workers: Sequence[WorkerInfo]) -> None:
    """Raises: UsageError, if no one live worker declares all these actions; it names them, and who has which."""
    wanted = sorted(set(actions))
    if any(has_tools(worker, wanted) for worker in workers):
        return
    if not workers:
        raise UsageError(
            "no worker lives here, and only workers can plan this; start one where the tools and their credentials "
            "are: `rescind worker MODULE`"
        )
    lines = [f"{action}: {_who_has(action, workers)}" for action in wanted]
    raise UsageError(
        "no one live worker has the tools for all of it; start one that has, or choose less at once:\n  "
        + "\n  ".join(lines)
    )


def has_tools(worker: WorkerInfo, actions: Iterable[str]) -> bool:
    """Whether this worker declares all these actions."""
    return {tool.action for tool in worker.tools}.issuperset(actions)


def _who_has(action: str, workers: Sequence[WorkerInfo]) -> str:
    having = [f"{worker.worker_id} ({worker.module})" for worker in workers if has_tools(worker, [action])]
    return ", ".join(having) or "declared by none of them"


# --- reading ---


def read_request(journal: Journal, run_id: str) -> PlanRequest | None:
    """The request in this run; None if there is none."""
    return fold_request(every_entry(journal, Query(run_id=run_id)))


def fold_request(entries: Iterable[Entry]) -> PlanRequest | None:
    """The request that these entries of one run tell of."""
    found: PlanRequest | None = None
    position = -1
    for entry in entries:
        position = entry.position
        match entry.event:
            case PlanRequested() as asked:
                found = PlanRequest(
                    request_id=entry.run.run_id.removeprefix(_PREFIX),
                    position=position,
                    sequence=entry.sequence,
                    asked=asked,
                    asked_at=entry.recorded_at,
                    shown=None if found is None else found.shown,
                )
            case RequestTaken(worker_id=worker_id) if found is not None:
                found = msgspec.structs.replace(found, taken_by=worker_id)
            case RequestAnswered() as answer if found is not None:
                shown = answer if answer.how == "shown" else found.shown
                found = msgspec.structs.replace(found, answer=answer, shown=shown)
            case _:
                pass
    return None if found is None else msgspec.structs.replace(found, position=position)


def find_request(journal: Journal, text: str) -> PlanRequest:
    """The last request that was shown a plan whose digest begins so; or the one with this id, or its beginning.

    The digest comes first: an id is chosen by whoever asks, and could be chosen to be taken for somebody's digest.

    Raises: NameUnknown; UsageError, if the digits fit several plans.
    """
    names: list[str] = []
    by_digest = _shown_as(journal, text, names) if _is_digits(text) else None
    if by_digest is not None:
        return by_digest
    there = read_request(journal, _PREFIX + text) if _ID.fullmatch(text) else None
    if there is not None:
        return there
    names = names or [request.request_id for request in _every_request(journal)]
    if not names:
        raise NameUnknown(f"there is no plan {text[:64]!r}: workers were never asked for one in this store")
    name = the_one_meant(text, names, what="plan")
    found = read_request(journal, _PREFIX + name)
    assert found is not None, "it was read just now"
    return found


def find_shown(journal: Journal, digest: str) -> PlanRequest:
    """The last request that was shown the plan with this digest, of which 8 digits are enough; never by its id (PA3).

    Raises: UsageError, if this is no digest, or fits several plans; NameUnknown, if no such plan was shown.
    """
    if not _is_digits(digest):
        raise UsageError(
            f"{digest[:64]!r} is no digest of a plan; give {_DIGITS_MIN} or more of the digits under which it was shown"
        )
    found = _shown_as(journal, digest, [])
    if found is None:
        raise NameUnknown(
            f"workers have shown no plan {digest[:64]!r}; ask for the plan, look at it, and apply it by its digest"
        )
    return found


def _is_digits(text: str) -> bool:
    return len(text) >= _DIGITS_MIN and set(text.lower()) <= set("0123456789abcdef")


def _shown_as(journal: Journal, digits: str, names: list[str]) -> PlanRequest | None:
    """The last request that was shown a plan whose digest begins so. `names` gets the ids of all requests."""
    shown: list[tuple[str, PlanRequest]] = []
    for request in _every_request(journal):
        names.append(request.request_id)
        if request.shown is not None and request.shown.digest.startswith(digits.lower()):
            shown.append((request.shown.digest, request))
    if len({digest for digest, _ in shown}) > 1:
        raise UsageError(f"{digits} are the first digits of several plans; give more of them")
    # By its place in the journal: clocks of several machines, and one that was set back, do not say what came last.
    return max((request for _, request in shown), key=lambda request: request.sequence, default=None)


def _every_request(journal: Journal) -> Iterator[PlanRequest]:
    """The requests that can be read."""
    for run in every_run(journal, Query(agent_name=REQUEST_AGENT)):
        request = _readable(journal, run.run_id)
        if request is not None:
            yield request


def items_of(journal: Journal, request: PlanRequest, *, after: int = 0, limit: int) -> list[dict[str, Any]]:
    """Items of the plan that was shown last, from the one of this number on, in the order of the plan."""
    if request.shown is None:
        return []
    parts: dict[int, tuple[dict[str, Any], ...]] = {}
    for entry in every_entry(journal, Query(run_id=request.run_id)):
        event = entry.event
        if isinstance(event, PlanPart) and event.digest == request.shown.digest:
            parts[event.number] = event.items  # recorded again by a successor, they are the same
    items = [item for number in sorted(parts) for item in parts[number]]
    return items[after : after + limit]


class OpenRequests:
    """The requests that nobody has answered. Reads on from where it was."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._after = 0
        self._runs: set[str] = set()

    def read(self) -> Iterator[PlanRequest]:
        """Those that are open now, the oldest first."""
        gaps: list[EntryUnreadable] = []
        for entry in readable_entries(self._journal, Query(agent_name=REQUEST_AGENT), gaps, after=self._after):
            self._after = entry.sequence
            if isinstance(entry.event, PlanRequested):
                self._runs.add(entry.run.run_id)
        for gap in gaps:
            self._after = max(self._after, gap.sequence)  # it is told once, and not at each look
            _log.error("what was asked of the workers there cannot be told: %s", gap)
        found = [request for run_id in self._runs if (request := _readable(self._journal, run_id)) is not None]
        still = sorted((request for request in found if request.answer is None), key=lambda each: each.asked_at)
        self._runs = {request.run_id for request in still}
        yield from still


def _readable(journal: Journal, run_id: str) -> PlanRequest | None:
    """The request in this run; None if there is none that could be read: the others need not wait for that."""
    try:
        return read_request(journal, run_id)
    except EntryUnreadable as gap:
        _log.error("request %s is left alone, since nobody can tell what was asked: %s", run_id, gap)
        return None


def _first_of(journal: Journal, run_id: str) -> PlanRequested:
    events = (entry.event for entry in every_entry(journal, Query(run_id=run_id)))
    return next(event for event in events if isinstance(event, PlanRequested))
