"""What each stage of an incident's course does.

Each returns how it ended, and may be repeated at any time (IC2). The laws are those of `course`, which records ends.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Mapping
from typing import Any

import msgspec

from rescind.clock import Clock, IdSource
from rescind.compensation.decision import AlreadyInReview, AlreadyUndone, Plan, Review
from rescind.compensation.execution.account import Progress
from rescind.compensation.execution.comparison import compare_settled
from rescind.compensation.execution.execute import NO_LIMITS, apply_plan
from rescind.compensation.execution.limits import Limits
from rescind.compensation.planning.plan import outcome_word
from rescind.compensation.planning.selection import Selection, read_steps
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.port import Compensator
from rescind.containment.incident import note
from rescind.containment.timeline import Incident
from rescind.errors import (
    EntryUnreadable,
    UsageError,
)
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import PlanStarted, StageEnded
from rescind.model.level import Level
from rescind.model.order import Order, covering
from rescind.model.scope import Scope, Term
from rescind.model.signal import SignalKind
from rescind.recovery.appliers import Appliers
from rescind.recovery.checkpoint import read_story
from rescind.recovery.control import plan_run_id
from rescind.recovery.resume import choose
from rescind.recovery.review import list_tasks
from rescind.recovery.stages import DONE, FAILED, Course, Stage
from rescind.switch.port import Orders

RECOVERY_ACTOR = "rescind-recovery"

_NAMED_MAX = 3  # Targets named in a sentence; more are counted.


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What a course is driven with.

    Attributes:
        journal: Where everything is.
        orders: Where runs are contained.
        compensators: The application's declared writes by name.
        invariants: What must hold: for each, by name, what does not hold now, or an empty text.
        clock: The time.
        ids: New names.
        actor: Who drives it.
        parallel, retries, limits: As for `apply_plan`.
        compensate_on: Kinds of signal on which compensation may start without a person, as the policy names them.
        progress: Told each result of the undo.
        live_runs: Looks which runs a living process acts for, as for `make_plan`; asked anew for every plan.
        is_leaving: Whether to begin no more steps of an undo, as for `apply_plan`; driving it again goes on with it.
        appliers: As for `apply_plan`.
    """

    journal: Journal
    orders: Orders
    compensators: Mapping[str, Compensator]
    invariants: Mapping[str, Callable[[], str]]
    clock: Clock
    ids: IdSource
    actor: str
    parallel: int = 8
    retries: int = 3
    limits: Limits = NO_LIMITS
    compensate_on: frozenset[SignalKind] = frozenset()
    progress: Progress | None = None
    live_runs: Callable[[], Container[str]] = tuple
    is_leaving: Callable[[], bool] = lambda: False
    appliers: Appliers | None = None


def runs_of(incident: Incident) -> tuple[str, ...]:
    """The runs at which it was noticed, by first mention."""
    named = (str(line.facts.get("run_id", "")) for line in incident.of("signal"))
    return tuple(dict.fromkeys(filter(None, named)))


def _contain(incident: Incident, course: Course, means: Means) -> StageEnded:
    """Every run that is not held already is held at read-only, by an order that names the incident."""
    ordered: list[str] = []
    standing = means.orders.standing().orders
    for run_id in runs_of(incident):
        run = means.journal.run(run_id)
        if run is None or any(order.level >= Level.READ_ONLY for order in covering(standing, run.subject, "")):
            continue
        order = _order_for(incident, run_id)
        means.orders.place(order)
        what = f"{order.level.label} on {order.scope}"
        note(means.journal, incident.incident_id, "order", order.order_id, what, clock=means.clock, actor=order.actor)
        ordered.append(order.order_id)
    runs = runs_of(incident)
    held = f"{len(runs)} runs are held" if len(runs) != 1 else "its run is held"
    detail = f"{held}, {len(ordered)} by new orders"
    return _ended(incident, Stage.CONTAIN, means, detail, orders=ordered, runs=list(runs))


def _order_for(incident: Incident, run_id: str) -> Order:
    # Everything of it follows from the incident, so that placing it again is placing the same one.
    name = hashlib.sha256(f"{incident.incident_id} {run_id}".encode()).hexdigest()[:19]
    return Order(
        order_id=f"ord_{name}",
        scope=Scope((Term("run", run_id),)),
        level=Level.READ_ONLY,
        reason=f"incident {incident.incident_id}: {incident.title}"[:500],
        actor=RECOVERY_ACTOR,
        placed_at=incident.opened_at,
        cause=incident.incident_id,
    )


