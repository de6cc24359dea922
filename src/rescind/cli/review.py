"""`rescind review`: what an undo left to a person, and what the person decided."""

import math
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rescind.cli.durations import is_duration, parse_duration
from rescind.cli.identity import whoami
from rescind.cli.moments import ago, parse_moment, to_the_second
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.plan_view import WHAT_REVIEWS_MEAN, words_of
from rescind.cli.safe import safe, short
from rescind.cli.stores import find_store, journal_of, quoted_store
from rescind.cli.words import count_of
from rescind.clock import SystemClock, from_us
from rescind.compensation.port import ReviewReason
from rescind.errors import EntryUnreadable, UsageError
from rescind.recovery.review import assign_task, comment_on, find_task, list_tasks, resolve_task, set_due

if TYPE_CHECKING:
    from datetime import datetime

    from rescind.database.address import StoreAt
    from rescind.model.history import ReviewTask

_STEPS_SHOWN = 10

_DIFFERS = {ReviewReason.IN_DOUBT, ReviewReason.CONFLICT, ReviewReason.CANNOT_LOOK, ReviewReason.FAILED}
"""Reasons whose details may differ from step to step."""

FAULT = 1

_DUE_MOST_S = 366 * 86_400.0

_RESOLUTIONS = {
    "done": "put right by hand",
    "compensated": "offset by hand, by what --reference names",
    "not-needed": "it may stay as it is",
    "retry": "the next undo tries again",
}


@click.group(
    epilog="""\b
Examples:
  rescind review list --overdue
  rescind review show review_2645
  rescind review resolve review_2645 --as done --note "refunded by hand"
"""
)
def review() -> None:
    """What an undo left to a person."""


@review.command("list")
@click.option("--all", "every", is_flag=True, help="Resolved ones, too.")
@click.option("--assignee", metavar="NAME", help="Only those of this person; an empty name for those of nobody.")
@click.option("--mine", is_flag=True, help="Only your own.")
@click.option("--overdue", is_flag=True, help="Only those that should have been decided by now.")
@common
def list_(*, every: bool, assignee: str | None, mine: bool, overdue: bool, out: Out) -> int:
    """List what waits for a decision, oldest first."""
    if mine and assignee is not None:
        raise UsageError("--mine and --assignee name two people; give one of them")
    whose = whoami() if mine else assignee
    now = from_us(SystemClock().now_us())
    gaps: list[EntryUnreadable] = []
    with journal_of(find_store(given_store())) as journal:
        tasks = [
            task
            for task in list_tasks(journal, open_only=not every, gaps=gaps)
            if (whose is None or task.assignee == whose) and (not overdue or task.is_overdue(now))
        ]
    if out.json:
        out.emit({"tasks": [_as_json(task) for task in tasks], "unreadable": [gap.sequence for gap in gaps]})
        return FAULT if gaps else 0
    for gap in gaps:
        out.note(f"a task may be missing here, or be resolved already: {safe(str(gap))}", style="red")
    for task in tasks:
        _say_head(task, out)
    if not tasks:
        among = "nothing of that kind" if whose is not None or overdue else "nothing"
        out.say(f"{among} waits for a decision" if not every else "there are no review tasks")
    elif any(task.resolution is None for task in tasks):
        out.say()
        store = quoted_store(find_store(given_store()))
        out.say(f"rescind review show{store} ID         what it is about")
        out.say(f"rescind review assign{store} ID NAME  whose it is")
        out.say(f"rescind review resolve{store} ID --as {'|'.join(_RESOLUTIONS)}")
    return FAULT if gaps else 0


@review.command()
@click.argument("task_id", metavar="ID")
@click.option("--all", "every", is_flag=True, help="Every step.")
@common
def show(*, task_id: str, every: bool, out: Out) -> int:
    """Show one task: why a person has to decide, and about which steps. The beginning of its id will do."""
    from rescind.compensation.planning.selection import read_steps

    with journal_of(find_store(given_store())) as journal:
        task = find_task(journal, task_id)
        wanted = set(task.steps)
        records = [each for each in read_steps(journal, (step.run_id for step in task.steps)) if each.ref in wanted]
    if out.json:
        out.emit({"task": _as_json(task), "records": [msgspec.to_builtins(record) for record in records]})
        return 0
    _say_head(task, out)
    out.say()
    for record in records if every else records[:_STEPS_SHOWN]:
        target = f"on {safe(record.step.target)}" if record.step.target else ""
        out.say(f"  {safe(record.ref)}  {to_the_second(record.intended_at)}  {target}".rstrip())
        arguments = ", ".join(f"{name}={short(value, 40)}" for name, value in record.step.arguments.items())
        if arguments:
            out.say(f"      {safe(arguments)}", style="dim")
    if not every and len(records) > _STEPS_SHOWN:
        out.say(f"  and {len(records) - _STEPS_SHOWN:,} more; --all shows them")
    if task.comments:
        out.say()
    for comment in task.comments:
        out.tell(f"  {to_the_second(comment.at)}  {safe(comment.actor)}: {safe(comment.text)}", behind=4)
    _say_what_next(task, find_store(given_store()), out)
    return 0


