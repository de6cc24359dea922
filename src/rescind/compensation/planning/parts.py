"""Parts of runs: which of their steps a selection means, by action, by target, and by what it leaves out.

A name is looked for among the steps of the chosen runs. One that none of them has is a slip, and refused: an undo that
leaves out nothing, because a name was mistyped, would undo just what it was told not to.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rescind.errors import UsageError
from rescind.model.history import StepRecord
from rescind.model.step import Target
from rescind.recovery.reading import PREFIX_MIN

if TYPE_CHECKING:
    from rescind.compensation.planning.selection import Selection

Test = Callable[[StepRecord], bool]

_NAMES_MAX = 10_000  # Names looked through for one that was meant: a second at most.


def divide(
    steps: Sequence[StepRecord], selection: "Selection", *, strict: bool = True
) -> tuple[list[StepRecord], list[StepRecord]]:
    """The steps that the selection means, and the others, both in the order of `steps`: all steps of its runs.

    Raises: UsageError, for an action or a target that none of the steps has, and if `strict`, for an excluded name.
    """
    if not (selection.since or selection.until or selection.actions or selection.targets or selection.exclude):
        return list(steps), []
    is_meant = _test_of(steps, selection, strict=strict)
    chosen: list[StepRecord] = []
    others: list[StepRecord] = []
    for record in steps:
        (chosen if selection.covers(record.intended_at) and is_meant(record) else others).append(record)
    return chosen, others


def is_at(target: Target | None, text: str) -> bool:
    """Whether this is the target that a person has written, or one below it: `SYSTEM`, `SYSTEM/KIND`."""
    if target is None:
        return False
    if str(target) == text:
        return True
    system, _, rest = text.partition("/")
    kind, _, identifier = rest.partition("/")
    return (
        target.system == system
        and (not kind or target.kind == kind)
        and (not identifier or identifier in (target.id, str(target)[len(system) + len(kind) + 2 :]))
    )


def leave_out(cascaded: Sequence[StepRecord], selection: "Selection", chosen: Sequence[StepRecord]) -> list[StepRecord]:
    """Of the steps that depend on the chosen ones, those that the selection does not leave out.

    Raises: UsageError, for an excluded name that neither these nor those have.
    """
    known = _Known([*chosen, *cascaded])
    excluded = [known.excluded(text) for text in selection.exclude]
    return [record for record in cascaded if not any(test(record) for test in excluded)]


def _test_of(steps: Sequence[StepRecord], selection: "Selection", *, strict: bool) -> Test:
    if not (selection.actions or selection.targets or selection.exclude) or not steps:
        return lambda record: True
    known = _Known(steps)
    for action in selection.actions:
        if action not in known.actions:
            raise _unknown(action, known.actions, what="action")
    for target in selection.targets:
        if not known.has_target(target):
            raise _unknown(target, map(str, known.targets), what="target")
    excluded = [known.excluded(text) for text in selection.exclude if strict or known.has(text)]
    at = {target for target in known.targets if any(is_at(target, text) for text in selection.targets)}

    def is_meant(record: StepRecord) -> bool:
        return (
            (not selection.actions or record.step.action in selection.actions)
            and (not selection.targets or record.step.target in at)
            and not any(test(record) for test in excluded)
        )

    return is_meant


class _Known:
    """What names the steps have."""

    def __init__(self, steps: Sequence[StepRecord]) -> None:
        self._steps = steps
        self.actions = {record.step.action for record in steps}
        self.targets = {record.step.target for record in steps if record.step.target is not None}

    def has_target(self, text: str) -> bool:
        return any(is_at(target, text) for target in self.targets)

    def has(self, text: str) -> bool:
        return text in self.actions or self.has_target(text) or any(_is_named(each, text) for each in self._steps)

    def excluded(self, text: str) -> Test:
        """Which steps an excluded name leaves out. Raises: UsageError."""
        refs = {record.ref for record in self._steps if _is_named(record, text)}
        if len({ref.run_id for ref in refs}) > 1:
            shown = ", ".join(sorted(map(str, refs))[:5])
            raise UsageError(f"the step {text!r} to leave out could be any of {len(refs)}: {shown}; write more of it")
        if refs:
            return lambda record: record.ref in refs
        if text in self.actions:
            return lambda record: record.step.action == text
        if self.has_target(text):
            return lambda record: is_at(record.step.target, text)
        names = [*self.actions, *map(str, self.targets), *(str(record.ref) for record in self._steps)]
        raise _unknown(text, names, what="step, action or target")


def _is_named(record: StepRecord, text: str) -> bool:
    # The beginning of the run's id will do, as everywhere.
    run, _, step = text.rpartition("/")
    known = record.run.run_id
    return step == record.step.step_id and (run == known or (len(run) >= PREFIX_MIN and known.startswith(run)))


def _unknown(text: str, names: Iterable[str], *, what: str) -> UsageError:
    known = list(dict.fromkeys(islice(names, _NAMES_MAX)))
    nearest = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(sorted(known)[:5])}"
    return UsageError(f"the chosen runs have no {what} {text!r}; {hint}")
