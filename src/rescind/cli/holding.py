"""Before an undo: no selected run may still write. Either that is so, or it is made so, or the undo is refused."""

from collections.abc import Sequence

import click

from rescind.cli.liveness import may_still_write
from rescind.cli.out import Out
from rescind.cli.receipt import wait_for_receipt
from rescind.cli.safe import safe
from rescind.cli.stores import command_line
from rescind.cli.undo_session import Session
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, SystemIds
from rescind.errors import RunStillLive
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.model.step import RunInfo
from rescind.switch.desk import place
from rescind.switch.receipt import Placed

SETTLE_S = 0.5
"""How long guards get to take up orders that were placed a moment ago. They take milliseconds."""

HOLD_S = 10.0
"""How long steps in flight get to end after `--stop-first`; as long as `rescind stop --wait` waits."""

_POLL_S = 0.01

_COMMANDS_MAX = 5


def hold_still(session: Session, runs: Sequence[RunInfo], held: list[Order], out: Out) -> None:
    """Make sure that none of the runs may still write. The orders that are placed for it are added to `held`.

    Raises: RunStillLive, with the command that stops them, if one may and was not to be stopped or does not answer.
    """
    live = _wait_until_still(session, runs, SETTLE_S)
    if not live:
        return
    if not session.request.stop_first and not _offer(live, out):
        raise RunStillLive(
            live, remedy=f"Stop first: `{_stop_command(session, live)}`, or add --stop-first to the undo"
        )
    placed: list[Placed] = []
    for run_id in live:
        placed.append(_hold(session, run_id))
        held.append(placed[-1].order)
        out.say(f"placed {held[-1].order_id}  read_only {safe(held[-1].scope)}")
    wait_for_receipt(placed[-1], session.store, out, timeout_s=HOLD_S)  # who has bound the last has bound them all
    left = _wait_until_still(session, runs, HOLD_S)
    if left:
        raise RunStillLive(
            left,
            remedy="They were stopped and have not answered: wake or end their processes (see `rescind status`), "
            "then run the undo again. Nothing was undone",
        )


def refuse_if_live(session: Session, runs: Sequence[RunInfo]) -> None:
    """Look once more. Raises: RunStillLive, if one of the runs may write again."""
    live = _wait_until_still(session, runs, SETTLE_S)
    if live:
        raise RunStillLive(
            live, remedy="They were still when the plan was made, and are not any more. Nothing was undone; undo again"
        )


def _wait_until_still(session: Session, runs: Sequence[RunInfo], timeout_s: float) -> list[str]:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while True:
        standing = session.orders.standing()  # before the guards are sighted: what they bound is then at least this
        live = may_still_write(session.journal, runs, session.guards.living(), standing)
        # A run that no order holds will not become still by waiting.
        if not live or clock.monotonic_s() >= deadline_s or not standing.orders:
            return live
        clock.sleep(_POLL_S)


def _offer(live: Sequence[str], out: Out) -> bool:
    if not out.can_ask:
        return False
    out.say(f"{count_of(len(live), 'selected run')} may still write: {list_of(live)}", style="yellow")
    return click.confirm("Hold them at read_only first?", default=True)


def _hold(session: Session, run_id: str) -> Placed:
    try:
        scope = Scope.parse(f"run:{run_id}")
    except ValueError as error:
        remedy = f"Its id cannot stand in a scope ({error}); stop its agent instead"
        raise RunStillLive([run_id], remedy=remedy) from error
    request = session.request
    reason = request.reason or "held still for an undo"
    return place(
        session.orders,
        scope,
        Level.READ_ONLY,
        reason=reason,
        actor=request.actor,
        clock=SystemClock(),
        ids=SystemIds(),
    )


def _stop_command(session: Session, live: Sequence[str]) -> str:
    # One command for each run: what follows a command in parentheses would be pasted with it.
    words = ("--level", "read-only", "--wait")
    commands = [command_line("stop", f"run:{run_id}", *words, store=session.store) for run_id in live[:_COMMANDS_MAX]]
    return " && ".join(commands)
