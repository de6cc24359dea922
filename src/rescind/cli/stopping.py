"""What `rescind stop` does, apart from how its words were read: two readers share it, see `quick`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rescind.cli.delivery import Delivery
from rescind.cli.identity import whoami
from rescind.cli.out import Out
from rescind.cli.places import Given, find_places
from rescind.cli.safe import safe
from rescind.cli.stores import command_line
from rescind.clock import SystemClock, SystemIds
from rescind.errors import RescindError, UsageError
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.model.step import RunInfo
from rescind.switch.desk import new_order
from rescind.switch.presence import living_guards

LEVEL_DEFAULT = "halted"


def stop_now(
    scope: str,
    *,
    level: str = LEVEL_DEFAULT,
    reason: str = "",
    actor: str | None = None,
    given: Given,
    wait_s: float | None = None,
    out: Out,
) -> int:
    """Place the order everywhere, say so, and wait for the receipt if `wait_s` says how long. Returns the exit status.

    Raises: UsageError, if something of this cannot be read, or there is neither a switch nor a store; SwitchesFailed,
        if there are switches and none of them has it; OrdersUnavailable.
    """
    wanted_scope, wanted_level = read_words(scope, level)
    clock = SystemClock()
    order = new_order(wanted_scope, wanted_level, reason=reason, actor=actor or whoami(), clock=clock, ids=SystemIds())
    places = find_places(given)
    if places.passed_over:
        out.note(f"passed over: {safe(places.passed_over)}", style="yellow")
    delivery = Delivery(order, places, out, clock=clock)
    delivery.place_here()
    delivery.await_switch()
    if places.store is not None and not places.switches.urls:
        _note_if_nobody_is_covered(wanted_scope, places.store, out)
    answer: dict[str, Any] = {"order": order_as_json(order)}
    status = 0
    if wait_s is not None and delivery.is_durable:
        delivery.await_others_briefly()
        from rescind.cli.receipt import await_everywhere, receipt_status

        receipt = await_everywhere(delivery, out, timeout_s=wait_s)
        answer["receipt"], status = receipt, receipt_status(receipt)
    delivery.finish()
    answer |= delivery.as_json()
    failure = delivery.failure
    if failure is not None:
        failure.answer = answer
        raise failure
    out.emit(answer)
    return max(status, delivery.status)


def read_words(scope: str, level: str) -> tuple[Scope, Level]:
    """Scope and level as typed. Raises: UsageError, which names the remedy."""
    try:
        return Scope.parse(scope), Level.parse(level)
    except ValueError as error:
        raise UsageError(str(error)) from error


def order_as_json(order: Order) -> dict[str, Any]:
    """The order as it stands in answers."""
    return {
        "order_id": order.order_id,
        "scope": str(order.scope),
        "level": order.level.label,
        "reason": order.reason,
        "actor": order.actor,
        "placed_at": order.placed_at.isoformat(),
    }


def resume_command(order_ids: Sequence[str], store: Path) -> str:
    """The command that lifts these orders, with the reason last: that is what is left to fill in."""
    return f'{command_line("resume", *order_ids, store=store)} --reason "…"'


def _note_if_nobody_is_covered(scope: Scope, store: Path, out: Out) -> None:
    """A slip of the finger makes a good order for nobody. It stands all the same: it may be meant for who comes."""
    try:
        living = living_guards(store)
    except RescindError:  # who cannot look says nothing; the order stands, and that was said
        return
    if any(sighting.report is None for sighting in living):
        return
    runs = [live.run for sighting in living if sighting.report for live in sighting.report.runs]
    if any(scope.covers(run.subject) for run in runs):
        return
    out.note(f"no living run is covered now{_nearest(scope, runs)}; the order holds whoever comes", style="yellow")


def _nearest(scope: Scope, runs: Sequence[RunInfo]) -> str:
    for term in scope.terms:
        known = _names(term.kind, runs)
        if known and not any(Scope((term,)).covers(run.subject) for run in runs):
            import difflib  # only where somebody may have mistyped

            nearest = difflib.get_close_matches(term.value, known, n=1)
            if nearest:
                return f" (did you mean {safe(term.kind)}:{safe(nearest[0])}?)"
    return ""


def _names(kind: str, runs: Sequence[RunInfo]) -> list[str]:
    if kind == "agent":
        return sorted({name for run in runs for name in (run.agent, run.agent_name)})
    if kind in ("run", "tree"):
        return [run.run_id for run in runs]
    return sorted({name for run in runs if (name := getattr(run, kind, ""))})
