"""A journal looked at again: the same facts, the same detectors, the same decisions, of what has already happened.

RP1. The facts are those that the guard had, as far as the journal holds them. It holds no reads, no refused calls and
    nothing that tools said of their own calls; what was noticed of those is in it as signals, and is decided anew.
RP2. A run is watched from an opening to its closing, as a guard does it. Detectors that look at many runs see them in
    the journal's order.
RP3. What a decision would have refused afterwards is counted, and looked at all the same: it has happened.
RP4. Memory is bounded, whatever the journal's length, but for one number per run.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from rescind.clock import from_us, to_us
from rescind.model.scope import Scope
from rescind.model.signal import Finding, Signal
from rescind.model.step import RunInfo
from rescind.triggers.deciding import decide_at
from rescind.triggers.engine import Engine, RunWatch
from rescind.triggers.facts import Call, End
from rescind.triggers.outage import Outages
from rescind.triggers.policy import Decision, Policy
from rescind.triggers.recorded import MICRO, Closed, Fact, Recorded, keep, only_recorded

RUNS_MAX = 20_000
"""Runs that are watched at the same time. Beyond that the one is forgotten that has been silent for longest."""

WIDE_MAX = 1_000
"""Measures on more than one run that are remembered; each is compared with every later call."""


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that would have been given, and what would have been done.

    Attributes:
        signal: The signal; its id is `replay_1` and so on, and the same at every replay.
        decision: What the policy does about it.
        run: The run at whose call it was noticed.
        action: The call's action.
        at: When.
        prevents: Whether it is noticed before the call, so that the call itself can be refused.
        already_refused: Whether the call would not have been made any more, since an earlier decision refuses it.
    """

    signal: Signal
    decision: Decision
    run: RunInfo
    action: str
    at: datetime
    prevents: bool
    already_refused: bool


class Replay:
    """A policy over facts that have already happened. Not thread-safe.

    Attributes:
        runs: How many runs there were.
        writes: How many writes.
        refused: How many of those would have been refused.
    """

    def __init__(self, policy: Policy) -> None:
        """Begin with nothing seen. The policy's detectors must not be in use by a guard."""
        self.runs = self.writes = self.refused = 0
        self._policy, self._engine, self._outages = policy, Engine(policy), Outages(policy.outage)
        self._watches: OrderedDict[str, RunWatch] = OrderedDict()
        self._seen: set[int] = set()
        self._holding = _Holding()
        self._count = 0

    def feed(self, fact: Fact) -> tuple[Fired, ...]:
        """One more fact. Returns: what it sets off, in the order in which it was found."""
        match fact:
            case Closed(run_id):
                self._watches.pop(run_id, None)
                return ()
            case Recorded(run, signal):
                call = Call(run=run, action="", writes=False, at_s=to_us(signal.noticed_at) / MICRO)
                return (self._fired(signal, call, self._watch(run), prevents=False, refused=False),)
            case Call():
                return self._asked(fact)
            case End():
                self._outages.ended(fact)
                watch = self._watch(fact.call.run)
                refused = self._holding.refuses(fact.call)
                found = (each for each in watch.ended(fact) if not only_recorded(each.kind, each.rule))
                return tuple(self._noticed(each, fact.call, watch, fact.at_s, refused=refused) for each in found)

    def _asked(self, call: Call) -> tuple[Fired, ...]:
        watch = self._watch(call.run)
        refused = self._holding.refuses(call)
        found = (each for each in watch.asked(call) if not only_recorded(each.kind, each.rule))
        fired = tuple(self._noticed(each, call, watch, call.at_s, refused=refused, prevents=True) for each in found)
        if call.writes:
            denied = any(each.decision.refuses_call for each in fired) or self._holding.refuses(call)
            self.writes += 1
            self.refused += refused or denied
        return tuple(each for each in fired if not _is_again(each))

    def _watch(self, run: RunInfo) -> RunWatch:
        watch = self._watches.get(run.run_id)
        if watch is None:
            watch = self._engine.watch(run)
            number = hash(run.run_id)  # eight bytes a run, for a count
            self.runs += number not in self._seen
            self._seen.add(number)
        keep(self._watches, run.run_id, watch, most=RUNS_MAX)
        return watch

    def _noticed(
        self, finding: Finding, call: Call, watch: RunWatch, at_s: float, *, refused: bool, prevents: bool = False
    ) -> Fired:
        if not finding.again:
            self._count += 1
        signal = Signal.of(
            finding,
            signal_id="" if finding.again else f"replay_{self._count}",
            noticed_at=from_us(round(at_s * MICRO)),
            run_id=call.run.run_id,
            step_id=call.step_id,
            source="replay",
        )
        times = watch.tally.count(finding)
        return self._fired(signal, call, watch, prevents=prevents, refused=refused, times=times)

    def _fired(
        self, signal: Signal, call: Call, watch: RunWatch, *, prevents: bool, refused: bool, times: int = 0
    ) -> Fired:
        decision = decide_at(self._policy, self._outages, signal, call, times=times or watch.tally.count(signal))
        if not decision.shadow:
            self._holding.hold(decision, signal, call)
        return Fired(
            signal=signal,
            decision=decision,
            run=call.run,
            action=call.action,
            at=signal.noticed_at,
            prevents=prevents,
            already_refused=refused,
        )


def replay(policy: Policy, facts: Iterable[Fact]) -> Iterator[Fired]:
    """What would have been noticed and done, in order. The policy's detectors must not be in use by a guard."""
    running = Replay(policy)
    for fact in facts:
        yield from running.feed(fact)


def _is_again(fired: Fired) -> bool:
    return not fired.signal.signal_id


class _Holding:
    """What decisions would be holding back by now, so that it can be said which calls they would have refused."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, float] = OrderedDict()
        self._wide: OrderedDict[Scope, float] = OrderedDict()

    def hold(self, decision: Decision, signal: Signal, call: Call) -> None:
        """Hold what an enforced decision holds; a breaker for its cooldown, an order for good."""
        for response in decision.responses:
            if response.is_hold:
                until_s = call.at_s + (response.for_s or 0.0)
            elif any(level > 0 for _, level in response.measures):
                cooldown_s = signal.facts.get("cooldown_s") if response.verb == "trip" else None
                until_s = call.at_s + float(cooldown_s) if cooldown_s is not None else float("inf")
            else:
                continue
            self._hold(response.scope_for(signal, call.run, call.action), until_s)

    def refuses(self, call: Call) -> bool:
        """Whether a write of the call's run would be refused by now."""
        run = call.run
        if call.at_s < self._runs.get(run.run_id, 0.0):
            return True
        if not self._wide:
            return False
        subject = run.subject
        return any(call.at_s < until_s and scope.covers(subject, call.action) for scope, until_s in self._wide.items())

    def _hold(self, scope: Scope, until_s: float) -> None:
        if len(scope.terms) == 1 and scope.terms[0].kind == "run":
            run_id = scope.terms[0].value
            keep(self._runs, run_id, max(until_s, self._runs.get(run_id, 0.0)), most=RUNS_MAX)
            return
        self._wide[scope] = max(until_s, self._wide.get(scope, 0.0))
        if len(self._wide) > WIDE_MAX:
            self._wide.popitem(last=False)
