"""How much evidence a switch needs, and how far it goes: the laws EV1 to EV5."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, an_order
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope
from rescind.switch.service.evidence import Ask, Evidence, Member, Place, Wait, Withhold, runs_held
from rescind.switch.wire import RunDoc
from rescind.triggers.fleet import FleetConfig

NOW = NOON + timedelta(hours=1)
TRIP = Ask(scope=Scope.parse("action:refund"), level=Level.READ_ONLY, measure=Measure.TRIP, rule="error_rate")
AGENT = Ask(scope=Scope.parse("agent:billing-agent"), level=Level.HALTED, rule="blast_radius")


def member(
    guard_id: str, *, runs: int = 1, agent: str = "billing-agent@1", host: str = "", identity: str = ""
) -> Member:
    named = tuple(RunDoc(run_id=f"{guard_id}-{n}", agent=agent) for n in range(runs))
    limited = Scope.parse(identity) if identity else Scope()
    return Member(guard_id=guard_id, host=host or f"host-{guard_id}", identity=limited, runs=named, runs_open=runs)


def a_fleet(count: int, **fields: str) -> list[Member]:
    return [member(f"g{n}", **fields) for n in range(count)]  # type: ignore[arg-type]  # fields of `member`


class Switch:
    """Evidence, and what it is held against."""

    def __init__(self, fleet: list[Member], **config: float) -> None:
        self.evidence = Evidence(FleetConfig(**({"stop_share_pct": 100} | config)))  # type: ignore[arg-type]
        self.fleet = fleet
        self.standing: list[Order] = []
        self.lifted_at: datetime | None = None

    def asked(self, ask: Ask, guard_id: str, at: datetime = NOW, now: datetime = NOW) -> Place | Withhold | Wait:
        return self.evidence.asked(
            ask, guard_id, at, now=now, fleet=self.fleet, standing=self.standing, lifted_at=self.lifted_at
        )


# --- EV1: k of n ---


@pytest.mark.parametrize(("guards", "wanted", "needed"), [(1, 2, 1), (2, 2, 2), (2, 5, 2), (9, 3, 3), (9, 1, 2)])
def test_an_order_over_several_guards_takes_evidence_of_as_many_as_there_can_be(
    guards: int, wanted: int, needed: int
) -> None:
    switch = Switch(a_fleet(guards), evidence_guards=wanted)
    decisions = [switch.asked(TRIP, f"g{n}") for n in range(needed)]
    assert all(isinstance(each, Wait) for each in decisions[:-1])
    assert isinstance(decisions[-1], Place)


@given(st.integers(2, 8), st.integers(1, 8), st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_one_bad_node_never_stops_a_fleet(guards: int, wanted: int, moments: list[int]) -> None:
    switch = Switch(a_fleet(guards), evidence_guards=wanted)
    for moment_s in moments:
        for ask in (TRIP, AGENT):
            at = NOW - timedelta(seconds=moment_s)
            assert isinstance(switch.asked(ask, "g0", at), Wait)


def test_all_guards_of_one_machine_are_one_node_where_there_are_others() -> None:
    switch = Switch([member("a1", host="a"), member("a2", host="a"), member("b1", host="b")])
    assert isinstance(switch.asked(TRIP, "a1"), Wait)
    assert isinstance(switch.asked(TRIP, "a2"), Wait)
    assert isinstance(switch.asked(TRIP, "b1"), Place)


def test_guards_of_a_fleet_on_a_single_machine_count_one_by_one() -> None:
    switch = Switch([member("a1", host="a"), member("a2", host="a")])
    assert isinstance(switch.asked(TRIP, "a1"), Wait)
    assert isinstance(switch.asked(TRIP, "a2"), Place)


def test_who_is_not_connected_gives_no_evidence() -> None:
    switch = Switch(a_fleet(2))
    assert isinstance(switch.asked(TRIP, "stranger"), Wait)
    assert isinstance(switch.asked(TRIP, "g0"), Wait)
    switch.fleet = switch.fleet[1:]  # g0 has gone, and with it what it had said
    assert isinstance(switch.asked(TRIP, "g1"), Place)  # alone by now


def test_an_idle_guard_may_be_concerned_and_one_of_another_agent_is_not() -> None:
    idle = Switch([member("g0"), member("g1", runs=0)])
    assert isinstance(idle.asked(AGENT, "g0"), Wait)
    other = Switch([member("g0"), member("g1", identity="agent:mail-agent")])
    assert isinstance(other.asked(AGENT, "g0"), Place)


def test_evidence_counts_for_the_window_and_no_longer() -> None:
    switch = Switch(a_fleet(2), window_seconds=60)
    assert isinstance(switch.asked(TRIP, "g0", NOW), Wait)
    later = NOW + timedelta(seconds=61)
    assert isinstance(switch.asked(TRIP, "g1", later, later), Wait)
    assert isinstance(switch.asked(TRIP, "g0", later, later), Place)


def test_one_run_takes_the_word_of_its_own_guard() -> None:
    switch = Switch(a_fleet(5))
    assert isinstance(switch.asked(Ask(scope=Scope.parse("run:g0-0"), level=Level.HALTED, rule="loop"), "g0"), Place)


def test_different_rules_do_not_add_up() -> None:
    switch = Switch(a_fleet(2))
    switch.asked(TRIP, "g0")
    other = Ask(scope=TRIP.scope, level=TRIP.level, measure=TRIP.measure, rule="slow_rate")
    assert isinstance(switch.asked(other, "g1"), Wait)


# --- EV2: how far ---


def test_what_would_hold_too_large_a_share_is_left_to_a_person() -> None:
    switch = Switch([*a_fleet(3), member("m", agent="mail-agent")], stop_share_pct=50)
    switch.asked(AGENT, "g0")
    decision = switch.asked(AGENT, "g1")
    assert isinstance(decision, Withhold)
    assert "3 of 4 open runs" in decision.why


def test_orders_that_stand_already_count_and_those_of_persons_do_not() -> None:
    fleet = [member("g0"), *(member(f"m{n}", agent="mail-agent") for n in range(3))]
    mail = Ask(scope=Scope.parse("agent:mail-agent"), level=Level.HALTED, rule="loop")
    for trigger, expected in (("blast_radius", Withhold), ("", Place)):
        switch = Switch(fleet, stop_share_pct=75)
        switch.standing = [an_order(scope="agent:billing-agent", trigger=trigger)]
        switch.asked(mail, "m0")
        assert isinstance(switch.asked(mail, "m1"), expected)


def test_one_run_of_one_may_be_held_and_an_action_stops_no_run() -> None:
    switch = Switch([member("g0")], stop_share_pct=10)
    assert isinstance(switch.asked(Ask(scope=Scope.parse("run:g0-0"), level=Level.HALTED, rule="loop"), "g0"), Place)
    assert isinstance(switch.asked(TRIP, "g0"), Place)


def test_of_runs_that_were_not_named_as_many_are_held_as_of_those_that_were() -> None:
    crowd = Member(guard_id="g", runs=(RunDoc(run_id="1", agent="a"), RunDoc(run_id="2", agent="b")), runs_open=100)
    assert runs_held([crowd], [Scope.parse("agent:a")]) == 50


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 5)), min_size=1, max_size=12), st.data())
def test_automatic_orders_together_never_hold_more_than_the_share(
    guards: list[tuple[str, int]], data: st.DataObject
) -> None:
    fleet = [member(f"g{n}", runs=runs, agent=agent) for n, (agent, runs) in enumerate(guards)]
    switch = Switch(fleet, stop_share_pct=40)
    for number in range(20):
        term = data.draw(st.sampled_from(["agent:a", "agent:b", "agent:c", "everything", "run:g0-0", "run:g1-1"]))
        ask = Ask(scope=Scope.parse(term), level=Level.HALTED, rule="loop")
        if isinstance(switch.asked(ask, data.draw(st.sampled_from(fleet)).guard_id), Place):
            switch.standing.append(an_order(f"ord-{number}", term, trigger="loop"))
    held = runs_held(fleet, [order.scope for order in switch.standing])
    assert held <= max(1, 0.4 * sum(runs for _, runs in guards))


# --- EV4: persons win ---


def test_what_was_noticed_before_a_lift_never_holds_that_scope_again() -> None:
    switch = Switch(a_fleet(2))
    switch.lifted_at = NOW
    for guard_id in ("g0", "g1"):
        decision = switch.asked(TRIP, guard_id, NOW - timedelta(seconds=1), NOW + timedelta(seconds=5))
        assert isinstance(decision, Wait)
        assert "was lifted" in decision.why


def test_after_a_lift_it_takes_new_evidence_of_each() -> None:
    switch = Switch(a_fleet(2))
    switch.asked(TRIP, "g0", NOW - timedelta(seconds=10))
    switch.lifted_at = NOW
    later = NOW + timedelta(seconds=5)
    assert isinstance(switch.asked(TRIP, "g1", later, later), Wait)  # g0's word is from before
    assert isinstance(switch.asked(TRIP, "g0", later, later), Place)


def test_a_guard_whose_clock_is_ahead_does_not_outlast_a_lift() -> None:
    switch = Switch(a_fleet(2))
    switch.asked(TRIP, "g0", NOW + timedelta(days=1))
    switch.lifted_at = NOW + timedelta(seconds=1)
    later = NOW + timedelta(seconds=2)
    assert isinstance(switch.asked(TRIP, "g1", later, later), Wait)


def test_what_an_order_holds_already_is_not_placed_again() -> None:
    switch = Switch(a_fleet(1))
    switch.standing = [an_order("ord-x", "action:refund", Level.READ_ONLY, measure=Measure.TRIP)]
    decision = switch.asked(TRIP, "g0")
    assert isinstance(decision, Wait)
    assert "ord-x" in decision.why


# --- verifiers ---


def test_a_verdict_needs_no_second_one_and_goes_no_further_than_others() -> None:
    def judged(scope: str, lifted_at: datetime | None = None) -> object:
        ask = Ask(scope=Scope.parse(scope), level=Level.READ_ONLY, rule="verdict.bad")
        fleet = [member("g0"), member("g1", agent="mail-agent")]
        return Evidence(FleetConfig()).judged(ask, NOW, fleet=fleet, standing=(), lifted_at=lifted_at)

    assert isinstance(judged("agent:billing-agent"), Place)
    assert isinstance(judged("everything"), Withhold)
    assert isinstance(judged("agent:billing-agent", NOW), Wait)


@pytest.mark.parametrize(
    ("field", "value"),
    [("evidence_guards", 0), ("stop_share_pct", 0), ("stop_share_pct", 101), ("window_seconds", 0),
     ("verdict_level", "normal"), ("verdict_level", "hard")],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="verdict_level|unknown level" if field == "verdict_level" else field):
        FleetConfig(**{field: value})  # type: ignore[arg-type]
