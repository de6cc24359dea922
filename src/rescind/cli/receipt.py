"""The receipt of a stop, process by process, drawn while it comes in where somebody watches."""

from collections.abc import Callable, Iterator
from pathlib import Path

from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock
from rescind.switch.receipt import GuardReceipt, GuardState, Placed, Receipt, await_receipt

_STYLES = {GuardState.UNKNOWN: "red", GuardState.BOUND: "yellow", GuardState.DRAINED: "green", GuardState.GONE: "dim"}

_PROGRAM_WIDTH = 32

_LINES_MAX = 200
"""Processes listed one by one; of more, only those are listed that have not drained."""


def wait_for_receipt(placed: Placed, store: Path, out: Out, *, timeout_s: float) -> Receipt:
    """Wait for the receipt and say it, live on a terminal.

    Raises: OrdersUnavailable, if nobody can look.
    """
    if out.is_live:
        receipt = _watch(placed, store, out, timeout_s)
    else:
        receipt = await_receipt(store, placed, timeout_s=timeout_s, clock=SystemClock())
    for line, style in receipt_lines(receipt):
        out.say(line, style=style)
    return receipt


def receipt_status(receipt: Receipt) -> int:
    """The exit status that the receipt earns: 1 if anything is unknown."""
    return 0 if receipt.all_bound else 1


def receipt_lines(receipt: Receipt) -> Iterator[tuple[str, str]]:
    """The receipt for people: lines and their styles, the verdict last."""
    guards = receipt.guards
    if len(guards) > _LINES_MAX:
        guards = tuple(guard for guard in guards if guard.state in (GuardState.UNKNOWN, GuardState.BOUND))
    for guard in guards:
        yield _guard_line(guard), _STYLES[guard.state]
        if guard.in_flight:
            yield f"           in flight: {list_of(guard.in_flight, most=3)}", ""
        if guard.detail:
            yield f"           {safe(guard.detail)}", ""
    yield _verdict(receipt)


def _watch(placed: Placed, store: Path, out: Out, timeout_s: float) -> Receipt:
    from rich.live import Live
    from rich.text import Text

    def draw(receipt: Receipt) -> Text:
        lines = [line for line, _ in receipt_lines(receipt)]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    # Transient: what stays on the screen is what the receipt says in the end.
    with Live(console=out.console(), transient=True, auto_refresh=False) as live:
        show: Callable[[Receipt], None] = lambda receipt: live.update(draw(receipt), refresh=True)  # noqa: E731
        return await_receipt(store, placed, timeout_s=timeout_s, clock=SystemClock(), progress=show)


def _guard_line(guard: GuardReceipt) -> str:
    process = f"pid {guard.pid}" if guard.pid is not None else safe(guard.guard_id)
    runs = "" if guard.runs_open is None else f"  {guard.runs_covered} of {count_of(guard.runs_open, 'run')} covered"
    return f"  {guard.state:<8} {process}  {short(guard.program, _PROGRAM_WIDTH)}{runs}{_times(guard)}"


def _times(guard: GuardReceipt) -> str:
    words = [f"bound after {guard.bound_ms:.1f} ms"] if guard.bound_ms is not None else []
    words += [f"drained after {guard.drained_ms:.1f} ms"] if guard.drained_ms is not None else []
    return f"\n           {', '.join(words)}" if words else ""


def _verdict(receipt: Receipt) -> tuple[str, str]:
    unknown = [guard for guard in receipt.guards if guard.state is GuardState.UNKNOWN]
    running = [guard for guard in receipt.guards if guard.state is GuardState.BOUND]
    if not receipt.guards:
        return "no guard lives here; the order binds whoever starts later", "yellow"
    if unknown:
        names = list_of(f"pid {guard.pid}" if guard.pid is not None else guard.guard_id for guard in unknown)
        return f"UNKNOWN: {names} did not answer within {receipt.waited_ms / 1000:.1f} s and may still act", "red"
    if running:
        return f"bound everywhere; {count_of(len(running), 'process', 'processes')} still finishing steps", "yellow"
    slowest = max((guard.bound_ms for guard in receipt.guards if guard.bound_ms is not None), default=None)
    when = "" if slowest is None else f", the last one after {slowest:.1f} ms"
    return f"holds everywhere: {count_of(len(receipt.guards), 'process', 'processes')}{when}", "green"
