"""What guards, switches and people say to each other about approvals: JSON over HTTP, beside `wire`.

A switch keeps what was asked and what was decided as records, like orders and lifts, so that both are on disk before
anybody is told and get to the other switches of its federation. Who asks is a guard, and what it asks is the very event
of its journal; who decides has an approver's token.
"""

from datetime import datetime

import msgspec

from rescind.model.approval import Approval
from rescind.model.entry import ApprovalAsked, ApprovalDecided
from rescind.switch.wire import utc


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A guard asks. The same at every switch, so that a federation has it once.

    Attributes:
        asked: As the guard's journal has it.
        asked_at: When, by the guard's clock.
    """

    asked: ApprovalAsked
    asked_at: datetime

    def __post_init__(self) -> None:
        _refuse_naive("asked_at", self.asked_at)
        _refuse_naive("expires_at", self.asked.expires_at)


class Ruled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person has decided. `person` is the name on the token that was shown."""

    decided: ApprovalDecided
    decided_at: datetime
    person: str

    def __post_init__(self) -> None:
        _refuse_naive("decided_at", self.decided_at)


class DecisionDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to decide.

    Attributes:
        decision: `approved` or `denied`.
        note: Why.
        actor: On whose behalf, if that is not who holds the token.
        decided_at: When; now, if it is left out. Said by who tells it to several switches, so that it is one decision.
    """

    decision: str
    note: str = ""
    actor: str = ""
    decided_at: datetime | None = None


class ApprovalDoc(msgspec.Struct, frozen=True, kw_only=True):
    """An approval as a switch knows it. `state` is `waiting`, `approved`, `denied` or `expired`."""

    switch_id: str
    state: str
    asked: ApprovalAsked
    asked_at: datetime
    decided: ApprovalDecided | None = None
    decided_at: datetime | None = None

    @property
    def approval(self) -> Approval:
        """The same as a value."""
        return Approval(
            asked=self.asked, asked_at=self.asked_at, position=0, decided=self.decided, decided_at=self.decided_at
        )


def _refuse_naive(what: str, moment: datetime) -> None:
    utc(what, moment)
