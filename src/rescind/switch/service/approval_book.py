"""The approvals of a switch, worked out from its records as they come. Pure, like `book`.

A denial and an approval may meet where two switches were asked in the same moment and could not tell each other: then
the denial counts, from when both are known.
"""

from collections.abc import Iterator
from datetime import datetime

from rescind.model.approval import APPROVED, DENIED, Approval
from rescind.switch.approval_wire import Asked, Ruled


class ApprovalBook:
    """What was asked, and what was decided."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._ruled: dict[str, list[Ruled]] = {}

    def take_up(self, content: Asked | Ruled) -> None:
        """Add what a record says. The same record again changes nothing."""
        if isinstance(content, Asked):
            # Of two askings under one id the first counts: nobody may change what somebody is looking at.
            self._asked.setdefault(content.asked.approval_id, content)
            return
        same = self._ruled.setdefault(content.decided.approval_id, [])
        if content not in same:
            same.append(content)

    def __iter__(self) -> Iterator[Approval]:
        """All that were not forgotten, in the order in which they came."""
        return iter([self._approval(asked) for asked in self._asked.values()])

    def find(self, approval_id: str) -> Approval | None:
        """The approval with this id."""
        asked = self._asked.get(approval_id)
        return None if asked is None else self._approval(asked)

    def ruling(self, approval_id: str) -> Ruled | None:
        """The decision that counts."""
        asked = self._asked.get(approval_id)
        return None if asked is None else self._ruling(asked)

    def forget(self, before: datetime) -> None:
        """Let go of what had expired by then. It stays in the ledger and in the audit log."""
        for approval_id in [each for each, asked in self._asked.items() if asked.asked.expires_at < before]:
            del self._asked[approval_id]
            self._ruled.pop(approval_id, None)

    def _approval(self, asked: Asked) -> Approval:
        ruled = self._ruling(asked)
        return Approval(
            asked=asked.asked,
            asked_at=asked.asked_at,
            position=0,
            decided=None if ruled is None else ruled.decided,
            decided_at=None if ruled is None else ruled.decided_at,
        )

    def _ruling(self, asked: Asked) -> Ruled | None:
        wanted, ends_at = asked.asked.arguments_digest, asked.asked.expires_at
        counting = [
            each
            for each in self._ruled.get(asked.asked.approval_id, ())
            if each.decided.arguments_digest == wanted and each.decided_at < ends_at
        ]
        for decision in (DENIED, APPROVED):
            same = [each for each in counting if each.decided.decision == decision]
            if same:
                return min(same, key=lambda each: (each.decided_at, each.person))
        return None
