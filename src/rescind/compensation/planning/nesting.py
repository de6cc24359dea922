"""Calls made inside another call at the same target: what they left is a part of what the outer call left.

An outer write finds v0, changes it to v1, and calls an inner write that makes it v2. The outer step then says v0 -> v2
and the inner one v1 -> v2. Restoring the outer one restores both; restoring the inner one first would leave v1, which
the outer one does not know. So the outer one comes first, and the inner ones are settled with it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rescind.model.action import EffectClass
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed

if TYPE_CHECKING:
    from rescind.model.step import Target


def end_of(record: StepRecord) -> int:
    """Where in the journal the step had its effect, at the latest; its intent, if no end was recorded."""
    return record.intended_sequence if record.ended_sequence is None else record.ended_sequence


def containers_of(steps: Sequence[StepRecord]) -> dict[StepRef, StepRef]:
    """For each step that was made inside another one of its run, at the same target: the nearest such step.

    Inside means by time and by cause: it began and ended while the other one was under way, and came of it. Only what
    can be restored counts. `steps` are in any order.
    """
    by_place: defaultdict[tuple[str, Target], list[StepRecord]] = defaultdict(list)
    for record in steps:
        if record.step.target is not None and _is_restorable(record) and record.ended_sequence is not None:
            by_place[record.run.run_id, record.step.target].append(record)
    found: dict[StepRef, StepRef] = {}
    known: dict[StepRef, StepRecord] | None = None
    for group in by_place.values():
        under_way: list[StepRecord] = []
        for record in sorted(group, key=lambda each: each.intended_sequence):
            under_way = [each for each in under_way if end_of(each) > record.intended_sequence]
            for outer in reversed(under_way):
                if end_of(outer) > end_of(record) and _is_whole(outer):
                    known = known or {each.ref: each for each in steps}
                    if _came_of(record, outer, known, found):
                        found[record.ref] = outer.ref
                        break
            under_way.append(record)
    return found


def _is_restorable(record: StepRecord) -> bool:
    return (
        record.step.effect_class is EffectClass.REVERSIBLE
        and record.step.before is not None
        and not isinstance(record.outcome, Failed)
    )


def _is_whole(record: StepRecord) -> bool:
    """Whether what it left is known."""
    return isinstance(record.outcome, Completed) and record.after is not None and record.after.version != ""


def _came_of(
    inner: StepRecord,
    outer: StepRecord,
    known: Mapping[StepRef, StepRecord],
    found: Mapping[StepRef, StepRef],
) -> bool:
    """Whether the inner step has the outer one among its causes, by way of steps made meanwhile."""
    seen: set[StepRef] = set()
    left = [inner]
    while left:
        for name in left.pop().step.causal_parents:
            cause = StepRef(inner.run.run_id, name)
            if cause == outer.ref or found.get(cause) == outer.ref:
                return True
            record = known.get(cause)
            if record is not None and cause not in seen and record.intended_sequence > outer.intended_sequence:
                seen.add(cause)
                left.append(record)
    return False
