"""An impact for people: how far it reaches, and a tree of runs with their steps."""

from collections import Counter
from collections.abc import Iterator, Mapping

from rescind.cli.impact_groups import RunGroup, group_by_run
from rescind.cli.safe import safe, short
from rescind.cli.words import count_of, list_of
from rescind.compensation.planning.impact import Impact, Why, reach_of
from rescind.model.step import RunInfo

Line = tuple[str, str]
"""A safe line, and the style it is shown in."""

RUNS_MAX, STEPS_MAX = 12, 4
"""Runs of a tree, and steps of each, that are listed unless everything is asked for: a screen."""

WORDS = {Why.READ: "read", Why.OVERWROTE: "overwrote", Why.CAUSED: "came of"}

_HEAD_MIN = 24  # Columns for the words of a line deep in the tree, however narrow the terminal is.


def reach_lines(impact: Impact) -> Iterator[Line]:
    """How far it reaches, in a few lines."""
    reach = reach_of(impact)
    steps, readers = (
        impact.standing,
        {each.run_id for each in impact.readers} - {each.step.run_id for each in impact.standing},
    )
    runs = len({each.step.run_id for each in steps})
    if not impact.affected and not impact.readers:
        yield "nothing that is on record depends on what these steps wrote", "green"
    else:
        also = f"; {count_of(len(readers), 'more run')} only read it" if readers else ""
        depend = "depends" if len(steps) == 1 else "depend"
        words = f"{count_of(len(steps), 'later step')} of {count_of(runs, 'run')} {depend} on what they wrote{also}"
        yield words, "yellow"
    for name in ("systems", "tenants", "agents", "targets"):
        found: tuple[str, ...] = getattr(reach, name)
        if found:
            yield f"  {name:<8} {list_of(found)}", ""
    undone = len(impact.affected) - len(steps)
    if undone:
        yield f"  {count_of(undone, 'further step')} that depended on it {'is' if undone == 1 else 'are'} undone", "dim"
    yield from missing_lines(impact)


def missing_lines(impact: Impact) -> Iterator[Line]:
    """What is known not to be known."""
    if impact.reads_missing:
        words = "reads are missing in the journal, or cannot be read, so there may be more"
        yield f"{words}: {list_of(impact.reads_missing)}", "red"
    if impact.unclosed:
        yield f"not ended, so their last reads may be missing: {list_of(impact.unclosed)}", "yellow"


def tree_lines(impact: Impact, *, every: bool, width: int) -> Iterator[Line]:
    """The runs, each below the one that it was found through, with their steps."""
    groups = group_by_run(impact).runs
    shown = 0
    roots = [group.run_id for group in groups.values() if group.above is None]
    # A stack and no recursion: a chain may have thousands of runs.
    stack = [(run_id, "", "") for run_id in reversed(roots)]
    while stack:
        if shown >= RUNS_MAX and not every:
            yield f"and {count_of(len(groups) - shown, 'more run')}; --all shows them, --json has them too", "dim"
            return
        run_id, head, body = stack.pop()
        group = groups[run_id]
        shown += 1
        yield _fitting(f"{head}{_title(group, impact.runs)}", width), "bold" if group.above is None else ""
        bar = f"{body}│  " if group.below else f"{body}   "
        for line, style in _step_lines(group, every=every):
            yield _fitting(f"{bar}{line}", width), style
        last = len(group.below) - 1
        stack.extend(
            reversed(
                [
                    (each, f"{body}{'└─ ' if n == last else '├─ '}", f"{body}{'   ' if n == last else '│  '}")
                    for n, each in enumerate(group.below)
                ]
            )
        )


def _title(group: RunGroup, runs: Mapping[str, RunInfo]) -> str:
    run = runs.get(group.run_id)
    who = "" if run is None else f"  {safe(run.agent)}{f', {safe(run.tenant)}' if run.tenant else ''}"
    whys = Counter(each.why for each in group.affected)
    parts = [count_of(group.roots, "chosen step")] if group.roots else []
    parts += [f"{count_of(count, 'step')} {WORDS[why]} it" for why, count in sorted(whys.items())]
    if group.read and not group.affected:
        parts.append(f"read {list_of(group.read, most=2)}")
    return f"{safe(group.run_id)}{who}: {', '.join(parts) or 'nothing since'}"


def _step_lines(group: RunGroup, *, every: bool) -> Iterator[Line]:
    listed = group.affected if every else group.affected[:STEPS_MAX]
    for each in listed:
        target = f" on {safe(each.target)}" if each.target else ""
        undone = ", undone" if each.undone else ""
        why = f"{WORDS[each.why]} {safe(each.source)}"
        yield f"{safe(each.step.step_id)} {safe(each.action)}{target} ({why}{undone})", "dim" if each.undone else ""
    if len(group.affected) > len(listed):
        yield f"and {count_of(len(group.affected) - len(listed), 'more step')}", "dim"


def _fitting(line: str, width: int) -> str:
    return short(line, max(width, _HEAD_MIN))
