"""The part of `rescind status` about what is not finished: how much, the oldest of each kind, and what to type next."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.cli.approval_desk import known_approvals, oldest_first
from rescind.cli.approval_view import as_json as approval_as_json
from rescind.cli.moments import ago
from rescind.cli.out import Out
from rescind.cli.places import Places
from rescind.cli.plan_status import what_it_is_about
from rescind.cli.safe import safe, short
from rescind.cli.stores import command_line, journal_of, shell_line
from rescind.cli.undo_holder import LEFT, has_workers, next_of, whose
from rescind.cli.words import count_of
from rescind.config import JOURNAL_NAME
from rescind.errors import RescindError, UsageError
from rescind.model.approval import Approval, ApprovalState
from rescind.recovery.places import appliers_of
from rescind.recovery.undos import OpenUndo
from rescind.recovery.unfinished import OpenIncident, Unfinished, unfinished_of

if TYPE_CHECKING:
    from rescind.cli.status_switches import SwitchesStatus
    from rescind.database.address import StoreAt
    from rescind.model.history import ReviewTask

_DIGITS = 16
_TEXT_WIDTH = 200

_STATES = {"running": "is under way", "paused": "is paused", "cancelling": "is ending", "waiting": "waits for workers"}

_WAITS = {"compensate": "its undo waits for a person's yes", "resume": "whether its runs may go on is for a person"}


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        approvals: Writes that wait for a person, where that is decided: at the switches, or in the store.
        store: The journal that was read; None if there is none here.
        found: What is not finished in it; None if there is none here, or if it cannot be read.
        problem: Why it cannot be read; empty if it can.
    """

    now: datetime
    approvals: tuple[Approval, ...]
    store: "StoreAt | None" = None
    found: Unfinished | None = None
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing may be missing."""
        return not self.problem and (self.found is None or not self.found.gaps)


def look_for_unfinished(places: Places, there: "SwitchesStatus | None", *, now: datetime) -> Looked:
    """Read the journal of this machine's store, if there is one; the switches have been asked."""
    found, problem = (None, "") if places.store is None else _read(places.store, now)
    at_switches = there is not None and places.given.store is None  # else the store decides: see `approval_desk`
    if there is not None and at_switches:
        known = oldest_first(known_approvals(there.approvals))
        approvals = [each for each in known if each.state(now) is ApprovalState.WAITING]
    else:
        approvals = [] if found is None else list(found.approvals)
    return Looked(now=now, approvals=tuple(approvals), store=places.store, found=found, problem=problem)


def say_unfinished(looked: Looked, places: Places, out: Out) -> None:
    """One block: a line or two for each kind that there is any of, and the command to go on with."""
    if looked.problem:
        out.tell(f"what is unfinished cannot be said: {safe(looked.problem)}", behind=2, style="red")
    elif looked.found is None and not looked.approvals:
        return
    blocks = [*_approvals(looked, places)]
    if looked.found is not None and looked.store is not None:
        store = looked.store
        blocks = [
            *_undos(looked.found.undos, store),
            *blocks,
            *_tasks(looked.found, looked.now, store),
            *_incidents(looked.found.incidents, store),
        ]
    if blocks:
        out.say("unfinished", style="bold")
    elif not looked.problem:
        out.say("no undo is under way, and nothing waits for a person")
    for text, command, style in blocks:
        out.tell(f"  {text}", behind=4, style=style)
        out.say(f"    {command}")
    for gap in () if looked.found is None else looked.found.gaps:
        out.note(f"something unfinished may be missing here: {safe(str(gap))}", style="red")


def unfinished_as_json(looked: Looked) -> dict[str, Any]:
    """The same as a part of the answer; what is not known is null."""
    found = looked.found
    late = () if found is None else found.overdue(looked.now)
    return {
        "undos": None if found is None else msgspec.to_builtins(found.undos),
        "approvals": [approval_as_json(each, looked.now) for each in looked.approvals],
        "review_tasks": None
        if found is None
        else {
            "open": len(found.tasks),
            "overdue": [{"task_id": task.task_id, "due_at": task.due_at, "assignee": task.assignee} for task in late],
        },
        "incidents": None if found is None else msgspec.to_builtins(found.incidents),
        "problem": looked.problem,
        "unreadable": [] if found is None else [gap.sequence for gap in found.gaps],
    }


_Block = tuple[str, str, str]
"""A sentence, the command to type next, and a style."""


def _read(store: "StoreAt", now: datetime) -> tuple[Unfinished | None, str]:
    if isinstance(store, Path) and not (store / JOURNAL_NAME).exists():
        return None, ""
    try:
        with journal_of(store) as journal:
            asked = partial(has_workers, store)
            return unfinished_of(journal, now=now, appliers=appliers_of(store), has_workers=asked), ""
    except RescindError as error:  # who obeys is said all the same
        if type(error) is UsageError:  # a database that holds orders, and no journal yet
            return None, ""
        return None, str(error)


