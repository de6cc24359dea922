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

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.clock import Clock
from rescind.compensation.decision import Plan, Review
from rescind.compensation.planning.selection import read_steps
from rescind.compensation.planning.survey import plan_of
from rescind.compensation.port import Compensator, ReviewReason
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.pages import readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.action import Action, EffectClass
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    Disposition,
    Event,
    PlanFinished,
    PlanStarted,
    RedoEnded,
    RedoIntended,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.recovery.control import UNDO_AGENT, plan_run_id
from rescind.recovery.reading import the_one_meant

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from rescind.model.step import Arguments, Snapshot

_REDO = "redo"
"""What the selection of a redo says, in place of conditions: the digest of the undo."""

_UNDONE = (Disposition.RESTORED, Disposition.COMPENSATED)


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
    """The plan, and those that went on with it: of the same selection and steps, until one of them was finished."""
    family: set[str] = set()
    shape: tuple[object, ...] | None = None
    for name, plan in story:
        if plan is not None and (name == digest or shape == _shape(plan)):
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
    undone = [record for record in records if record.ref not in refs and record.disposition in _UNDONE]
    mirror = _Mirror([*chosen, *undone])
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
    return record.disposition in _UNDONE or record.redo_open or (record.redone > 0 and record.disposition is None)


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


class Forth:
    """A redo: steps are seen in the mirror, and what is done about them is said as a redo."""

    def see(self, record: StepRecord) -> StepRecord:
        """See `Way`."""
        return mirror_of(record)

    def say(self, event: Event) -> Event:
        """See `Way`."""
        match event:
            case CompensationIntended():
                return RedoIntended(
                    step_id=event.step_id,
                    idempotency_key=redo_key(event.idempotency_key),
                    plan_digest=event.plan_digest,
                    attempt=event.attempt,
                )
            case CompensationEnded():
                return RedoEnded(
                    step_id=event.step_id,
                    plan_digest=event.plan_digest,
                    redone=event.disposition is not Disposition.REVIEW,
                    reason=event.reason,
                    detail=event.detail,
                    task_id=event.task_id,
                )
            case _:
                return event

    def hear(self, event: Event) -> CompensationEnded | None:
        """See `Way`."""
        if not isinstance(event, RedoEnded):
            return None
        return CompensationEnded(
            step_id=event.step_id,
            disposition=Disposition.RESTORED if event.redone else Disposition.REVIEW,
            plan_digest=event.plan_digest,
            reason=event.reason,
            detail=event.detail,
            task_id=event.task_id,
            by=event.by,
        )


FORTH = Forth()


def redo_key(undo_key: str) -> str:
    """The idempotency key of the redo of what was undone under this one."""
    return f"redo:{undo_key.removeprefix('undo:')}"


def mirror_of(record: StepRecord) -> StepRecord:
    """The step in the mirror, by itself: without what it has to do with others."""
    step = record.step
    end = record.intended_sequence if record.ended_sequence is None else record.ended_sequence
    disposition: Disposition | None = None
    if record.redo_task is not None and not record.redo_open:
        disposition = Disposition.REVIEW
    elif record.disposition not in _UNDONE and not record.redo_open:
        disposition = Disposition.RESTORED  # in effect, so that there is nothing to do
    return StepRecord(
        run=record.run,
        step=msgspec.structs.replace(
            step,
            before=record.after,
            causal_parents=(),
            depends_on=(),
            compensation=None,
            held=msgspec.UNSET,
        ),
        intended_sequence=-end,
        intended_at=record.intended_at,
        ended_sequence=-record.intended_sequence,
        ended_at=record.ended_at,
        outcome=Completed(),
        after=step.before,
        compensation_attempts=record.compensation_attempts,
        compensation_open=record.redo_open,
        disposition=disposition,
        disposition_reason=record.redo_reason if disposition is Disposition.REVIEW else "",
        task_id=record.redo_task,
        redone=record.redone,
    )


class _Mirror:
    """Steps with what they have to do with each other, the other way round."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        known = {record.ref: record for record in records}
        self._depends: defaultdict[StepRef, list[str]] = defaultdict(list)
        self._causes: defaultdict[StepRef, list[str]] = defaultdict(list)
        for record in known.values():
            for names, found in ((record.step.depends_on, self._depends), (record.step.causal_parents, self._causes)):
                for name in names:
                    earlier = _find(known, record.run.run_id, name)
                    if earlier is not None:
                        found[earlier].append(_name(record.ref, seen_from=earlier.run_id))

    def of(self, record: StepRecord) -> StepRecord:
        mirrored = mirror_of(record)
        mirrored.step = msgspec.structs.replace(
            mirrored.step,
            depends_on=tuple(self._depends[record.ref]),
            causal_parents=tuple(self._causes[record.ref]),
        )
        return mirrored


def _find(known: Mapping[StepRef, StepRecord], run_id: str, name: str) -> StepRef | None:
    other, _, step_id = name.rpartition("/")
    return next((ref for ref in (StepRef(run_id, name), StepRef(other, step_id)) if ref in known), None)


def _name(ref: StepRef, *, seen_from: str) -> str:
    return ref.step_id if ref.run_id == seen_from else str(ref)


class _Mirrored:
    """A declared action whose restore puts the mirrored step's `before` back: what the step had left."""

    def __init__(self, compensator: Compensator, action: Action) -> None:
        self._compensator, self.action, self.parallel = compensator, action, compensator.parallel

    def accepts(self, arguments: "Arguments") -> str:
        return self._compensator.accepts(arguments)

    def observe(self, record: StepRecord) -> "Snapshot | Awaitable[Snapshot | None] | None":
        return self._compensator.observe(record)

    def undo(self, record: StepRecord, idempotency_key: str) -> "Awaitable[None] | None":
        assert self.action.effect_class is EffectClass.REVERSIBLE, "a redo compensates nothing (RD3)"
        return self._compensator.undo(record, redo_key(idempotency_key))


def mirrored(compensators: Mapping[str, Compensator]) -> dict[str, Compensator]:
    """The declared actions in the mirror, where `after` leads the other way."""
    after: defaultdict[str, list[str]] = defaultdict(list)
    for name, each in compensators.items():
        for earlier in each.action.after:
            after[earlier].append(name)
    # A policy for conflicts is about somebody's later change to what an agent left, and says nothing of this.
    return {
        name: _Mirrored(
            each,
            Action(
                name=name,
                effect_class=each.action.effect_class,
                irreversible_because=each.action.irreversible_because,
                after=tuple(sorted(after[name])),
            ),
        )
        for name, each in compensators.items()
    }
