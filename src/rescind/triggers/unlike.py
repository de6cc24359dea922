"""One run against the baseline of its agent version: whether its writes are such as healthy runs make.

It says nothing of an agent version that was never learned, nor of one with too few healthy runs for the budget, and a
fact that is missing (unknown arguments, no target) makes it say less and never more.
"""

from typing import Any

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.baseline import Baseline, Hasher, Sketch
from rescind.triggers.bounds import about_run, shown
from rescind.triggers.facts import Call
from rescind.triggers.likeness import Counts, Likeness, Trail, Turns

RULE = "unlike_baseline"

DIFFERENT_MAX = 64
"""Different writes of one run that are told apart."""


class Unlike:
    """What was learned, ready to judge by. Counted per agent version when its first run begins."""

    def __init__(self, baseline: Baseline, false_stops_per_1000: int) -> None:
        """Judge by this baseline with this budget."""
        self._per_1000 = false_stops_per_1000
        self._sketches: dict[str, tuple[Sketch, ...]] = baseline.agents
        self._learned: dict[str, Likeness] = {}
        self.hasher = Hasher(baseline.key)

    def watch(self, run: RunInfo) -> "UnlikeWatch | NewWorkflowWatch | None":
        """Begin to watch a run; None if there is nothing to judge it by."""
        learned = self._learned_of(run.agent)
        if learned is None:
            return None
        counts = learned.counts_for(run.workflow)
        healthy = learned.healthy_runs(counts)
        if counts is None:
            bits = learned.turn_allowed(self._per_1000)
            return None if bits is None else NewWorkflowWatch(learned.turns, run, bits, healthy)
        bits = learned.bits_allowed(counts, self._per_1000)
        return None if bits is None else UnlikeWatch(self.hasher, counts, run, bits, healthy)

    def _learned_of(self, agent: str) -> Likeness | None:
        known = self._learned.get(agent)
        sketches = self._sketches.get(agent)
        if known is None and sketches:
            # Two threads may both count, to the same result; that is cheaper than a lock at each run.
            known = self._learned[agent] = Likeness(sketches)
        return known


class UnlikeWatch:
    """A run of which the like was learned: the evidence against it, write by write."""

    __slots__ = ("_counts", "_hasher", "_healthy", "_next_bits", "_run", "_trail", "allowed_bits")

    def __init__(self, hasher: Hasher, counts: Counts, run: RunInfo, allowed_bits: float, healthy: int) -> None:
        """Nothing has been seen yet."""
        self._hasher, self._counts, self._run, self._healthy = hasher, counts, run, healthy
        self._trail = Trail(counts, run.workflow)
        self.allowed_bits = self._next_bits = allowed_bits

    def asked(self, call: Call) -> Finding | None:
        """Whether with this write there is too much evidence."""
        identity = self._hasher.of(call.repeats) if call.repeats else 0
        finding = self._judge(call, identity) if call.writes else None
        self._trail.pass_by(self._counts, call.action, identity)
        return finding

    def _judge(self, call: Call, identity: int) -> Finding | None:
        trail, argument = self._trail, ""
        if not trail.is_repeated(identity):
            values = self._hasher.arguments(call, self._counts.telling(call.action))
            bits, argument = self._counts.evidence(trail, call.action, values)
            trail.wrote(call.action, identity, bits)
        level = trail.level
        if level <= self.allowed_bits:
            return None
        again = level <= self._next_bits
        if not again:
            self._next_bits = max(2 * level, 1.0)
        workflow = f" in workflow {shown(self._run.workflow)}" if self._trail.workflow is not None else ""
        what = f" with a new {shown(argument)}" if argument else ""
        detail = (
            f"{shown(call.action)}{what}, at this place{workflow}, is unlike {self._healthy} healthy runs: "
            f"{level:.1f} bits of evidence, {self.allowed_bits:.1f} are allowed"
        )
        facts: dict[str, Any] = {
            "action": shown(call.action),
            "bits": round(level, 2),
            "bits_allowed": round(self.allowed_bits, 2),
            "healthy_runs": self._healthy,
        }
        if argument:
            facts["argument"] = shown(argument)
        return _finding(self._run, detail, facts, again=again)


class NewWorkflowWatch:
    """A run of a workflow that was never learned: how it goes on, if it makes a second write and further ones."""

    __slots__ = ("_allowed_bits", "_different", "_healthy", "_last", "_next_bits", "_run", "_turns")

    def __init__(self, turns: Turns, run: RunInfo, allowed_bits: float, healthy: int) -> None:
        """Nothing has been seen yet."""
        self._turns, self._run, self._healthy = turns, run, healthy
        self._allowed_bits = self._next_bits = allowed_bits
        self._different: set[int] | None = None
        self._last = ""

    def asked(self, call: Call) -> Finding | None:
        """Whether this write follows the one before as it does in hardly any run of the learned workflows."""
        if not call.writes:
            return None
        different = self._different
        if different is None:
            different = self._different = set()
        known = hash((call.action, str(call.target) if call.target else call.repeats))
        if known in different or len(different) >= DIFFERENT_MAX:
            return None
        before, self._last = self._last, call.action
        different.add(known)
        if not before:
            return None
        bits = self._turns.bits(before, call.action, len(different))
        if bits <= self._allowed_bits:
            return None
        again = bits <= self._next_bits
        if not again:
            self._next_bits = 2 * bits
        detail = (
            f"{shown(call.action)} after {shown(before)} in a run of a workflow that was never learned; "
            f"of {self._healthy} healthy runs hardly any goes on like that"
        )
        facts: dict[str, Any] = {
            "action": shown(call.action),
            "before": shown(before),
            "bits": round(bits, 1),
            "allowed_bits": round(self._allowed_bits, 1),
            "healthy_runs": self._healthy,
        }
        return _finding(self._run, detail, facts, again=again)


def _finding(run: RunInfo, detail: str, facts: dict[str, Any], *, again: bool) -> Finding:
    return Finding(
        kind=SignalKind.BEHAVIOUR,
        rule=RULE,
        severity=Severity.HIGH,
        scope=about_run(run.run_id),
        detail=detail,
        facts=facts,
        again=again,
    )
