"""The detectors that there are: their names in a policy's `detect:`, and what each of them says.

Imported by name, and only when a policy is read or an engine is built: a command that stops agents needs none of them.
"""

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.model.signal import SignalKind
from rescind.triggers.detector import Detector

if TYPE_CHECKING:
    from rescind.triggers.baseline import Baseline

_PLACES = {
    "rates": ("rates", "Rates"),
    "behaviour": ("behaviour", "Behaviour"),
    "blast_radius": ("blast", "Blast"),
    "budget": ("budgets", "Budget"),
    "policy_violation": ("allowed", "Allowed"),
    "verification_failure": ("verification", "Verification"),
    "tool_uncertainty": ("certainty", "Certainty"),
    "lost_identity": ("identity", "Identity"),
    "cross_system_inconsistency": ("consistency", "Consistency"),
}

_LIMITS = {
    "behaviour.retries": "retries_max",
    "behaviour.repeated_call": "repeats_max",
    "behaviour.steps": "steps_max",
    "behaviour.mutations": "mutations_max",
    "behaviour.unlike_baseline": "false_stops_per_1000",
}
"""Rules whose limit has another name than they."""

_RULES = {
    SignalKind.ERROR_RATE: ("change", "window"),
    SignalKind.ANOMALY_RATE: ("change", "window"),
    SignalKind.SLOW_RATE: ("change", "window"),
    SignalKind.VOLUME_RATE: ("spike",),
    SignalKind.POLICY_VIOLATION: ("action", "target", "amount", "amount_per_run", "tenant", "revoked_lease"),
    SignalKind.VERIFICATION_FAILURE: ("postcondition", "approved_differs"),
    SignalKind.TOOL_UNCERTAINTY: ("low_parse", "schema_drift", "partial_failure", "no_receipt", "unknown_outcome"),
    SignalKind.BUDGET: ("max_steps", "max_tool_calls", "max_seconds", "max_usd"),
    SignalKind.LOST_IDENTITY: ("unsure_read", "unsure_write"),
    SignalKind.INCONSISTENCY: ("partial_failures", "invariant"),
    SignalKind.DETECTOR_FAILURE: ("raised",),
    SignalKind.BEHAVIOUR: ("retries", "repeated_call", "steps", "mutations", "unlike_baseline"),
    SignalKind.BLAST_RADIUS: (
        "records_per_run",
        "records_per_minute",
        "tenants_per_run",
        "systems_per_run",
        "children_per_run",
        "children_per_minute",
    ),
}
"""By kind of signal, the rules that give it. A misspelt one in a policy would wait for ever."""

LEARNING = frozenset({"rates", "behaviour"})
"""Detectors that compare with a baseline, if the policy names one."""

RATES = frozenset({SignalKind.ERROR_RATE, SignalKind.ANOMALY_RATE, SignalKind.SLOW_RATE, SignalKind.VOLUME_RATE})
"""The kinds of signal that one detector, `rates`, gives."""


def detector_names() -> tuple[str, ...]:
    """The keys of `detect:`, in the order in which detectors are asked."""
    return tuple(_PLACES)


def detector_of(kind: SignalKind) -> str:
    """The key of the detector that gives signals of this kind; empty for those that come from elsewhere."""
    name = "rates" if kind in RATES else kind.value
    return name if name in _PLACES else ""


def rules_of(kind: SignalKind) -> tuple[str, ...]:
    """The rules that give signals of this kind; empty if any name may come, as from a verifier."""
    return _RULES.get(kind, ())


@lru_cache(256)  # a policy asks again at every call that its rule answers
def limits_of(kind: SignalKind, rule: str) -> frozenset[str]:
    """The limits that such a signal is about: of `blast_radius.records_per_run`, that field; else all of them."""
    name = detector_of(kind)
    if not name:
        return frozenset()
    fields = frozenset(field.name for field in msgspec.structs.fields(config_type(name)))
    about = _LIMITS.get(f"{kind.value}.{rule}", rule)
    return frozenset({about}) if about in fields else fields


def config_type(name: str) -> type[msgspec.Struct]:
    """The struct of a detector's limits. Its `__post_init__` raises ValueError for bad ones."""
    found: type[msgspec.Struct] = _imported(name, "Config")
    return found


def make_detector(name: str, config: msgspec.Struct, baseline: "Baseline | None" = None) -> Detector:
    """A new detector, which has seen nothing yet.

    Args:
        name: Its key in `detect:`.
        config: Its limits.
        baseline: What was learned of healthy runs, for those detectors that compare with it.
    """
    kind = _imported(name, "Detector")
    if baseline is None or name not in LEARNING:
        made: Detector = kind(config)
    elif name == "rates":
        written: Any = config
        # What somebody has written says more than what was recorded.
        made = kind(msgspec.structs.replace(written, baselines={**baseline.rates, **written.baselines}))
    else:
        made = kind(config, baseline)
    return made


def _imported(name: str, suffix: str) -> Any:
    module, prefix = _PLACES[name]
    return getattr(import_module(f"rescind.triggers.{module}"), f"{prefix}{suffix}")
