"""Lifting at switches: the same lift at all of them, and what each of them says of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import shell_line
from rescind.cli.trouble import failed, reply_as_json, trouble_line
from rescind.cli.words import list_of
from rescind.clock import Clock
from rescind.errors import UsageError
from rescind.model.order import Lift, Order
from rescind.switch.client.asking import Asking, Reply, Switches
from rescind.switch.client.operator import get_standing, post_consent, post_lift
from rescind.switch.wire import IDS_MAX, Lifted, Standing, order_of

_SETTLE_S, _PAUSE_S = 1.5, 0.15
"""How long to ask again, where consents of several switches have to meet: they exchange them at once."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the switches.

    Attributes:
        orders: All orders that some switch holds, most severe first.
        waiting: Lifts that wait, by id.
        replies: Of every switch.
    """

    orders: tuple[Order, ...]
    waiting: tuple[Lifted, ...]
    replies: tuple[Reply[Standing], ...]

    @property
    def switches_answer(self) -> bool:
        """Whether any switch said what stands there."""
        return any(reply.answer is not None for reply in self.replies)


class LiftResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a lift.

    Attributes:
        lift_id: The lift.
        order_ids: What it names.
        replies: Of every switch; at least one has it.
    """

    lift_id: str
    order_ids: frozenset[str]
    replies: tuple[Reply[Lifted], ...]

    @property
    def in_force(self) -> bool:
        """Whether any switch has it in force; that one tells the others."""
        return any(reply.answer is not None and reply.answer.in_force for reply in self.replies)

    @property
    def waits_for(self) -> str:
        """What is missing, as the first switch says it that has it; empty if it is in force."""
        return "" if self.in_force else self.answer.waits_for

    @property
    def answer(self) -> Lifted:
        """What the first switch says that has it."""
        return next(reply.answer for reply in self.replies if reply.answer is not None)

    @property
    def lifted_before(self) -> list[str]:
        """Ids that were lifted by an earlier lift, by what the switches say that have it."""
        found = (reply.answer.lifted_before for reply in self.replies if reply.answer is not None)
        return sorted({order_id for ids in found for order_id in ids})


def see_standing(switches: Switches, *, clock: Clock) -> Seen:
    """What stands at the switches now, united."""
    replies = get_standing(switches, clock=clock).every()
    answers = [reply.answer for reply in replies if reply.answer is not None]
    orders: dict[str, Order] = {}
    for answer in answers:
        for doc in answer.orders:
            try:
                orders.setdefault(doc.order_id, order_of(doc))
            except ValueError:  # of a newer switch; it can still be lifted by its id
                continue
    waiting = {lifted.lift.lift_id: lifted for answer in answers for lifted in answer.waiting}
    return Seen(
        orders=tuple(sorted(orders.values(), key=lambda order: (-order.level, order.placed_at, order.order_id))),
        waiting=tuple(waiting[lift_id] for lift_id in sorted(waiting)),
        replies=tuple(replies),
    )


def lift_at(switches: Switches, lift: Lift, *, clock: Clock) -> LiftResult:
    """Lift at all switches.

    Raises: SwitchesFailed, if none of them took it; UsageError, if it names too many orders.
    """
    if len(lift.order_ids) > IDS_MAX:
        raise UsageError(f"one lift names at most {IDS_MAX:,} orders, and this one {len(lift.order_ids):,}; name some")
    replies = _settled(lambda: post_lift(switches, lift, clock=clock), clock)
    if all(reply.answer is None for reply in replies):
        raise failed("no switch took the lift; nothing was lifted there", replies)
    return LiftResult(lift_id=lift.lift_id, order_ids=lift.order_ids, replies=replies)


def consent_at(switches: Switches, lift_id: str, *, clock: Clock) -> LiftResult:
    """Consent to a lift at all switches.

    Raises: SwitchesFailed, if none of them took it.
    """
    replies = _settled(lambda: post_consent(switches, lift_id, clock=clock), clock)
    answers = [reply.answer for reply in replies if reply.answer is not None]
    if not answers:
        raise failed(f"no switch took the consent to {safe(lift_id)}", replies)
    return LiftResult(lift_id=lift_id, order_ids=frozenset(answers[0].lift.order_ids), replies=replies)


def say_replies(replies: Sequence[Reply[Lifted]], out: Out) -> None:
    """Say which switches did not take it, and what then."""
    lacking = [reply for reply in replies if reply.answer is None]
    for reply in lacking:
        out.say(f"  lacks   {trouble_line(reply)}", style="yellow")
    if lacking:
        out.say("          its guards stay held until it hears of the lift from the others of its federation")


def say_waiting(lifted: Lifted, urls: Sequence[str], out: Out) -> None:
    """Say that a lift waits, what it would do and why, and how somebody consents to it.

    Args:
        lifted: As a switch told it.
        urls: What `--switch` named; somebody else has to name them again.
        out: Where to say it.
    """
    lift = lifted.lift
    where = [word for url in urls for word in ("--switch", url)]
    out.say(f"{safe(lift.lift_id)} waits for {safe(lifted.waits_for)}", style="yellow")
    out.say(f"  lifts   {list_of(sorted(lift.order_ids))}")
    out.say(f"  reason  {safe(lift.reason)} ({safe(lift.actor)})")
    out.say(f"  consent {shell_line('resume', '--consent', lift.lift_id, *where)}")


def replies_as_json(replies: Iterable[Reply[Lifted]]) -> list[dict[str, Any]]:
    """What each switch says of the lift, as it stands in answers."""
    return [_as_json(reply) for reply in replies]


def _settled(ask: Callable[[], Asking[Lifted]], clock: Clock) -> tuple[Reply[Lifted], ...]:
    # A lift that takes two switches waits at each of them, until they have told each other. It is the same lift each
    # time, so asking again only asks how it stands.
    deadline_s = clock.monotonic_s() + _SETTLE_S
    while True:
        replies = tuple(ask().every())
        answers = [reply.answer for reply in replies if reply.answer is not None]
        if len(answers) < 2 or any(answer.in_force for answer in answers) or clock.monotonic_s() >= deadline_s:
            return replies
        clock.sleep(_PAUSE_S)


def _as_json(reply: Reply[Lifted]) -> dict[str, Any]:
    if reply.answer is None:
        return reply_as_json(reply)
    lifted = reply.answer
    return {
        "url": reply.url,
        "state": "in_force" if lifted.in_force else "waiting",
        "switch_id": lifted.switch_id,
        "waits_for": lifted.waits_for,
    }
