"""Signals: what a detector has noticed, said once in a form that everybody can judge.

A detector returns a `Finding`; whoever asked it makes a `Signal` of that, with an identity and a moment. A signal is
evidence and never a decision: what is done about it is the policy's business.
"""

import enum
from datetime import datetime
from typing import Any

import msgspec

from rescind.model.scope import Scope


class SignalKind(enum.StrEnum):
    """What kind of evidence it is. The name in files, on the wire and in messages."""

    ERROR_RATE = "error_rate"
    ANOMALY_RATE = "anomaly_rate"
    SLOW_RATE = "slow_rate"
    VOLUME_RATE = "volume_rate"
    POLICY_VIOLATION = "policy_violation"
    VERIFICATION_FAILURE = "verification_failure"
    BEHAVIOUR = "behaviour"
    TOOL_UNCERTAINTY = "tool_uncertainty"
    BLAST_RADIUS = "blast_radius"
    BUDGET = "budget"
    LOST_IDENTITY = "lost_identity"
    INCONSISTENCY = "cross_system_inconsistency"
    VERDICT = "verdict"  # of an external verifier: a rule engine, another model, a person
    DETECTOR_FAILURE = "detector_failure"  # a detector raised, so nobody knows what it would have said


class Severity(enum.IntEnum):
    """How much it matters. Higher is worse."""

    INFO = 0
    WARNING = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The name in files, on the wire and in messages: `high`."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> "Severity":
        """Read a severity as a person types it. Raises: ValueError, naming the four, for anything else."""
        try:
            return cls[text.strip().upper()]
        except KeyError:
            raise ValueError(f"unknown severity {text!r}; they are: {', '.join(each.label for each in cls)}") from None


class Finding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a detector found at one call.

    Attributes:
        kind: What kind of evidence it is.
        rule: Which of the detector's rules found it: `records_per_run`, `repeated_call`. Lower case, one word.
        severity: How much it matters.
        scope: Whom it is about, as far as the detector can tell: a run, an action, an agent.
        detail: One line for people, with the numbers: `101 records in this run, 100 are allowed`.
        facts: The numbers by name, as JSON values.
        again: It was said before and has not become worse. It makes no further signal, but what the policy refuses for
            it is refused again: a call that was denied must not get through by being repeated.
        besides: What the same detector found at the same call by other rules. The policy may have one of them in shadow
            and refuse for another.
    """

    kind: SignalKind
    rule: str
    severity: Severity
    scope: Scope
    detail: str
    facts: dict[str, Any] = {}
    again: bool = False
    besides: "tuple[Finding, ...]" = ()

    @property
    def name(self) -> str:
        """What was found, in one word: `blast_radius.records_per_run`."""
        return f"{self.kind.value}.{self.rule}"


class Signal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A finding with its identity. The same signal may arrive twice or late, and then changes nothing.

    Attributes:
        signal_id: Unique; who gets it twice has got it once.
        noticed_at: When the evidence was complete; aware, UTC.
        run_id, step_id: The call at which it was noticed; empty if it is about no single call.
        source: Who noticed: the guard's id, or the name on a verifier's token.
    """

    signal_id: str
    kind: SignalKind
    rule: str
    severity: Severity
    scope: Scope
    detail: str
    facts: dict[str, Any] = {}
    noticed_at: datetime
    run_id: str = ""
    step_id: str = ""
    source: str = ""

    @classmethod
    def of(
        cls,
        finding: Finding,
        *,
        signal_id: str,
        noticed_at: datetime,
        run_id: str = "",
        step_id: str = "",
        source: str = "",
    ) -> "Signal":
        """The signal that a finding is."""
        return cls(
            signal_id=signal_id,
            kind=finding.kind,
            rule=finding.rule,
            severity=finding.severity,
            scope=finding.scope,
            detail=finding.detail,
            facts=finding.facts,
            noticed_at=noticed_at,
            run_id=run_id,
            step_id=step_id,
            source=source,
        )

    @property
    def name(self) -> str:
        """What was found, in one word: `blast_radius.records_per_run`."""
        return f"{self.kind.value}.{self.rule}"

    @property
    def cause(self) -> str:
        """What signals are grouped by: `blast_radius.records_per_run agent:billing-agent`."""
        return self.cause_in(self.scope)

    def cause_in(self, scope: Scope) -> str:
        """As `cause`, where it is grouped with others under a scope of all of them."""
        return f"{self.name} {scope}"
