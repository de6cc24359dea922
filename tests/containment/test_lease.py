"""Leases: fencing numbers that only rise, whatever arrives in whatever order; and what they keep out."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.containment.lease import check, fencing_number, lease_of
from rescind.model.lease import lease_among
from rescind.model.level import Level
from rescind.model.order import Lift, Measure, Order, OrderSet
from rescind.model.scope import Scope, Subject

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUN = Subject(
    run_id="run-1",
    agent_name="billing-agent",
    agent_version="2.4.0",
    tenant="acme",
    workflow="dunning",
    lineage=frozenset({"run-1", "run-0"}),
)
COVERING = ("everything", "run:run-1", "tree:run-0", "agent:billing-agent", "tenant:acme+workflow:dunning")
ELSEWHERE = ("run:run-2", "tree:run-9", "tenant:bank", "agent:billing-agent@3.0.0", "run:run-1+action:pay")


def an_order(
    order_id: str, scope: str = "run:run-1", measure: Measure = Measure.REVOKE, level: str = "paused"
) -> Order:
    return Order(
        order_id=order_id,
        scope=Scope.parse(scope),
        level=max(Level.parse(level), measure.level),
        reason="rogue",
        actor="ada",
        placed_at=NOON,
        measure=measure,
    )


def a_lift(*order_ids: str) -> Lift:
    return Lift(
        lift_id="lift-" + "-".join(order_ids),
        order_ids=frozenset(order_ids),
        reason="mended",
        actor="bob",
        lifted_at=NOON,
    )


orders = st.builds(
    an_order,
    st.sampled_from([f"ord-{number}" for number in range(6)]),
    st.sampled_from(COVERING + ELSEWHERE),
    st.sampled_from(list(Measure)),
)
lifts = st.builds(
    lambda ids: a_lift(*sorted(ids)), st.sets(st.sampled_from([f"ord-{n}" for n in range(6)]), min_size=1)
)
histories = st.builds(OrderSet.of, st.lists(orders, max_size=8), st.lists(lifts, max_size=3))


@given(st.lists(st.one_of(orders, lifts), max_size=12))
def test_f1_the_number_never_falls_whatever_arrives(events: list[Order | Lift]) -> None:
    history, numbers = OrderSet(), [1]
    for event in events:
        history = history.place(event) if isinstance(event, Order) else history.lift(event)
        numbers.append(fencing_number(history, RUN))

    assert numbers == sorted(numbers)


@given(histories, histories, histories)
def test_f2_switches_that_know_the_same_say_the_same_in_any_order_of_merges(
    one: OrderSet, two: OrderSet, three: OrderSet
) -> None:
    merged = one.merge(two).merge(three)

    assert lease_of(three.merge(one).merge(two).merge(one), RUN) == lease_of(merged, RUN)
    assert fencing_number(merged, RUN) >= max(fencing_number(each, RUN) for each in (one, two, three))


@given(histories, histories)
def test_f2_leases_of_two_places_join_to_the_number_of_their_union_and_are_never_valid_too_early(
    one: OrderSet, two: OrderSet
) -> None:
    joined = lease_of(one, RUN).merge(lease_of(two, RUN))

    assert joined == lease_of(two, RUN).merge(lease_of(one, RUN))
    assert joined.fencing_number == fencing_number(one.merge(two), RUN)
    if joined.valid:
        assert lease_of(one.merge(two), RUN).valid


@given(histories)
def test_f3_a_revocation_that_was_lifted_leaves_whoever_acted_before_it_outside(history: OrderSet) -> None:
    before = fencing_number(history, RUN)
    revoked = history.place(an_order("ord-new"))
    lifted = revoked.lift(a_lift(*(order.order_id for order in revoked.standing)))

    assert lease_of(revoked, RUN).revoked_by
    assert lease_of(lifted, RUN).valid
    assert "stale" in check(before, lease_of(lifted, RUN))
    assert check(fencing_number(lifted, RUN), lease_of(lifted, RUN)) == ""


@pytest.mark.parametrize("scope", COVERING)
def test_an_order_that_covers_the_run_revokes_its_lease(scope: str) -> None:
    lease = lease_of(OrderSet.of([an_order("ord-1", scope)]), RUN)

    assert (lease.valid, lease.fencing_number) == (False, 2)
    assert "ord-1 by ada" in check(99, lease)


@pytest.mark.parametrize("scope", ELSEWHERE)
def test_an_order_for_others_leaves_the_lease_alone(scope: str) -> None:
    lease = lease_of(OrderSet.of([an_order("ord-1", scope)]), RUN)

    assert (lease.valid, lease.fencing_number) == (True, 1)


def test_a_revocation_for_one_action_voids_the_lease_for_that_action_alone() -> None:
    history = OrderSet.of([an_order("ord-1", "run:run-1+action:pay")])

    assert not lease_of(history, RUN, "pay").valid
    assert lease_of(history, RUN, "mail").valid


def test_a_run_that_is_halted_without_a_revocation_has_no_valid_lease_and_keeps_its_number() -> None:
    history = OrderSet.of([an_order("ord-1", measure=Measure.LEVEL, level="halted")])
    lease = lease_of(history, RUN)

    assert (lease.valid, lease.fencing_number, lease.revoked_by) == (False, 1, ())
    assert "held at halted" in check(1, lease)


def test_a_read_only_run_has_a_valid_lease_that_says_so() -> None:
    lease = lease_of(OrderSet.of([an_order("ord-1", measure=Measure.LEVEL, level="read_only")]), RUN)

    assert (lease.valid, lease.level) == (True, Level.READ_ONLY)


@pytest.mark.parametrize(
    ("unknown", "scope", "counts"),
    [
        ({"tenant"}, "tenant:bank", True),
        ({"tenant"}, "tenant:bank+run:run-2", False),
        ({"version"}, "agent:billing-agent@3.0.0", True),
        ({"version"}, "agent:mailer@3.0.0", False),
        ({"version", "agent"}, "agent:mailer@3.0.0", True),
        ({"tree"}, "tree:run-9", True),
        ({"workflow"}, "tenant:bank", False),
    ],
)
def test_f4_what_is_not_known_of_the_run_may_be_anything(unknown: set[str], scope: str, counts: bool) -> None:
    lease = lease_of(OrderSet.of([an_order("ord-1", scope)]), RUN, unknown=unknown)

    assert (not lease.valid) is counts
    assert lease.fencing_number == (2 if counts else 1)


def test_a_switch_whose_lift_waits_for_consent_still_holds() -> None:
    order = an_order("ord-1")

    assert not lease_among([order], [order], RUN).valid


def test_leases_of_two_runs_are_not_joined() -> None:
    other = Subject(run_id="run-2", agent_name="billing-agent")
    with pytest.raises(ValueError, match="two"):
        lease_of(OrderSet(), RUN).merge(lease_of(OrderSet(), other))
