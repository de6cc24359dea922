"""The receipt of a stop, process by process, drawn while it comes in where somebody watches."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from rescind.cli.delivery import Delivery
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.stores import guards_of
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock
from rescind.switch.client.receipts import Progress, await_receipts
from rescind.switch.receipt import SETTLED, GuardReceipt, GuardState, Placed, Receipt, await_receipt

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

Await: TypeAlias = Callable[[Progress | None], Receipt]
"""Waits for a receipt, and reports each step on the way."""

_STYLES = {
    GuardState.UNKNOWN: "red",
    GuardState.BOUND: "yellow",
    GuardState.SILENCED: "yellow",
    GuardState.DRAINED: "green",
    GuardState.KILLED: "green",
    GuardState.GONE: "dim",
}

_PROGRAM_WIDTH = 32

_LINES_MAX = 200
"""Processes listed one by one; of more, only those are listed of which something is awaited."""


def wait_for_receipt(placed: Placed, store: "StoreAt", out: Out, *, timeout_s: float) -> Receipt:
    """Wait for the receipt of the local store and say it, live on a terminal.

    Raises: OrdersUnavailable, if nobody can look.
    """
    return _watched(_of_store(placed, store, timeout_s), out)


def await_everywhere(delivery: Delivery, out: Out, *, timeout_s: float) -> Receipt:
    """As `wait_for_receipt`, from all switches and the local store together.

    Raises: OrdersUnavailable, if there is only a local store, and nobody can look.
    """
    places, here = delivery.places, None
    if delivery.here is not None and places.store is not None:
        here = _of_store(delivery.here, places.store, timeout_s)
    if here is not None and not places.switches.urls:
        return _watched(here, out)

    def wait(progress: Progress | None) -> Receipt:
        return await_receipts(
            places.switches,
            delivery.order.order_id,
            timeout_s=timeout_s,
            clock=SystemClock(),
            ids=delivery.ids,
            here=here,
            progress=progress,
        )

    return _watched(wait, out)


def receipt_status(receipt: Receipt) -> int:
    """The exit status that the receipt earns: 1 if anything is unknown."""
    return 0 if receipt.all_bound and not receipt.unheard else 1


def receipt_lines(receipt: Receipt) -> Iterator[tuple[str, str]]:
    """The receipt for people: lines and their styles, the verdict last."""
    guards = receipt.guards
    if len(guards) > _LINES_MAX:
        guards = tuple(guard for guard in guards if guard.state not in SETTLED)
    for guard in guards:
        yield _guard_line(guard), _STYLES[guard.state]
        if guard.in_flight:
            yield f"           in flight: {list_of(guard.in_flight, most=3)}", ""
        if guard.detail:
            yield f"           {safe(guard.detail)}", ""
    for name in receipt.unheard:
        yield f"  unheard  {safe(name)}  does not answer; a guard that only it knows is not listed", "red"
    yield _verdict(receipt)


def _of_store(placed: Placed, store: "StoreAt", timeout_s: float) -> Await:
    def wait(progress: Progress | None) -> Receipt:
        with guards_of(store) as guards:
            return await_receipt(guards.register, placed, timeout_s=timeout_s, clock=SystemClock(), progress=progress)

    return wait


def _watched(wait: Await, out: Out) -> Receipt:
    receipt = _drawn(wait, out) if out.is_live else wait(None)
    for line, style in receipt_lines(receipt):
        out.say(line, style=style)
    return receipt


def _drawn(wait: Await, out: Out) -> Receipt:
    from rich.live import Live
    from rich.text import Text

    def draw(receipt: Receipt) -> Text:
        lines = [line for line, _ in receipt_lines(receipt)]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    # Transient: what stays on the screen is what the receipt says in the end.
    with Live(console=out.console(), transient=True, auto_refresh=False) as live:
        return wait(lambda receipt: live.update(draw(receipt), refresh=True))


def _guard_line(guard: GuardReceipt) -> str:
    runs = "" if guard.runs_open is None else f"  {guard.runs_covered} of {count_of(guard.runs_open, 'run')} covered"
    return f"  {guard.state:<8} {_process(guard)}  {short(guard.program, _PROGRAM_WIDTH)}{runs}{_times(guard)}"


def _process(guard: GuardReceipt) -> str:
    process = f"pid {guard.pid}" if guard.pid is not None else safe(guard.guard_id)
    return f"{process} on {safe(guard.host)}" if guard.host else process


def _times(guard: GuardReceipt) -> str:
    words = [f"bound after {guard.bound_ms:.1f} ms"] if guard.bound_ms is not None else []
    words += [f"drained after {guard.drained_ms:.1f} ms"] if guard.drained_ms is not None else []
    if guard.until is not None and guard.state is GuardState.UNKNOWN:
        words.append(f"unknown until {_moment(guard.until)}, when its lease has run out")
    if guard.until is not None and guard.state is GuardState.SILENCED:
        words.append(f"silenced at {_moment(guard.until)}: its lease ran out, and it holds itself back")
    return f"\n           {', '.join(words)}" if words else ""


def _moment(moment: datetime) -> str:
    # To the next whole second, by this machine's clock: what is promised must not come later than it says.
    whole = moment.replace(microsecond=0) + timedelta(seconds=1 if moment.microsecond else 0)
    return whole.astimezone().strftime("%H:%M:%S")


def _verdict(receipt: Receipt) -> tuple[str, str]:
    unknown = [guard for guard in receipt.guards if guard.state is GuardState.UNKNOWN]
    running = [guard for guard in receipt.guards if guard.state is GuardState.BOUND]
    silenced = [guard for guard in receipt.guards if guard.state is GuardState.SILENCED]
    waited = f"within {receipt.waited_ms / 1000:.1f} s"
    if unknown:
        return f"UNKNOWN: {list_of(map(_process, unknown))} did not answer {waited} and may still act", "red"
    if receipt.unheard:
        return f"UNHEARD: {list_of(receipt.unheard)} did not answer {waited}; guards that it knows may still act", "red"
    if not receipt.guards:
        nobody = "no guard is known to these switches" if receipt.heard else "no guard lives here"
        return f"{nobody}; the order binds whoever starts later", "yellow"
    if running:
        return f"bound everywhere; {count_of(len(running), 'process', 'processes')} still finishing steps", "yellow"
    if silenced:
        held = "holds itself" if len(silenced) == 1 else "hold themselves"
        count = count_of(len(silenced), "process", "processes")
        return f"holds everywhere; {count} that nobody hears {held} at on_silence", "yellow"
    slowest = max((guard.bound_ms for guard in receipt.guards if guard.bound_ms is not None), default=None)
    when = "" if slowest is None else f", the last one after {slowest:.1f} ms"
    return f"holds everywhere: {count_of(len(receipt.guards), 'process', 'processes')}{when}", "green"
