"""A switch takes what guards ask for, and what approvers decide. The guard's own files have no say in it.

guard asks ─▶ within its identity? sound? ─▶ on disk ─▶ approver decides, once, in time ─▶ on disk ─▶ guard looks
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

import msgspec

from rescind.clock import Clock, from_us
from rescind.model.approval import APPROVED, DENIED, EXPIRE_MAX, Approval, ApprovalState
from rescind.model.entry import ApprovalDecided
from rescind.switch.alerts import Alert
from rescind.switch.alerts.approvals import alert_of_asked
from rescind.switch.approval_wire import ApprovalDoc, Asked, DecisionDoc, Ruled
from rescind.switch.service.intake import checked_id
from rescind.switch.service.ledger import Entry, Note
from rescind.switch.service.records import record_of
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.wire import ID_LENGTH_MAX, TEXT_LENGTH_MAX, utc
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, Role

ASKED_MAX = 1_000
"""Approvals of one agent's identity that are kept at once, for a day beyond their expiry. More is a run that asks in a
circle: nobody reads so many, and it would fill everybody's disk."""

ARGUMENTS_BYTES_MAX = 16 * 1024
"""Of one call, as JSON: more than a person reads, and few enough that all that are kept fit into one answer."""

_KEPT = timedelta(days=1)
"""How long what has expired can still be looked at here."""

_CLOCKS_APART = timedelta(minutes=5)


