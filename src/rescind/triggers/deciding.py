"""What is done about a signal, all things considered: the policy, and whether everybody has the same trouble.

V5. A run is not contained for errors that everybody has: while a tool is down, its breaker answers for it. What refuses
    the one call stays.
"""

from rescind.model.signal import Signal, SignalKind
from rescind.triggers.facts import Call
from rescind.triggers.outage import Cause, Outages
from rescind.triggers.policy import Decision, Policy

_OF_FAILURES = frozenset(
    {SignalKind.VERIFICATION_FAILURE, SignalKind.BEHAVIOUR, SignalKind.TOOL_UNCERTAINTY, SignalKind.INCONSISTENCY}
)
"""Kinds of signal that a healthy run gives too while a tool is down. Rates are not among them: they trip the tool."""


def decide_at(policy: Policy, outages: Outages, signal: Signal, call: Call, *, times: int = 1) -> Decision:
    """What to do about what was noticed at a call.

    Args:
        policy: The policy in force.
        outages: The latest outcomes of all runs of the process.
        signal: What was noticed.
        call: At which call.
        times: The how manieth such signal of the run it is; see `policy.Tally`.
    """
    decision = policy.decide(signal, call.run, call.action, times=times)
    if decision.recoverable or signal.kind not in _OF_FAILURES:
        return decision
    if outages.judge(call.action, call.run.run_id, at_s=call.at_s) is not Cause.OUTAGE:
        return decision
    return decision.without_containment(f"an outage of {call.action}")
