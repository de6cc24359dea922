"""Further documents of the HTTP API: those that only a switch writes."""

import msgspec

from rescind.switch.alerts import ChannelHealth
from rescind.switch.service.records import Record
from rescind.switch.wire import OrderDoc, Report


class GuardDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A guard, and what it said last."""

    guard_id: str
    connected: bool
    heard_ago_s: float
    report: Report


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """An order, and whether it holds."""

    order: OrderDoc
    standing: bool


class RecordPage(msgspec.Struct, frozen=True, kw_only=True):
    """Records of a switch after a place, for another switch.

    Attributes:
        until: The place of the last one; ask for what comes after it.
        sequence: The end of its ledger.
        guards: The guards that this switch has to do with, so that the other one knows whom it may not see.
    """

    switch_id: str
    until: int
    records: tuple[Record, ...]
    sequence: int = 0
    guards: tuple[tuple[str, str], ...] = ()


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to another switch.

    Attributes:
        new: How many of its records were new.
        not_understood: Those that were left out, and why; it does not have these.
    """

    switch_id: str
    new: int
    not_understood: tuple[str, ...] = ()


class PeerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How another switch of the federation is, seen from here."""

    url: str
    switch_id: str
    reachable: bool
    problem: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a switch is.

    Attributes:
        accepting: Whether it could take a stop now, and so renews leases.
        trouble: Why not.
    """

    switch_id: str
    accepting: bool
    trouble: str
    sequence: int
    guards_connected: int
    peers: tuple[PeerHealth, ...]
    alerts: tuple[ChannelHealth, ...]
