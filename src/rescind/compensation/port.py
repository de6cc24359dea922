"""The seam of an undo: what it asks of the guard that declared an action, and why it asks a person."""

import enum
from collections.abc import Awaitable
from typing import Protocol

from rescind.model.action import Action
from rescind.model.history import StepRecord
from rescind.model.probe import ProbeResult
from rescind.model.step import Arguments, Snapshot


class Compensator(Protocol):
    """A declared action that can look at the targets of its past steps, and undo them.

    Its methods may answer with an awaitable; all awaitables of one undo are awaited in one event loop.

    C1. `observe` changes nothing.
    C2. `undo` of a reversible step raises `Conflict` and changes nothing, if the target is at neither of the step's
        versions. It leaves a target alone that is at the `before` version already.
    C3. `undo` that raises `Transient` or `Conflict` has changed nothing.
    C4. With `parallel`, its methods may be called in several threads at once, for different targets. Without it they
        are called one at a time, also across all other actions that are not parallel: handlers of different actions
        may share a file.
    C5. C2 holds as well of a record with other snapshots: over a later change, `undo` is given the image to put there
        as `before`, and what `observe` has just seen as `after`.
    """

    @property
    def action(self) -> Action:
        """The action whose steps it undoes."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether several of its steps may be looked at and undone at once (C4)."""
        ...

    def accepts(self, arguments: Arguments) -> str:
        """Why past steps with these recorded arguments cannot be undone as the action is declared now; empty if so."""
        ...

    def observe(self, record: StepRecord) -> Snapshot | Awaitable[Snapshot | None] | None:
        """The step's target now (C1); None if nobody can look."""
        ...

    def undo(self, record: StepRecord, idempotency_key: str) -> Awaitable[None] | None:
        """Restore or compensate the step, whichever it was declared to be (C2, C3).

        Args:
            record: The step.
            idempotency_key: The same for every attempt at this step, whoever makes it; for the target system.

        Raises:
            Conflict: The target is not as the step left it.
            Transient: Nothing happened, and trying again may help.
            Exception: Anything else may have happened in part.
        """
        ...


class Prober(Protocol):
    """What a compensator can do whose action is `probed` (DT1-DT6 of `compensation.doubt`)."""

    def probe(self, record: StepRecord, idempotency_key: str) -> ProbeResult | Awaitable[ProbeResult]:
        """Ask the target system whether the effect of this key took place; changes nothing.

        Args:
            record: The step.
            idempotency_key: The step's own key or, if the action is `compensation_probed`, that of its compensation.

        Raises: Whatever it likes; that is as good as "cannot tell".
        """
        ...


class Merger(Protocol):
    """What a compensator can do whose action merges (CF1-CF3 of `compensation.conflict`)."""

    def merge(self, record: StepRecord, idempotency_key: str, now: Snapshot) -> Snapshot | Awaitable[Snapshot]:
        """What the target should become, so that nothing of the step and all of later changes is in it.

        Changes nothing.

        Raises:
            Conflict: The two cannot be told apart.
            Transient: Trying again may help.
        """
        ...


class ReviewReason(enum.StrEnum):
    """Why an undo leaves a step to a person."""

    IRREVERSIBLE = "irreversible"  # declared so, with a reason
    PAST_DEADLINE = "past_deadline"  # its compensation was allowed until a moment that has passed
    IN_DOUBT = "in_doubt"  # nobody knows whether the step, or its compensation, took effect
    CONFLICT = "conflict"  # the target is not as the step left it
    COMPENSATED = "compensated"  # of a redo: it was offset, and nobody can have it again by guess
    NO_SNAPSHOT = "no_snapshot"  # what was there before, or after, was not recorded
    CANNOT_LOOK = "cannot_look"  # looking at the target failed
    NOT_DECLARED = "not_declared"  # the application does not declare the action, or declares it otherwise
    CYCLE = "cycle"  # its declared dependencies lead back to it
    BLOCKED = "blocked"  # a step that depends on it could not be undone
    FAILED = "failed"  # its compensation failed, and the target is not as before

    @property
    def blocks(self) -> bool:
        """Whether the steps that the step depends on must wait for the person's decision.

        What can never be undone would block them for good, so it does not.
        """
        return self not in (ReviewReason.IRREVERSIBLE, ReviewReason.PAST_DEADLINE)


def idempotency_key_of(record: StepRecord) -> str:
    """The key of the step's compensation: the same in every attempt, by whomever; after a redo it is another effect."""
    again = f":{record.redone}" if record.redone else ""
    return f"undo:{record.run.run_id}:{record.step.step_id}{again}"
