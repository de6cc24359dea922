"""The end of a submitted plan: review tasks over all shares, and the one entry that says that it is over."""

from collections.abc import Iterable, Sequence

import msgspec

from rescind.clock import Clock
from rescind.compensation.decision import Plan, PlanItem, Review
from rescind.compensation.paperwork import Paperwork
from rescind.compensation.result import UndoResult
from rescind.compensation.sharing.carrying import Left
from rescind.compensation.sharing.results import results_of
from rescind.compensation.sharing.submission import Submission
from rescind.compensation.way import Way
from rescind.journal.behind import drafts_behind
from rescind.journal.port import Appended, Journal
from rescind.model.entry import Event, PlanFinished, PlanLeft


class EndingPaper(Paperwork):
    """As `Paperwork`; what it appends comes right after what was read of the plan's run, or not at all.

    So of two that end the same plan, one opens its tasks. The other one gets `SequenceConflict`, and reads again.
    """

    def __init__(self, plan: Plan, journal: Journal, clock: Clock, way: Way, *, position: int, plan_run: str) -> None:
        super().__init__(plan, journal, clock, way)
        self._position, self._plan_run = position, plan_run

    def append(self, events: Iterable[tuple[str, Event]]) -> Appended:
        """See `Paperwork`. Raises: SequenceConflict."""
        drafts = drafts_behind(self._plan_run, events, position=self._position, at_us=self._clock.now_us())
        appended = self.append_drafts(drafts)
        self._position += sum(draft.run_id == self._plan_run for draft in drafts)
        return appended


def end(journal: Journal, clock: Clock, submission: Submission, left: Sequence[Left], otherwise: PlanLeft) -> None:
    """Open tasks for what is left to a person and not accounted for yet, and end the submission.

    Args:
        journal: Where it is.
        clock: The time.
        submission: As it was read just now.
        left: What a person has to decide about.
        otherwise: How it ends, if not every step is accounted for.

    Raises: SequenceConflict, if somebody else wrote to the plan's run since the submission was read: read it again.
    """
    submitted = submission.submitted
    digest = submitted.plan_digest
    steps = [(step, "") for share in submission.shares for step in share.steps]
    results = {result.step: result for result in results_of(journal, submission, steps)}
    plan = Plan(digest=digest, items=(), tenant=submission.tenant)
    paper = EndingPaper(
        plan, journal, clock, submission.way, position=submission.position, plan_run=submission.plan_run
    )
    reviews = [(_item(each), Review(each.reason, each.detail)) for each in left]
    for result in paper.open_tasks(
        (item, review) for item, review in reviews if results[item.step].disposition is None
    ):
        results[result.step] = result
    whole = UndoResult(plan_digest=digest, plan_run=submission.plan_run, steps=tuple(results.values()))
    counts = whole.counts
    for word, count in submitted.settled.items():
        counts[word] = counts.get(word, 0) + count
    counts = dict(sorted(counts.items()))
    ending: Event = PlanFinished(plan_digest=digest, counts=counts)
    if not whole.is_complete:
        ending = msgspec.structs.replace(otherwise, counts=counts)
    paper.append([(submission.plan_run, ending)])


def _item(each: Left) -> PlanItem:
    return PlanItem(
        step=each.step,
        action=each.action,
        target=None,
        decision=Review(each.reason, each.detail),
        intended_sequence=0,
        outcome="",
    )
