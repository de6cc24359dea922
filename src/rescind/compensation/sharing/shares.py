"""A plan in shares: what may be undone apart, in pieces that are worth a worker's while. Pure.

SH1. *Apart.* What waits for something, or is blocked by it, is in one share with it.
SH2. *All of it.* Every step of the plan is in one share, except where a whole group is settled already.
SH3. *The same again.* A share has the digest of what is to be done about its steps, in whatever order it is planned.
SH4. *Alone means alone.* Steps whose handlers were not declared parallel are never in a share with only parallel ones:
    the shares that hold them are carried out one after the other.
SH5. *Only what was shown* (CF2). A share says which versions of somebody else's its restores may overwrite. Whoever
    carries it out plans anew, and what he would overwrite then and is not among them goes to a person.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence

import msgspec

from rescind.compensation.conflict import superseded
from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Plan,
    PlanItem,
    Review,
    digest_of_plan,
    forced_over,
    is_undo,
)
from rescind.compensation.port import ReviewReason
from rescind.model.entry import Disposition, PlanShare, StepRef
from rescind.recovery.toolset import ToolInfo

SHARE_STEPS_MIN, SHARES_MAX = 25, 32
"""A share costs some 20 ms beside its steps, and reads the runs that its steps are in; so there are few of them."""

SHARES_PER_WORKER = 4
"""So that of two workers the quicker one has something left to take from the slower one."""


def split(
    plan: Plan,
    tools: Mapping[str, ToolInfo],
    *,
    workers: int,
    able: Callable[[frozenset[str]], Hashable] = lambda actions: None,
) -> tuple[PlanShare, ...]:
    """The shares of a plan, those with its first steps first.

    Args:
        plan: The plan.
        tools: The declared actions of its steps.
        workers: How many there are to share it.
        able: Who can carry out these actions; what cannot be done by the same is not put together.
    """
    groups: dict[tuple[bool, Hashable], list[list[PlanItem]]] = defaultdict(list)
    for component in components(plan):
        if not all(isinstance(item.decision, AlreadyUndone | AlreadyInReview) for item in component):
            actions = frozenset(item.action for item in component if item.action in tools)
            alone = any(not tools[action].parallel for action in actions)
            groups[alone, able(actions)].append(component)
    size = max(SHARE_STEPS_MIN, -(-len(plan.items) // min(SHARES_MAX, SHARES_PER_WORKER * max(1, workers))))
    shares: list[PlanShare] = []
    for (alone, _), parts in groups.items():
        for items in _packed(parts, size):
            needed = tuple(sorted({item.action for item in items if item.action in tools}))
            steps = tuple(item.step for item in items)
            overwritten = ((item.step, forced_over(item.decision)) for item in items)
            share = PlanShare(
                plan_digest=plan.digest,
                number=len(shares),
                digest=digest_of_share(items),
                steps=steps,
                left=tuple(place for place, item in enumerate(items) if isinstance(item.decision, Review)),
                actions=needed,
                alone=alone,
                forces=forces_at(steps, {step: version for step, version in overwritten if version is not None}),
                superseded=places_of(steps, {item.step for item in items if item.superseded}),
            )
            shares.append(share)
    return tuple(shares)


def components(plan: Plan) -> list[list[PlanItem]]:
    """The plan's items in groups that nothing connects (SH1): both in the order of the plan."""
    leader: dict[StepRef | int, StepRef | int] = {item.step: item.step for item in plan.items}
    leader |= {index: index for index in range(len(plan.gates))}

    def find(each: StepRef | int) -> StepRef | int:
        while leader[each] != each:
            leader[each] = leader[leader[each]]
            each = leader[each]
        return each

    for item in plan.items:
        for other in (*item.waits_for, *item.blocks_on, *item.gates):
            if other in leader:
                leader[find(other)] = find(item.step)
    for index, gate in enumerate(plan.gates):
        for other in (*gate.steps, *(() if gate.beyond is None else (gate.beyond,))):
            if other in leader:
                leader[find(other)] = find(index)
    found: dict[StepRef | int, list[PlanItem]] = {}
    for item in plan.items:
        found.setdefault(find(item.step), []).append(item)
    return list(found.values())


def digest_of_share(items: Iterable[PlanItem]) -> str:
    """What is to be done about these steps (SH3). In which order is said by the journal and by the declarations."""
    apart = [msgspec.structs.replace(item, waits_for=(), blocks_on=(), gates=()) for item in items]
    return digest_of_plan(sorted(apart, key=lambda item: item.step), ())


def held_to(share: PlanShare, fresh: Plan, digest: str) -> Plan:
    """A share as it is planned now, held to what was shown.

    What was left to a person then is not undone now, and nothing is overwritten but what was shown (SH5). It has the
    digest of the whole plan, which is what its records name.
    """
    left = {share.steps[place] for place in share.left}
    forced = {share.steps[place]: version for place, version in share.forces or ()}
    again = superseded_of([share])

    def held(item: PlanItem) -> PlanItem:
        if item.step in left and is_undo(item.decision):
            return msgspec.structs.replace(item, decision=_CHANGED)
        if forced_over(item.decision) not in (None, forced.get(item.step)):
            return msgspec.structs.replace(item, decision=_CHANGED_AGAIN)
        if (
            item.step in again
            and isinstance(item.decision, AlreadyUndone)
            and item.decision.disposition is Disposition.SUPERSEDED
        ):
            return msgspec.structs.replace(item, decision=superseded(), superseded=True)
        return item

    return msgspec.structs.replace(fresh, items=tuple(map(held, fresh.items)), digest=digest)


def forced_of(shares: Iterable[PlanShare]) -> dict[StepRef, str]:
    """The steps whose restore overwrites a later change, each with the version that may be overwritten."""
    return {share.steps[place]: version for share in shares for place, version in share.forces or ()}


def forces_at(
    steps: Sequence[StepRef], versions: Mapping[StepRef, str]
) -> tuple[tuple[int, str], ...] | msgspec.UnsetType:
    """What a share of these steps says of the versions that may be overwritten."""
    return tuple((place, versions[step]) for place, step in enumerate(steps) if step in versions) or msgspec.UNSET


def superseded_of(shares: Iterable[PlanShare]) -> frozenset[StepRef]:
    """The steps that an earlier undo has left as superseded, and that these shares undo (CF5)."""
    return frozenset(share.steps[place] for share in shares for place in share.superseded or ())


def places_of(steps: Sequence[StepRef], some: Container[StepRef]) -> tuple[int, ...] | msgspec.UnsetType:
    """The places of some steps in a share of these steps; unset if there are none."""
    return tuple(place for place, step in enumerate(steps) if step in some) or msgspec.UNSET


_CHANGED = Review(
    ReviewReason.CONFLICT,
    "the plan that was shown leaves it to a person; its target has changed since then, so plan again to undo it",
)


_CHANGED_AGAIN = Review(
    ReviewReason.CONFLICT,
    "the target was changed since the plan was shown, and not as it says; plan again to overwrite that, too",
)


def _packed(parts: Iterable[list[PlanItem]], size: int) -> Iterable[list[PlanItem]]:
    here: list[PlanItem] = []
    for part in parts:
        if here and len(here) + len(part) > size:
            yield here
            here = []
        here.extend(part)
    if here:
        yield here
