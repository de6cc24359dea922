"""What `rescind stop` does, apart from how its words were read: two readers share it, see `quick`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rescind.cli.delivery import Delivery
from rescind.cli.identity import whoami
from rescind.cli.out import Out
from rescind.cli.places import Given, find_places
from rescind.cli.safe import safe
from rescind.cli.stores import command_line, living_guards
from rescind.clock import Clock, SystemClock, SystemIds
from rescind.errors import RescindError, UsageError
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.model.step import RunInfo
from rescind.switch.desk import new_order

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

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
    return deliver((order,), given, wait_s=wait_s, out=out, clock=clock, show=lambda answers: answers[0])


def deliver(
    orders: Sequence[Order],
    given: Given,
    *,
    wait_s: float | None,
    out: Out,
    clock: Clock,
    show: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> int:
    """Place orders everywhere, all at once, say so, and wait for their receipts if `wait_s` says how long.

    Args:
        orders: At least one, with one scope.
        given: What the command line says of places. A `rescind.yaml` that is passed over is said first.
        wait_s: How long to wait for each receipt; None for not at all.
        out: Where to say it.
        clock: The time.
        show: The answer for programs, made of the answers for each order.

    Returns: The exit status.
    Raises: UsageError, if there is neither a switch nor a store; SwitchesFailed, if there are switches and one of the
        orders is at none of them; OrdersUnavailable.
    """
    places = find_places(given)
    if places.passed_over:
        out.note(f"passed over: {safe(places.passed_over)}", style="yellow")
    deliveries = [Delivery(order, places, out, clock=clock) for order in orders]
    for delivery in deliveries:  # all of them are on this disk, before anybody waits for a switch
        delivery.place_here()
    for delivery in deliveries:
        delivery.await_switch()
    if places.store is not None and not places.switches.urls:
        _note_if_nobody_is_covered(orders[0].scope, places.store, out)
    answers: list[dict[str, Any]] = []
    status = 0
    for delivery in deliveries:
        answer, its_status = _concluded(delivery, wait_s, out)
        answers.append(answer)
        status = max(status, its_status)
    failure = next((delivery.failure for delivery in deliveries if delivery.failure is not None), None)
    if failure is not None:
        failure.answer = show(answers)
        raise failure
    out.emit(show(answers))
    return status


def _concluded(delivery: Delivery, wait_s: float | None, out: Out) -> tuple[dict[str, Any], int]:
    answer: dict[str, Any] = {"order": order_as_json(delivery.order)}
    status = 0
    if wait_s is not None and delivery.is_durable:
        delivery.await_others_briefly()
        from rescind.cli.receipt import await_everywhere, receipt_status

        receipt = await_everywhere(delivery, out, timeout_s=wait_s)
        answer["receipt"], status = receipt, receipt_status(receipt)
    delivery.finish()
    return answer | delivery.as_json(), max(status, delivery.status)


def read_words(scope: str, level: str) -> tuple[Scope, Level]:
    """Scope and level as typed. Raises: UsageError, which names the remedy."""
    try:
        return Scope.parse(scope), Level.parse(level)
    except ValueError as error:
        raise UsageError(str(error)) from error


def checked_cause(cause: str) -> str:
    """The signal or the incident that an order answers, as typed; may be empty. Raises: UsageError."""
    if cause and (not cause.isprintable() or cause != cause.strip()):
        raise UsageError(f"--cause {cause!r} is no signal and no incident; give the id of one")
    return cause


def order_as_json(order: Order) -> dict[str, Any]:
    """The order as it stands in answers."""
    return {
        "order_id": order.order_id,
        "scope": str(order.scope),
        "level": order.level.label,
        "reason": order.reason,
        "actor": order.actor,
        "placed_at": order.placed_at.isoformat(),
        "measure": order.measure.value,
        "cause": order.cause,
        "trigger": order.trigger,
    }


def resume_command(order_ids: Sequence[str], store: "StoreAt") -> str:
    """The command that lifts these orders, with the reason last: that is what is left to fill in."""
    return f'{command_line("resume", *order_ids, store=store)} --reason "…"'


def _note_if_nobody_is_covered(scope: Scope, store: "StoreAt", out: Out) -> None:
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
