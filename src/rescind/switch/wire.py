"""What switches, guards and operators say to each other: JSON over HTTP, and events on a stream.

`docs/switch.md` tells the protocol as a story. Both sides encode and decode these very values, so that there is one
description of each. Unknown fields are refused in requests, where they are a slip of somebody's finger, and ignored in
answers and events, where they come from a newer switch.

Time on the wire is of two kinds. `…_at` is wall-clock time for people, RFC 3339, UTC. `at_s` is the switch's own boot
clock in seconds: it only ever measures how long ago something was, and is comparable with itself alone.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from rescind.model.level import Level
from rescind.model.order import Lift, Measure, Order
from rescind.model.scope import Scope, Subject

PROTOCOL = 1
"""The version that this side speaks. A switch serves guards of every version up to its own."""

TEXT_LENGTH_MAX = 2_000
"""Characters of a reason, an actor or a scope. They are shown on one line of a terminal."""

ID_LENGTH_MAX = 100
"""Characters of an id that its sender has chosen; see `is_id`."""

IDS_MAX = 1_000
"""Orders that one lift may name."""

RUNS_REPORTED_MAX = 200
STEPS_REPORTED_MAX = 100
"""Runs and steps that a report names one by one; it counts them all."""


# --- orders and lifts ---


class OrderDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order. A request may leave out all but scope and level; an answer leaves out nothing that says something.

    Attributes:
        scope: As a person types it: `tenant:acme+agent:billing-agent`.
        level: `supervised`, `read_only`, `paused` or `halted`; `normal` only where the measure holds no calls.
        order_id: Chosen by whoever places it, so that the same order may be sent twice, and to several switches.
        measure: What it does besides holding a level; see `Measure`.
        cause: The signal or incident that it answers.
        trigger: The rule that placed it by itself.
    """

    scope: str
    level: str
    reason: str = ""
    actor: str = ""
    order_id: str = ""
    placed_at: datetime | None = None
    # Unset where they say nothing: an order that could be placed before they existed is the same record as then.
    measure: str | msgspec.UnsetType = msgspec.UNSET
    cause: str | msgspec.UnsetType = msgspec.UNSET
    trigger: str | msgspec.UnsetType = msgspec.UNSET


class LiftDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lift: it names the orders it lifts, and why. `lift_id` as for orders."""

    order_ids: tuple[str, ...]
    reason: str
    actor: str = ""
    lift_id: str = ""
    lifted_at: datetime | None = None


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an order that is on disk.

    Attributes:
        switch_id: Which switch has it.
        sequence: Its place in that switch's ledger.
        known_before: Whether the switch had it already; then nothing was changed.
    """

    switch_id: str
    order: OrderDoc
    sequence: int
    known_before: bool = False


class Lifted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a lift that is on disk.

    Attributes:
        in_force: Whether it lifts by now. If not, `waits_for` says what is missing.
        waits_for: For people, such as `a second person` or `one more switch`.
        lifted_before: Ids among those named that an earlier lift had lifted.
    """

    switch_id: str
    lift: LiftDoc
    in_force: bool
    waits_for: str = ""
    lifted_before: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at a switch: orders most severe first, and lifts that wait for somebody."""

    switch_id: str
    sequence: int
    orders: tuple[OrderDoc, ...]
    waiting: tuple[Lifted, ...] = ()


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who a switch takes the sender of a request for. `role` is empty for nobody in particular.

    `may_lift` is an approver's power: to give back what was taken, and to have later changes overwritten.
    """

    name: str
    role: str = ""
    may_lift: bool = False


class LeaseDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A run's lease, by the orders of one switch. Two switches together know the union of their `revocations`.

    Attributes:
        valid: Whether the run may act at all now.
        fencing_number: 1, and one more for each of `revocations`. A lower one is stale.
        level: What the run is held at; at `read_only` a valid lease is good for reading.
        revocations: The ids of all orders that ever revoked it, sorted.
        held_by: The standing orders for which it is not valid, most severe first.
        unknown: What the request did not say of the run: any order that names such a thing was counted.
    """

    switch_id: str
    run_id: str
    valid: bool
    fencing_number: int
    level: str
    revocations: tuple[str, ...] = ()
    held_by: tuple[OrderDoc, ...] = ()
    unknown: tuple[str, ...] = ()


# --- events of a stream ---


class SetEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`event: set`: everything that stands. It replaces what was heard from this switch before.

    Attributes:
        sequence: The ledger's last record that it includes.
        at_s: The switch's boot clock when it was sent.
        renews: Whether it may renew a lease; a switch that could not take a stop renews nothing.
        beat_s: How often the switch sends a beat.
        orders: What stands, most severe first.
        lifted: Ids that were lifted lately, so that another switch's copy of them does not stand.
    """

    switch_id: str
    sequence: int
    at_s: float
    renews: bool
    beat_s: float
    orders: tuple[OrderDoc, ...]
    lifted: tuple[str, ...] = ()


class OrderEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`event: order`: one more order stands."""

    sequence: int
    order: OrderDoc


class LiftEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`event: lift`: a lift came into force."""

    sequence: int
    order_ids: tuple[str, ...]


class BeatEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`event: beat`: the switch lives, and everything up to `sequence` was sent on this stream before."""

    sequence: int
    at_s: float
    renews: bool


# --- what a guard says of itself ---


