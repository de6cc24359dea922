"""The compact JSON form of a step, for exchange with other systems. Import and export are inverse, field for field.

    {"run_id": "run_1", "agent_id": "billing-agent@2.4.0", "step_id": "7", "action": "invoice.status.update",
     "target": {"system": "erp", "kind": "invoice", "id": "inv_88421"},
     "before_ref": "snap_1", "after_ref": "snap_2", "idempotency_key": "k-7", "result": "success",
     "compensation": {"type": "restore", "allowed_until": "2026-12-01T00:00:00Z"}}

Fields of a target beyond system, kind and id are kept as qualifiers and belong to its identity.
"""

from datetime import datetime
from typing import Any

import msgspec

from rescind.model.action import EffectClass
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.step import Compensation, RunInfo, Snapshot, Step, Target, parse_agent


class CompactCompensation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be done about the step, and until when; a time must carry its zone."""

    type: str
    allowed_until: datetime | None = None


class CompactStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step in the compact form; the field names are the wire's."""

    run_id: str
    agent_id: str
    step_id: str
    action: str
    target: dict[str, str] | None
    before_ref: str | None
    after_ref: str | None
    idempotency_key: str
    result: Any
    compensation: CompactCompensation | None


class ImportedStep(msgspec.Struct, frozen=True, kw_only=True):
    """An imported step in the journal's own words. `outcome` is None where the step has no recorded end."""

    run: RunInfo
    step: Step
    outcome: Outcome | None
    after: Snapshot | None


_EFFECT_CLASS_OF_KIND = {
    "restore": EffectClass.REVERSIBLE,
    "compensate": EffectClass.COMPENSATABLE,
    "review": EffectClass.IRREVERSIBLE,
}

KIND_OF_EFFECT_CLASS = {effect_class: kind for kind, effect_class in _EFFECT_CLASS_OF_KIND.items()}
"""The compensation kind that each effect class leads to."""

_UNKNOWN_RESULT, _FAILED_RESULT = "$unknown", "$failed"


def parse_compact(data: bytes | str) -> CompactStep:
    """Read one compact step.

    Raises: ValueError, which names the field, for malformed or incomplete input and for times without a zone.
    """
    try:
        compact = msgspec.json.decode(data, type=CompactStep)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a step in compact form: {error}") from error
    deadline = compact.compensation.allowed_until if compact.compensation else None
    if deadline is not None and deadline.tzinfo is None:
        raise ValueError(f"compensation.allowed_until {deadline.isoformat()} has no time zone; add one, such as Z")
    if compact.target is not None and not compact.target.get("system"):
        raise ValueError("target.system is missing")
    return compact


def import_compact(compact: CompactStep) -> ImportedStep:
    """The journal's view of a compact step.

    Raises: ValueError, if the agent id cannot be read.
    """
    name, version = parse_agent(compact.agent_id)
    kind = compact.compensation.type if compact.compensation else None
    return ImportedStep(
        run=RunInfo(run_id=compact.run_id, agent_name=name, agent_version=version),
        step=Step(
            step_id=compact.step_id,
            action=compact.action,
            effect_class=_EFFECT_CLASS_OF_KIND.get(kind) if kind else None,
            target=_import_target(compact.target),
            before=Snapshot(ref=compact.before_ref) if compact.before_ref is not None else None,
            idempotency_key=compact.idempotency_key,
            compensation=_import_compensation(compact.compensation),
        ),
        outcome=_import_result(compact.result),
        after=Snapshot(ref=compact.after_ref) if compact.after_ref is not None else None,
    )


def export_compact(record: StepRecord) -> CompactStep:
    """The compact form of a step as the journal knows it."""
    step = record.step
    return CompactStep(
        run_id=record.run.run_id,
        agent_id=record.run.agent,
        step_id=step.step_id,
        action=step.action,
        target=_export_target(step.target),
        before_ref=step.before.ref if step.before else None,
        after_ref=record.after.ref if record.after else None,
        idempotency_key=step.idempotency_key,
        result=_export_result(record.outcome),
        compensation=_export_compensation(step.compensation),
    )


def _import_target(fields: dict[str, str] | None) -> Target | None:
    if fields is None:
        return None
    known = ("system", "kind", "id")
    qualifiers = tuple(sorted((name, value) for name, value in fields.items() if name not in known))
    return Target(fields["system"], fields.get("kind", ""), fields.get("id", ""), qualifiers)


def _export_target(target: Target | None) -> dict[str, str] | None:
    if target is None:
        return None
    fields = {"system": target.system, "kind": target.kind, "id": target.id}
    return {name: value for name, value in fields.items() if value} | dict(target.qualifiers)


def _import_compensation(compensation: CompactCompensation | None) -> Compensation | None:
    if compensation is None:
        return None
    return Compensation(kind=compensation.type, allowed_until=compensation.allowed_until)


def _export_compensation(compensation: Compensation | None) -> CompactCompensation | None:
    if compensation is None:
        return None
    return CompactCompensation(compensation.kind, compensation.allowed_until)


def _import_result(result: Any) -> Outcome | None:
    # The wire has one field for three outcomes and for none. A completed result stands as it is; the others are
    # objects with one reserved key, so that no ordinary result can be mistaken for them.
    match result:
        case {"$unknown": None}:
            return None
        case {"$unknown": str(reason)}:
            return Unknown(reason)
        case {"$failed": str(reason)}:
            return Failed(reason)
        case _:
            return Completed(result)


def _export_result(outcome: Outcome | None) -> Any:
    match outcome:
        case None:
            return {_UNKNOWN_RESULT: None}
        case Unknown(reason):
            return {_UNKNOWN_RESULT: reason}
        case Failed(reason):
            return {_FAILED_RESULT: reason}
        case Completed(result):
            return result
