"""Rates: breakers per agent and action, action, agent, workflow and tenant, fed by all runs of the process.

A run alone makes few calls; the evidence that something is going wrong is in all of them together. So there is one set
of breakers in a process, and a call counts in each that it belongs to. They only notice: what is refused is decided by
the policy, which answers a finding with an order of measure `trip`, and that one all processes see.

A call counts from the narrowest scope to the widest, and this is what spares the rest:

RT1. Of several breakers that would trip at one call, the narrowest does. The wider ones begin anew: what has just been
    contained is no evidence against them.
RT2. While a breaker is tripped, its calls count for no other one: its order refuses them, and where that is not
    enforced, what is said is what would have been.
RT3. A breaker that has tripped goes on to watch, and speaks again only when twice the evidence has come (law D5), until
    its cooldown is over.
RT4. There are at most `breakers_max` of them. Beyond that half of them are forgotten: those that were used least
    recently, tripped ones last. What is lost is some evidence, and never a refusal.
"""

import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import msgspec

from rescind.model.outcome import Completed, Unknown
from rescind.model.scope import Scope, Term, unnameable
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import shown
from rescind.triggers.change import tolerated
from rescind.triggers.detector import Moment
from rescind.triggers.evidence import KINDS, Bounds, Evidence, Rule, Trip
from rescind.triggers.facts import Call, End
from rescind.triggers.probing import PROBE_TIMEOUT_S, ProbeRule
from rescind.triggers.window import ANOMALOUS, BUCKETS, FAILED, MARKS, SLOW

Key = tuple[str, ...]
"""The terms of a scope, sorted: kind, value, and perhaps another kind and value. Strings remember their hash."""

Group = tuple[str, str, str, str]
"""Action, agent, workflow and tenant of a call; the last two may be empty."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A healthy time on record: how many calls there were, and how many of them were bad in which way."""

    calls: int
    failed: int = 0
    anomalous: int = 0
    slow: int = 0

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise ValueError(f"calls is {self.calls}; a baseline has at least 1")
        for name in ("failed", "anomalous", "slow"):
            if not 0 <= getattr(self, name) <= self.calls:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to the {self.calls} calls")


class RatesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When breakers trip.

    Attributes:
        rule: `change`: the rate has risen above what is tolerated; `window`: it is at or above that in the last
            `window_seconds`, of at least `minimum_calls`.
        error_rate_pct, anomaly_rate_pct, slow_rate_pct: What is tolerated, in percent of calls; null: not asked.
            An error is a call that did not complete. An anomaly is one of which nobody knows how it ended, whose
            postcondition does not hold, whose result has not the declared shape, or that was slow.
        slow_call_seconds: From how long on a call is slow.
        limit: Of `change`: between false trips there are at least so many calls on average.
        limit_wide: The same for tenants and workflows, whose trip stops many agents at once.
        volume_spike_factor: How many times the usual number of calls in a window is a spike; null: not asked.
        volume_minimum_calls: Calls in a window below which nothing is a spike.
        cooldown_seconds: How long a tripped breaker refuses before it admits probes.
        probes: How many it admits then; all have to succeed.
        probe_timeout_seconds: After how long a probe of which nobody heard counts as failed.
        baselines: By scope (`action:invoice.void`): what is healthy there. `change` tolerates what follows from it
            (see `change.tolerated`) instead of the percentages.
        breakers_max: How many scopes are watched at once.
    """

    rule: Rule = Rule.CHANGE
    error_rate_pct: float | None = 15.0
    anomaly_rate_pct: float | None = 10.0
    slow_rate_pct: float | None = 50.0
    slow_call_seconds: float = 30.0
    minimum_calls: int = 20
    window_seconds: float = 300.0
    limit: float = 1e4
    limit_wide: float = 1e6
    volume_spike_factor: float | None = 3.0
    volume_minimum_calls: int = 30
    cooldown_seconds: float = 600.0
    probes: int = 3
    probe_timeout_seconds: float = PROBE_TIMEOUT_S
    baselines: dict[str, Recorded] = {}
    breakers_max: int = 5_000

    def __post_init__(self) -> None:
        for name, least, most in _LIMITS:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} is {value:g}; it must be from {least:g} to {most:g}")
        for text in self.baselines:
            try:
                Scope.parse(text)
            except ValueError as error:
                raise ValueError(f"baselines: {error}") from error

    @property
    def probe_rule(self) -> ProbeRule:
        """How a tripped breaker comes back; what a claim of a probe takes."""
        return ProbeRule.of(cooldown_s=self.cooldown_seconds, probes=self.probes, timeout_s=self.probe_timeout_seconds)

    def bounds(self, scope: Scope) -> Bounds:
        """The bounds of the breaker of a scope."""
        error, anomaly, slow = self._rates(scope)
        return Bounds(
            rule=self.rule,
            error_rate=error,
            anomaly_rate=anomaly,
            slow_rate=slow,
            limit=self.limit_wide if _is_wide(scope) else self.limit,
            minimum_calls=self.minimum_calls,
            spike_factor=self.volume_spike_factor,
            spike_least=self.volume_minimum_calls,
            cooldown_s=self.cooldown_seconds,
        )

    def _rates(self, scope: Scope) -> tuple[float | None, ...]:
        rates = tuple(
            None if percent is None else percent / 100
            for percent in (self.error_rate_pct, self.anomaly_rate_pct, self.slow_rate_pct)
        )
        recorded = self.baselines.get(str(scope))
        if recorded is None or self.rule is not Rule.CHANGE:
            return rates
        healthy = (recorded.failed, recorded.anomalous, recorded.slow)
        return tuple(
            None if rate is None else tolerated(bad, recorded.calls) for rate, bad in zip(rates, healthy, strict=True)
        )


_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("error_rate_pct", 0.01, 94),
    ("anomaly_rate_pct", 0.01, 94),
    ("slow_rate_pct", 0.01, 94),
    ("slow_call_seconds", 0.001, 86_400),
    ("minimum_calls", 1, 1_000_000),
    ("window_seconds", 1, 86_400),
    ("limit", 10, 1e8),
    ("limit_wide", 10, 1e8),
    ("volume_spike_factor", 1.1, 1_000),
    ("volume_minimum_calls", 1, 1_000_000),
    ("cooldown_seconds", 1, 86_400),
    ("probes", 1, 1_000),
    ("probe_timeout_seconds", 1, 86_400),
    ("breakers_max", 10, 1_000_000),
)
"""From and to where each setting makes sense; beyond, somebody has slipped."""


class RatesDetector:
    """All breakers of the process. Thread-safe; the lock is held for some microseconds, and never during a call."""

    def __init__(self, config: RatesConfig | None = None) -> None:
        """Breakers that have seen nothing."""
        self.config = config or RatesConfig()
        # None for what no scope can name: nobody could stop it, so there is nothing to notice.
        self._breakers: dict[Key, Evidence | None] = {}
        # What a call counts in, by its action, agent, workflow and tenant, so that a call looks up one thing and not
        # five. Emptied whenever a breaker is forgotten.
        self._groups: dict[Group, tuple[tuple[Key, Evidence], ...]] = {}
        self._slots_per_s = BUCKETS / self.config.window_seconds
        self._quiet_until_s = 0.0  # until then some breaker may be tripped
        self._lock = threading.RLock()  # a signal's handler may come by here in the middle of it
        _detectors.add(self)

    def watch(self, run: RunInfo) -> "RatesWatch":
        """Begin to watch a run: its calls count in the breakers it shares with others."""
        return RatesWatch(self, run)

    def is_tripped(self, scope: Scope, at_s: float) -> bool:
        """Whether the breaker of this scope has tripped and is in its cooldown at `at_s`."""
        with self._lock:
            breaker = self._breakers.get(_key(scope))
            return breaker is not None and breaker.look(at_s)

    def reset(self, scope: Scope) -> None:
        """The trip of this scope was lifted: what led to it is no evidence any more, wherever it was counted.

        What is usual stays known.
        """
        wanted = {term.kind: term.value for term in scope.terms}
        with self._lock:
            for key, breaker in self._breakers.items():
                terms = dict(zip(key[::2], key[1::2], strict=True))
                if breaker is None or any(terms.get(kind, value) != value for kind, value in wanted.items()):
                    continue  # none of its calls were within the scope
                if wanted.keys() <= terms.keys():
                    breaker.strikes = 0
                breaker.restart()

    def __len__(self) -> int:
        """How many breakers there are."""
        return len(self._breakers)

    def record(self, group: "Group", at_s: float, marks: int) -> tuple[Key, Trip] | None:
        """Count a call of this group, in the narrowest breaker first (laws RT1 to RT3).

        Returns: The key of the breaker that tripped, and why; None for none.
        """
        slot = int(at_s * self._slots_per_s)
        tripped: tuple[Key, Trip] | None = None
        with self._lock:
            breakers = self._groups.get(group) or self._new_group(group)
            if at_s < self._quiet_until_s:
                breakers = tuple(each for each in breakers if each[1].look(at_s)) or breakers
            for key, breaker in breakers:
                if tripped is not None:
                    breaker.restart()
                    continue
                trip = breaker.record(slot, at_s, marks)
                if trip is not None:
                    tripped = key, trip
                    self._quiet_until_s = max(self._quiet_until_s, at_s + self.config.cooldown_seconds)
        return tripped

    def renew_lock(self) -> None:
        """In a forked child: the thread that held the lock may not have come along."""
        self._lock = threading.RLock()

    def _new_group(self, group: "Group") -> tuple[tuple[Key, Evidence], ...]:
        keys = keys_of(*group)
        if len(self._breakers) + len(keys) > self.config.breakers_max:
            self._forget_half()
        if len(self._groups) >= self.config.breakers_max:
            self._groups.clear()
        for key in keys:
            if key not in self._breakers:
                nameable = not any(unnameable(value) for value in key[1::2])
                self._breakers[key] = Evidence(self.config.bounds(Scope(_terms(key)))) if nameable else None
        made = tuple((key, breaker) for key in keys if (breaker := self._breakers[key]) is not None)
        self._groups[group] = made
        return made

    def _forget_half(self) -> None:
        self._groups.clear()
        by_use = sorted(self._breakers, key=lambda key: _last_use(self._breakers[key]))
        for key in by_use[: (len(by_use) + 1) // 2]:
            del self._breakers[key]


class RatesWatch:
    """One run. It refuses nothing by itself: refusals come from the order that a trip becomes."""

    __slots__ = ("_agent", "_detector", "_run")

    skips = frozenset({Moment.ASKED})

    def __init__(self, detector: RatesDetector, run: RunInfo) -> None:
        """Nothing has been seen of the run yet."""
        self._detector, self._run, self._agent = detector, run, run.agent

    def asked(self, call: Call) -> None:
        """Nothing is counted before it has ended."""

    def ended(self, end: End) -> Finding | None:
        """Count the call; the finding, if a breaker trips."""
        if end.was_refused:
            return None
        detector, run, call = self._detector, self._run, end.call
        marks = marks_of(end, detector.config.slow_call_seconds)
        group = (call.action, self._agent, run.workflow, call.tenant or run.tenant)
        tripped = detector.record(group, end.at_s, marks)
        return None if tripped is None else finding_of(*tripped, detector.config)


def keys_of(action: str, agent: str, workflow: str, tenant: str) -> list[Key]:
    """The scopes in which a call counts, from the narrowest to the widest."""
    keys: list[Key] = [("action", action, "agent", agent), ("action", action), ("agent", agent)]
    if workflow:
        keys.append(("workflow", workflow))
    if tenant:
        keys.append(("tenant", tenant))
    return keys


def marks_of(end: End, slow_call_s: float) -> int:
    """What was wrong with a call, as bits; 0 if nothing."""
    marks = 0
    outcome = end.outcome
    if type(outcome) is not Completed:
        marks = FAILED | ANOMALOUS if type(outcome) is Unknown else FAILED
    if end.verified is False or end.problem:
        marks |= ANOMALOUS
    if end.duration_s >= slow_call_s:
        marks |= SLOW | ANOMALOUS
    return marks


def baselines_of(ends: Iterable[End], config: RatesConfig | None = None) -> dict[str, Recorded]:
    """What was healthy in a record, by scope, for `RatesConfig.baselines`.

    Args:
        ends: The calls of a healthy time, in any order.
        config: For what is slow.
    """
    slow_call_s = (config or RatesConfig()).slow_call_seconds
    counts: dict[Key, list[int]] = {}
    for end in ends:
        marks = marks_of(end, slow_call_s)
        run = end.call.run
        for key in keys_of(end.call.action, run.agent, run.workflow, end.call.tenant or run.tenant):
            count = counts.setdefault(key, [0, 0, 0, 0])
            count[0] += 1
            for index, mark in enumerate(MARKS, start=1):
                count[index] += marks & mark > 0
    return {
        str(Scope(_terms(key))): Recorded(calls=calls, failed=failed, anomalous=anomalous, slow=slow)
        for key, (calls, failed, anomalous, slow) in counts.items()
    }


def finding_of(key: Key, trip: Trip, config: RatesConfig) -> Finding:
    """The finding that a trip makes."""
    scope = Scope(_terms(key))
    name = shown(scope, 200)
    facts: dict[str, Any] = {
        "calls": trip.calls,
        "bad": trip.bad,
        "window_s": config.window_seconds,
        "cooldown_s": config.cooldown_seconds,
        "strikes": trip.strikes,
    }
    if trip.kind is SignalKind.VOLUME_RATE:
        facts["bound"] = trip.bound
        detail = f"{trip.calls:,} calls of {name} within {config.window_seconds:g} s; up to {trip.bound:,.0f} are usual"
    else:
        facts["tolerated_pct"] = round(trip.bound * 100, 2)
        facts["rate_pct"] = round(trip.bad * 100 / max(trip.calls, 1), 2)  # 0 where the clock fell back
        calls, bad, lately = trip.calls, trip.bad, f"within {config.window_seconds:g} s "
        if trip.rule == Rule.CHANGE:
            (calls, bad), lately = trip.since, ""
            facts |= {"evidence": float(f"{trip.evidence:.3g}"), "since_calls": calls, "since_bad": bad}
        detail = (
            f"{bad:,} of the last {calls:,} calls of {name} {lately}{_WHAT[trip.kind]}; {trip.bound:.1%} is tolerated"
        )
    return Finding(
        kind=trip.kind,
        rule=trip.rule,
        severity=_severity(trip),
        scope=scope,
        detail=detail,
        facts=facts,
    )


_WHAT = dict(zip(KINDS, ("failed", "were anomalous", "were slow"), strict=True))


def _severity(trip: Trip) -> Severity:
    if trip.kind in (SignalKind.ERROR_RATE, SignalKind.ANOMALY_RATE):
        return Severity.HIGH
    # Slow is not wrong, and much is not wrong; the second time within a cooldown it has doubled.
    return Severity.HIGH if trip.strikes else Severity.WARNING


def _last_use(breaker: Evidence | None) -> tuple[bool, int]:
    return (False, -1) if breaker is None else (breaker.strikes > 0, breaker.window.slot)


def _is_wide(scope: Scope) -> bool:
    return not any(term.kind in ("agent", "action") for term in scope.terms)


def _terms(key: Key) -> tuple[Term, ...]:
    return tuple(Term(kind, value) for kind, value in zip(key[::2], key[1::2], strict=True))


def _key(scope: Scope) -> Key:
    return tuple(part for term in scope.terms for part in (term.kind, term.value))


_detectors: "weakref.WeakSet[RatesDetector]" = weakref.WeakSet()


def _after_fork() -> None:
    for detector in list(_detectors):
        detector.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