class RunDoc(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An open run of a guard: enough to see whether an order covers it."""

    run_id: str
    agent: str
    tenant: str = ""
    workflow: str = ""
    ancestors: tuple[str, ...] = ()
    level: str = "normal"
    halted: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A process that a supervisor saw end.

    Attributes:
        pid: Its process id.
        how: `exited`, `terminated` (it left when asked) or `killed`.
        status: Exit status, or minus the signal's number.
    """

    pid: int
    how: str
    status: int


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a guard says of itself: at the beginning of a stream, when it has bound an order, and now and then.

    Attributes:
        protocol: The version it speaks.
        kind: `guard` or `supervisor`.
        pid, host, program: What runs where, for people.
        agent: The agent of a supervisor, which has no runs of its own.
        lease_ttl_s: After how long a silence it lowers itself.
        on_silence: To which level.
        switches: How many switches it is to follow.
        hears: The ids of those it has heard of.
        supervisor: The guard id of the supervisor above it; empty if there is none.
        bound: The highest sequence of *this* switch under which it admits calls; -1 before the first.
        drained: Whether all calls that were admitted before it bound that have ended.
        in_flight: `RUN/STEP` of those that run still, at most `STEPS_REPORTED_MAX`.
        in_flight_count: All of them.
        runs, runs_open: Its open runs, at most `RUNS_REPORTED_MAX`; all of them.
        fault: Why it holds itself at `on_silence` or cannot follow; empty otherwise.
        leaving: It closes, and will admit nothing any more.
        ended: The processes under it that have ended, of a supervisor.
    """

    protocol: int = PROTOCOL
    kind: str = "guard"
    pid: int = 0
    host: str = ""
    program: str = ""
    agent: str = ""
    lease_ttl_s: float = 10.0
    on_silence: str = "read_only"
    switches: int = 1
    hears: tuple[str, ...] = ()
    supervisor: str = ""
    bound: int = -1
    drained: bool = True
    in_flight: tuple[str, ...] = ()
    in_flight_count: int = 0
    runs: tuple[RunDoc, ...] = ()
    runs_open: int = 0
    fault: str = ""
    leaving: bool = False
    ended: tuple[Ended, ...] = ()


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a report: the switch's clock and the end of its ledger, at a moment after the report was sent.

    It tells how the clocks stand to each other, and renews no lease: only what comes by the stream does, in its order.
    """

    at_s: float
    sequence: int
    renews: bool


# --- ids ---


def is_id(text: str) -> bool:
    """Whether a sender may choose this as an id: letters, digits, `_`, `-` and `.`, and not too many of them."""
    letters = text.replace("_", "").replace("-", "").replace(".", "")
    return letters.isascii() and letters.isalnum() and len(text) <= ID_LENGTH_MAX


# --- between values and documents ---


def order_doc(order: Order) -> OrderDoc:
    """The document of an order."""
    return OrderDoc(
        scope=str(order.scope),
        level=order.level.label,
        reason=order.reason,
        actor=order.actor,
        order_id=order.order_id,
        placed_at=order.placed_at,
        measure=msgspec.UNSET if order.measure is Measure.LEVEL else order.measure.value,
        cause=order.cause or msgspec.UNSET,
        trigger=order.trigger or msgspec.UNSET,
    )


def measure_of(doc: OrderDoc) -> Measure:
    """What a document says to do besides holding a level. Raises: ValueError, naming those that there are."""
    try:
        return Measure(doc.measure or Measure.LEVEL)
    except ValueError:
        known = ", ".join(each.value for each in Measure)
        raise ValueError(f"unknown measure {doc.measure!r}; the measures are: {known}") from None


def lift_doc(lift: Lift) -> LiftDoc:
    """The document of a lift; ids sorted."""
    return LiftDoc(
        order_ids=tuple(sorted(lift.order_ids)),
        reason=lift.reason,
        actor=lift.actor,
        lift_id=lift.lift_id,
        lifted_at=lift.lifted_at,
    )


def order_of(doc: OrderDoc) -> Order:
    """The order of a complete document.

    Raises: ValueError, which names the field, if it is not complete or cannot be understood.
    """
    if not doc.order_id or doc.placed_at is None:
        raise ValueError("an order needs an order_id and a placed_at")
    return Order(
        order_id=doc.order_id,
        scope=Scope.parse(doc.scope),
        level=Level.parse(doc.level),
        reason=doc.reason,
        actor=doc.actor,
        placed_at=utc("placed_at", doc.placed_at),
        measure=measure_of(doc),
        cause=doc.cause or "",
        trigger=doc.trigger or "",
    )


def lift_of(doc: LiftDoc) -> Lift:
    """The lift of a complete document. Raises: ValueError, as `order_of`."""
    if not doc.lift_id or doc.lifted_at is None:
        raise ValueError("a lift needs a lift_id and a lifted_at")
    return Lift(
        lift_id=doc.lift_id,
        order_ids=frozenset(doc.order_ids),
        reason=doc.reason,
        actor=doc.actor,
        lifted_at=utc("lifted_at", doc.lifted_at),
    )


def subject_of(run: RunDoc) -> Subject:
    """A reported run, as orders see it."""
    name, _, version = run.agent.partition("@")
    return Subject(
        run_id=run.run_id,
        agent_name=name,
        agent_version=version,
        tenant=run.tenant,
        workflow=run.workflow,
        lineage=frozenset((run.run_id, *run.ancestors)),
    )


def sse(event: str, data: Any, *, sequence: int | None = None) -> bytes:
    """One server-sent event, encoded. JSON has no line breaks, so `data` is one line."""
    identity = b"" if sequence is None else b"id: %d\n" % sequence
    return b"event: %s\n%sdata: %s\n\n" % (event.encode(), identity, msgspec.json.encode(data))


def utc(what: str, moment: datetime) -> datetime:
    """The same moment in UTC. Raises: ValueError, which names what it is, if there is none."""
    if moment.tzinfo is None:
        raise ValueError(f"{what} has no time zone; write it in UTC, with a Z at its end")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{what} is no moment of our calendar in UTC") from error
