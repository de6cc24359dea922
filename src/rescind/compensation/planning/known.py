"""What a plan is made from, besides its steps: the declared actions, what was seen, and what was asked and decided."""

from collections.abc import Collection, Container, Mapping, Sequence
from datetime import datetime

import msgspec

from rescind.compensation.decision import Asks, Review
from rescind.model.action import Action
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.model.probe import ProbeResult
from rescind.model.step import Snapshot, Target


class Observation(msgspec.Struct, frozen=True, gc=False):
    """What a look at a step's target gave: a version, or why there is none."""

    version: str = ""
    problem: str = ""

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> "Observation":
        """What this snapshot says."""
        if snapshot is None or not snapshot.version:
            return cls(problem="its effect cannot tell the target's version")
        return cls(version=snapshot.version)


class ForeignStep(msgspec.Struct, frozen=True):
    """A step at a target of the plan that is not in the plan."""

    ref: StepRef
    agent: str
    intended_sequence: int


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan is made from, besides the steps.

    Attributes:
        actions: The declared actions by name.
        observations: What was seen for some of the steps: at least for the newest of each action at each target.
        now: The time that deadlines are held against.
        foreign_steps: Steps of others, by target, in order; needed only to explain conflicts.
        retried_tasks: Review tasks that were resolved with `retry`; their steps are planned again.
        settled_tasks: Review tasks that a person resolved otherwise.
        outside: Steps of the same runs that are not in scope, in order of intent; what they depend on stays (U5).
        misfits: For steps that their action cannot undo as it is declared now: why.
        given: What is known beforehand to be for a person, and why.
        probes: What target systems said when they were asked about steps, or compensations, in doubt.
        live_runs: Ids of runs that a living process acts for: what has not happened there may still happen.
        may_force: Whether later changes may be overwritten where their action allows it.
    """

    actions: Mapping[str, Action]
    observations: Mapping[StepRef, Observation]
    now: datetime
    foreign_steps: Mapping[Target, Sequence[ForeignStep]] = {}
    retried_tasks: Collection[str] = frozenset()
    settled_tasks: Collection[str] = frozenset()
    outside: Sequence[StepRecord] = ()
    misfits: Mapping[StepRef, str] = {}
    given: Mapping[StepRef, Review] = {}
    probes: Mapping[tuple[StepRef, Asks], ProbeResult] = {}
    live_runs: Container[str] = ()
    may_force: bool = False

    def version_seen(self, ref: StepRef) -> str | None:
        """At which version the step's target was seen; None if nobody has looked, empty if no version was seen."""
        observation = self.observations.get(ref)
        return observation.version if observation else None
