"""The compact JSON form of a step, for exchange with other systems. Import and export are inverse, field for field.

    {"run_id": "run_1", "agent_id": "billing-agent@2.4.0", "step_id": "7", "action": "invoice.status.update",
     "target": {"system": "erp", "kind": "invoice", "id": "inv_88421"},
     "before_ref": "snap_1", "after_ref": "snap_2", "idempotency_key": "k-7", "result": "success",
     "compensation": {"type": "restore", "allowed_until": "2026-12-01T00:00:00Z"}}

Fields of a target beyond system, kind and id are kept as qualifiers and belong to its identity; they may be any JSON
scalar. `compensation` and its `allowed_until` may be missing. A result is what the tool returned, or one of these
objects, with exactly this one key: {"$unknown": null} (no end was recorded), {"$unknown": reason}, {"$failed": reason},
and {"$completed": result} around a tool's own result that looks like one of these four.
"""

from datetime import datetime
from typing import Any, cast

import msgspec

from rescind.model.action import EffectClass
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.step import Compensation, Imported, RunInfo, Snapshot, Step, Target, canonical_json, parse_agent

Scalar = str | int | float | bool | None


class CompactCompensation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be done about the step, and until when; a time must carry its zone."""

    type: str
    allowed_until: str | msgspec.UnsetType | None = msgspec.UNSET


class CompactStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step in the compact form; the field names are the wire's."""

    run_id: str
    agent_id: str
    step_id: str
    action: str
    target: dict[str, Scalar] | None
    before_ref: str | None
    after_ref: str | None
    idempotency_key: str
    result: Any
    compensation: CompactCompensation | msgspec.UnsetType | None = msgspec.UNSET


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

_UNKNOWN, _FAILED, _COMPLETED = "$unknown", "$failed", "$completed"

# The fields that several wordings say alike. The others are texts, and results, which come back as they are.
_REWORDED = ("target", "after_ref", "compensation")


def parse_compact(data: bytes | str) -> CompactStep:
    """Read one compact step.

    Raises: ValueError, which names the field, for malformed or incomplete input and for times without a zone.
    """
    try:
        compact = msgspec.json.decode(data, type=CompactStep)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a step in compact form: {error}") from error
    if compact.compensation:
        _deadline(compact.compensation)
    _import_target(compact.target)
    return compact


