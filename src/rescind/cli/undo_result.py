"""What an undo did: every step accounted for, what a person has to decide now, and what to run next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rescind.cli.liveness import holds_writes_of
from rescind.cli.out import Out
from rescind.cli.plan_view import words_of
from rescind.cli.safe import safe
from rescind.cli.stopping import order_as_json, resume_command
from rescind.cli.stores import command_line
from rescind.cli.undo_session import Session
from rescind.cli.words import count_of, list_of, why_left
from rescind.compensation.decision import Plan, PlanItem, is_undo
from rescind.compensation.execution.comparison import Comparison
from rescind.compensation.port import ReviewReason
from rescind.compensation.result import StepResult, UndoResult
from rescind.model.entry import Disposition
from rescind.model.order import Order

FAULT, INTERRUPTED = 1, 130

_TO_BE_MENDED = {ReviewReason.CANNOT_LOOK, ReviewReason.NOT_DECLARED, ReviewReason.CYCLE, ReviewReason.FAILED}
"""Reasons that a person should mend, and not only decide about."""

_NO_FAULT = {ReviewReason.CONFLICT, ReviewReason.BLOCKED, ReviewReason.PAST_DEADLINE}
"""What may meet a step that was to be undone without anything being broken."""

_STYLES = {"restored": "green", "compensated": "green", "review": "yellow", "not_reached": "red"}

_REDONE = {"restored": "in effect again", "already_undone": "in effect already"}
"""Words for what an undo and a redo record alike."""

_TASKS_SHOWN, _DETAILS_SHOWN, _HOLDING_SHOWN = 12, 3, 3


def result_status(plan: Plan, result: UndoResult) -> int:
    """The exit status that the result earns: see `rescind undo --help`."""
    if result.interrupted:
        return INTERRUPTED
    by_fault = any(_is_fault(item, step) for item, step in zip(plan.items, result.steps, strict=True))
    return FAULT if by_fault or not result.is_complete else 0


def _is_fault(item: PlanItem, step: StepResult) -> bool:
    if step.earlier or step.disposition is not Disposition.REVIEW:
        return False
    # A step that was to be undone and was not: its compensation raised, or what it left is not what it should be.
    failed = is_undo(item.decision) and step.reason not in _NO_FAULT
    return failed or step.reason in _TO_BE_MENDED


def say_result(
    session: Session,
    plan: Plan,
    result: UndoResult,
    comparison: Comparison,
    *,
    standing: Sequence[Order],
    took_s: float,
    out: Out,
) -> None:
    """Say what became of every step and target, which review tasks there are, and what to run next."""
    counts = result.counts
    accounted = sum(count for word, count in counts.items() if word != "not_reached")
    out.say()
    if plan.is_settled:
        every = "its one step is" if len(result.steps) == 1 else f"all {len(result.steps):,} steps are"
        out.say(f"nothing was left to {session.request.verb}; {every} accounted for", style="bold")
    else:
        out.say(f"{accounted:,} of {count_of(len(result.steps), 'step')} accounted for, {took_s:.1f} s", style="bold")
    for word, count in counts.items():
        words = words_of(word) if session.request.verb == "undo" else _REDONE.get(word, words_of(word))
        out.say(f"  {count:>7,}  {words}", style=_STYLES.get(word, ""))
    say_workers(result, out)
    _say_unfinished(result, out)
    _say_comparison(comparison, out)
    tasks = _open_tasks(result)
    _say_tasks(tasks, out)
    _say_next(session, plan, standing, out, has_tasks=bool(tasks))


def say_workers(result: UndoResult, out: Out) -> None:
    """Say which workers have carried out how many of the steps, if any have."""
    for worker, count in result.by_worker.items():
        out.say(f"  {count:>7,}  by {safe(worker)}", style="dim")


def _say_comparison(comparison: Comparison, out: Out) -> None:
    """Say whether the targets are as they were to be, if any was restored."""
    if not comparison.compared:
        return
    whole = f"the world is as planned at {comparison.as_before:,} of {count_of(comparison.compared, 'target')}"
    moved = f"; {comparison.moved_on:,} moved on since" if comparison.moved_on else ""
    differ = f"; {len(comparison.differs):,} differ:" if comparison.differs else ""
    out.say(f"{whole}{moved}{differ}", style="red" if comparison.differs else "green")
    for each in comparison.differs[:_TASKS_SHOWN]:
        why = safe(each.problem) if each.problem else "it is not at the version that the undo left"
        out.tell(f"  {safe(each.target or each.step)}: {why}", behind=4, style="red")
    if len(comparison.differs) > _TASKS_SHOWN:
        out.say(f"  and {len(comparison.differs) - _TASKS_SHOWN:,} more; --json has them all", style="red")


def result_as_json(
    session: Session, plan: Plan, result: UndoResult, *, held: Sequence[Order], took_s: float
) -> dict[str, Any]:
    """The result as an answer."""
    return {
        "digest": result.plan_digest,
        "plan_run": result.plan_run,
        "counts": result.counts,
        "complete": result.is_complete,
        "interrupted": result.interrupted,
        "by_worker": result.by_worker,
        "left_because": result.left_because,
        "left_detail": result.left_detail,
        "lost_systems": result.lost_systems,
        "settled_before": plan.is_settled,
        "tasks": list(result.tasks),
        "steps": list(result.steps),
        "held": [order_as_json(order) for order in held],
        "ms": round(took_s * 1000, 1),
        "store": str(session.store),
    }


def _say_unfinished(result: UndoResult, out: Out) -> None:
    left = [step for step in result.steps if step.disposition is None]
    for system, heard in result.lost_systems.items():
        out.tell(f"{safe(system)} does not answer: {safe(heard)}; its steps were left alone", behind=2, style="red")
    if result.interrupted:
        words = "interrupted; what was done is recorded, and the same command goes on with the rest"
        out.tell(words, behind=2, style="yellow")
    elif result.left_because:
        words = why_left(result.left_because, result.left_detail)
        words = f"{words}; what was done is recorded, and the same command goes on with the rest"
        out.tell(words, behind=2, style="yellow")
    elif left:
        out.say(f"not reached: {list_of(step.step for step in left)}; run `rescind undo` again", style="red")


class _Task:
    def __init__(self) -> None:
        self.steps: Counter[tuple[str, str]] = Counter()
        self.details: Counter[str] = Counter()


def _open_tasks(result: UndoResult) -> Mapping[str, _Task]:
    tasks: dict[str, _Task] = {}
    for step in result.steps:
        if step.word == "review" and step.task_id:
            task = tasks.setdefault(step.task_id, _Task())
            task.steps[step.action, step.reason] += 1
            if step.detail:
                task.details[step.detail] += 1
    return tasks


def _say_tasks(tasks: Mapping[str, _Task], out: Out) -> None:
    if not tasks:
        return
    out.say()
    out.say(f"{count_of(len(tasks), 'review task')} for a person:")
    for task_id, task in list(tasks.items())[:_TASKS_SHOWN]:
        for (action, reason), count in task.steps.items():
            out.say(f"  {safe(task_id)}  {count_of(count, 'step')} of {safe(action)}: {words_of(reason)}")
        for detail, count in list(task.details.items())[:_DETAILS_SHOWN]:
            # What was said of one step need not hold for the others.
            among = f"{count_of(count, 'step')}: " if count < task.steps.total() else ""
            out.tell(f"    {among}{safe(detail)}", behind=6, style="dim")
        if len(task.details) > _DETAILS_SHOWN:
            out.say(f"    and {len(task.details) - _DETAILS_SHOWN:,} other reasons; --json has them all", style="dim")
    if len(tasks) > _TASKS_SHOWN:
        out.say(f"  and {len(tasks) - _TASKS_SHOWN:,} more")


def _say_next(session: Session, plan: Plan, standing: Sequence[Order], out: Out, *, has_tasks: bool) -> None:
    runs = [run for run in map(session.journal.run, plan.runs) if run is not None]
    holding = [order for order in standing if any(holds_writes_of(order, run) for run in runs)]
    store = session.store
    out.say()
    out.say("next:")
    if has_tasks:
        out.say(f"  {command_line('review', 'list', store=store)}")
    out.say(f"  {command_line('audit', 'verify', store=store)}")
    if holding:
        out.say("these runs are still held; to let go:")
        out.say(f"  {resume_command([order.order_id for order in holding[:_HOLDING_SHOWN]], store)}")
