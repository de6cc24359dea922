"""`rescind review`: what an undo left to a person, and what the person decided."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rescind.cli.identity import whoami
from rescind.cli.moments import ago, spoken
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.plan_view import WHAT_REVIEWS_MEAN, words_of
from rescind.cli.safe import safe, short
from rescind.cli.stores import find_store, journal_of, quoted_store
from rescind.cli.words import count_of
from rescind.clock import SystemClock
from rescind.compensation.port import ReviewReason
from rescind.recovery.review import find_task, list_tasks, resolve_task

if TYPE_CHECKING:
    from rescind.model.history import ReviewTask

_STEPS_SHOWN = 10

_DIFFERS = {ReviewReason.IN_DOUBT, ReviewReason.CONFLICT, ReviewReason.CANNOT_LOOK, ReviewReason.FAILED}
"""Reasons whose details may differ from step to step."""

_RESOLUTIONS = {
    "done": "put right by hand",
    "not-needed": "it may stay as it is",
    "retry": "the next undo tries again",
}


@click.group()
def review() -> None:
    """What an undo left to a person."""


@review.command("list")
@click.option("--all", "every", is_flag=True, help="Resolved ones, too.")
@common
def list_(*, every: bool, out: Out) -> int:
    """List what waits for a decision, oldest first."""
    with journal_of(find_store(given_store())) as journal:
        tasks = list_tasks(journal, open_only=not every)
    if out.json:
        out.emit({"tasks": [_as_json(task) for task in tasks]})
        return 0
    for task in tasks:
        _say_head(task, out)
    if not tasks:
        out.say("nothing waits for a decision" if not every else "there are no review tasks")
    elif any(task.resolution is None for task in tasks):
        out.say()
        store = quoted_store(find_store(given_store()))
        out.say(f"rescind review show{store} ID      what it is about")
        out.say(f"rescind review resolve{store} ID --as done|not-needed|retry")
    return 0


@review.command()
@click.argument("task_id", metavar="ID")
@click.option("--all", "every", is_flag=True, help="Every step.")
@common
def show(*, task_id: str, every: bool, out: Out) -> int:
    """Show one task: why a person has to decide, and about which steps. The beginning of its id will do."""
    from rescind.compensation.selection import read_steps

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
        out.say(f"  {safe(record.ref)}  {spoken(record.intended_at)}  {target}".rstrip())
        arguments = ", ".join(f"{name}={short(value, 40)}" for name, value in record.step.arguments.items())
        if arguments:
            out.say(f"      {safe(arguments)}", style="dim")
    if not every and len(records) > _STEPS_SHOWN:
        out.say(f"  and {len(records) - _STEPS_SHOWN:,} more; --all shows them")
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
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def resolve(*, task_id: str, resolution: str, note: str, actor: str | None, out: Out) -> int:
    """Record what was decided about one task. It cannot be resolved twice."""
    with journal_of(find_store(given_store())) as journal:
        task = resolve_task(journal, task_id, resolution, actor=actor or whoami(), note=note, clock=SystemClock())
        waiting = len(list_tasks(journal))
    out.say(f"{safe(task.task_id)} is resolved as {resolution}: {_purpose(resolution, task)}")
    if resolution == "retry":
        out.say("Run the same `rescind undo` again to see its new plan.")
    out.say(f"{count_of(waiting, 'task')} left" if waiting else "nothing else waits for a decision")
    out.emit({"task": _as_json(task), "open": waiting})
    return 0


def _say_head(task: "ReviewTask", out: Out) -> None:
    state = "open" if task.resolution is None else words_of(task.resolution)
    out.say(f"{safe(task.task_id)}  {count_of(len(task.steps), 'step')} of {safe(task.action)}", style="bold")
    # The detail is of the step that opened the task; where steps fail one by one, it need not hold for the others.
    among = "first of them: " if task.detail and len(task.steps) > 1 and task.reason in _DIFFERS else ""
    out.say(f"  {words_of(task.reason)}: {among}{safe(task.detail) or _meaning(task.reason)}")
    out.say(f"  {state}, opened {ago(task.opened_at)} ago")
    if task.resolution is not None:
        note = f": {safe(task.note)}" if task.note else ""
        out.say(f"  resolved by {safe(task.resolved_by)}{note}")


def _say_what_next(task: "ReviewTask", store: Path, out: Out) -> None:
    if task.resolution is not None:
        return
    out.say()
    meaning = _meaning(task.reason)
    if meaning:
        out.say(f"{words_of(task.reason)}: {meaning}")
    for name in _RESOLUTIONS:
        command = f"rescind review resolve{quoted_store(store)} {safe(task.task_id)}"
        out.say(f"  {command} --as {name:<11} {_purpose(name, task)}")


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
