"""What is done about a signal, all things considered: the policy, and whether everybody has the same trouble.

V5. A run is not contained for errors that everybody has: while a tool is down, its breaker answers for it. What refuses
    the one call stays. As long as nobody can tell yet, what the first failures would contain is held for a while.
"""

import msgspec

from rescind.model.signal import Signal, SignalKind
from rescind.triggers.facts import Call
from rescind.triggers.outage import Cause, Outages
from rescind.triggers.policy import Decision, Policy
from rescind.triggers.response import Response, Verb

_OF_FAILURES = frozenset(
    {SignalKind.VERIFICATION_FAILURE, SignalKind.BEHAVIOUR, SignalKind.TOOL_UNCERTAINTY, SignalKind.INCONSISTENCY}
)
"""Kinds of signal that a healthy run gives too while a tool is down. Rates are not among them: they trip the tool."""

_HOLD = Response(Verb.READ_ONLY, "run", 60.0)
"""What is done to a run while it is too early to tell. By then others have called too, or the breaker has tripped."""


def decide_at(
    policy: Policy, outages: Outages, signal: Signal, call: Call, *, times: int = 1, tripped: bool = False
) -> Decision:
    """What to do about what was noticed at a call.

    Args:
        policy: The policy in force.
        outages: The latest outcomes of all runs of the process.
        signal: What was noticed.
        call: At which call.
        times: The how manieth such signal of the run it is; see `policy.Tally`.
        tripped: Whether a breaker stands open over this call, which then was a probe.
    """
    decision = policy.decide(signal, call.run, call.action, times=times)
    if decision.recoverable or signal.kind not in _OF_FAILURES:
        return decision
    if tripped:
        return decision.without_containment(f"the breaker of {call.action} is open")
    action, run_id, at_s = call.action, call.run.run_id, call.at_s
    if outages.judge(action, run_id, at_s=at_s) is Cause.OUTAGE:
        return decision.without_containment(f"an outage of {action}")
    if signal.kind is SignalKind.INCONSISTENCY and outages.is_early(action, run_id, at_s=at_s):
        # Two failures are enough for this one. Every other kind takes more, or did harm that no outage explains.
        rest = decision.without_containment(f"perhaps an outage of {action}")
        return msgspec.structs.replace(rest, responses=(_HOLD, *rest.responses))
    return decision