def import_compact(compact: CompactStep) -> ImportedStep:
    """The journal's view of a compact step.

    Raises: ValueError, if the agent id cannot be read.
    """
    name, version = parse_agent(compact.agent_id)
    kind = compact.compensation.type if compact.compensation else None
    plain = ImportedStep(
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
    # Without an end there is no entry to carry what was seen after it.
    after = None if plain.outcome is None else plain.after
    imported = _reworded(compact, _export(plain.run, plain.step, plain.outcome, after))
    return msgspec.structs.replace(plain, step=msgspec.structs.replace(plain.step, imported=imported))


def export_compact(record: StepRecord) -> CompactStep:
    """The compact form of a step as the journal knows it."""
    plain = _export(record.run, record.step, record.outcome, record.after)
    imported = record.step.imported
    if imported is msgspec.UNSET:
        return plain
    fields: dict[str, Any] = dict.fromkeys(imported.absent, msgspec.UNSET) | imported.given
    if record.outcome is not None:
        fields.pop("after_ref", None)  # Kept for want of an end to carry it.
    if "compensation" in imported.given:
        fields["compensation"] = msgspec.convert(fields["compensation"], CompactCompensation)
    return msgspec.structs.replace(plain, **fields)


def _export(run: RunInfo, step: Step, outcome: Outcome | None, after: Snapshot | None) -> CompactStep:
    return CompactStep(
        run_id=run.run_id,
        agent_id=run.agent,
        step_id=step.step_id,
        action=step.action,
        target=_export_target(step.target),
        before_ref=step.before.ref if step.before else None,
        after_ref=after.ref if after else None,
        idempotency_key=step.idempotency_key,
        result=_export_result(outcome),
        compensation=_export_compensation(step.compensation),
    )


def _reworded(said: CompactStep, plain: CompactStep) -> Imported | msgspec.UnsetType:
    """In what the wording differs from that of a plain export, field by field."""
    given: dict[str, Any] = {}
    absent: list[str] = []
    for name in _REWORDED:
        ours, theirs = getattr(plain, name), getattr(said, name)
        if theirs is msgspec.UNSET:
            absent.append(name)
        elif canonical_json(ours) != canonical_json(theirs):  # As JSON: to Python, 1 and True are equal.
            given[name] = msgspec.to_builtins(theirs)
    return Imported(given=given, absent=tuple(absent)) if given or absent else msgspec.UNSET


def _import_target(fields: dict[str, Scalar] | None) -> Target | None:
    if fields is None:
        return None
    system = fields.get("system")
    if not isinstance(system, str) or not system:
        raise ValueError("target.system is missing; give a text")
    known = ("system", "kind", "id")
    qualifiers = tuple(sorted((item for item in fields.items() if item[0] not in known), key=lambda item: item[0]))
    return Target(system, _name(fields, "kind"), _name(fields, "id"), qualifiers)


def _name(fields: dict[str, Scalar], field: str) -> str:
    value = fields.get(field)
    # A numeric id names the same thing as its digits do.
    return "" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _export_target(target: Target | None) -> dict[str, Scalar] | None:
    if target is None:
        return None
    fields: dict[str, Scalar] = {"system": target.system, "kind": target.kind, "id": target.id}
    return {name: value for name, value in fields.items() if value} | dict(target.qualifiers)


def _import_compensation(compensation: CompactCompensation | msgspec.UnsetType | None) -> Compensation | None:
    if not compensation:
        return None
    return Compensation(kind=compensation.type, allowed_until=_deadline(compensation))


def _deadline(compensation: CompactCompensation) -> datetime | None:
    text = compensation.allowed_until
    if text is None or text is msgspec.UNSET:
        return None
    try:
        deadline = datetime.fromisoformat(text)  # It reads what has no seconds, too.
    except ValueError as error:
        raise ValueError(
            f"compensation.allowed_until {text!r} is not a time; write one such as 2026-12-01T00:00:00Z"
        ) from error
    if deadline.tzinfo is None:
        raise ValueError(f"compensation.allowed_until {text} has no time zone; add one, such as Z")
    return deadline


def _export_compensation(compensation: Compensation | None) -> CompactCompensation | None:
    if compensation is None:
        return None
    until = compensation.allowed_until
    return CompactCompensation(compensation.kind, None if until is None else msgspec.to_builtins(until))


def _import_result(result: Any) -> Outcome | None:
    # The wire has one field for three outcomes and for none. A completed result stands as it is, unless it looks like
    # one of the reserved objects: then it is wrapped in another.
    if not _is_reserved(result):
        return Completed(result)
    ((name, value),) = result.items()
    if name == _COMPLETED:
        return Completed(value)
    if value is None:
        return None
    return Failed(value) if name == _FAILED else Unknown(value)


def _export_result(outcome: Outcome | None) -> Any:
    match outcome:
        case None:
            return {_UNKNOWN: None}
        case Unknown(reason):
            return {_UNKNOWN: reason}
        case Failed(reason):
            return {_FAILED: reason}
        case Completed(result):
            return {_COMPLETED: result} if _is_reserved(result) else result


def _is_reserved(result: Any) -> bool:
    """Whether the wire's result is one of ours: an object with exactly one key, and under it what only we write."""
    while isinstance(result, dict):
        fields = cast("dict[str, Any]", result)
        if len(fields) != 1:
            return False
        ((name, value),) = fields.items()
        if name != _COMPLETED:
            return (name == _UNKNOWN and (value is None or isinstance(value, str))) or (
                name == _FAILED and isinstance(value, str)
            )
        result = value  # Wrapped, and needlessly unless what is inside is reserved itself.
    return False
