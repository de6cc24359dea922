"""An impact for people: how far it reaches, and a tree of runs with their steps."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rescind.cli.impact_groups import RunGroup, group_by_run
from rescind.cli.safe import columns_of, middle, safe
from rescind.cli.words import LISTED_MAX, count_of, list_of
from rescind.compensation.planning.impact import Affected, Impact, Why, reach_of
from rescind.model.step import RunInfo

Line = tuple[str, str]
"""A safe line, and the style it is shown in."""

RUNS_MAX, STEPS_MAX = 12, 4
"""Runs of a tree, and steps of each, that are listed unless everything is asked for: a screen."""

WORDS = {Why.READ: "read", Why.OVERWROTE: "overwrote", Why.CAUSED: "came of"}

REACHED = ("systems", "tenants", "agents", "targets")
"""What an impact reaches, by the fields of `Reach`, in the order in which it is told."""

_SHORT = 30  # Columns of a name that may stand in a list that is folded.

_ROOM_MIN = 24  # Columns for the words of a line deep in the tree, however narrow the terminal is.


def reach_lines(impact: Impact, *, width: int) -> Iterator[Line]:
    """How far it reaches, in a few lines of so many columns; sentences are left whole, for `Out.tell` to fold."""
    yield summary_line(impact)
    reach = reach_of(impact)
    for name in REACHED:
        yield from ((line, "") for line in _names(name, getattr(reach, name), width))
    undone = len(impact.affected) - len(impact.standing)
    if undone:
        yield f"  {count_of(undone, 'further step')} that depended on it {'is' if undone == 1 else 'are'} undone", "dim"
    yield from missing_lines(impact)


def summary_line(impact: Impact) -> Line:
    """How many depend on it, in one sentence."""
    if not impact.affected and not impact.readers:
        return "nothing that is on record depends on what these steps wrote", "green"
    steps = impact.standing
    runs = {each.step.run_id for each in steps}
    readers = {each.run_id for each in impact.readers} - runs
    also = f"; {count_of(len(readers), 'more run')} only read it" if readers else ""
    depend = "depends" if len(steps) == 1 else "depend"
    words = f"{count_of(len(steps), 'later step')} of {count_of(len(runs), 'run')} {depend} on what they wrote{also}"
    return words, "yellow"


def _names(what: str, names: Sequence[str], width: int) -> Iterator[str]:
    """In a sentence while they are short; else a line for each of the first, left out in the middle."""
    if not names:
        return
    head = f"  {what:<8} "
    line = head + list_of(names)
    if columns_of(line) <= width or all(columns_of(safe(name)) <= _SHORT for name in names):
        yield line
        return
    for number, name in enumerate(names[:LISTED_MAX]):
        yield f"{head if number == 0 else ' ' * len(head)}{middle(name, width - len(head))}"
    if len(names) > LISTED_MAX:
        yield f"{' ' * len(head)}and {len(names) - LISTED_MAX:,} more"


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
        yield from ((line, "bold" if group.above is None else "") for line in _title(group, impact.runs, head, width))
        bar = f"{body}│  " if group.below else f"{body}   "
        yield from _step_lines(group, bar, width, every=every)
        last = len(group.below) - 1
        stack.extend(
            reversed(
                [
                    (each, f"{body}{'└─ ' if n == last else '├─ '}", f"{body}{'   ' if n == last else '│  '}")
                    for n, each in enumerate(group.below)
                ]
            )
        )


def _title(group: RunGroup, runs: Mapping[str, RunInfo], head: str, width: int) -> Iterator[str]:
    """Which run it is and whose, and what became of it there; on two lines where that is too long for one."""
    run = runs.get(group.run_id)
    who = "" if run is None else f"{safe(run.agent)}{f', {safe(run.tenant)}' if run.tenant else ''}"
    whys = Counter(each.why for each in group.affected)
    parts = [count_of(group.roots, "chosen step")] if group.roots else []
    parts += [f"{count_of(count, 'step')} {WORDS[why]} it" for why, count in sorted(whys.items())]
    if group.read and not group.affected:
        parts.append(f"read {list_of(group.read, most=2)}")
    what = ", ".join(parts) or "nothing since"
    line = f"{head}{safe(group.run_id)}{f'  {who}' if who else ''}: {what}"
    if columns_of(line) <= width:
        yield line
        return
    room = max(width - columns_of(head), _ROOM_MIN)
    run_id, owner = (
        middle(group.run_id, room * 2 // 5),
        middle(who, room - min(columns_of(safe(group.run_id)), room * 2 // 5) - 2),
    )
    yield f"{head}{run_id}{f'  {owner}' if owner else ''}"
    below = head.replace("├─ ", "│  ").replace("└─ ", "   ") + ("│  " if group.below else "   ")
    yield f"{below}{middle(what, max(width - columns_of(below), _ROOM_MIN))}"


def _step_lines(group: RunGroup, bar: str, width: int, *, every: bool) -> Iterator[Line]:
    room = max(width - columns_of(bar), _ROOM_MIN)
    listed = group.affected if every else group.affected[:STEPS_MAX]
    for each in listed:
        style = "dim" if each.undone else ""
        yield from ((f"{bar}{line}", style) for line in _step(each, room, whole=every))
    if len(group.affected) > len(listed):
        yield f"{bar}and {count_of(len(group.affected) - len(listed), 'more step')}", "dim"


def _step(each: Affected, room: int, *, whole: bool) -> Iterator[str]:
    """Which step, at what, and why.

    Where there is no room, first what it was found through is left out, then the middle of the target; if all of it was
    asked for, it goes on in further lines.
    """
    step = f"{safe(each.step.step_id)} {safe(each.action)}"
    target = f" on {safe(each.target)}" if each.target else ""
    undone = " (undone)" if each.undone else ""
    why = f" ({WORDS[each.why]} {safe(each.source)}{', undone' if each.undone else ''})"
    if columns_of(step + target + why) <= room:
        yield f"{step}{target}{why}"
    elif columns_of(step + target + undone) <= room:
        yield f"{step}{target}{undone}"
    elif whole:
        yield from _folded(f"{step}{target}{why}", room)
    else:
        step = middle(step, max(room // 2, _ROOM_MIN))
        yield f"{step} on {middle(each.target, room - columns_of(step) - len(' on ') - len(undone))}{undone}"


def _folded(text: str, room: int) -> Iterator[str]:
    """All of it, in lines of so many columns, the further ones four further in."""
    indent = ""
    while text:
        taken, columns = 0, columns_of(indent)
        while taken < len(text) and columns + columns_of(text[taken]) <= room:
            columns += columns_of(text[taken])
            taken += 1
        yield indent + text[: max(taken, 1)]
        text, indent = text[max(taken, 1) :], "    "
