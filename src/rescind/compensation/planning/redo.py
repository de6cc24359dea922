"""The undo of an undo: what a plan has restored is put back to what the steps had left, under the same rules.

A redo is an undo of mirrored steps. In the mirror a step was made by the restore: what was `after` it is what was
before, its causes and dependences lead the other way, and time runs backwards. So the laws of a plan (U1-U7) and of its
execution (U8-U14) hold for a redo as they are written, and the same code keeps them: the version check, the order, the
one runner, the review tasks. What is added:

RD1. *What it undid, and nothing else.* A redo is about the steps that this plan, or the plan that went on with it after
    a crash, undid last. What was undone by another plan since belongs to that one.
RD2. *At the version that the restore left.* Anything else that is there is a conflict.
RD3. *Nobody repeats by guess.* A compensated step (a refund) is for a person: whether it is to be charged again, and
    what that would do by now, is not in the journal. Neither is what a step had left, where its effect recorded only a
    version.
RD4. *In effect again.* A step that was redone stands as if it had not been undone, and can be undone by a new plan,
    under a new idempotency key.
RD5. *In doubt is looked at.* A redo that was begun and has no end may have happened: the next redo, and the next undo,
    look at the target and go on from there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rescind.clock import Clock
from rescind.compensation.decision import Plan, Review
from rescind.compensation.planning.mirror import UNDONE, Mirror, mirrored
from rescind.compensation.planning.selection import read_steps
from rescind.compensation.planning.survey import plan_of
from rescind.compensation.port import Compensator, ReviewReason
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.pages import readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import Disposition, PlanFinished, PlanStarted, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.recovery.control import UNDO_AGENT, plan_run_id
from rescind.recovery.reading import the_one_meant

_REDO = "redo"
"""What the selection of a redo says, in place of conditions: the digest of the undo."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was applied, as the journal tells it.

    Attributes:
        digest: Its digest.
        digests: Its own, and those of the plans that went on with it after a crash.
        runs: The runs of its steps.
        selection: What was asked for.
    """

    digest: str
    digests: frozenset[str]
    runs: tuple[str, ...]
    selection: dict[str, Any]

    @property
    def is_redo(self) -> bool:
        """Whether it was itself a redo."""
        return redone_by(self.selection) is not None


def redone_by(selection: Mapping[str, Any]) -> str | None:
    """The digest of the undo that a plan with this selection takes back; None if that plan is an undo."""
    digest = selection.get(_REDO)
    return digest if isinstance(digest, str) else None


def find_applied(journal: Journal, text: str) -> Applied:
    """The plan that was applied under this digest, or the only one whose digest begins so.

    Raises: UsageError, with the nearest one, if there is none; and for a redo, which is taken back by an undo.
    """
    started: dict[str, PlanStarted] = {}
    story: list[tuple[str, PlanStarted | None]] = []
    gaps: list[EntryUnreadable] = []
    for entry in readable_entries(journal, Query(agent_name=UNDO_AGENT), gaps):
        if isinstance(entry.event, PlanStarted):
            started.setdefault(entry.event.plan_digest, entry.event)
            story.append((entry.event.plan_digest, entry.event))
        elif isinstance(entry.event, PlanFinished):
            story.append((entry.event.plan_digest, None))
    digest = the_one_meant(text.lower(), started, what="applied plan")
    plan = started[digest]
    if gaps:
        _refuse_unread(gaps, {plan_run_id(name) for name in _family(digest, story)})
    found = Applied(digest=digest, digests=_family(digest, story), runs=plan.runs, selection=plan.selection)
    if found.is_redo:
        raise UsageError(f"plan {digest[:16]} is a redo; what it put in effect again is taken back by `rescind undo`")
    return found


def _refuse_unread(gaps: Iterable[EntryUnreadable], runs: Collection[str]) -> None:
    unread = next((gap for gap in gaps if gap.run_id in runs), None)
    if unread is not None:
        raise UsageError(f"what this undo did cannot be told, so nothing can be redone: {unread}") from unread


def _family(digest: str, story: Sequence[tuple[str, PlanStarted | None]]) -> frozenset[str]:
    """The plan, and those that went on with it: of the same selection and steps, until one was finished or redone."""
    family: set[str] = set()
    shape: tuple[object, ...] | None = None
    for name, plan in story:
        if plan is not None and redone_by(plan.selection) in family:
            shape = None  # an undo after that undoes it again, and is one by itself
        elif plan is not None and (name == digest or shape == _shape(plan)):
            family.add(name)
            shape = _shape(plan)
        elif plan is None and name in family:
            shape = None
    return frozenset(family)


def _shape(plan: PlanStarted) -> tuple[object, ...]:
    return plan.runs, plan.steps, msgspec.json.encode(plan.selection, order="deterministic")


def make_redo_plan(
    journal: Journal, applied: Applied, compensators: Mapping[str, Compensator], clock: Clock, *, parallel: int = 8
) -> Plan:
    """Look, and plan the redo. Nothing is changed. The plan is applied with `way=FORTH` and `mirrored(compensators)`.

    Args: as for `make_plan`; the plan is about what `applied` undid.
    """
    return _planned(journal, applied, read_steps(journal, applied.runs), compensators, clock, parallel)


def redo_steps(journal: Journal, applied: Applied) -> list[StepRef]:
    """The steps that a redo of this plan is about, as they stand now."""
    return [record.ref for record in read_steps(journal, applied.runs) if _is_of(record, applied)]


def make_redo_share(
    journal: Journal,
    applied: Applied,
    steps: Collection[StepRef],
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int = 8,
) -> Plan:
    """As `make_redo_plan`, for no steps but these: what else is undone in their runs stays so."""
    records = read_steps(journal, {step.run_id for step in steps})
    return _planned(journal, applied, records, compensators, clock, parallel, only=frozenset(steps))


def _planned(
    journal: Journal,
    applied: Applied,
    records: Sequence[StepRecord],
    compensators: Mapping[str, Compensator],
    clock: Clock,
    parallel: int,
    only: frozenset[StepRef] | None = None,
) -> Plan:
    chosen = [record for record in records if _is_of(record, applied) and (only is None or record.ref in only)]
    refs = {record.ref for record in chosen}
    undone = [record for record in records if record.ref not in refs and record.disposition in UNDONE]
    mirror = Mirror([*chosen, *undone])
    return plan_of(
        journal,
        [mirror.of(record) for record in chosen],
        [mirror.of(record) for record in undone],
        mirrored(compensators),
        clock,
        parallel=parallel,
        selection={_REDO: applied.digest},
        given={record.ref: review for record in chosen if (review := _for_person(record)) is not None},
    )


def _is_of(record: StepRecord, applied: Applied) -> bool:
    return record.undone_by in applied.digests and _concerns(record)


def _concerns(record: StepRecord) -> bool:
    """Whether it is undone, may be again in effect, or is so by a redo."""
    return record.disposition in UNDONE or record.redo_open or (record.redone > 0 and record.disposition is None)


def _for_person(record: StepRecord) -> Review | None:
    """What of a step is known beforehand to be for a person (RD3)."""
    if record.disposition is Disposition.COMPENSATED:
        return Review(
            ReviewReason.COMPENSATED,
            "its effect was offset, and whether to have it again is no guess for a program",
        )
    if not isinstance(record.outcome, Completed) or record.after is None or not record.after.version:
        return Review(ReviewReason.NO_SNAPSHOT, "what the step had left at the target was not recorded")
    return None
