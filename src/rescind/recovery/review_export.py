"""Review tasks told to a webhook: a ticket system, a chat, somebody's own queue.

X1. *At least once.* A task is told when it is opened and when it is resolved. What was delivered is recorded after the
    receiver has taken it, so a crash between the two tells it again, under the same id: receivers see it once.
X2. *In nobody's way.* Nothing here decides about a task; a receiver that is away is told the next time.
X3. *In order.* What cannot be delivered now holds back what comes after it, so that no task is resolved before it is
    opened. What the receiver refuses for good, whatever it is that it does not like, holds back only what else there
    is to tell of the same task; it is offered again the next time.
"""

import hashlib
from datetime import datetime

import msgspec

from rescind.clock import Clock, from_us
from rescind.journal.port import Draft, Journal
from rescind.model.entry import ReviewNoted
from rescind.model.history import ReviewTask
from rescind.recovery.review import list_tasks
from rescind.switch.alerts.alert import Alert, Severity
from rescind.switch.alerts.channel import Channel, Undelivered
from rescind.switch.alerts.text import encodable, line_of

SEND_TIMEOUT_S = 10.0
REFUSED_MAX = 20
"""Messages that a receiver may refuse before it is left alone for this time: it may be all that it refuses."""

STEPS_TOLD_MAX = 100
"""Steps that a message names one by one; it says how many there are."""

EXPORTER = "rescind-review-export"


class Exported(msgspec.Struct, frozen=True):
    """What an export did.

    Attributes:
        told: Pairs of a task and the state that was told of it, `opened` or `resolved`, in order.
        left: How many are still to be told.
        problem: Why the rest was not told, for people and without secrets; empty if nothing is left.
    """

    told: tuple[tuple[str, str], ...]
    left: int = 0
    problem: str = ""


def export_tasks(journal: Journal, channel: Channel, *, clock: Clock) -> Exported:
    """Tell the channel every task's opening and resolution that it was not told yet, oldest first (X1-X3)."""
    due = _untold(list_tasks(journal, open_only=False), channel.name)
    told: list[tuple[str, str]] = []
    refused: dict[str, str] = {}  # by task, why
    for task, state, at in due:
        if task.task_id in refused:
            continue
        try:
            channel.send(_alert_of(task, state, at, clock), timeout_s=SEND_TIMEOUT_S)
        except Undelivered as error:
            if not error.again and not error.gone and len(refused) < REFUSED_MAX:
                refused[task.task_id] = f"review task {task.task_id}: {error}"
                continue
            return Exported(tuple(told), len(due) - len(told), str(error))
        event = ReviewNoted(task_id=task.task_id, what="exported", actor=EXPORTER, text=channel.name, state=state)
        journal.append([Draft(run_id=task.plan_run, event=event, recorded_at_us=clock.now_us())])
        told.append((task.task_id, state))
    return Exported(tuple(told), len(due) - len(told), next(iter(refused.values()), ""))


def _untold(tasks: list[ReviewTask], place: str) -> list[tuple[ReviewTask, str, datetime]]:
    due: list[tuple[ReviewTask, str, datetime]] = []
    for task in tasks:
        if (place, "opened") not in task.exported:
            due.append((task, "opened", task.opened_at))
        if task.resolved_at is not None and (place, "resolved") not in task.exported:
            # Never before its opening, whatever the clocks of two machines say (X3).
            due.append((task, "resolved", max(task.resolved_at, task.opened_at)))
    return sorted(due, key=lambda each: (each[2], each[1]))


def _alert_of(task: ReviewTask, state: str, at: datetime, clock: Clock) -> Alert:
    steps = f"{len(task.steps):,} step{'' if len(task.steps) == 1 else 's'}"
    what = f"{steps} of {line_of(task.action, 120)}: {line_of(task.reason, 60)}"
    lines = {"task": line_of(task.task_id), "why": line_of(task.detail) or line_of(task.reason)}
    if state == "resolved":
        lines |= {"as": line_of(task.resolution or ""), "by": line_of(task.resolved_by), "note": line_of(task.note)}
    severity: Severity = "info" if state == "resolved" else "warning"
    return Alert(
        alert_id=f"review-{state}_{hashlib.sha256(task.task_id.encode()).hexdigest()[:32]}",
        kind=f"review.{state}",
        severity=severity,
        title=f"REVIEW {'done' if state == 'resolved' else 'needed'}: {what}",
        body="\n".join(f"{name}: {text}" for name, text in lines.items() if text),
        subject=f"review/{line_of(task.task_id)}",
        switch_id="",
        source="/rescind/journal",
        at=at,
        data={"review": _as_data(task), "overdue": task.is_overdue(from_us(clock.now_us()))},
    )


def _as_data(task: ReviewTask) -> dict[str, object]:
    shown = msgspec.structs.replace(task, steps=task.steps[:STEPS_TOLD_MAX], exported=())
    fields: dict[str, object] = msgspec.to_builtins(shown)
    return {"steps_total": len(task.steps)} | {name: _encodable(value) for name, value in fields.items()}


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(str(name)): _encodable(each) for name, each in value.items()}  # pyright: ignore
    return [_encodable(each) for each in value] if isinstance(value, list) else value  # pyright: ignore
