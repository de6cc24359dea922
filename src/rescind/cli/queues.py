"""`rescind queues`: what orders of `pause_queue` say is what the queues do."""

import signal
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import click

from rescind.cli.app import import_program
from rescind.cli.durations import parse_duration
from rescind.cli.options import common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.places import Places, find_places
from rescind.cli.queue_orders import KnownOrders, StampWatch, look
from rescind.cli.safe import safe
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock
from rescind.containment.keeper import NO_ORDER, Kept, reconcile
from rescind.containment.queues.port import QueuePort, QueueUnavailable
from rescind.errors import UsageError

EVERY_DEFAULT = "2s"

_LOOK_S = 0.05
"""How often the stamp of the local store is looked at: an order takes hold of the queues within so long."""

_WHAT = "the queues of your program, such as `shop.jobs:queues`: a QueuePort, or a list of several"


@click.group(
    epilog="""\b
Examples:
  rescind queues watch shop.jobs:queues
  rescind queues reconcile shop.jobs:queues --json
  rescind contain tenant:acme+workflow:dunning --pause-queue
"""
)
def queues() -> None:
    """Hold jobs back in their queues, as `rescind contain --pause-queue` orders it, and give them free again.

    A job that has not begun waits, one that runs goes on, and none is lost. MODULE:NAME is where your program says
    which queues it has; see docs/containment.md.
    """


def _read_every(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text, least_s=0.2, most_s=300.0)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@queues.command(short_help="Follow the orders until SIGTERM or Ctrl-C.")
@click.argument("module", metavar="MODULE:NAME")
@click.option(
    "--every",
    "every_s",
    default=EVERY_DEFAULT,
    show_default=True,
    callback=_read_every,
    metavar="TIME",
    help="How often to look for jobs that came in, and at switches.",
)
@switches
@common
def watch(*, module: str, every_s: float, out: Out) -> int:
    """Follow the orders until SIGTERM or Ctrl-C, and make the queues of MODULE:NAME do what they say.

    Run one or several; they do not get in each other's way. One that dies leaves held what was held.
    """
    ports, places = load_queues(module), find_places(given_places())
    leave, clock = threading.Event(), SystemClock()

    def ask_to_leave(_number: int, _frame: object) -> None:
        leave.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_leave)
    store = StampWatch(places)
    out.say(f"watching {list_of(port.name for port in ports)}")
    held = freed = 0
    said: tuple[str, ...] = ()
    while not leave.is_set():
        stamp, began_s = store.stamp(), clock.monotonic_s()
        known, kept = _reconciled(places, ports, clock)
        for each in kept:
            held, freed = held + each.held, freed + each.freed
            if each.is_news:
                _say_kept(each, out)
        problems = _problems(known, kept)
        if problems != said:  # each once, and not every two seconds
            for problem in problems:
                out.note(safe(problem), style="yellow")
            said = problems
        while not leave.wait(_LOOK_S) and clock.monotonic_s() - began_s < every_s and store.stamp() == stamp:
            pass
    store.close()
    out.say(f"left; {count_of(held, 'job')} held, {count_of(freed, 'job')} given free; what is held stays held")
    out.emit({"held": held, "freed": freed})
    return 0


@queues.command(name="reconcile")
@click.argument("module", metavar="MODULE:NAME")
@switches
@common
def reconcile_once(*, module: str, out: Out) -> int:
    """Do once what `watch` does all the time.

    Exit status 1 if a queue or a place did not answer, or an order cannot be obeyed.
    """
    ports, places = load_queues(module), find_places(given_places())
    known, kept = _reconciled(places, ports, SystemClock())
    for each in kept:
        _say_kept(each, out)
    problems = _problems(known, kept)
    for problem in problems:
        out.say(safe(problem), style="yellow")
    out.emit({"queues": list(kept), "problems": list(problems)})
    return 1 if problems else 0


@queues.command(name="list", short_help="Show which orders hold how many jobs.")
@click.argument("module", metavar="MODULE:NAME")
@common
def list_held(*, module: str, out: Out) -> int:
    """Show which orders hold how many jobs, at each queue of MODULE:NAME. Nothing is changed."""
    answers: list[dict[str, Any]] = []
    for port in load_queues(module):
        try:
            holding, problem = dict(port.held()), ""
        except QueueUnavailable as error:
            holding, problem = {}, str(error)
        answers.append({"queue": port.name, "holding": holding, "problem": problem})
        out.say(safe(port.name), style="bold")
        _say_holding(holding, out)
        if problem:
            out.say(f"  {safe(problem)}", style="red")
    out.emit({"queues": answers})
    return 1 if any(answer["problem"] for answer in answers) else 0


def load_queues(module: str) -> Sequence[QueuePort]:
    """The queues that `MODULE:NAME` names.

    Raises: UsageError, which names the place and the remedy.
    """
    module_name, colon, name = module.partition(":")
    if not colon or not name or any(not part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"{module!r} names no queues; give {_WHAT}")
    found: Any = getattr(import_program(module_name, said=module), name, None)
    if found is None:
        raise UsageError(f"{module_name} has no {name!r}; give {_WHAT}")
    ports = _each(found)
    wrong = next((each for each in ports if not all(hasattr(each, law) for law in ("hold", "release", "held"))), None)
    if wrong is not None or not ports:
        what = "holds nothing" if not ports else f"holds a {type(wrong).__name__}, which is no QueuePort"
        raise UsageError(f"{module} {what}; give {_WHAT}")
    names = [port.name for port in ports]
    if len(set(names)) < len(names):
        raise UsageError(f"{module} holds two queues of one name ({', '.join(sorted(names))}); give each its own name")
    return ports


def _each(found: Any) -> list[Any]:
    # Whatever the user's module holds.
    return [*found] if isinstance(found, list | tuple) else [found]  # pyright: ignore[reportUnknownVariableType]


def _reconciled(places: Places, ports: Sequence[QueuePort], clock: SystemClock) -> tuple[KnownOrders, tuple[Kept, ...]]:
    holding: list[str] = []
    for port in ports:
        try:
            holding += port.held()
        except QueueUnavailable:  # the keeper meets it too, and says so
            continue
    known = look(places, holding, clock=clock)
    return known, reconcile(known.standing, known.lifted, ports)


def _problems(known: KnownOrders, kept: Iterable[Kept]) -> tuple[str, ...]:
    of_queues = [problem for each in kept for problem in each.problems]
    strange = [
        f"queue {each.queue}: order {order_id} holds jobs and is not known here; they stay held until its lift is seen"
        for each in kept
        for order_id in each.strange
    ]
    return (*known.problems, *of_queues, *strange)


def _say_kept(kept: Kept, out: Out) -> None:
    out.say(
        f"{safe(kept.queue)}: {count_of(kept.held, 'job')} held, {count_of(kept.freed, 'job')} given free", style="bold"
    )
    _say_holding(kept.holding, out)


def _say_holding(holding: dict[str, int], out: Out) -> None:
    for order_id, count in sorted(holding.items()):
        out.say(f"  {safe(order_id) if order_id != NO_ORDER else 'no order'} holds {count_of(count, 'job')}")
    if not holding:
        out.say("  nothing is held")
