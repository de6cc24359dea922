"""An undo plan for people: grouped when it is long, line by line when it is short or asked for, or as a tree."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from rescind.cli.safe import safe
from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Compensate,
    Decision,
    Plan,
    PlanItem,
    Restore,
    Review,
    Settle,
    kind_of,
)
from rescind.compensation.port import ReviewReason
from rescind.model.entry import StepRef

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINES_MAX = 24
"""Items that are listed one by one: a screen. Longer plans are grouped."""

_EXAMPLES = 3

_RUN_TAIL = 4  # Characters of a run's id beside a step: enough to tell the runs of one plan apart.

_VERBS = {
    "restore": "restore",
    "compensate": "compensate",
    "settle": "record only",
    "review": "review",
    "already_undone": "done before",
    "already_in_review": "in review",
}

_STYLES = {"restore": "green", "compensate": "green", "review": "yellow", "already_in_review": "yellow"}

WHAT_REVIEWS_MEAN = {
    ReviewReason.IRREVERSIBLE: "declared as impossible to take back",
    ReviewReason.PAST_DEADLINE: "the time in which it could be undone is over",
    ReviewReason.IN_DOUBT: "nobody knows whether it took effect; look at the target",
    ReviewReason.CONFLICT: "changed by somebody since; left as it is now",
    ReviewReason.NO_SNAPSHOT: "what was there before is not on record",
    ReviewReason.CANNOT_LOOK: "looking at the target failed",
    ReviewReason.NOT_DECLARED: "the app declares no such action, or declares it otherwise",
    ReviewReason.CYCLE: "its declared dependencies lead back to it",
    ReviewReason.BLOCKED: "what depends on it stays, so it stays",
    ReviewReason.FAILED: "its compensation failed, and changed nothing",
}
"""One line per reason: what it means for the reader."""


def plan_lines(plan: Plan, console: "Console", *, every: bool, tree: bool) -> Iterator[str]:
    """What the plan would do, line by line, drawn for this console. A settled plan says where each step stands."""
    if tree:
        yield from tree_lines(plan)
        return
    with console.capture() as drawn:
        console.print(_table(plan) if every or len(plan.items) <= LINES_MAX else _groups(plan))
    for line in drawn.get().splitlines():
        yield line.rstrip()


def summary_of(plan: Plan) -> str:
    """`340 to restore, 340 to compensate, 341 for a person`."""
    words = {
        "restore": "to restore",
        "compensate": "to compensate",
        "settle": "only to record",
        "review": "for a person",
        "already_in_review": "in review already",
        "already_undone": "done before",
    }
    counts = plan.counts
    return ", ".join(f"{counts[kind]:,} {word}" for kind, word in words.items() if kind in counts) or "no steps"


def reviews_in(plan: Plan) -> Mapping[ReviewReason, int]:
    """How many steps the plan would leave to a person, by reason, in the order of `ReviewReason`."""
    counts: dict[ReviewReason, int] = defaultdict(int)
    for item in plan.items:
        if isinstance(item.decision, Review):
            counts[item.decision.reason] += 1
    return {reason: counts[reason] for reason in ReviewReason if reason in counts}


def tree_lines(plan: Plan) -> Iterator[str]:
    """The plan by dependency: a step stands below the last one that it waits for; independent ones are branches.

    What follows only one step stands straight below it, so that a long chain does not run off the screen.
    """
    children = _children(plan)
    label = _labels(plan)
    # A stack and no recursion: a chain may have ten thousand steps.
    stack: list[tuple[PlanItem, str, str]] = [(item, "", "") for item in reversed(children[None])]
    while stack:
        item, head, body = stack.pop()
        yield f"{head}{_line(item, label(item.step))}"
        below = children[item.step]
        if len(below) == 1:
            stack.append((below[0], body, body))
        else:
            last = len(below) - 1
            branches = [
                (each, f"{body}{'└─ ' if number == last else '├─ '}", f"{body}{'   ' if number == last else '│  '}")
                for number, each in enumerate(below)
            ]
            stack.extend(reversed(branches))


def _children(plan: Plan) -> Mapping[StepRef | None, list[PlanItem]]:
    place = {item.step: number for number, item in enumerate(plan.items)}
    children: defaultdict[StepRef | None, list[PlanItem]] = defaultdict(list)
    for item in plan.items:
        gated = [step for gate in item.gates for step in plan.gates[gate].steps]
        earlier = [step for step in (*item.waits_for, *gated) if step in place]
        children[max(earlier, key=place.__getitem__, default=None)].append(item)
    return children


def _line(item: PlanItem, step: str) -> str:
    target = f" on {safe(item.target)}" if item.target else ""
    why = why_of(item.decision)
    return f"{_VERBS[kind_of(item.decision)]} {safe(item.action)}{target} ({step}){f': {why}' if why else ''}"


def why_of(decision: Decision) -> str:
    """The decision's ground in a few safe words; empty where the decision says it all."""
    match decision:
        case Restore(note=note) | Compensate(note=note):
            return safe(note)
        case Settle(because=because):
            return safe(because)
        case Review(reason, detail):
            return f"{words_of(reason)}: {safe(detail)}"
        case AlreadyUndone(disposition, because):
            return safe(f"{words_of(disposition)}, {because}")
        case AlreadyInReview(task_id, reason):
            return safe(f"{words_of(reason)}, {task_id}")


