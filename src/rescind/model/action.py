"""Actions and their effect class: decided before production, never guessed at the incident."""

import enum
from datetime import timedelta

import msgspec


class EffectClass(enum.StrEnum):
    """What can be done about a write once it has happened."""

    REVERSIBLE = "reversible"  # what was there can be restored
    COMPENSATABLE = "compensatable"  # it can be offset by a further effect
    IRREVERSIBLE = "irreversible"  # only a person can decide what to do


class OnConflict(enum.StrEnum):
    """What an undo does where somebody has changed the target after the step."""

    REVIEW = "review"  # a person decides
    SKIP = "skip"  # the later change is left alone
    FORCE = "force"  # it is overwritten, if an approver says so and why
    MERGE = "merge"  # a function of the application takes the step's part out of it


IN_DOUBT_AFTER = timedelta(minutes=5)
"""Clients give up after 30 or 60 s and try again a few times; proxies and queues behind them hold on for longer."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a declared kind of write that planning needs. The code that performs it lives in the guard.

    Attributes:
        name: Unique in a guard, such as `invoice.status.update`.
        effect_class: See `EffectClass`.
        irreversible_because: Why nobody can take it back; empty unless irreversible.
        after: Names of actions whose earlier steps in the same run this action's steps depend on.
        undo_within: How long after the step its compensation is allowed; None for no limit.
        compensation_idempotent: Whether the compensation may be sent twice with one idempotency key.
        on_conflict: What an undo does about a later change of somebody else's.
        probed: Whether the target system can be asked if a step took effect.
        compensation_probed: Whether it can be asked that about a compensation, too.
        in_doubt_after: So long after a call was begun or cut short, nothing of it can arrive at the target any more.
    """

    name: str
    effect_class: EffectClass
    irreversible_because: str = ""
    after: tuple[str, ...] = ()
    undo_within: timedelta | None = None
    compensation_idempotent: bool = False
    on_conflict: OnConflict = OnConflict.REVIEW
    probed: bool = False
    compensation_probed: bool = False
    in_doubt_after: timedelta = IN_DOUBT_AFTER
