"""An undo plan for people: grouped when it is long, line by line when it is short or asked for, or as a tree."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from rescind.cli.safe import ELLIPSIS, safe
from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Compensate,
    Decision,
    Drop,
    Plan,
    PlanItem,
    Restore,
    Review,
    Settle,
    kind_of,
)
from rescind.compensation.port import ReviewReason
from rescind.model.action import OnConflict
from rescind.model.entry import Disposition, StepRef

Line = tuple[str, str]
"""A safe line, and the style it is shown in."""

LINES_MAX = 24
"""Items that are listed one by one: a screen. Longer plans are grouped."""

_EXAMPLES = 3

_TEXT_MIN = 20

_VERB_WIDTH, _ACTION_MAX = 11, 32

_NARROW = 56
"""Columns below which a table is no help: each item then has a block of its own."""

_WHY_MAX = 240  # A target's exception may be a page; `--json` has all of it.

_RUN_TAIL = 4  # Characters of a run's id beside a step: enough to tell the runs of one plan apart.

_VERBS = {
    "restore": "restore",
    "compensate": "compensate",
    "drop": "drop",
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
    ReviewReason.COMPENSATED: "offset by the undo; whether to have it again is for a person",
    ReviewReason.NO_SNAPSHOT: "what was there before is not on record",
    ReviewReason.CANNOT_LOOK: "looking at the target failed",
    ReviewReason.NOT_DECLARED: "the app declares no such action, or declares it otherwise",
    ReviewReason.CYCLE: "its declared dependencies lead back to it",
    ReviewReason.BLOCKED: "what depends on it stays, so it stays",
    ReviewReason.FAILED: "its compensation failed; look at the target",
}
"""One line per reason: what it means for the reader."""


def plan_lines(plan: Plan, *, every: bool, tree: bool, width: int) -> Iterator[Line]:
    """What the plan would do, line by line. A settled plan says where each step stands."""
    if tree:
        yield from ((line, "") for line in tree_lines(plan))
    elif every or len(plan.items) <= LINES_MAX:
        yield from _listed(plan, width)
    else:
        yield from _grouped(plan, width)


def summary_of(plan: Plan) -> str:
    """`340 to restore, 340 to compensate, 341 for a person`."""
    words = {
        "restore": "to restore",
        "compensate": "to compensate",
        "drop": "to drop",
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
        case Drop():
            return "still held: nothing was done yet"
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


def _listed(plan: Plan, width: int) -> Iterator[Line]:
    label = _labels(plan)
    if width < _NARROW:
        for number, item in enumerate(plan.items, start=1):
            target = safe(item.target) if item.target else ""
            head = f"{number} {_VERBS[kind_of(item.decision)]}"
            lines = (f"step {label(item.step)}", safe(item.action), target, why_of(item.decision))
            yield from _block(head, lines, width, _STYLES.get(kind_of(item.decision), "dim"))
        return
    actions = min(_ACTION_MAX, max((len(safe(item.action)) for item in plan.items), default=0))
    places = len(str(len(plan.items)))
    steps = max((len(label(item.step)) for item in plan.items), default=0)
    yield f"{'':>{places}}  {'decision':<{_VERB_WIDTH}}  {'step':<{steps}}  {'action':<{actions}}  target", "bold"
    for number, item in enumerate(plan.items, start=1):
        kind = kind_of(item.decision)
        target = safe(item.target) if item.target else ""
        head = f"{number:>{places}}  {_VERBS[kind]:<{_VERB_WIDTH}}  {label(item.step):<{steps}}  "
        style = _STYLES.get(kind, "dim")
        yield f"{head}{safe(item.action):<{actions}}  {target}".rstrip(), style
        yield from _indented(why_of(item.decision), places + 2, width, style)


class _Group(msgspec.Struct):
    kind: str
    action: str
    why: str
    examples: list[str] = []
    count: int = 0


def _grouped(plan: Plan, width: int) -> Iterator[Line]:
    places = len(f"{len(plan.items):,}")
    for group in _groups(plan):
        style = _STYLES.get(group.kind, "dim")
        if width < _NARROW:
            head = f"{group.count:,} {_VERBS[group.kind]}"
            yield from _block(head, (safe(group.action), _examples_of(group), group.why), width, style)
            continue
        yield f"{group.count:>{places},}  {_VERBS[group.kind]:<{_VERB_WIDTH}}  {safe(group.action)}", style
        indent = places + _VERB_WIDTH + 4
        yield from _indented(_examples_of(group), indent, width, "")
        yield from _indented(group.why, indent, width, style)


def _block(head: str, lines: Iterable[str], width: int, style: str) -> Iterator[Line]:
    yield head, style
    for line in lines:
        yield from _indented(line, 2, width, style)


def _examples_of(group: _Group) -> str:
    more = f" and {group.count - len(group.examples):,} more" if group.count > len(group.examples) else ""
    return ", ".join(group.examples) + more


def _groups(plan: Plan) -> Iterable[_Group]:
    """The plan's items by decision and action, in the order in which each begins."""
    groups: dict[tuple[str, str, str], _Group] = {}
    for item in plan.items:
        kind, why = kind_of(item.decision), why_of(item.decision)
        group = groups.setdefault(_group_key(item), _Group(kind, item.action, why))
        if group.why != why and isinstance(item.decision, Review):
            group.why = f"{words_of(item.decision.reason)}: {WHAT_REVIEWS_MEAN[item.decision.reason]}"
        group.count += 1
        example = safe(item.target or item.step)
        if len(group.examples) < _EXAMPLES and example not in group.examples:
            group.examples.append(example)
    return groups.values()


def _indented(text: str, indent: int, width: int, style: str) -> Iterator[Line]:
    if len(text) > _WHY_MAX:
        text = text[: _WHY_MAX - 1] + ELLIPSIS
    blank = " " * indent
    for line in textwrap.wrap(text, max(width, indent + _TEXT_MIN), initial_indent=blank, subsequent_indent=blank):
        yield line, style


def _group_key(item: PlanItem) -> tuple[str, str, str]:
    # A conflict names the steps of others, so its words differ from step to step; its reason does not.
    match item.decision:
        case Review(reason) | AlreadyInReview(reason=reason):
            pass
        case Settle(Disposition.SUPERSEDED as reason) | Restore(policy=OnConflict.FORCE | OnConflict.MERGE as reason):
            pass
        case _:
            reason = why_of(item.decision)
    return kind_of(item.decision), item.action, str(reason)


def _labels(plan: Plan) -> Callable[[StepRef], str]:
    """How steps are named in this plan: by their number, with the end of the run's id where there are several runs."""
    if len(plan.runs) == 1:
        return lambda step: safe(step.step_id)
    return lambda step: safe(f"…{step.run_id[-_RUN_TAIL:]}/{step.step_id}" if len(step.run_id) > _RUN_TAIL else step)
