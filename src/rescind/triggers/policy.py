"""A policy: what is looked for, and what is done about it. Values, and the one function that decides.

Laws, cited by the tests:

Q1. The first rule that matches decides: those of the file in their order, then the built-in ones, then `report`.
Q2. A decision in shadow does nothing. What would have been done is recorded.
Q3. Deciding is pure: the same signal of the same run gets the same decision from the same policy.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from rescind.model.scope import Scope
from rescind.model.signal import Finding, Severity, Signal, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.detector import Detector
from rescind.triggers.fleet import FleetConfig
from rescind.triggers.known import LEARNING, detector_of, limits_of, make_detector
from rescind.triggers.outage import OutageConfig
from rescind.triggers.response import Response, Verb, is_recoverable

if TYPE_CHECKING:
    from rescind.triggers.baseline import Baseline

EVERY_SIGNAL = "*"

MAY_COMPENSATE_ON = {
    SignalKind.POLICY_VIOLATION: "a boundary that is not negotiable was violated",
    SignalKind.VERIFICATION_FAILURE: "a verifier proved that what happened is not what should have",
    SignalKind.BLAST_RADIUS: "the blast radius was exceeded",
    SignalKind.LOST_IDENTITY: "nobody knows any more who acts",
    SignalKind.INCONSISTENCY: "partial failures left systems inconsistent",
}
"""The only kinds of signal on which a policy may let the undo of an incident start without a person, and why."""

TALLIED_MAX = 64
"""Kinds of signal that are counted per run: more than all detectors have, and a bound for what verifiers name."""


class Mode(enum.StrEnum):
    """Whether a rule acts. The name in files."""

    ENFORCE = "enforce"
    SHADOW = "shadow"  # it counts and reports, and refuses nothing: where a new rule starts
    IF_LIMITED = "if_limited"  # enforced once somebody has written the limit it is about, in shadow until then


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of `respond:`.

    Attributes:
        name: What orders say that it placed: the rule's own name, or its signal. Unique in its policy.
        signal: `blast_radius`, `blast_radius.records_per_run`, or `*`.
        severity: The least that it answers.
        scope: Whose signals it answers.
        times: From the how manieth such signal of a run on.
        mode: Whether it acts.
        then: What is done, in this order; at least one.
        origin: Where it stands: `rescind.yaml, line 12`.
    """

    name: str
    signal: str = EVERY_SIGNAL
    severity: Severity = Severity.INFO
    scope: Scope = Scope()
    times: int = 1
    mode: Mode = Mode.ENFORCE
    then: tuple[Response, ...]
    origin: str = ""

    def meets(self, signal: Signal, run: RunInfo, action: str, *, times: int = 1) -> bool:
        """Whether it holds, but for the name, of a signal that is the run's `times`-th of its kind and rule."""
        is_enough = times >= self.times and signal.severity >= self.severity
        return is_enough and (not self.scope.terms or self.scope.covers(run.subject, action or None))

    def covers(self, other: "Rule") -> bool:
        """Whether this rule, standing before the other one, leaves it nothing to answer."""
        is_wider = self.signal in (EVERY_SIGNAL, other.signal, other.signal.partition(".")[0])
        everybody = set(self.scope.terms) <= set(other.scope.terms)
        return is_wider and everybody and self.severity <= other.severity and self.times <= other.times


