"""A refusal as the exception that the caller's door shows: the most telling of our errors, with its data on it."""

from collections.abc import Callable
from typing import assert_never

from rescind.errors import (
    BreakerForcedOpen,
    BreakerOpen,
    CallDenied,
    FanOutBlocked,
    LeaseRevoked,
    RescindError,
    RunHalted,
    RunQuarantined,
)
from rescind.guard.fallback import Fallback, halted
from rescind.guard.gate import Deny, Halt
from rescind.model.order import Measure, Order, why


def refusal_of(
    verdict: Deny | Halt, *, action: str, run_id: str, shown: Callable[[Halt], Fallback], fencing: Callable[[], int]
) -> RescindError:
    """The error of a refusal: a CallDenied or a RunHalted.

    Args:
        verdict: The refusal.
        action: What was to be done.
        run_id: Whose call it was.
        shown: What users of a halted run are shown.
        fencing: The run's fencing number; asked for only where its lease was revoked.
    """
    match verdict:
        case Deny():
            return _denied(verdict, action, run_id, fencing)
        case Halt():
            return _halted(verdict, action, run_id, shown)
        case _:
            assert_never(verdict)


def _denied(verdict: Deny, action: str, run_id: str, fencing: Callable[[], int]) -> CallDenied:
    order_ids = tuple(order.order_id for order in verdict.orders)
    # Only of the most severe orders: what holds less than another one is not what the call was refused for.
    decisive = [order for order in verdict.orders if order.level is verdict.level]
    measures = {order.measure for order in decisive}
    if Measure.LEVEL in measures:
        measures = {Measure.LEVEL}  # it would refuse the call without the others, too
    if Measure.REVOKE in measures:
        return LeaseRevoked(
            action=action, run_id=run_id, fencing_number=fencing(), why=verdict.reason, order_ids=order_ids
        )
    if Measure.FORCED_OPEN in measures:
        return BreakerForcedOpen(verdict.message, action=action, level=verdict.level, order_ids=order_ids)
    if Measure.TRIP in measures:
        return BreakerOpen(
            verdict.message,
            action=action,
            level=verdict.level,
            order_ids=order_ids,
            retry_after_s=verdict.retry_after_s,
        )
    return CallDenied(verdict.message, action=action, level=verdict.level, order_ids=order_ids)


def _halted(verdict: Halt, action: str, run_id: str, shown: Callable[[Halt], Fallback]) -> RunHalted:
    order_ids = tuple(order.order_id for order in verdict.orders)
    if any(order.measure is Measure.QUARANTINE for order in verdict.orders):
        message = RunQuarantined.text(action=action, run_id=run_id, why=verdict.reason)
        return halted(message, shown(verdict), run_id=run_id, order_ids=order_ids, kind=RunQuarantined)
    message = f"run {run_id} is halted ({verdict.reason}); {action} was not run. End this run now"
    return halted(message, shown(verdict), run_id=run_id, order_ids=order_ids)


def fan_out_refusal(order: Order, *, action: str, run_id: str, started: str) -> FanOutBlocked:
    """The error of a run that may start nothing further."""
    return FanOutBlocked(
        action=action,
        run_id=run_id,
        started=started,
        why=why((order,)),
        order_ids=(order.order_id,),
    )
