"""Whether a run is contained for failures that everybody may have (law V5), from the first failures to the probes."""

import pytest

from builders import NOON, a_run
from rescind.model.outcome import Completed, Unknown
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.triggers.deciding import decide_at
from rescind.triggers.facts import Call, End
from rescind.triggers.outage import Cause, Outages
from rescind.triggers.policy import Policy, Rule
from rescind.triggers.response import Response

POLICY = Policy(rules=(Rule(name="all", then=(Response.parse("deny"), Response.parse("read_only on run"))),))


def ended(outages: Outages, run_id: str, at_s: float, *, good: bool) -> Call:
    call = Call(run=a_run(run_id, agent_name=f"agent-of-{run_id}"), action="till.book", writes=True, at_s=at_s)
    outages.ended(End(call=call, at_s=at_s, outcome=Completed("ok") if good else Unknown("no reply")))
    return call


def a_signal(kind: SignalKind) -> Signal:
    return Signal(
        signal_id="sig-1",
        kind=kind,
        rule="partial_failures",
        severity=Severity.HIGH,
        scope=Scope.parse("run:r-1"),
        detail="2 failed writes",
        noticed_at=NOON,
    )


def first_to_fail() -> tuple[Outages, Call]:
    """Three runs were fine; then one fails, and again."""
    outages = Outages()
    for number in range(2, 5):
        ended(outages, f"r-{number}", number, good=True)
    ended(outages, "r-1", 10, good=False)
    return outages, ended(outages, "r-1", 12, good=False)


def test_who_fails_first_is_held_for_a_minute_until_others_have_called_too() -> None:
    outages, call = first_to_fail()
    assert outages.is_early("till.book", "r-1", at_s=12)

    decision = decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call)

    assert decision.words == ("read_only on run for 1m", "deny")
    assert decision.recoverable
    assert decision.rule_name == "all, perhaps an outage of till.book"


def test_what_succeeded_before_it_began_to_fail_does_not_speak_for_the_tool() -> None:
    outages, call = first_to_fail()
    ended(outages, "r-2", 13, good=False)
    ended(outages, "r-3", 14, good=False)
    assert not outages.is_early("till.book", "r-1", at_s=14)
    assert outages.judge("till.book", "r-1", at_s=14) is Cause.OUTAGE  # r-4 was fine, at 4 s

    decision = decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call)

    assert decision.words == ("deny",)


def test_who_fails_on_while_others_succeed_is_contained() -> None:
    outages, _ = first_to_fail()
    ended(outages, "r-2", 13, good=True)
    ended(outages, "r-3", 14, good=True)
    call = ended(outages, "r-1", 15, good=False)
    assert outages.judge("till.book", "r-1", at_s=15) is Cause.ROGUE

    assert not decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call).recoverable


def test_a_success_begins_the_comparison_anew() -> None:
    outages, _ = first_to_fail()
    ended(outages, "r-2", 13, good=True)
    ended(outages, "r-3", 14, good=True)
    ended(outages, "r-1", 15, good=True)
    ended(outages, "r-1", 16, good=False)
    assert outages.is_early("till.book", "r-1", at_s=16)


def test_with_nobody_to_compare_with_it_is_contained() -> None:
    outages = Outages()
    call = ended(outages, "r-1", 10, good=False)
    assert not outages.is_early("till.book", "r-1", at_s=10)
    assert not decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call).recoverable


@pytest.mark.parametrize("kind", [SignalKind.VERIFICATION_FAILURE, SignalKind.BEHAVIOUR, SignalKind.BLAST_RADIUS])
def test_what_takes_more_than_two_failures_is_contained_at_once(kind: SignalKind) -> None:
    outages, call = first_to_fail()
    assert not decide_at(POLICY, outages, a_signal(kind), call).recoverable


def test_a_probe_of_an_open_breaker_that_fails_says_nothing_of_its_run() -> None:
    outages = Outages()
    call = ended(outages, "r-1", 10, good=False)  # nobody else could call it
    signal = a_signal(SignalKind.INCONSISTENCY)

    spared = decide_at(POLICY, outages, signal, call, tripped=True)

    assert spared.words == ("deny",)
    assert "the breaker of till.book is open" in spared.rule_name
    assert not decide_at(POLICY, outages, a_signal(SignalKind.BLAST_RADIUS), call, tripped=True).recoverable


def test_others_that_call_seldom_are_waited_for_and_those_that_are_long_gone_are_not() -> None:
    outages = Outages()
    ended(outages, "r-2", 0, good=True)
    call = ended(outages, "r-1", 500, good=False)
    assert decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call).recoverable
    call = ended(outages, "r-1", 700, good=False)
    assert not decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call).recoverable


def test_what_came_since_it_began_to_fail_is_compared_also_when_it_calls_seldom() -> None:
    outages = Outages()
    ended(outages, "r-1", 10, good=False)
    ended(outages, "r-2", 12, good=False)
    ended(outages, "r-3", 14, good=False)
    call = ended(outages, "r-1", 100, good=False)  # the others' failures are 86 seconds old
    assert outages.judge("till.book", "r-1", at_s=100) is Cause.OUTAGE
    assert decide_at(POLICY, outages, a_signal(SignalKind.INCONSISTENCY), call).recoverable
