"""What an undo does where somebody has changed the target after the step: the policies of `OnConflict`. Pure.

CF1. *Nothing in silence.* A later change is replaced only by a policy that the action declares, and the journal says
    what was replaced, by which policy and, if it was forced, by whom and why.
CF2. *Only what was seen.* A forced restore replaces the version that the plan showed, a merge the version that it was
    made from, each in one conditional move as far as the target can do that. A further change in between is another
    conflict. So what is a conflict only when the step's turn comes is never forced: nobody was shown it.
    Nor is a target that an undo of an older step has put back: what the step left is gone from there, and forcing it
    would bring back what the older one had left.
CF3. *Merged once.* What a merge is about to put there is on record before it is put there. Whoever finds such an intent
    without an end looks: the target is as the merge left it, or as the merge found it, or a person has to decide.
    A merge that takes three from a stock would take it twice otherwise. For the same reason nothing is merged after a
    plain restore that may have happened, once the target was changed again.
CF4. *Skipping is a statement.* A step is superseded only if its target was seen at a version that is neither the step's
    own nor the one from before it. A conflict of another kind, such as rows that refer to one that would vanish, is
    for a person.
CF5. *Not brought back.* What was superseded was to be undone all the same. It is, by the next undo that it is in, once
    its target is as it left it; until then that undo leaves it where it is. And a restore that would bring back what
    such a step had left is for a person, unless that step is undone together with it.
"""

import enum
from typing import TYPE_CHECKING

from rescind.compensation.decision import Decision, Restore, Review, Settle
from rescind.compensation.port import ReviewReason
from rescind.model.action import Action, OnConflict
from rescind.model.entry import Disposition

if TYPE_CHECKING:
    from rescind.model.history import StepRecord
    from rescind.model.step import Snapshot

HOW_TO_FORCE = (
    "its action allows an approver to overwrite a later change: plan with --force and a --reason (if it has a review "
    "task by now, resolve that with `retry` first)"
)

MERGE_IN_DOUBT = (
    "its merge was begun and has no recorded end, and the target is neither as the merge found it nor as it left it"
)

RESTORE_IN_DOUBT = (
    "its restore was begun and has no recorded end, and the target was changed since: whether its part is still in "
    "there, nobody can see, and a merge might take it out twice"
)


class MergeState(enum.Enum):
    """What has become of a merge that was begun and has no recorded end (CF3)."""

    NOT_BEGUN = enum.auto()
    DONE = enum.auto()
    IN_DOUBT = enum.auto()


def merge_state(record: "StepRecord", seen: str) -> MergeState:
    """What has become of the step's merge, if the target is at this version now."""
    begun = record.overwriting
    if begun is None or begun.policy != OnConflict.MERGE or seen == begun.version:
        return MergeState.NOT_BEGUN
    return MergeState.DONE if seen == begun.leaves else MergeState.IN_DOUBT


def may_be_restored(record: "StepRecord") -> bool:
    """Whether a restore of the step, and no merge, was begun and has no recorded end (CF3)."""
    begun = record.overwriting
    return record.compensation_open and (begun is None or begun.policy != OnConflict.MERGE)


def is_later_change(record: "StepRecord", seen: "Snapshot") -> bool:
    """Whether the target is at a version that is neither the step's own nor the one from before it (CF4)."""
    return all(each is not None and each.version != seen.version for each in (record.step.before, record.after))


def by_policy(record: "StepRecord", action: Action, here: str, why: str, *, may_force: bool) -> Decision:
    """The decision about a conflict that was seen when planning.

    Args:
        record: The step, with its snapshots.
        action: Its action, with the policy.
        here: The version that the target is or will be at.
        why: Who may have changed it, in words.
        may_force: Whether the undo was asked for with `--force`, by somebody who may.
    """
    assert record.step.before is not None
    leaves = record.step.before.version
    match action.on_conflict:
        case OnConflict.REVIEW:
            return Review(ReviewReason.CONFLICT, why)
        case OnConflict.SKIP:
            return superseded(why)
        case OnConflict.FORCE if may_force:
            return Restore(leaves, here, f"overwrites a later change: {why}", OnConflict.FORCE)
        case OnConflict.FORCE:
            return Review(ReviewReason.CONFLICT, f"{why}; {HOW_TO_FORCE}")
        case OnConflict.MERGE if may_be_restored(record):
            return Review(ReviewReason.IN_DOUBT, RESTORE_IN_DOUBT)
        case OnConflict.MERGE:
            return Restore("", here, f"merged with a later change: {why}", OnConflict.MERGE)


def superseded(why: str = "it was changed since") -> Settle:
    """The decision about a step whose action says that a later change is left alone."""
    return Settle(Disposition.SUPERSEDED, f"left as it is now, as its action says: {why}")


def merge_begun(record: "StepRecord", here: str) -> Settle | Review | None:
    """The decision about a step whose merge was begun and has no recorded end; None if it is to be made (again).

    To be asked before the target is compared with the step's own versions: what is left without the step's part may by
    chance be just what the step had left.
    """
    match merge_state(record, here):
        case MergeState.DONE:
            return Settle(Disposition.MERGED, "the target is as a merge left it that was begun before", expects=here)
        case MergeState.IN_DOUBT:
            return Review(ReviewReason.IN_DOUBT, MERGE_IN_DOUBT)
        case MergeState.NOT_BEGUN:
            return None