class Approvals:
    """The approvals of one switch."""

    def __init__(self, board: Switchboard, clock: Clock, alert: Callable[[Alert], None]) -> None:
        self._board, self._clock, self._alert = board, clock, alert
        self._book = board.book.approvals
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- who asks ---

    async def ask(self, doc: Asked, caller: Caller) -> tuple[ApprovalDoc, bool]:
        """Take up what a guard asks, and whether it was known before. It is on disk when this returns.

        Raises: Refused; OrdersUnavailable.
        """
        self._board.require(caller, Power.SUBSCRIBE)
        self._book.forget(self._now - _KEPT)
        self._check(doc, caller)
        return await self._board.in_time(self._ask(doc, caller))

    async def _ask(self, doc: Asked, caller: Caller) -> tuple[ApprovalDoc, bool]:
        asked = doc.asked
        async with self._turn(asked.approval_id):
            known = self._book.find(asked.approval_id)
            if known is not None:
                if (known.asked.arguments_digest, known.asked.run.run_id) != (asked.arguments_digest, asked.run.run_id):
                    raise Refused(409, f"{asked.approval_id} was asked for another call")
                return self._doc(known), True
            self._refuse_many(caller)
            target = f" on {asked.target}" if asked.target else ""
            note = Note(
                what="approval.asked",
                subject=asked.approval_id,
                actor=asked.run.run_id,
                person=caller.name if caller.role is not None else "",
                origin=caller.origin,
                detail=f"{asked.action}{target}: {asked.because}"[:TEXT_LENGTH_MAX],
            )
            await self._board.keep(Entry(record_of(doc), note))
            self._alert(alert_of_asked(asked, switch_id=self._board.switch_id, at=self._now))
            return self._doc(self._the(asked.approval_id)), False

    def _check(self, doc: Asked, caller: Caller) -> None:
        asked = doc.asked
        checked_id("approval_id", asked.approval_id)
        texts = asked.action, asked.because, str(asked.target), asked.run.agent
        if any(len(text) > TEXT_LENGTH_MAX for text in texts):
            raise Refused(400, f"action, target and reason take at most {TEXT_LENGTH_MAX:,} characters each")
        if len(msgspec.json.encode(asked.arguments)) > ARGUMENTS_BYTES_MAX:
            raise Refused(
                413, f"more than {ARGUMENTS_BYTES_MAX:,} bytes of arguments; pass the tool a reference instead"
            )
        if caller.role is Role.AGENT and not caller.identity.covers(asked.run.subject, asked.action):
            raise Refused(403, f"an agent may ask for itself only: this token is for {caller.identity}")
        if not Approval(asked=asked, asked_at=doc.asked_at, position=0).is_sound:
            raise Refused(400, "the digest is not that of the arguments, so nobody could see what is approved")
        if asked.expires_at <= self._now:
            raise Refused(400, "it has expired; ask anew, and look at the clocks if it was asked just now")
        if asked.expires_at > self._now + EXPIRE_MAX + _CLOCKS_APART:
            raise Refused(400, f"an approval expires within {EXPIRE_MAX.days} days")

    def _refuse_many(self, caller: Caller) -> None:
        if caller.role is not Role.AGENT:
            return
        theirs = sum(caller.identity.covers(each.asked.run.subject, each.asked.action) for each in self._book)
        if theirs >= ASKED_MAX:
            raise Refused(429, f"{caller.identity} has asked for {theirs:,} approvals already", retry_after_s=60)

    # --- who decides ---

    async def decide(self, approval_id: str, doc: DecisionDoc, caller: Caller) -> ApprovalDoc:
        """A person decides. It is on disk when this returns.

        Raises: Refused (409), if there is nothing to decide any more; OrdersUnavailable.
        """
        self._board.require(caller, Power.LIFT)
        if doc.decision not in (APPROVED, DENIED):
            raise Refused(400, f"unknown decision {doc.decision[:20]!r}; it is {APPROVED} or {DENIED}")
        if len(doc.note) > TEXT_LENGTH_MAX or len(doc.actor) > TEXT_LENGTH_MAX:
            raise Refused(400, f"note and actor take at most {TEXT_LENGTH_MAX:,} characters each")
        return await self._board.in_time(self._decide(approval_id, doc, caller))

    async def _decide(self, approval_id: str, doc: DecisionDoc, caller: Caller) -> ApprovalDoc:
        async with self._turn(approval_id):
            approval, now = self._the(approval_id), self._now
            ruled = Ruled(
                decided=ApprovalDecided(
                    approval_id=approval_id,
                    decision=doc.decision,
                    actor=_named(doc.actor, caller.name),
                    arguments_digest=approval.asked.arguments_digest,
                    note=doc.note,
                ),
                decided_at=self._moment(doc.decided_at, now),
                person=caller.name,
            )
            if self._book.ruling(approval_id) == ruled:
                return self._doc(approval)  # sent again, or come by another switch already
            closed = approval.closed_because(now)
            if closed:
                raise Refused(409, closed)
            note = Note(
                what=f"approval.{doc.decision}",
                subject=approval_id,
                actor=ruled.decided.actor,
                person=caller.name,
                origin=caller.origin,
                detail=f"{approval.asked.action}: {doc.note}" if doc.note else approval.asked.action,
            )
            await self._board.keep(Entry(record_of(ruled), note))
            return self._doc(self._the(approval_id))

    def _moment(self, given: datetime | None, now: datetime) -> datetime:
        if given is None:
            return now
        try:
            moment = utc("decided_at", given)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if abs(moment - now) > _CLOCKS_APART:
            raise Refused(400, "decided_at is not now; leave it out, or set the clock of this machine")
        return moment

    # --- who looks ---

    def listed(self, caller: Caller, *, every: bool) -> tuple[ApprovalDoc, ...]:
        """What has not expired, oldest first; `every`: also what has, for a day. To an agent its own, to others all.

        Raises: Refused.
        """
        if not caller.may(Power.LOOK):
            self._board.require(caller, Power.SUBSCRIBE)
        now = self._now
        return tuple(
            self._doc(each)
            for each in self._book
            if self._may_see(each, caller) and (every or each.state(now) is not ApprovalState.EXPIRED)
        )

    def shown(self, approval_id: str, caller: Caller) -> ApprovalDoc:
        """One approval; to an agent its own. Raises: Refused (404), also for those that it may not see."""
        if not caller.may(Power.LOOK):
            self._board.require(caller, Power.SUBSCRIBE)
        approval = self._book.find(approval_id)
        if approval is None or not self._may_see(approval, caller):
            raise _unknown(approval_id)
        return self._doc(approval)

    @staticmethod
    def _may_see(approval: Approval, caller: Caller) -> bool:
        asked = approval.asked
        return caller.may(Power.LOOK) or caller.identity.covers(asked.run.subject, asked.action)

    # --- parts ---

    @property
    def _now(self) -> datetime:
        return from_us(self._clock.now_us())

    def _the(self, approval_id: str) -> Approval:
        approval = self._book.find(approval_id)
        if approval is None:
            raise _unknown(approval_id)
        return approval

    def _doc(self, approval: Approval) -> ApprovalDoc:
        return ApprovalDoc(
            switch_id=self._board.switch_id,
            state=approval.state(self._now).value,
            asked=approval.asked,
            asked_at=approval.asked_at,
            decided=approval.decided,
            decided_at=approval.decided_at,
        )

    def _turn(self, approval_id: str) -> asyncio.Lock:
        return self._turns.setdefault(approval_id, asyncio.Lock())


def _named(actor: str, holder: str) -> str:
    # The name on the token is the one that somebody vouches for.
    return f"{actor} ({holder})" if actor and actor != holder else holder


def _unknown(approval_id: str) -> Refused:
    name = approval_id[:ID_LENGTH_MAX]
    return Refused(404, f"no approval {name!r} is known here; `rescind approvals list` shows those that are")