def _undos(undos: Sequence[OpenUndo], store: "StoreAt") -> list[_Block]:
    if not undos:
        return []
    left = [undo for undo in undos if undo.holder in LEFT]
    oldest = left[0] if left else undos[0]
    is_held_up = any(undo.state in ("paused", "waiting") for undo in undos)
    text, style = _undo(oldest), "red" if left else "yellow" if is_held_up else ""
    if len(undos) > 1:
        states = Counter("died" if undo.holder == "nobody" else undo.state for undo in undos)
        counts = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
        which = "the oldest that nobody goes on with" if left else "the oldest"
        text = f"{count_of(len(undos), 'undo')}: {counts}; {which}: {text}"
        if oldest.holder != "nobody":
            return [(text, command_line("plan", "list", store=store), style)]
    return [(text, next_of(oldest, store), style)]


def _undo(undo: OpenUndo) -> str:
    held = f" by {short(undo.held_by, 40)}" if undo.held_by else ""
    because = undo.held_because if undo.held_by else undo.reason
    why = f": {short(because, _TEXT_WIDTH)}" if because else ""
    begun = f"{count_of(undo.total, 'step')}, begun {ago(undo.begun_at)} ago by {short(undo.actor, 40)}"
    about = short(what_it_is_about(undo.selection), _TEXT_WIDTH)
    whom = f"; {words}" if (words := whose(undo)) else ""
    is_left = undo.state == "running" and undo.holder in LEFT
    state = "is not finished" if is_left else _STATES.get(undo.state, undo.state)
    return f"{about} {state}{held}{why}{whom}; {begun}, plan {undo.plan_digest[:_DIGITS]}"


def _approvals(looked: Looked, places: Places) -> list[_Block]:
    if not looked.approvals:
        return []
    oldest = looked.approvals[0]
    waits = "call waits" if len(looked.approvals) == 1 else "calls wait"
    what = f"{short(oldest.asked.action, 60)} of {short(oldest.asked.run.agent, 60)}, for {ago(oldest.asked_at)}"
    text = f"{len(looked.approvals):,} {waits} for an approval; the oldest: {what}"
    return [(text, shell_line("approvals", "list", *places.words()), "yellow")]


def _tasks(found: Unfinished, now: datetime, store: "StoreAt") -> list[_Block]:
    if not found.tasks:
        return []
    late = found.overdue(now)
    oldest = late[0] if late else found.tasks[0]
    overdue = f", {_some(len(late), len(found.tasks))}overdue" if late else ""
    text = f"{count_of(len(found.tasks), 'review task')}{overdue}; {_oldest_task(oldest, now)}"
    more = ("--overdue",) if late else ()
    return [(text, command_line("review", "list", *more, store=store), "red" if late else "yellow")]


def _oldest_task(task: "ReviewTask", now: datetime) -> str:
    since = f"overdue for {ago(task.due_at)}" if task.due_at is not None and task.is_overdue(now) else ""
    whose = f", for {short(task.assignee, 40)}" if task.assignee else ", for nobody in particular" if since else ""
    return f"the oldest: {short(task.action, 60)}, {since or f'open for {ago(task.opened_at)}'}{whose}"


def _incidents(incidents: Sequence[OpenIncident], store: "StoreAt") -> list[_Block]:
    if not incidents:
        return []
    urgent = [each for each in incidents if each.waits or each.failed]
    oldest = urgent[0] if urgent else incidents[0]
    name = safe(oldest.incident_id)
    if oldest.failed:
        state = f"to {oldest.stage} failed: {short(oldest.failed, _TEXT_WIDTH)}"
    elif oldest.waits:
        state = _WAITS.get(oldest.stage, f"{oldest.stage} waits for a person")
    else:
        state = short(oldest.title, _TEXT_WIDTH)
    waiting = f", {_some(len(urgent), len(incidents))}stopped in mid-course" if urgent else ""
    text = f"{count_of(len(incidents), 'open incident')}{waiting}; {name}, {ago(oldest.opened_at)} ago: {state}"
    if oldest.stage:
        return [(text, command_line("incidents", "recover", oldest.incident_id, store=store) + " --app …", "yellow")]
    return [(text, command_line("incidents", "show", oldest.incident_id, store=store), "yellow")]


def _some(number: int, among: int) -> str:
    """How many of them, as it stands before what they are."""
    return "" if number == among == 1 else "all of them " if number == among else f"{number:,} of them "
