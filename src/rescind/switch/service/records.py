"""Records: what a switch keeps for good. A record is the same record everywhere, whichever switch it came from."""

import hashlib
from datetime import datetime

import msgspec

from rescind.model.order import Consent, Lift, Order
from rescind.switch.wire import LiftDoc, OrderDoc, lift_doc, lift_of, order_doc, order_of, utc

ORDER, LIFT, CONSENT = "order", "lift", "consent"


class ConsentDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The document of a consent; ids sorted."""

    lift_id: str
    order_ids: tuple[str, ...]
    switch_id: str
    person: str
    consented_at: datetime


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An order, a lift or a consent in its lasting form.

    Attributes:
        kind: `order`, `lift` or `consent`.
        subject: The id of the order or of the lift.
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
    def content(self) -> Order | Lift | Consent:
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
        raise ValueError(f"a record of kind {self.kind!r} comes from a newer switch; upgrade this one")


def record_of(content: Order | Lift | Consent) -> Record:
    """The lasting form of an order, a lift or a consent."""
    match content:
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


def _json(doc: OrderDoc | LiftDoc | ConsentDoc) -> str:
    return msgspec.json.encode(doc).decode()