def _snapshot(incident: Incident, course: Course, means: Means) -> StageEnded:
    """The state of its runs, and the end of each one's chain: what came later is not what was looked at."""
    found: dict[str, Any] = {}
    unread = _unread(incident, means)
    for run_id in runs_of(incident):
        head = means.journal.head(run_id)
        if head is None:
            continue
        if run_id in unread:
            found[run_id] = {"position": head.position, "hash": head.hash, "steps": {}, "unread": unread[run_id]}
            continue
        outcomes = Counter(outcome_word(record) for record in read_steps(means.journal, (run_id,)))
        found[run_id] = {"position": head.position, "hash": head.hash, "steps": dict(sorted(outcomes.items()))}
    steps = sum(sum(each["steps"].values()) for each in found.values())
    detail = f"{_count(len(found), 'run')} with {_count(steps, 'step')}"
    return _ended(incident, Stage.SNAPSHOT, means, detail, runs=found)


def _classify(incident: Incident, course: Course, means: Means) -> StageEnded:
    """What would be done about each of their steps, and what does not hold now."""
    unread = _unread(incident, means)
    plan = _plan(incident, means, unread)
    broken = _broken(means)
    reviews = Counter(item.decision.reason.value for item in plan.items if isinstance(item.decision, Review))
    detail = ", ".join(f"{count} {kind}" for kind, count in plan.counts.items()) or "no steps"
    detail += "".join(f"; nothing of run {run_id}: {why}" for run_id, why in unread.items())
    return _ended(
        incident,
        Stage.CLASSIFY,
        means,
        detail,
        digest=plan.digest,
        counts=plan.counts,
        reviews=dict(sorted(reviews.items())),
        invariants=broken,
    )


def _compensate(incident: Incident, course: Course, means: Means) -> StageEnded:
    """The plan that was approved, or the rest of it; another one is classified again."""
    approved = course.approved[Stage.COMPENSATE]
    known: list[str] = course.fact(Stage.CONTAIN, "runs") or []
    more = [run_id for run_id in runs_of(incident) if run_id not in known]
    if more:  # it was noticed at further runs since, which nothing holds
        again = _contain(incident, course, means)
        return msgspec.structs.replace(again, detail=f"noticed at {len(more)} more since: {again.detail}")
    plan = _plan(incident, means, _unread(incident, means))
    if plan.digest != approved.subject and not _is_rest_of(means.journal, plan, approved.subject):
        again = _classify(incident, course, means)
        return msgspec.structs.replace(again, detail=f"changed since it was approved: {again.detail}")
    result = apply_plan(
        plan,
        means.journal,
        means.compensators,
        means.clock,
        means.ids,
        parallel=means.parallel,
        retries=means.retries,
        limits=means.limits,
        actor=approved.actor,
        reason=f"incident {incident.incident_id}",
        progress=means.progress,
        is_leaving=means.is_leaving,
        appliers=means.appliers,
    )
    detail = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in result.counts.items()) or "no steps"
    how = DONE if result.is_complete else FAILED
    facts: dict[str, Any] = {"counts": result.counts, "digest": plan.digest, "tasks": list(result.tasks)}
    return _ended(incident, Stage.COMPENSATE, means, detail, how=how, **facts)


def _reconcile(incident: Incident, course: Course, means: Means) -> StageEnded:
    """Whether every step is accounted for, and everything holds that held before (IC4)."""
    unread = _unread(incident, means)
    plan = _plan(incident, means, unread)
    settled = (AlreadyUndone, AlreadyInReview)
    left = sum(not isinstance(item.decision, settled) for item in plan.items)
    if left:  # a person asked for another try, or somebody wrote in between: it is planned, and asked for, again
        again = _classify(incident, course, means)
        return msgspec.structs.replace(again, detail=f"{_count(left, 'step')} to be undone yet: {again.detail}")
    problems = [f"nothing of run {run_id} was undone: {why}" for run_id, why in unread.items()]
    problems += _differences(plan, course, means)
    problems += [f"{name}: {problem}" for name, problem in _worse(course, means).items()]
    steps = {item.step for item in plan.items}
    waiting = [task.task_id for task in list_tasks(means.journal) if not steps.isdisjoint(task.steps)]
    if waiting:
        problems.append(f"{_count(len(waiting), 'review task')} left to a person: {', '.join(waiting[:3])}")
    detail = "; ".join(problems) or "every step is accounted for, and everything holds that held before"
    how = FAILED if problems else DONE
    return _ended(incident, Stage.RECONCILE, means, detail, how=how, invariants=_broken(means), tasks=waiting[:100])


