"""The laws of the set of orders and of scopes, in orders that nobody planned."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from builders import NOON
from rescind.model.level import Level
from rescind.model.order import Lift, Order, OrderSet, covering, effective_level
from rescind.model.scope import TERM_KINDS, Scope, Subject, Term

NAMES = st.sampled_from(["a", "b", "acme", "billing-agent", "x:y", "ü"])
VALUES = st.text(st.characters(exclude_characters="+", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@st.composite
def terms(draw: st.DrawFn, values: st.SearchStrategy[str] = NAMES) -> Term:
    kind = draw(st.sampled_from(TERM_KINDS))
    value = draw(values)
    if kind == "agent":
        value = value.replace("@", "") or "a"
        if draw(st.booleans()):
            value += "@" + (draw(values).replace("@", "") or "1")
    return Term(kind, value)


def scopes(values: st.SearchStrategy[str] = NAMES) -> st.SearchStrategy[Scope]:
    return st.frozensets(terms(values), max_size=3).map(lambda some: Scope(tuple(sorted(some))))


subjects = st.builds(
    Subject,
    run_id=NAMES,
    agent_name=NAMES,
    agent_version=NAMES,
    tenant=NAMES,
    workflow=NAMES,
    lineage=st.frozensets(NAMES, max_size=2),
)
actions = st.none() | NAMES
levels = st.sampled_from([level for level in Level if level > Level.NORMAL])


@given(scopes(VALUES))
def test_a_scope_reads_back_as_it_was_written(scope: Scope) -> None:
    assert Scope.parse(str(scope)) == scope


@given(scopes(), scopes(), subjects, actions)
def test_a_scope_of_more_terms_covers_what_both_cover(one: Scope, other: Scope, subject: Subject, action: str) -> None:
    both = Scope(tuple(sorted({*one.terms, *other.terms})))
    assert both.covers(subject, action) == (one.covers(subject, action) and other.covers(subject, action))


@given(subjects, actions)
def test_everything_covers_everything(subject: Subject, action: str | None) -> None:
    assert Scope().covers(subject, action)


@given(subjects, NAMES)
def test_a_subject_is_covered_by_its_own_terms(subject: Subject, action: str) -> None:
    own = [
        f"run:{subject.run_id}",
        f"tree:{subject.run_id}",
        f"agent:{subject.agent_name}",
        f"agent:{subject.agent_name}@{subject.agent_version}",
        f"tenant:{subject.tenant}",
        f"workflow:{subject.workflow}",
        f"action:{action}",
        *(f"tree:{ancestor}" for ancestor in subject.lineage),
    ]
    assert all(Scope.parse(text).covers(subject, action) for text in own)
    assert Scope.parse("+".join(own)).covers(subject, action)


@given(st.lists(st.tuples(scopes(), levels), max_size=6), subjects, actions)
def test_o4_the_highest_level_that_covers_decides(
    given_orders: list[tuple[Scope, Level]], subject: Subject, action: str | None
) -> None:
    orders = [a_numbered_order(number, scope, level) for number, (scope, level) in enumerate(given_orders)]
    standing = OrderSet.of(orders).standing
    covered = [level for scope, level in given_orders if scope.covers(subject, action)]

    assert effective_level(standing, subject, action) == max(covered, default=Level.NORMAL)
    assert [order.level for order in covering(standing, subject, action)] == sorted(covered, reverse=True)


def a_numbered_order(number: int, scope: Scope, level: Level) -> Order:
    placed_at = NOON + timedelta(seconds=number)
    return Order(order_id=f"ord-{number}", scope=scope, level=level, reason="", actor="", placed_at=placed_at)


class ReplicasMachine(RuleBasedStateMachine):
    """Three switches that place, lift what they see, and merge with one another at any time.

    The model is what one all-knowing observer would say: an order is lifted once any replica has lifted it, and
    reaches a replica by a chain of merges.
    """

    replicas = st.integers(0, 2)

    @initialize()
    def begin(self) -> None:
        self.sets = [OrderSet() for _ in range(3)]
        self.placed: dict[str, Order] = {}
        self.lifted: set[str] = set()
        self.numbers = 0

    @rule(at=replicas, scope=scopes(), level=levels)
    def place(self, at: int, scope: Scope, level: Level) -> None:
        order = a_numbered_order(self.numbers, scope, level)
        self.numbers += 1
        self.placed[order.order_id] = order
        self.sets[at] = self.sets[at].place(order)

    @rule(at=replicas, data=st.data())
    def lift_what_is_seen(self, at: int, data: st.DataObject) -> None:
        seen = [order.order_id for order in self.sets[at].standing]
        if not seen:
            return
        chosen = data.draw(st.frozensets(st.sampled_from(seen), min_size=1))
        self.lifted |= chosen
        lift = Lift(lift_id=f"lift-{self.numbers}", order_ids=chosen, reason="", actor="", lifted_at=NOON)
        self.numbers += 1
        self.sets[at] = self.sets[at].lift(lift)

    @rule(source=replicas, at=replicas)
    def tell(self, source: int, at: int) -> None:
        told = self.sets[at].merge(self.sets[source])
        assert told == self.sets[source].merge(self.sets[at])  # O1: whoever tells whom
        assert told.merge(self.sets[source]) == told  # O1: again is nothing
        self.sets[at] = told

    @rule()
    def o1_all_ways_to_merge_everything_agree(self) -> None:
        a, b, c = self.sets
        assert a.merge(b).merge(c) == a.merge(b.merge(c)) == c.merge(a).merge(b)

    @invariant()
    def o2_o3_together_they_know_exactly_what_stands(self) -> None:
        if not hasattr(self, "sets"):
            return
        everything = OrderSet()
        for one in self.sets:
            everything = everything.merge(one)
        standing = {order.order_id for order in everything.standing}
        assert standing == set(self.placed) - self.lifted

    @invariant()
    def o3_nobody_holds_an_order_whose_lift_it_knows(self) -> None:
        for one in getattr(self, "sets", ()):
            lifted = {order_id for lift in one.lifts for order_id in lift.order_ids}
            assert not lifted & {order.order_id for order in one.standing}
            assert lifted | {order.order_id for order in one.standing} == lifted | {o.order_id for o in one.orders}


ReplicasMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestReplicas = ReplicasMachine.TestCase
