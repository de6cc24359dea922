"""Records: what a switch keeps for good. A record is the same record everywhere, whichever switch it came from."""

import hashlib
from datetime import datetime

import msgspec

from rescind.model.order import Consent, Lift, Order
from rescind.switch.approval_wire import Asked, Ruled
from rescind.switch.wire import LiftDoc, OrderDoc, lift_doc, lift_of, order_doc, order_of, utc

ORDER, LIFT, CONSENT = "order", "lift", "consent"
APPROVAL, DECISION = "approval", "decision"

Content = Order | Lift | Consent | Asked | Ruled
"""What a record says."""


class ConsentDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The document of a consent; ids sorted."""

    lift_id: str
    order_ids: tuple[str, ...]
    switch_id: str
    person: str
    consented_at: datetime


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An order, a lift, a consent, what was asked or what was decided, in its lasting form.

    Attributes:
        kind: `order`, `lift`, `consent`, `approval` or `decision`.
        subject: The id of the order, of the lift, or of the approval.
        body: Its document, in JSON that is the same wherever it was encoded.
    """

    kind: str
    subject: str
    body: str

    @property
    def digest(self) -> str:
        """Which record this is."""
        return hashlib.sha256(f"{self.kind}\n{self.body}".encode()).hexdigest()

    @property
    def content(self) -> Content:
        """What it says. Raises: ValueError (msgspec's errors are ValueErrors), if it cannot be understood."""
        if self.kind == ORDER:
            return order_of(msgspec.json.decode(self.body, type=OrderDoc))
        if self.kind == LIFT:
            return lift_of(msgspec.json.decode(self.body, type=LiftDoc))
        if self.kind == CONSENT:
            doc = msgspec.json.decode(self.body, type=ConsentDoc)
            return Consent(
                lift_id=doc.lift_id,
                order_ids=frozenset(doc.order_ids),
                switch_id=doc.switch_id,
                person=doc.person,
                consented_at=utc("consented_at", doc.consented_at),
            )
        if self.kind == APPROVAL:
            return msgspec.json.decode(self.body, type=Asked)
        if self.kind == DECISION:
            return msgspec.json.decode(self.body, type=Ruled)
        raise ValueError(f"a record of kind {self.kind!r} comes from a newer switch; upgrade this one")


def record_of(content: Content) -> Record:
    """The lasting form of what is to be kept."""
    match content:
        case Asked():
            return Record(kind=APPROVAL, subject=content.asked.approval_id, body=_json(content))
        case Ruled():
            return Record(kind=DECISION, subject=content.decided.approval_id, body=_json(content))
        case Order():
            return Record(kind=ORDER, subject=content.order_id, body=_json(order_doc(content)))
        case Lift():
            return Record(kind=LIFT, subject=content.lift_id, body=_json(lift_doc(content)))
        case Consent():
            doc = ConsentDoc(
                lift_id=content.lift_id,
                order_ids=tuple(sorted(content.order_ids)),
                switch_id=content.switch_id,
                person=content.person,
                consented_at=content.consented_at,
            )
            return Record(kind=CONSENT, subject=content.lift_id, body=_json(doc))


def canonical(record: Record) -> Record:
    """The record as we would have written it ourselves, so that its digest is the same here.

    Raises: ValueError, if it cannot be understood. It is then no record.
    """
    return record_of(record.content)


def _json(doc: OrderDoc | LiftDoc | ConsentDoc | Asked | Ruled) -> str:
    return msgspec.json.encode(doc).decode()
