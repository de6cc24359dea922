"""The mirror in which a redo is an undo: its steps, its actions, and what is said of them. The laws are in `redo`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from rescind.compensation.port import Compensator
from rescind.model.action import Action, EffectClass
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    Disposition,
    Event,
    RedoEnded,
    RedoIntended,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from rescind.model.step import Arguments, Snapshot

UNDONE = (Disposition.RESTORED, Disposition.COMPENSATED)
"""The ends of steps that a redo can be about."""


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
    elif record.disposition not in UNDONE and not record.redo_open:
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


class Mirror:
    """Steps in the mirror, with what they have to do with each other, the other way round."""

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
        """The step in the mirror, with its dependences and causes."""
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
