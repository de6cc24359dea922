"""The course of an incident, folded from its run: which stages are done, what waits for whom, what was found.

    contain ─▶ snapshot ─▶ classify ─▶ (a person) compensate ─▶ reconcile ─▶ (a person) resume

A stage is done if it was after everything before it: classifying again makes everything after it be done again.
"""

import enum
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from rescind.model.entry import Entry, StageApproved, StageEnded


class Stage(enum.StrEnum):
    """The stages, in order."""

    CONTAIN = "contain"
    SNAPSHOT = "snapshot"
    CLASSIFY = "classify"
    COMPENSATE = "compensate"
    RECONCILE = "reconcile"
    RESUME = "resume"


STAGES = tuple(Stage)

GATED = (Stage.COMPENSATE, Stage.RESUME)
"""Stages that begin only once somebody has let them."""

DONE, FAILED = "done", "failed"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a stage ended last."""

    how: str
    detail: str
    at: datetime
    actor: str
    facts: dict[str, Any]


class Approved(msgspec.Struct, frozen=True, kw_only=True):
    """Who let a stage begin."""

    subject: str
    actor: str
    at: datetime
    note: str


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """Where the course of an incident stands.

    Attributes:
        ended: How each stage ended last, for those that came to an end after all that stand before them.
        approved: Who let gated stages begin, for what is to be done now.
        length: Events in the incident's run; the position that the next one gets.
    """

    ended: dict[Stage, Ended]
    approved: dict[Stage, Approved]
    length: int

    @property
    def next(self) -> Stage | None:
        """The stage to do now; None if all are done."""
        return next((stage for stage in STAGES if not self.is_done(stage)), None)

    @property
    def is_begun(self) -> bool:
        """Whether anything was done."""
        return bool(self.ended)

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage is done, and nothing before it was done again since."""
        return stage in self.ended and self.ended[stage].how == DONE

    def fact(self, stage: Stage, name: str) -> Any:
        """What the stage found, when it was done last; None if it was not, or has not said."""
        return self.ended[stage].facts.get(name) if self.is_done(stage) else None

    def subject_of(self, stage: Stage) -> str:
        """What has to be approved for a gated stage to begin: the plan's digest; or what was reconciled."""
        digest = self.fact(Stage.CLASSIFY, "digest")
        return str(digest or "")

    def waits_for_approval(self, stage: Stage) -> bool:
        """Whether somebody has to let it begin, and nobody has."""
        if stage not in GATED:
            return False
        approval = self.approved.get(stage)
        return approval is None or approval.subject != self.subject_of(stage)


def fold_course(entries: Iterable[Entry]) -> Course:
    """The course that the entries of one incident's run tell of."""
    ended: dict[Stage, Ended] = {}
    approved: dict[Stage, Approved] = {}
    length = 0
    for entry in entries:
        length = entry.position + 1
        match entry.event:
            case StageEnded(stage=name) as event if name in Stage._value2member_map_:
                stage = Stage(name)
                for later in STAGES[STAGES.index(stage) :]:
                    ended.pop(later, None)
                ended[stage] = Ended(
                    how=event.how, detail=event.detail, at=entry.recorded_at, actor=event.actor, facts=event.facts
                )
            case StageApproved(stage=name) as event if name in Stage._value2member_map_:
                approved[Stage(name)] = Approved(
                    subject=event.subject, actor=event.actor, at=entry.recorded_at, note=event.note
                )
            case _:
                pass
    return Course(ended=ended, approved=approved, length=length)
