"""A plan as a value: what is to be done about each step, in which order, and how one knows the same plan again."""

import enum
import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, get_args

import msgspec

from rescind.compensation.port import ReviewReason
from rescind.errors import PlanOutdated, UsageError
from rescind.model.action import OnConflict
from rescind.model.entry import Disposition, StepRef
from rescind.model.step import Target, canonical_json

_DIGESTED_AT_ONCE = 256  # Items of a plan: some 100 KB of JSON.


class Asks(enum.StrEnum):
    """What the target system is asked about when the step's turn comes: it must say what it said for the plan."""

    NOTHING = ""
    STEP = "step"  # whether the step took effect
    COMPENSATION = "compensation"  # whether its compensation did


class Restore(msgspec.Struct, frozen=True, gc=False, tag="restore", tag_field="do"):
    """Put back what was there.

    Attributes:
        leaves: The version that the target will be at; empty for a merge, since that is not known before.
        expects: The version that the target must be at, or nothing is done.
        note: What is special about it.
        policy: `force` or `merge`, if `expects` is a later change of somebody else's; else `review`.
        asks: By which answer this is planned.
    """

    leaves: str
    expects: str
    note: str = ""
    policy: OnConflict = OnConflict.REVIEW
    asks: Asks = Asks.NOTHING


class Compensate(msgspec.Struct, frozen=True, gc=False, tag="compensate", tag_field="do"):
    """Offset the effect. `note` says if this is a repetition under the same idempotency key."""

    note: str = ""
    asks: Asks = Asks.NOTHING


class Settle(msgspec.Struct, frozen=True, gc=False, tag="settle", tag_field="do"):
    """Nothing is to be undone; only the record is missing.

    With `expects`, that is a forecast: the target must be at this version when the step's turn comes, or a person has
    to look. With `asks`, the target system must say then what it said for the plan.
    """

    disposition: Disposition
    because: str
    expects: str = ""
    asks: Asks = Asks.NOTHING


class Review(msgspec.Struct, frozen=True, gc=False, tag="review", tag_field="do"):
    """A person has to decide."""

    reason: ReviewReason
    detail: str


class Drop(msgspec.Struct, frozen=True, gc=False, tag="drop", tag_field="do"):
    """Drop it: it is still held, and its tool has not run."""


class AlreadyUndone(msgspec.Struct, frozen=True, gc=False, tag="already_undone", tag_field="do"):
    """Nothing is to be done, and nothing to be recorded. `disposition` is where the step stands."""

    disposition: Disposition
    because: str


class AlreadyInReview(msgspec.Struct, frozen=True, gc=False, tag="already_in_review", tag_field="do"):
    """A person has been asked, and has not decided yet."""

    task_id: str
    reason: str


Decision = Restore | Compensate | Drop | Settle | Review | AlreadyUndone | AlreadyInReview

_UNDOES = (Restore, Compensate)  # written out in the function, it would be made anew for each of a plan's steps
_KINDS: dict[type[Decision], str] = {each: str(each.__struct_config__.tag) for each in get_args(Decision)}


def is_undo(decision: Decision) -> bool:
    """Whether it changes something at the target."""
    return isinstance(decision, _UNDOES)


def forced_over(decision: Decision) -> str | None:
    """The version of somebody else's that it overwrites, because an approver wants it; None if it does not."""
    if isinstance(decision, Restore) and decision.policy is OnConflict.FORCE:
        return decision.expects
    return None


def is_work(decision: Decision) -> bool:
    """Whether a handler has to be called for it, so that it has to wait for its turn."""
    return is_undo(decision) or (isinstance(decision, Settle) and (decision.expects, decision.asks) != ("", ""))


def blocks(decision: Decision) -> bool:
    """Whether the step's effect may stay for now, so that what it was declared to depend on must stay too."""
    match decision:
        case Review(reason):
            return reason.blocks
        case AlreadyInReview(reason=reason):
            return reason not in (ReviewReason.IRREVERSIBLE, ReviewReason.PAST_DEADLINE)
        case _:
            return False


class Gate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A set of steps that others wait for together: all of them, and all behind the gate `beyond`.

    A gate keeps "each of these 5,000 depends on all earlier ones of those 5,000" from being 12 million edges.
    """

    steps: tuple[StepRef, ...]
    beyond: int | None = None


class PlanItem(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is to be done about one step.

    Attributes:
        step: The step.
        action: The name of its action.
        target: What it touched.
        decision: What is to be done.
        waits_for: Steps of this plan that must be finished first, in the order of the plan.
        blocks_on: Those of them whose compensation must have succeeded: they were declared to depend on this step.
        gates: Indexes of gates in the plan, each as good as many of `blocks_on`.
        intended_sequence: Where in the journal the step was intended.
        outcome: `completed`, `failed`, `unknown` or `none`.
        attempts: Compensations intended before this plan.
        earlier_task: The review task that asked for another try; None if there was none.
        superseded: Whether an earlier undo has left it as superseded, and this one has something to do about it (CF5).
    """

    step: StepRef
    action: str
    target: Target | None
    decision: Decision
    waits_for: tuple[StepRef, ...] = ()
    blocks_on: tuple[StepRef, ...] = ()
    gates: tuple[int, ...] = ()
    intended_sequence: int
    outcome: str
    attempts: int = 0
    earlier_task: str | None = None
    superseded: bool = False


