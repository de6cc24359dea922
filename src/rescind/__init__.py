"""The stop button and the undo button for AI agents: stop it, undo it, prove it.

    import rescind

    guard = rescind.Guard.from_config()

    @guard.write("invoice.status.update", target=lambda invoice_id: ("erp", "invoice", invoice_id))
    def set_status(invoice_id: str, status: str) -> None: ...

Everything that we promise is in this namespace, and is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescind.compensation.effects import (
        Files,
        GitBranch,
        HttpResource,
        MappingKey,
        ObjectGraph,
        RedisKeys,
        S3Objects,
        SqlChanges,
        SqlRows,
    )
    from rescind.errors import (
        ApprovalPending,
        BreakerOpen,
        CallDenied,
        Conflict,
        IdempotencyConflict,
        JournalUnavailable,
        NothingChanged,
        OutcomeNotRecorded,
        RescindError,
        RunHalted,
        StepInDoubt,
        Transient,
        UsageError,
        VerificationFailed,
    )
    from rescind.guard.call import idempotency_key
    from rescind.guard.effect import Effect, PastStep
    from rescind.guard.guard import Guard
    from rescind.guard.held import HeldEffect
    from rescind.guard.reporting import report
    from rescind.guard.run import Run
    from rescind.model.level import Level
    from rescind.model.probe import Found, Probe
    from rescind.model.step import Snapshot, Target

__version__ = "0.1.0"

_HOMES = {
    "ApprovalPending": "rescind.errors",
    "BreakerOpen": "rescind.errors",
    "CallDenied": "rescind.errors",
    "Conflict": "rescind.errors",
    "Effect": "rescind.guard.effect",
    "Files": "rescind.compensation.effects",
    "Found": "rescind.model.probe",
    "GitBranch": "rescind.compensation.effects",
    "Guard": "rescind.guard.guard",
    "HeldEffect": "rescind.guard.held",
    "HttpResource": "rescind.compensation.effects",
    "IdempotencyConflict": "rescind.errors",
    "JournalUnavailable": "rescind.errors",
    "Level": "rescind.model.level",
    "MappingKey": "rescind.compensation.effects",
    "NothingChanged": "rescind.errors",
    "ObjectGraph": "rescind.compensation.effects",
    "OutcomeNotRecorded": "rescind.errors",
    "PastStep": "rescind.guard.effect",
    "Probe": "rescind.model.probe",
    "RedisKeys": "rescind.compensation.effects",
    "RescindError": "rescind.errors",
    "Run": "rescind.guard.run",
    "RunHalted": "rescind.errors",
    "S3Objects": "rescind.compensation.effects",
    "Snapshot": "rescind.model.step",
    "SqlChanges": "rescind.compensation.effects",
    "SqlRows": "rescind.compensation.effects",
    "StepInDoubt": "rescind.errors",
    "Target": "rescind.model.step",
    "Transient": "rescind.errors",
    "UsageError": "rescind.errors",
    "VerificationFailed": "rescind.errors",
    "idempotency_key": "rescind.guard.call",
    "report": "rescind.guard.reporting",
}

__all__ = [
    "ApprovalPending",
    "BreakerOpen",
    "CallDenied",
    "Conflict",
    "Effect",
    "Files",
    "Found",
    "GitBranch",
    "Guard",
    "HeldEffect",
    "HttpResource",
    "IdempotencyConflict",
    "JournalUnavailable",
    "Level",
    "MappingKey",
    "NothingChanged",
    "ObjectGraph",
    "OutcomeNotRecorded",
    "PastStep",
    "Probe",
    "RedisKeys",
    "RescindError",
    "Run",
    "RunHalted",
    "S3Objects",
    "Snapshot",
    "SqlChanges",
    "SqlRows",
    "StepInDoubt",
    "Target",
    "Transient",
    "UsageError",
    "VerificationFailed",
    "idempotency_key",
    "report",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'rescind' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