def _names_of(signal: Signal) -> tuple[str, str, str]:
    """What a rule may call the signal."""
    return EVERY_SIGNAL, signal.kind.value, signal.name


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy does about one signal.

    Attributes:
        rule_name: The rule that decided.
        responses: What is done, in this order; what would be done, in shadow. At least one.
        shadow: Whether nothing is done (law Q2).
        origin: Where the rule stands, for people.
    """

    rule_name: str
    responses: tuple[Response, ...]
    shadow: bool = False
    origin: str = ""

    @property
    def recoverable(self) -> bool:
        """Whether the run can go on by itself; otherwise it is containment, and an order stands until it is lifted."""
        return is_recoverable(self.responses)

    @property
    def refuses_call(self) -> bool:
        """Whether the call at which the signal was noticed is refused, if it can still be."""
        return not self.shadow and any(response.refuses_call for response in self.responses)

    @property
    def opens_incident(self) -> bool:
        """Whether an incident is opened or joined: where one is asked for, and with every containment."""
        asked = any(response.verb is Verb.INCIDENT for response in self.responses)
        return not self.shadow and (asked or not self.recoverable)

    def without_containment(self, why: str) -> "Decision":
        """What is left of it where a run must not be contained: what refuses this one call, and the record.

        Args:
            why: Said behind the rule's name.
        """
        kept = tuple(response for response in self.responses if not response.is_containment)
        return msgspec.structs.replace(
            self, rule_name=f"{self.rule_name}, {why}", responses=kept or (Response(Verb.REPORT),)
        )

    @property
    def words(self) -> tuple[str, ...]:
        """The responses in words, as `Signalled.responses` records them."""
        return tuple(str(response) for response in self.responses)


class Tally:
    """How many signals of each kind and rule one run has given. 48 bytes until there is one."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] | None = None

    def count(self, signal: Finding | Signal) -> int:
        """Count one more; a finding that is said `again` does not count anew.

        Returns: How many there are now, this one included; at least 1.
        """
        counts = self._counts
        if counts is None:
            counts = self._counts = {}
        name = signal.name
        if name not in counts and len(counts) >= TALLIED_MAX:
            return 1
        is_new = not (isinstance(signal, Finding) and signal.again)
        counts[name] = count = max(1, counts.get(name, 0) + is_new)
        return count

    def as_dict(self) -> dict[str, int]:
        """How many there were, by kind and rule."""
        return dict(self._counts or {})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `detect:`.

    Attributes:
        config: The detector's limits; None: it is off.
        written: The fields that the file sets itself. A rule `if_limited` is enforced once its limit is there.
    """

    config: msgspec.Struct | None
    written: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is looked for, and what is done about it.

    Attributes:
        rules: Those of the file, in their order.
        defaults: The built-in ones, asked after those.
        limits: By name of the detector, in the order in which detectors are asked.
        mode: `shadow` puts every rule in shadow.
        require_approval: Patterns of actions whose writes wait for a person, such as `payment.*`.
        compensate_on: Kinds of signal on which the undo of an incident may start without a person.
        baseline: What was learned of healthy runs, and where that stands; None and empty without.
        fleet: For a switch that is given this policy.
        outage: See there.
        source: The file; empty for the built-in policy alone.
    """

    rules: tuple[Rule, ...] = ()
    defaults: tuple[Rule, ...] = ()
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    mode: Mode = Mode.ENFORCE
    require_approval: tuple[str, ...] = ()
    compensate_on: frozenset[SignalKind] = frozenset()
    fleet: FleetConfig = field(default_factory=FleetConfig)
    outage: OutageConfig = field(default_factory=OutageConfig)
    baseline: "Baseline | None" = None
    baseline_path: str = ""
    source: str = ""
    _made: dict[str, Detector] = field(default_factory=dict[str, Detector], compare=False, repr=False)

    def decide(self, signal: Signal, run: RunInfo, action: str, *, times: int = 1) -> Decision:
        """What to do about a signal (laws Q1 to Q3).

        Args:
            signal: The evidence.
            run: The run at whose call it was noticed.
            action: The call's action; empty if it is about no single call.
            times: How many signals of this kind and rule the run has given, this one included; see `Tally`.
        """
        names = _names_of(signal)
        for rule in (*self.rules, *self.defaults):
            if rule.signal in names and rule.meets(signal, run, action, times=times):
                shadow = self.is_shadow(rule, signal)
                return Decision(rule_name=rule.name, responses=rule.then, shadow=shadow, origin=rule.origin)
        return _REPORTED

    def is_shadow(self, rule: Rule, signal: Signal) -> bool:
        """Whether the rule would do nothing about this signal but report it."""
        if self.mode is Mode.SHADOW or rule.mode is Mode.SHADOW:
            return True
        return rule.mode is Mode.IF_LIMITED and not self.is_limited(signal.kind, signal.rule)

    def is_limited(self, kind: SignalKind, rule: str) -> bool:
        """Whether the file sets, itself, a limit that this signal is about."""
        limits = self.limits.get(detector_of(kind))
        return limits is not None and bool(limits.written & limits_of(kind, rule))

    def detectors(self) -> tuple[Detector, ...]:
        """Those that are switched on, in the order in which they are asked; always the same ones for one policy.

        They hold what was learned, so two guards that are to learn apart need a policy each.
        """
        for name, limits in self.limits.items():
            if limits.config is not None and name not in self._made:
                self._made[name] = make_detector(name, limits.config, self.baseline)
        return tuple(self._made[name] for name in self.limits if name in self._made)

    def taking_over(self, previous: "Policy") -> "Policy":
        """This policy with the detectors of the previous one, wherever their limits are equal.

        What those have learned and counted goes on; where limits have changed, the detector begins anew.
        """
        for name, limits in self.limits.items():
            before = previous.limits.get(name)
            if before is None or before.config != limits.config or name not in previous._made:
                continue
            if name not in LEARNING or self.baseline == previous.baseline:
                self._made[name] = previous._made[name]
        return self


_REPORTED = Decision(rule_name="report", responses=(Response(Verb.REPORT),), origin="no rule answers this signal")
