"""The laws of a plan on graphs nobody thought of."""

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, a_run
from rescind.compensation.decision import Plan, Review
from rescind.compensation.planning.known import Known, Observation
from rescind.compensation.planning.plan import plan_undo
from rescind.compensation.port import ReviewReason
from rescind.model.action import Action, EffectClass
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Unknown
from rescind.model.step import Snapshot, Step, Target

ACTIONS = {
    "set": Action(name="set", effect_class=EffectClass.REVERSIBLE),
    "charge": Action(name="charge", effect_class=EffectClass.COMPENSATABLE, after=("set", "charge")),
    "mail": Action(name="mail", effect_class=EffectClass.IRREVERSIBLE, irreversible_because="sent", after=("charge",)),
}


def a_record(number: int, action: str = "charge", run: str = "run-1", outcome: Any = None, **fields: Any) -> StepRecord:
    effect_class = ACTIONS[action].effect_class
    return StepRecord(
        run=a_run(run),
        step=Step(
            step_id=str(number), action=action, effect_class=effect_class, idempotency_key=f"{run}/{number}", **fields
        ),
        intended_sequence=number,
        intended_at=NOON,
        outcome=outcome or Completed(),
        after=Snapshot(ref="a", version=f"v{number}"),
    )


@st.composite
def histories(draw: st.DrawFn, *, backwards: bool) -> list[StepRecord]:
    """Steps 1, 2, … of two runs with random edges: to earlier steps only, or in any direction."""
    size = draw(st.integers(0, 12))
    runs = [f"run-{draw(st.integers(1, 2))}" for _ in range(size)]
    records: list[StepRecord] = []
    for number in range(1, size + 1):
        others = st.integers(1, size if backwards else max(1, number - 1)).filter(lambda n: n <= size)
        own = runs[number - 1]
        parents = [n for n in draw(st.sets(others, max_size=2)) if backwards or n < number]
        declared = [n for n in draw(st.sets(others, max_size=1)) if backwards or n < number]
        records.append(
            a_record(
                number,
                draw(st.sampled_from(sorted(ACTIONS))),
                own,
                draw(st.sampled_from([Completed(), Unknown("?")])),
                causal_parents=tuple(str(n) if runs[n - 1] == own else f"{runs[n - 1]}/{n}" for n in parents),
                depends_on=tuple(str(n) for n in declared if runs[n - 1] == own),
                target=draw(st.sampled_from([None, Target("shop", "row", "1"), Target("shop", "row", "2")])),
                before=Snapshot(ref="b", version=f"v{number - 1}"),
            )
        )
    return records


def plan_of(records: Iterable[StepRecord]) -> Plan:
    records = list(records)
    seen = {record.ref: Observation("v3") for record in records}
    return plan_undo(records, Known(actions=ACTIONS, observations=seen, now=NOON))


def declared_edges(records: list[StepRecord]) -> set[tuple[StepRef, StepRef]]:
    """All pairs of a dependent and what it was declared to depend on, written out."""
    known = {record.ref for record in records}
    edges: set[tuple[StepRef, StepRef]] = set()
    for record in records:
        named = {StepRef(record.run.run_id, name) for name in record.step.depends_on}
        after = ACTIONS[record.step.action].after
        named |= {
            other.ref
            for other in records
            if other.run.run_id == record.run.run_id
            and other.step.action in after
            and other.intended_sequence < record.intended_sequence
        }
        edges |= {(record.ref, other) for other in named & known}
    return edges


def inferred_edges(records: list[StepRecord]) -> set[tuple[StepRef, StepRef]]:
    known = {record.ref for record in records}
    edges: set[tuple[StepRef, StepRef]] = set()
    for record in records:
        for name in record.step.causal_parents:
            other = StepRef(*name.split("/")) if "/" in name else StepRef(record.run.run_id, name)
            edges |= {(record.ref, other)} if other in known else set()
        for older in records:
            same = record.step.target is not None and older.step.target == record.step.target
            unnamed = (
                record.step.target is None is older.step.target and record.step.action == older.step.action == "set"
            )
            if older.intended_sequence < record.intended_sequence and (same or unnamed):
                edges.add((record.ref, older.ref))
    return edges


@given(histories(backwards=False))
def test_the_order_is_the_greedy_one_of_all_edges_written_out(records: list[StepRecord]) -> None:
    """U1 and U2: whatever waits for nothing, newest first."""
    edges = declared_edges(records) | inferred_edges(records)
    left = sorted(records, key=lambda record: -record.intended_sequence)
    expected: list[StepRef] = []
    while left:
        names = {record.ref for record in left}
        free = next(r for r in left if not any(then == r.ref and first in names for first, then in edges))
        left.remove(free)
        expected.append(free.ref)

    assert [item.step for item in plan_of(records).items] == expected


@given(histories(backwards=True))
def test_declared_edges_always_hold_except_in_circles(records: list[StepRecord]) -> None:
    """U1, U2 and U5, with contradictions."""
    plan = plan_of(records)
    place = {item.step: number for number, item in enumerate(plan.items)}
    assert sorted(place) == sorted(record.ref for record in records)

    edges = declared_edges(records)
    circular = {ref for ref in place if ref in reachable(ref, edges)}
    found = {item.step for item in plan.items if is_review(item.decision, ReviewReason.CYCLE)}
    assert found == circular
    for first, then in edges:
        assert place[first] < place[then] or (first in circular and then in circular)


@given(histories(backwards=True))
def test_nothing_is_undone_while_a_declared_dependent_may_stay(records: list[StepRecord]) -> None:
    """U5, against all pairs written out."""
    plan = plan_of(records)
    decision = {item.step: item.decision for item in plan.items}
    staying = {ref for ref, what in decision.items() if isinstance(what, Review) and what.reason.blocks}
    held = {then for first, then in declared_edges(records) if first in staying}
    for ref, what in decision.items():
        if is_review(what, ReviewReason.BLOCKED):
            assert ref in held
        elif not isinstance(what, Review) and what.__struct_config__.tag != "settle":
            assert ref not in held


@given(histories(backwards=True), st.randoms(use_true_random=False))
def test_the_order_in_which_steps_are_given_makes_no_difference(records: list[StepRecord], random: Any) -> None:
    """U6."""
    shuffled = list(records)
    random.shuffle(shuffled)
    assert plan_of(shuffled) == plan_of(records)


@given(histories(backwards=True))
def test_edges_name_only_what_stands_before_in_the_plan(records: list[StepRecord]) -> None:
    plan = plan_of(records)
    before: set[StepRef] = set()
    for item in plan.items:
        assert set(item.blocks_on) <= set(item.waits_for) <= before
        before.add(item.step)


def test_edges_grow_with_the_steps_and_not_with_their_square() -> None:
    for size in (1_000, 2_000):
        records = [
            a_record(number, "set" if number % 2 else "charge", target=Target("shop", "row", "1"))
            for number in range(1, size + 1)
        ]
        plan = plan_of(records)
        edges = sum(len(item.waits_for) + len(item.gates) for item in plan.items)
        gated = sum(len(gate.steps) for gate in plan.gates)
        assert edges + gated <= 4 * size


def reachable(start: StepRef, edges: set[tuple[StepRef, StepRef]]) -> set[StepRef]:
    found: set[StepRef] = set()
    stack = [start]
    while stack:
        here = stack.pop()
        new = {then for first, then in edges if first == here} - found
        found |= new
        stack += new
    return found


def is_review(decision: Any, reason: ReviewReason) -> bool:
    return isinstance(decision, Review) and decision.reason is reason