def words_of(name: str) -> str:
    """`never_took_effect` as people read it; safe."""
    return safe(str(name)).replace("_", " ")


def _table(plan: Plan) -> "Table":
    table = _empty_table("", "step", "decision", "action", "target", "why")
    label = _labels(plan)
    for number, item in enumerate(plan.items, start=1):
        kind = kind_of(item.decision)
        target = safe(item.target) if item.target else ""
        row = (str(number), label(item.step), _VERBS[kind], safe(item.action), target, why_of(item.decision))
        table.add_row(*row, style=_STYLES.get(kind, "dim"))
    return table


class _Group(msgspec.Struct):
    kind: str
    action: str
    why: str
    targets: list[str] = []
    count: int = 0


def _groups(plan: Plan) -> "Table":
    groups: dict[tuple[str, str, str], _Group] = {}
    for item in plan.items:
        kind, why = kind_of(item.decision), why_of(item.decision)
        group = groups.setdefault(_group_key(item), _Group(kind, item.action, why))
        if group.why != why and isinstance(item.decision, Review):
            group.why = f"{words_of(item.decision.reason)}: {WHAT_REVIEWS_MEAN[item.decision.reason]}"
        group.count += 1
        if len(group.targets) < _EXAMPLES:
            group.targets.append(safe(item.target) if item.target else str(item.step))
    table = _empty_table("", "decision", "action", "targets", "why")
    for group in groups.values():
        more = group.count - len(group.targets)
        targets = "\n".join([*group.targets, *([f"and {more:,} more"] if more else [])])
        row = (f"{group.count:,}", _VERBS[group.kind], safe(group.action), targets, group.why)
        table.add_row(*row, style=_STYLES.get(group.kind, "dim"))
    return table


def _group_key(item: PlanItem) -> tuple[str, str, str]:
    # A conflict names the steps of others, so its words differ from step to step; its reason does not.
    reason = item.decision.reason if isinstance(item.decision, Review | AlreadyInReview) else why_of(item.decision)
    return kind_of(item.decision), item.action, str(reason)


def _labels(plan: Plan) -> Callable[[StepRef], str]:
    """How steps are named in this plan: by their number, with the end of the run's id where there are several runs."""
    if len(plan.runs) == 1:
        return lambda step: safe(step.step_id)
    return lambda step: safe(f"…{step.run_id[-_RUN_TAIL:]}/{step.step_id}" if len(step.run_id) > _RUN_TAIL else step)


def _empty_table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        # Folding and not cutting: half an id is no id.
        table.add_column(name, justify="left" if name else "right", overflow="fold", no_wrap=name == "decision")
    return table