def _resume(incident: Incident, course: Course, means: Means) -> StageEnded:
    """From where each run could be carried on; a person does it (IC5)."""
    found: dict[str, str] = {}
    for run_id in runs_of(incident):
        try:
            found[run_id] = choose(read_story(means.journal, run_id)).boundary.name
        except UsageError as error:
            found[run_id] = f"none: {error}"
    safe = sum(not name.startswith("none") for name in found.values())
    detail = f"{safe} of {_count(len(found), 'run')} can be carried on"
    return _ended(incident, Stage.RESUME, means, detail, checkpoints=found)


STAGES: Mapping[Stage, Callable[[Incident, Course, Means], StageEnded]] = {
    Stage.CONTAIN: _contain,
    Stage.SNAPSHOT: _snapshot,
    Stage.CLASSIFY: _classify,
    Stage.COMPENSATE: _compensate,
    Stage.RECONCILE: _reconcile,
    Stage.RESUME: _resume,
}
"""What is done in each stage. Raises: as `course.drive`."""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _unread(incident: Incident, means: Means) -> dict[str, str]:
    """Its runs of which an entry cannot be read, and why: what they did is not guessed, and the others are undone."""
    found: dict[str, str] = {}
    for run_id in runs_of(incident):
        gaps: list[EntryUnreadable] = []
        for _ in readable_entries(means.journal, Query(run_id=run_id), gaps):
            pass
        if gaps:
            found[run_id] = str(gaps[0])
    return found


def _plan(incident: Incident, means: Means, unread: Mapping[str, str]) -> Plan:
    runs = tuple(run_id for run_id in runs_of(incident) if run_id not in unread)
    if unread and not runs:
        raise UsageError(f"what its runs did cannot be told, so nothing is undone: {'; '.join(unread.values())}")
    if not runs:
        raise UsageError(
            f"no signal of incident {incident.incident_id} names a run, so nothing shows what to undo; undo by agent "
            "and time with `rescind undo`, and close the incident"
        )
    return make_plan(
        means.journal,
        Selection(run_ids=runs),
        means.compensators,
        means.clock,
        parallel=means.parallel,
        live_runs=means.live_runs(),
    )


def _differences(plan: Plan, course: Course, means: Means) -> list[str]:
    """Targets that are not as the undo was to leave them, and that nobody known has moved on since."""
    begun = plan_run_id(course.approved[Stage.COMPENSATE].subject) if Stage.COMPENSATE in course.approved else ""
    compared = compare_settled(plan, begun, means.journal, means.compensators, parallel=means.parallel)
    named = [f"{each.target or each.step} {each.problem or 'is not as it was before'}" for each in compared.differs]
    more = len(named) - _NAMED_MAX
    return named if more <= 0 else [*named[:_NAMED_MAX], f"{more} further targets differ"]


def _broken(means: Means) -> dict[str, str]:
    return {name: problem for name, look in means.invariants.items() if (problem := look())}


def _worse(course: Course, means: Means) -> dict[str, str]:
    before: dict[str, str] = course.fact(Stage.CLASSIFY, "invariants") or {}
    return {name: problem for name, problem in _broken(means).items() if name not in before}


def _is_rest_of(journal: Journal, plan: Plan, approved: str) -> bool:
    """Whether the plan is what is left of the approved one, which was begun: the same steps of the same runs."""
    begun = (entry.event for entry in every_entry(journal, Query(run_id=plan_run_id(approved))))
    return any(
        isinstance(event, PlanStarted) and (event.steps, event.runs) == (len(plan.items), plan.runs) for event in begun
    )


def _ended(incident: Incident, stage: Stage, means: Means, detail: str, *, how: str = DONE, **facts: Any) -> StageEnded:
    return StageEnded(
        incident_id=incident.incident_id, stage=stage.value, how=how, detail=detail, actor=means.actor, facts=facts
    )