class Dependents(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The later steps of the journal that depend on what a plan undoes, and that no undo has dealt with.

    Attributes:
        steps: How many.
        runs: Their runs, sorted.
        taken: Whether they are in the plan: it was asked for with a cascade.
        looked: Whether anybody has looked; with too many entries since then, only a cascade and `impact` do.
        reads_missing: Whether reads are known to be missing in the journal, or entries cannot be read, so that there
            may be more.
    """

    steps: int = 0
    runs: tuple[str, ...] = ()
    taken: bool = False
    looked: bool = True
    reads_missing: bool = False


class Plan(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Every step in scope, once, in the order in which a single worker takes them.

    Attributes:
        digest: SHA-256 over all that the plan would do; equal digests do the same in the same order.
        items: What is to be done, the newest of what may be next always first.
        gates: See `Gate`.
        tenant: The tenant of all steps; empty if they have several or none.
        selection: What was asked for, for the record.
        dependents: What depends on these steps, for people: no part of the digest, since others go on meanwhile.
    """

    digest: str
    items: tuple[PlanItem, ...]
    gates: tuple[Gate, ...] = ()
    tenant: str = ""
    selection: dict[str, Any] = {}
    dependents: Dependents = Dependents()

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs whose steps are in the plan, sorted."""
        return tuple(sorted({item.step.run_id for item in self.items}))

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do: every step is undone, or waits for a person."""
        return all(isinstance(item.decision, AlreadyUndone | AlreadyInReview) for item in self.items)

    @property
    def counts(self) -> dict[str, int]:
        """Items by kind of decision, such as `restore`; kinds without items are left out."""
        return dict(sorted(Counter(kind_of(item.decision) for item in self.items).items()))


def refuse_forced_without_reason(plan: Plan, reason: str) -> None:
    """Check that a plan which overwrites later changes has a reason. Raises: UsageError, and nothing was done."""
    if not reason.strip() and any(forced_over(item.decision) is not None for item in plan.items):
        raise UsageError("the plan overwrites later changes of somebody else's; that takes a reason: why may they go?")


def kind_of(decision: Decision) -> str:
    """The decision's name in JSON: `restore`, `compensate`, `settle`, `review`, `already_undone`, …."""
    return _KINDS[type(decision)]


def digest_of_plan(items: Iterable[PlanItem], gates: Iterable[Gate]) -> str:
    """The digest of a plan with these items and gates.

    Words for people stay out of it: the text of a target's exception may name an address that changes at each look,
    and a plan that is never the same twice could never be applied.
    """
    # The canonical JSON of [items, gates], some items at a time: as one text it would be as large as the plan.
    digest = hashlib.sha256(b"[[")
    rest = iter(items)
    comma = b""
    while some := [_essence(item) for item in islice(rest, _DIGESTED_AT_ONCE)]:
        digest.update(comma + canonical_json(some)[1:-1])
        comma = b","
    digest.update(b"]," + canonical_json(list(gates)) + b"]")
    return digest.hexdigest()


def _essence(item: PlanItem) -> list[Any]:
    match item.decision:
        case Restore(leaves, expects, policy=policy, asks=asks):
            special = [] if policy is OnConflict.REVIEW else [policy.value]
            facts = [leaves, expects, *special, *_asked(asks)]
        case Compensate(asks=asks):
            facts = _asked(asks)
        case Drop() | AlreadyInReview():
            facts = []
        case Settle(disposition, _, expects, asks):
            facts = [disposition.value, expects, *_asked(asks)]
        case AlreadyUndone(disposition):
            facts = [disposition.value]
        case Review(reason):
            facts = [reason.value]
    return [
        item.step,
        item.action,
        item.target,
        kind_of(item.decision),
        facts,
        item.waits_for,
        item.blocks_on,
        item.gates,
        item.outcome,
        item.attempts,
        item.earlier_task,
    ]


def _asked(asks: Asks) -> list[str]:
    return [] if asks is Asks.NOTHING else [asks.value]


def check_digest(plan: Plan, shown: str) -> None:
    """Check that the plan is the one that was shown; `shown` may be the digest's beginning, of 8 characters or more.

    Raises: PlanOutdated, if it is another one; nothing was done then.
    """
    if len(shown) < 8 or not plan.digest.startswith(shown.lower()):
        raise PlanOutdated(shown=shown, current=plan.digest)
