"""Runs, targets, snapshots and steps: who did what to what, and what was there before."""

import hashlib
from datetime import datetime
from typing import Any, Self

import msgspec

from rescind.model.action import EffectClass
from rescind.model.scope import Subject

Arguments = dict[str, Any]


class RunInfo(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One execution of an agent. `ancestors` are the ids of the run that spawned it, that one's parent, and so on."""

    run_id: str
    agent_name: str
    agent_version: str = ""
    tenant: str = ""
    workflow: str = ""
    session: str = ""
    trace_id: str = ""
    ancestors: tuple[str, ...] = ()

    @property
    def agent(self) -> str:
        """`billing-agent@2.4.0`, or the bare name where no version was given."""
        return f"{self.agent_name}@{self.agent_version}" if self.agent_version else self.agent_name

    @property
    def parent_run(self) -> str | None:
        """The run that spawned this one, or None."""
        return self.ancestors[0] if self.ancestors else None

    @property
    def subject(self) -> Subject:
        """This run as orders see it."""
        return Subject(
            run_id=self.run_id,
            agent_name=self.agent_name,
            agent_version=self.agent_version,
            tenant=self.tenant,
            workflow=self.workflow,
            lineage=frozenset((self.run_id, *self.ancestors)),
        )


def parse_agent(text: str) -> tuple[str, str]:
    """Split `billing-agent@2.4.0` into name and version; the version may be missing and is then empty.

    Raises: ValueError for an empty name, an empty version after `@`, or blanks.
    """
    name, at, version = text.partition("@")
    if not name or (at and not version) or any(c.isspace() or not c.isprintable() or c == "+" for c in text):
        raise ValueError(f"cannot read agent {text!r}: write NAME or NAME@VERSION, without blanks or `+`")
    return name, version


class Target(msgspec.Struct, frozen=True, gc=False):
    """What a step touches: a system, a kind of thing in it, and its id there.

    `qualifiers` are further identifying fields, sorted by name; they came with an import and are part of the identity.
    """

    system: str
    kind: str = ""
    id: str = ""
    qualifiers: tuple[tuple[str, str | int | float | bool | None], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `system/kind/id` as a person types it; the id may hold further slashes."""
        system, _, rest = text.partition("/")
        kind, _, identifier = rest.partition("/")
        if not system:
            raise ValueError(f"cannot read target {text!r}: write SYSTEM/KIND/ID")
        return cls(system, kind, identifier)

    @property
    def tenant(self) -> str:
        """On whose data it lies: the qualifier `tenant`; empty if nobody has said."""
        return next((str(value) for name, value in self.qualifiers if name == "tenant"), "") if self.qualifiers else ""

    def __str__(self) -> str:
        base = "/".join(part for part in (self.system, self.kind, self.id) if part)
        return base + "".join(f";{name}={value}" for name, value in self.qualifiers)


class Snapshot(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What was seen at a target at one moment.

    Attributes:
        ref: Content address of the image (`sha256:…`), or the reference an import came with.
        version: Equal versions mean equal content at the target; empty when nobody can tell.
        image: What restoring needs, as JSON values; None also when the target did not exist.
        absent: Whether the target did not exist.
    """

    ref: str
    version: str = ""
    image: Any = None
    absent: bool = False

    @classmethod
    def of(cls, image: Any, *, version: str | int | None = None, absent: bool = False) -> Self:
        """A snapshot of JSON values; without a version of the target's own, its content is its version."""
        ref = "sha256:" + hashlib.sha256(canonical_json([image, absent])).hexdigest()
        return cls(ref=ref, version=ref if version is None else str(version), image=image, absent=absent)


class Compensation(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What may be done about a step (`restore`, `compensate`, `review`, or an import's own word), and until when."""

    kind: str
    allowed_until: datetime | None = None


class HeldUntil(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """When a held effect may be released: at a moment, or once its run has ended (`at` is None)."""

    at: datetime | None = None


class EngineCheckpoint(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The checkpoint of a workflow engine that a step was made from.

    Attributes:
        engine: `langgraph`.
        thread: The engine's name for the workflow's state.
        checkpoint_id: Of that thread; later ones sort after earlier ones.
    """

    engine: str
    thread: str
    checkpoint_id: str


class Imported(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What an import said in other words than an export would: fields `given` as they came, and those left out."""

    given: dict[str, Any] = {}
    absent: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One call of an action in a run, as it was intended.

    Attributes:
        step_id: Unique within its run.
        action: Name of the action.
        effect_class: As declared when the step was intended; None for imported steps of unknown actions.
        requested: Arguments by parameter name, as asked for; redacted ones hold `{"$redacted": true}`.
        approved: Arguments as approved, if they differ from the requested ones.
        target: What it touches; None if the action names no target.
        causal_parents: Ids of steps of the same run, or `RUN/STEP` of another, that happened before.
        depends_on: Ids of steps of the same run that this one was declared to depend on.
        before: Snapshot of the target before the effect; None if the action takes none.
        idempotency_key: Same key, one effect.
        keyed: Whether the caller chose the key; otherwise it is derived from run and step and names no slot.
        arguments_digest: SHA-256 over action and requested arguments, without the redacted ones.
        compensation: Kind and deadline.
        imported: What an export needs to say again exactly what an import said; unset, and not written, if nothing.
        approval_id: The approval that it was begun with; unset, and not written, if it needed none.
        engine_checkpoint: Where a workflow engine stood; unset, and not written, where there is none.
        held: When its effect may be released; unset, and not written, if it was not held: its tool ran at once.
    """

    step_id: str
    action: str
    effect_class: EffectClass | None = None
    requested: Arguments = {}
    approved: Arguments | None = None
    target: Target | None = None
    causal_parents: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    before: Snapshot | None = None
    idempotency_key: str
    keyed: bool = False
    arguments_digest: str = ""
    compensation: Compensation | None = None
    imported: Imported | msgspec.UnsetType = msgspec.UNSET
    approval_id: str | msgspec.UnsetType = msgspec.UNSET
    held: HeldUntil | msgspec.UnsetType = msgspec.UNSET
    engine_checkpoint: EngineCheckpoint | msgspec.UnsetType = msgspec.UNSET

    @property
    def arguments(self) -> Arguments:
        """The arguments that are executed: the approved ones where they differ."""
        return self.requested if self.approved is None else self.approved


REDACTED: dict[str, bool] = {"$redacted": True}


_CANONICAL = msgspec.json.Encoder(order="deterministic")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no blanks: equal values give equal bytes.

    Raises: TypeError or ValueError, if the value is not made of JSON values.
    """
    return _CANONICAL.encode(value)


def digest_of(action: str, arguments: Arguments) -> str:
    """SHA-256, in hexadecimal, over an action's name and its arguments. Redacted arguments must be left out."""
    return hashlib.sha256(canonical_json([action, arguments])).hexdigest()


class StepRef(msgspec.Struct, frozen=True, gc=False, order=True):
    """A step, named from outside its run."""

    run_id: str
    step_id: str

    def __str__(self) -> str:
        return f"{self.run_id}/{self.step_id}"
