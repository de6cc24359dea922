"""The gate: may this run make this call? Decided in memory; the orders are reread only when their stamp has moved.

`judge` is the whole policy, a pure function from facts to a verdict. A `View` remembers what it said for as long as the
stamp stands still and no switch has pushed more, so that an allowed call costs a look at the shared page, a set
look-up, one reading of the clock for lease and deadline, and a count.

Laws:
G1. A call is admitted only under the newest orders: a stamp that has moved is followed before anything is admitted,
    and what a switch has pushed is in every run's view before it counts as bound.
G2. What cannot be known is refused to writes (unreadable orders mean `read_only`), and a silence of all switches, or
    of the database that the orders stand in, for longer than the lease holds the guard at `on_silence` until it ends.
G3. A halt is a latch: a run that was halted once is refused for good, whatever is lifted later; and so are those that
    it has spawned. A silence is no halt, at whatever level it holds: nobody has decided that the run should end, and a
    partition of some seconds would otherwise end every run of a fleet, with no order that anybody could lift.
"""

import msgspec

from rescind.errors import CallDenied
from rescind.model.level import Level
from rescind.model.order import Order, covering, why
from rescind.model.scope import Subject
from rescind.switch.client.lease import SWITCHES_SILENT

ON_UNREADABLE = Level.READ_ONLY
"""The level a guard holds itself at while it cannot read the orders."""

NEVER_SETTLED = -1
"""A stamp that no page ever shows: its view is judged anew on every call."""


class Allow(msgspec.Struct, frozen=True):
    """The call may go on."""


class Deny(msgspec.Struct, frozen=True):
    """The call is refused, and the run goes on. `message` is for a language model, `reason` for the journal."""

    message: str
    reason: str
    level: Level = Level.NORMAL
    orders: tuple[Order, ...] = ()
    retry_after_s: float | None = None


class AwaitApproval(msgspec.Struct, frozen=True):
    """The write may go on once a person has approved this very call. `because` is the order, or the policy's rule."""

    because: str
    orders: tuple[Order, ...] = ()
    level: Level = Level.SUPERVISED

    def came_too_late(self, action: str) -> CallDenied:
        """The refusal of a write that was begun before this was known, and whose tool has not run."""
        return CallDenied(
            f"{action} was not run: changes need a person's approval by now. Reason: {self.because}. Make the same "
            "call again to ask for it",
            action=action,
            level=self.level,
            order_ids=tuple(order.order_id for order in self.orders),
        )


class Halt(msgspec.Struct, frozen=True):
    """The run is over; or, if it does not latch, refused like a halted one for as long as a silence lasts."""

    reason: str
    orders: tuple[Order, ...] = ()
    latches: bool = True


Verdict = Allow | AwaitApproval | Deny | Halt


class Limits(msgspec.Struct, frozen=True):
    """What a run was given from the start.

    Attributes:
        allow: The only actions it may call; None for any.
        calls_max: Guarded calls, reads and writes, it may make.
        deadline_s: Boot clock after which it may make none.
    """

    allow: frozenset[str] | None = None
    calls_max: float = float("inf")
    deadline_s: float = float("inf")

    def within(self, outer: "Limits") -> "Limits":
        """These limits inside those of the run that spawns: a child may get less, never more. Calls count on both."""
        allow = self.allow if outer.allow is None else outer.allow if self.allow is None else self.allow & outer.allow
        return Limits(allow, self.calls_max, min(self.deadline_s, outer.deadline_s))


class View:
    """What the standing orders mean to one run. `passed` holds the actions already judged and allowed."""

    __slots__ = ("fault", "orders", "passed", "stamp")

    def __init__(self, stamp: int, orders: tuple[Order, ...], fault: str = "") -> None:
        self.stamp = stamp
        self.orders = orders
        self.fault = fault
        self.passed: set[str] = set()


UNSEEN = View(NEVER_SETTLED, ())


def judge(
    view: View,
    subject: Subject,
    action: str,
    *,
    writes: bool,
    limits: Limits,
    silence: Level = Level.NORMAL,
    silent: str = SWITCHES_SILENT,
) -> Verdict:
    """Whether the orders and the run's own limits allow the call. Clock and count are the caller's business.

    Args:
        view: The orders that stand.
        subject: The run.
        action: What it would call.
        writes: Whether that changes something.
        limits: What the run was given.
        silence: The level that a lease which has run out holds the run at; normal while it lasts.
        silent: Who is not heard then.
    """
    orders = covering(view.orders, subject, action) if view.orders else ()
    level = orders[0].level if orders else Level.NORMAL
    if level is Level.HALTED:
        return Halt(why(orders), tuple(order for order in orders if order.level is Level.HALTED))
    if silence > level:
        if silence is Level.HALTED:
            return Halt(silent, latches=False)
        if not _allows(silence, writes):
            return Deny(_refusal(action, silence, writes, silent), silent, silence)
    if view.fault and writes and level < ON_UNREADABLE:
        return Deny(
            f"{action} was not run: the standing orders cannot be read, so changes are refused until they can. "
            "Reading still works. Do not retry; tell the user that changes are paused",
            f"standing orders unreadable: {view.fault}",
            ON_UNREADABLE,
        )
    if not _allows(level, writes):
        return Deny(_refusal(action, level, writes, why(orders)), why(orders), level, orders)
    if limits.allow is not None and action not in limits.allow:
        allowed = ", ".join(sorted(limits.allow)) or "nothing"
        return Deny(f"{action} is not among what this run may do ({allowed}). Do not retry", "not in the allowlist")
    if writes and Level.SUPERVISED in (level, silence):
        return AwaitApproval(why(orders) if level is Level.SUPERVISED else silent, orders)
    return Allow()


def _allows(level: Level, writes: bool) -> bool:
    """Whether a call may start at a level, be it with a person's approval."""
    return level.allows_reads if not writes else level <= Level.SUPERVISED


def spent(action: str, what: str) -> Deny:
    """The refusal of a run that has used up its time or its calls."""
    return Deny(f"{action} was not run: this run has used up its {what}. Stop here and report what was done", what)


def _refusal(action: str, level: Level, writes: bool, why: str) -> str:  # mirrors the action's own kind
    match level:
        case Level.READ_ONLY:
            what = "changes are paused, reading still works"
            then = "Do not retry; answer from what you can read and tell the user that changes are paused"
        case _:
            what = "nothing new may start" if not writes else "nothing new may start, changes least of all"
            then = "Do not retry; tell the user that the assistant is paused"
    return f"{f'{action} was not run' if action else 'a new run may not begin'}: {what}. Reason: {why}. {then}"
