"""A run's lease: its right to act, with the fencing number that makes a stale actor harmless. Pure.

The number is 1 and one more for every order that ever revoked the run's lease, lifted or not. Nobody counts: who knows
the orders knows the number, so that switches need no agreement on it.

F1. Whatever orders and lifts arrive, in whatever order, the number never falls.
F2. Who has seen the same orders says the same number; what two places know together is the union (`merge`).
F3. Lifting a revocation makes the lease valid again, and leaves the number where the revocation put it: who acted
    before holds a number that is too low, and stays out until it asks again.
F4. What is not known of a run may be anything: an order that names it counts.
"""

from collections.abc import Collection, Iterable

import msgspec

from rescind.model.level import Level
from rescind.model.order import Measure, Order, OrderSet
from rescind.model.scope import Scope, Subject, Term

DETAILS = ("agent", "version", "tenant", "workflow", "tree")
"""What somebody who asks for a lease may not know of the run: `version` of its agent, `tree` means its ancestors."""


def unknown_details(
    *, agent: str | None, tenant: str | None, workflow: str | None, ancestors: Collection[str] | None
) -> tuple[str, ...]:
    """Those of `DETAILS` that are not known of a run (law F4), in their order.

    Args:
        agent: NAME or NAME@VERSION; None for not known, as for the others. An agent without a version may have any.
        tenant: Its tenant; empty if it has none.
        workflow: Its workflow; empty if it has none.
        ancestors: The runs above it; empty if there are none.
    """
    version = (agent or "").partition("@")[2] or None
    said = (agent, version, tenant, workflow, ancestors)
    return tuple(detail for detail, value in zip(DETAILS, said, strict=True) if value is None)


class RunLease(msgspec.Struct, frozen=True, kw_only=True):
    """The right of a run to act, as far as the orders of one place tell.

    Attributes:
        run_id: The run.
        revocations: The ids of all orders that ever revoked it.
        held_by: The standing orders that let it make no call now, most severe first: those that revoke it, and those
            that hold it at `paused` or `halted`.
        level: The level that it is held at.
    """

    run_id: str
    revocations: frozenset[str] = frozenset()
    held_by: tuple[Order, ...] = ()
    level: Level = Level.NORMAL

    @property
    def fencing_number(self) -> int:
        """At least 1. A lower one than this is stale."""
        return 1 + len(self.revocations)

    @property
    def revoked_by(self) -> tuple[Order, ...]:
        """The standing orders that revoke it."""
        return tuple(order for order in self.held_by if order.measure is Measure.REVOKE)

    @property
    def valid(self) -> bool:
        """Whether the run may act at all. What it may do is said by `level`: at `read_only` it may only read."""
        return not self.held_by

    def merge(self, other: "RunLease") -> "RunLease":
        """What two places know together (law F2).

        What either of them holds is held: the other one may not have heard of the order yet.

        Raises: ValueError, if they are of different runs.
        """
        if other.run_id != self.run_id:
            raise ValueError(f"the leases of {self.run_id!r} and {other.run_id!r} are two")
        return RunLease(
            run_id=self.run_id,
            revocations=self.revocations | other.revocations,
            held_by=OrderSet.of((*self.held_by, *other.held_by)).standing,
            level=max(self.level, other.level),
        )


def fencing_number(history: OrderSet, subject: Subject, action: str | None = None) -> int:
    """The run's fencing number: 1, and one more for each order that ever revoked its lease (laws F1 to F3)."""
    return lease_of(history, subject, action).fencing_number


def lease_of(
    history: OrderSet, subject: Subject, action: str | None = None, *, unknown: Collection[str] = ()
) -> RunLease:
    """The lease of a run, by all orders and lifts that are known.

    Args:
        history: All orders and lifts ever seen.
        subject: The run.
        action: The action that it is asked for; None for the run as a whole, which orders limited to an action leave
            alone.
        unknown: Those of `DETAILS` that are not known of the run (law F4).
    """
    return lease_among(history.orders, history.standing, subject, action, unknown=unknown)


def lease_among(
    placed: Iterable[Order],
    standing: Iterable[Order],
    subject: Subject,
    action: str | None = None,
    *,
    unknown: Collection[str] = (),
) -> RunLease:
    """As `lease_of`, for somebody who has a rule of his own for what stands: a switch whose lifts need consents.

    Args:
        placed: Every order ever seen; those that revoke nothing may be left out.
        standing: Those that stand, most severe first.
        subject: The run.
        action: As there.
        unknown: As there.
    """
    revoking = (order for order in placed if order.measure is Measure.REVOKE)
    covering = tuple(order for order in standing if _covers(order.scope, subject, action, unknown))
    return RunLease(
        run_id=subject.run_id,
        revocations=frozenset(o.order_id for o in revoking if _covers(o.scope, subject, action, unknown)),
        held_by=tuple(order for order in covering if order.measure is Measure.REVOKE or not order.level.allows_reads),
        level=max((order.level for order in covering), default=Level.NORMAL),
    )


def _covers(scope: Scope, subject: Subject, action: str | None, unknown: Collection[str]) -> bool:
    return all(term.covers(subject, action) or _may_cover(term, subject, unknown) for term in scope.terms)


def _may_cover(term: Term, subject: Subject, unknown: Collection[str]) -> bool:
    if term.kind == "agent" and "version" in unknown:
        return "agent" in unknown or term.value.partition("@")[0] == subject.agent_name
    return term.kind in unknown
