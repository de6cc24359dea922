"""Calls made inside another call at the same target: what they left is a part of what the outer call left.

An outer write finds v0, changes it to v1, and calls an inner write that makes it v2. The outer step then says v0 -> v2
and the inner one v1 -> v2. Restoring the outer one restores both; restoring the inner one first would leave v1, which
the outer one does not know. So the outer one comes first, and the inner ones are settled with it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from rescind.compensation.decision import AlreadyUndone, Decision, Restore, Review, Settle
from rescind.compensation.port import ReviewReason
from rescind.model.action import EffectClass, OnConflict
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed


def end_of(record: StepRecord) -> int:
    """Where in the journal the step had its effect, at the latest; its intent, if no end was recorded."""
    return record.intended_sequence if record.ended_sequence is None else record.ended_sequence


def containers_of(steps: Sequence[StepRecord], places: Sequence[int]) -> dict[StepRef, StepRef]:
    """For each step that was made inside another one of its run, at the same target: the nearest such step.

    Inside means by time and by cause: it began and ended while the other one was under way, and came of it. Only what
    can be restored counts.

    Args:
        steps: In any order.
        places: For each of them a number that it shares with those at the same target; negative if there are none.
    """
    groups: defaultdict[tuple[str, int], list[StepRecord]] = defaultdict(list)
    for record, place in zip(steps, places, strict=True):
        has_target = place >= 0 and record.step.target is not None
        if has_target and record.ended_sequence is not None and _is_restorable(record):
            groups[record.run.run_id, place].append(record)
    found: dict[StepRef, StepRef] = {}
    known: dict[StepRef, StepRecord] | None = None
    for group in groups.values():
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


class WithOuter:
    """What becomes of inner steps together with their outer ones. Ask, and note, in the order of the undo."""

    def __init__(self, inside: Mapping[StepRef, StepRef]) -> None:
        self._inside, self._outer = inside, frozenset(inside.values())
        self._whole: dict[StepRef, _PutBack] = {}

    def decide(self, record: StepRecord, decision: Decision, seen: str | None) -> Decision:
        """The decision about a step, given the one about it by itself and the version its target was seen at."""
        if not self._inside or record.ref not in self._inside:
            return decision
        outer = self._whole.get(self._inside[record.ref])
        if outer is None or not _is_part_of(outer, decision, seen):
            return decision
        self._whole[record.ref] = outer
        return _with_the_outer(outer)

    def note(self, record: StepRecord, decision: Decision, seen: str | None) -> None:
        """This is what was decided about the step in the end."""
        if not self._outer or record.ref not in self._outer:
            return
        if record.step.before is not None and _is_restored(decision):
            self._whole.setdefault(record.ref, _PutBack(record.ref, seen, record.step.before.version))
        elif _is_merged(decision):
            self._whole.setdefault(record.ref, _PutBack(record.ref, seen, ""))


class _PutBack(msgspec.Struct, frozen=True, gc=False):
    """A step whose target, seen at one version now, is or will be at the version from before it; empty: merged."""

    step: StepRef
    seen: str | None
    version: str


def _is_restored(decision: Decision) -> bool:
    match decision:
        case Restore(policy=policy):
            return policy is not OnConflict.MERGE
        case Settle(disposition) | AlreadyUndone(disposition):
            return disposition is Disposition.RESTORED
        case _:
            return False


def _is_merged(decision: Decision) -> bool:
    match decision:
        case Restore(policy=policy):
            return policy is OnConflict.MERGE
        case Settle(disposition) | AlreadyUndone(disposition):
            return disposition is Disposition.MERGED
        case _:
            return False


def _with_the_outer(outer: _PutBack) -> Decision:
    """What becomes of a step that is a part of an outer one's way back."""
    if outer.version:
        return Settle(Disposition.RESTORED, f"put back with step {outer.step.step_id}", expects=outer.version)
    # The outer one's merge has taken out what was made inside it, or it has not: that is the merge's affair. To merge
    # the inner one as well could take it out twice.
    detail = f"it was made inside step {outer.step.step_id}, which is merged; look whether that has taken it out, too"
    return Review(ReviewReason.CONFLICT, detail)


def _is_part_of(outer: _PutBack, decision: Decision, seen: str | None) -> bool:
    """Whether the step, made inside the outer one, is put back with it, so that nothing is left for its own restore.

    Only if a look of its own saw what a look of the outer one's saw, or the outer one put back already: under one
    coarse target the two may have written to different things.
    """
    match decision:
        case Restore() | Review(ReviewReason.CONFLICT | ReviewReason.IN_DOUBT | ReviewReason.PAST_DEADLINE):
            pass
        case Settle(expects=expects) if expects:
            pass
        case _:
            return False
    return not outer.version or (bool(seen) and seen in (outer.seen, outer.version))
