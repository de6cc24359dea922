"""What `rescind supervise` says on stderr: short lines, each of which tells what happened and what to do."""

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from rescind.cli.safe import safe
from rescind.cli.stopping import resume_command
from rescind.cli.words import list_of
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.step import RunInfo
from rescind.switch.supervisor import news
from rescind.switch.supervisor.news import News, Reason

if TYPE_CHECKING:
    from rescind.database.address import StoreAt


def words_of(told: News, *, run: RunInfo, act_at: Level, store: "StoreAt") -> list[str]:
    """The lines for what happened, safe to print; none for what is no news to a person."""
    match told:
        case news.Started():
            return []
        case news.Unheeded(orders):
            return [_ours(line) for line in _unheeded(orders, run, act_at)]
        case news.GoesOnInSilence(silence):
            return [_ours(f"{safe(silence)}; {safe(run.agent)} goes on, as configured (--on-silence kill ends it)")]
        case news.Asked(reason, grace_s):
            asked = f"asked {safe(run.agent)} to end (SIGTERM); SIGKILL in {grace_s:g} s"
            return [_ours(f"{asked}: {_because(reason)}"), *_remedy(reason, store)]
        case news.LeftBehind(pids, grace_s):
            return [_ours(f"it left processes behind; ending them, SIGKILL in {grace_s:g} s: pid {list_of(pids)}")]
        case news.Killed(suspended):
            why = "it is suspended and cannot leave by itself" if suspended else "the grace is over"
            return [_ours(f"killed everything that is left (SIGKILL): {why}")]
        case news.OutOfReach(pids):
            who = f"still alive after SIGKILL: pid {list_of(pids)}"
            return [_ours(f"{who}; in an uninterruptible wait, or another user's. See `ps -o pid,user,stat,wchan`")]
        case news.NotSuspended():
            return [_ours("continued: a suspended supervisor would hear no order. To pause the agent, place one")]
        case news.Finished(ended, reason):
            how = f"ended by signal {_signal(-ended.status)}" if ended.status < 0 else f"exit status {ended.status}"
            tidy = reason == Reason() and ended.status == 0
            return [] if tidy else [_ours(f"pid {ended.pid} {ended.how}, {how}; nothing of it is left")]
        case news.StartsAgain(delay_s, failures):
            return [_ours(f"starting it again in {delay_s:g} s ({failures} in a row)")]
        case news.Refused(reason, again):
            what = "not started again" if again else "not started"
            return [_ours(f"{what}: {_because(reason)}"), *_remedy(reason, store)]
        case news.Waits(silence):
            return [_ours(f"not started again as long as {safe(silence)}; waiting")]
        case _:
            assert_never(told)


def _unheeded(orders: Sequence[Order], run: RunInfo, act_at: Level) -> list[str]:
    agent = safe(run.agent)
    return [
        f"{agent} cannot obey {_name(order)} and goes on; "
        f"{'it is for single actions' if order.scope.actions else f'it would be ended at {act_at.label}'}"
        for order in orders
    ]


def _name(order: Order) -> str:
    return f"order {safe(order.order_id)} by {safe(order.actor)} ({safe(order.what)})"


def _because(reason: Reason) -> str:
    if reason.orders:
        order, more = reason.orders[0], len(reason.orders) - 1
        words = f": {safe(order.reason)}" if order.reason else ""
        others = f", and {more} more" if more else ""
        return f"{_name(order)}{words}{others}"
    if reason.silence:
        return f"{safe(reason.silence)}, and so no stop could be heard"
    return f"this command was told to end ({_signal(reason.signal)})"


def _remedy(reason: Reason, store: "StoreAt") -> list[str]:
    if not reason.orders:
        return []
    ids = [order.order_id for order in reason.orders]
    return [f"  to give the power back: {resume_command(ids, store)}"]


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _ours(line: str) -> str:
    return f"rescind: {line}"