@review.command()
@click.argument("task_id", metavar="ID")
@click.option(
    "--as",
    "resolution",
    type=click.Choice(list(_RESOLUTIONS)),
    required=True,
    help="; ".join(f"{name}: {meaning}" for name, meaning in _RESOLUTIONS.items())
    + ", and where an earlier try may have worked, it may happen twice.",
)
@click.option("--note", default="", metavar="TEXT", help="Why, or what was done.")
@click.option("--reference", default="", metavar="TEXT", help="What was done elsewhere: a ticket, a credit note.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def resolve(*, task_id: str, resolution: str, note: str, reference: str, actor: str | None, out: Out) -> int:
    """Record what was decided about one task. It cannot be resolved twice."""
    with journal_of(find_store(given_store())) as journal:
        task = resolve_task(
            journal,
            task_id,
            resolution,
            actor=actor or whoami(),
            note=note,
            reference=reference,
            clock=SystemClock(),
        )
        waiting = len(list_tasks(journal))
    out.say(f"{safe(task.task_id)} is resolved as {resolution}: {_purpose(resolution, task)}")
    if resolution == "retry":
        out.say("Run the same `rescind undo` again to see its new plan.")
    out.say(f"{count_of(waiting, 'task')} left" if waiting else "nothing else waits for a decision")
    out.emit({"task": _as_json(task), "open": waiting})
    return 0


@review.command()
@click.argument("task_id", metavar="ID")
@click.argument("assignee", metavar="NAME")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def assign(*, task_id: str, assignee: str, actor: str | None, out: Out) -> int:
    """Say whose a task is; "" makes it nobody's."""
    with journal_of(find_store(given_store())) as journal:
        task = assign_task(journal, task_id, assignee.strip(), actor=actor or whoami(), clock=SystemClock())
    out.say(f"{safe(task.task_id)} is for {safe(task.assignee) or 'nobody in particular'}")
    out.emit({"task": _as_json(task)})
    return 0


@review.command(short_help="Say until when it should be decided.")
@click.argument("task_id", metavar="ID")
@click.argument("when", metavar="WHEN")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def due(*, task_id: str, when: str, actor: str | None, out: Out) -> int:
    """Say until when a task should be decided: `4h`, `2d`, a moment like 2026-11-21T06:00:00Z, or `never`.

    An overdue task is shown as such, and stays open.
    """
    moment = _due_moment(when)
    with journal_of(find_store(given_store())) as journal:
        task = set_due(journal, task_id, moment, actor=actor or whoami(), clock=SystemClock())
    out.say(f"{safe(task.task_id)} is due {to_the_second(task.due_at) if task.due_at else 'at no time'}")
    out.emit({"task": _as_json(task)})
    return 0


@review.command()
@click.argument("task_id", metavar="ID")
@click.argument("text", metavar="TEXT")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def comment(*, task_id: str, text: str, actor: str | None, out: Out) -> int:
    """Say something about a task, for whoever decides."""
    with journal_of(find_store(given_store())) as journal:
        task = comment_on(journal, task_id, text, actor=actor or whoami(), clock=SystemClock())
    out.say(f"{safe(task.task_id)} has {count_of(len(task.comments), 'comment')}")
    out.emit({"task": _as_json(task)})
    return 0


@review.command(
    short_help="Tell a webhook what was not told yet.",
    epilog="""\b
Examples:
  rescind review export --webhook https://tickets.example/r --secret-file key
  rescind review export              as `review:` in rescind.yaml says
""",
)
@click.option("--webhook", metavar="URL", help="Where to; by default `review.webhook` of rescind.yaml.")
@click.option("--secret-file", metavar="FILE", help="What to sign with: whsec_…, as `rescind switch` does its alerts.")
@common
def export(*, webhook: str | None, secret_file: str | None, out: Out) -> int:
    """Tell a webhook of every task that was opened or resolved and that it does not know yet.

    Signed CloudEvents, each told at least once and under one id. Exit status 1 if the receiver did not take them all;
    the rest is told by the next export.
    """
    from rescind.cli.review_export import channel_of
    from rescind.recovery.review_export import export_tasks

    clock = SystemClock()
    channel = channel_of(webhook, secret_file)
    with journal_of(find_store(given_store())) as journal:
        exported = export_tasks(journal, channel, clock=clock)
    out.say(f"{channel.name} was told {count_of(len(exported.told), 'change')} of review tasks")
    if exported.problem:
        out.say(f"{exported.left:,} not told: {safe(exported.problem)}", style="red")
    out.emit({"to": channel.name, "told": exported.told, "left": exported.left, "problem": exported.problem})
    return 1 if exported.problem else 0


def _due_moment(text: str) -> "datetime | None":
    text = text.strip()
    if text == "never":
        return None
    clock = SystemClock()
    days = text.removesuffix("d")
    if text.endswith("d") and days.isascii() and days.isdigit():
        seconds = float(days) * 86_400.0  # of any length, where an integer has a longest text
    elif is_duration(text):
        seconds = parse_duration(text, least_s=0.0, most_s=math.inf)
    else:
        return parse_moment(text, option="the deadline")
    if not 1.0 <= seconds <= _DUE_MOST_S:
        raise UsageError(f"the deadline {text!r} is not in the range from 1s to {_DUE_MOST_S / 86_400:.0f}d")
    return from_us(clock.now_us() + round(seconds * 1e6))


def _say_head(task: "ReviewTask", out: Out) -> None:
    state = "open" if task.resolution is None else words_of(task.resolution)
    out.say(f"{safe(task.task_id)}  {count_of(len(task.steps), 'step')} of {safe(task.action)}", style="bold")
    # The detail is of the step that opened the task; where steps fail one by one, it need not hold for the others.
    among = "first of them: " if task.detail and len(task.steps) > 1 and task.reason in _DIFFERS else ""
    out.tell(f"  {words_of(task.reason)}: {among}{safe(task.detail) or _meaning(task.reason)}", behind=4)
    out.say(f"  {state}, opened {ago(task.opened_at)} ago{_whose(task)}")
    if task.due_at is not None and task.resolution is None:
        overdue = task.is_overdue(from_us(SystemClock().now_us()))
        out.say(
            f"  {'overdue since' if overdue else 'due'} {to_the_second(task.due_at)}", style="red" if overdue else ""
        )
    if task.resolution is not None:
        note = f": {safe(task.note)}" if task.note else ""
        reference = f" as {safe(task.reference)}" if task.reference else ""
        out.tell(f"  resolved by {safe(task.resolved_by)}{reference}{note}", behind=4)


def _whose(task: "ReviewTask") -> str:
    said = f", {count_of(len(task.comments), 'comment')}" if task.comments else ""
    return (f", for {safe(task.assignee)}" if task.assignee else "") + said


def _say_what_next(task: "ReviewTask", store: "StoreAt", out: Out) -> None:
    if task.resolution is not None:
        return
    out.say()
    meaning = _meaning(task.reason)
    if meaning:
        out.say(f"{words_of(task.reason)}: {meaning}")
    for name in _RESOLUTIONS:
        command = f"rescind review resolve{quoted_store(store)} {safe(task.task_id)}"
        more = " --reference TEXT" if name == "compensated" else ""
        out.say(f"  {command} --as {name}{more}")
        out.say(f"      {_purpose(name, task)}", style="dim")


def _purpose(resolution: str, task: "ReviewTask") -> str:
    purpose = _RESOLUTIONS[resolution]
    if resolution == "retry" and task.reason in (ReviewReason.IN_DOUBT, ReviewReason.FAILED):
        return f"{purpose}, so it may happen twice; look at the target first"
    return purpose


def _meaning(reason: str) -> str:
    return WHAT_REVIEWS_MEAN[ReviewReason(reason)] if reason in ReviewReason._value2member_map_ else ""


def _as_json(task: "ReviewTask") -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(task)
    return fields
