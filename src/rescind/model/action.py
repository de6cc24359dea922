"""Actions and their effect class: decided before production, never guessed at the incident."""

import enum
from datetime import timedelta

import msgspec


class EffectClass(enum.StrEnum):
    """What can be done about a write once it has happened."""

    REVERSIBLE = "reversible"  # what was there can be restored
    COMPENSATABLE = "compensatable"  # it can be offset by a further effect
    IRREVERSIBLE = "irreversible"  # only a person can decide what to do


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a declared kind of write that planning needs. The code that performs it lives in the guard.

    Attributes:
        name: Unique in a guard, such as `invoice.status.update`.
        effect_class: See `EffectClass`.
        irreversible_because: Why nobody can take it back; empty unless irreversible.
        after: Names of actions whose earlier steps in the same run this action's steps depend on.
        undo_within: How long after the step its compensation is allowed; None for no limit.
        compensation_idempotent: Whether the compensation may be sent twice with one idempotency key.
    """

    name: str
    effect_class: EffectClass
    irreversible_because: str = ""
    after: tuple[str, ...] = ()
    undo_within: timedelta | None = None
    compensation_idempotent: bool = False
