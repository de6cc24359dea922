"""`rescind status`: what stands, who obeys it, and what is in flight."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rescind.cli.moments import ago
from rescind.cli.options import common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.places import Places, find_places
from rescind.cli.safe import safe, short
from rescind.cli.status_switches import (
    SwitchesStatus,
    look_at_switches,
    say_guards,
    say_switches,
    say_waiting_lifts,
    switches_as_json,
)
from rescind.cli.status_unfinished import look_for_unfinished, say_unfinished, unfinished_as_json
from rescind.cli.stopping import order_as_json
from rescind.cli.stores import living_guards, name_of, orders_of
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, from_us
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.switch.port import GuardReport, LiveRun, Standing
from rescind.switch.presence import Sighting

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

_ORDERS_SHOWN, _RUNS_SHOWN = 20, 12  # the most severe orders come first

_STYLES = {Level.NORMAL: "", Level.SUPERVISED: "yellow", Level.READ_ONLY: "yellow", Level.PAUSED: "yellow"}


@click.command(
    epilog="""\b
Examples:
  rescind status
  rescind status --switch https://stop-1:7443 --all
"""
)
@click.option("--all", "every", is_flag=True, help="Every order, and every run of every guard.")
@switches
@common
def status(*, every: bool, out: Out) -> int:
    """Show what stands, what is unfinished, and every guard with its runs, process by process.

    Asks every switch of rescind.yaml and RESCIND_URL, and looks into this machine's store, if there is one. Unfinished
    are undos, calls that wait for an approval, review tasks and incidents: the oldest is named, and what to type.

    Exit status 1 if a switch could not take a stop now, or a guard cannot be seen, does not follow the orders, or has
    lowered itself; or if what is unfinished cannot be read.
    """
    places = find_places(given_places())
    there = look_at_switches(places.switches, clock=SystemClock()) if places.switches.urls else None
    here = None if places.store is None else _look_here(places.store)
    unfinished = look_for_unfinished(places, there, now=from_us(SystemClock().now_us()))
    if places.passed_over:
        out.note(f"passed over: {safe(places.passed_over)}", style="yellow")
    if there is not None:
        say_switches(there, out)
        out.say()
    orders = _united(there, here)
    _say_orders(orders, _answering(there), out, every=every)
    if there is not None:
        say_waiting_lifts(there, places, out)
    out.say()
    say_unfinished(unfinished, places, out)
    if there is not None:
        out.say()
        say_guards(there, out, every=every)
    if here is not None:
        out.say()
        _say_guards(here.sightings, here.problems, out, every=every)
    out.emit({**_as_json(places, orders, there, here), "unfinished": unfinished_as_json(unfinished)})
    is_well = (there is None or there.is_well) and unfinished.is_whole
    return 0 if is_well and (here is None or not any(here.problems.values())) else 1


class _Here(msgspec.Struct, frozen=True):
    """What the store says."""

    name: str
    standing: Standing
    sightings: Sequence[Sighting]
    problems: dict[str, str]


def _look_here(store: "StoreAt") -> _Here:
    with orders_of(store) as orders:
        standing = orders.standing()
    sightings = living_guards(store)
    return _Here(name_of(store), standing, sightings, {each.guard_id: problem_of(each, standing) for each in sightings})


def _united(there: SwitchesStatus | None, here: _Here | None) -> list[tuple[Order, list[str]]]:
    """Every order that stands somewhere, most severe first, and where."""
    places: dict[str, list[str]] = {}
    found: dict[str, Order] = {}
    if there is not None:
        found = {order.order_id: order for order in there.seen.orders}
        for reply in there.seen.replies:
            for doc in reply.answer.orders if reply.answer is not None else ():
                places.setdefault(doc.order_id, []).append(reply.url)
    for order in () if here is None else here.standing.orders:
        found.setdefault(order.order_id, order)
        places.setdefault(order.order_id, []).append("" if here is None else here.name)
    ordered = sorted(found.values(), key=lambda order: (-order.level, order.placed_at, order.order_id))
    return [(order, places[order.order_id]) for order in ordered]


def _answering(there: SwitchesStatus | None) -> list[str]:
    """The switches that say what stands, each of which should hold every order of a switch."""
    return [] if there is None else [reply.url for reply in there.seen.replies if reply.answer is not None]


def problem_of(sighting: Sighting, standing: Standing) -> str:
    """Why this guard is not known to follow the orders; empty if it does."""
    report = sighting.report
    if sighting.silent:
        return "is silent: its lease has run out, so that it refuses writes, or its process has died"
    if report is None:
        return sighting.problem or "unknown: it cannot be read"
    if report.fault:
        return f"refuses writes by itself: {report.fault}"
    if standing.settled and report.bound_stamp < standing.stamp:
        return "has not taken up the newest orders: it is starting, busy, or stopped by the system"
    return ""


def _say_orders(standing: Sequence[tuple[Order, list[str]]], switches: Sequence[str], out: Out, *, every: bool) -> None:
    out.say(count_of(len(standing), "standing order") if standing else "no standing orders", style="bold")
    shown = standing if every else standing[:_ORDERS_SHOWN]
    for order, places in shown:
        out.say(f"  {safe(order.what)}", style="yellow" if order.level < Level.HALTED else "red")
        out.say(f"    {safe(order.order_id)}, {ago(order.placed_at)} ago by {safe(order.actor)}")
        if order.origin:
            out.say(f"    {safe(order.origin)}")
        if order.reason:
            out.tell(f"    {safe(order.reason)}", behind=4)
        if switches and not set(switches) <= set(places):
            out.say(f"    only at {list_of(places)}", style="yellow")
    if len(shown) < len(standing):
        out.say(f"  and {len(standing) - len(shown):,} more; --all shows them")
    if any(order.trigger for order, _ in standing):
        out.say("  `rescind incidents list --all` tells what was noticed, and how to lift it")


def _say_guards(sightings: Sequence[Sighting], problems: dict[str, str], out: Out, *, every: bool) -> None:
    out.say(count_of(len(sightings), "living guard") if sightings else "no living guards", style="bold")
    for sighting in sightings:
        report, problem = sighting.report, problems[sighting.guard_id]
        if report is None:
            out.say(f"  {safe(sighting.guard_id)}", style="yellow")
        else:
            age = ago(from_us(report.started_at_us))
            flight = f", {count_of(len(report.in_flight), 'step')} in flight" if report.in_flight else ""
            host = f" on {short(sighting.host, 24)}" if sighting.host else ""
            out.say(f"  pid {report.pid}{host}  {short(report.program, 48)}  for {age}{flight}")
        if problem:
            out.say(f"    {safe(problem)}", style="yellow")
        if report is not None and report.notice:
            out.say(f"    {safe(report.notice)}", style="yellow")
        if report is not None:
            _say_runs(report, out, every=every)


def _say_runs(report: GuardReport, out: Out, *, every: bool) -> None:
    in_flight = _steps_by_run(report.in_flight)
    shown = report.runs if every else report.runs[:_RUNS_SHOWN]
    for live in shown:
        out.say(f"    {_run_line(live)}", style=_STYLES.get(live.level, "red"))
        steps = in_flight.get(live.run.run_id, ())
        if steps:
            out.say(f"      in flight: step {list_of(steps)}")
    if len(shown) < len(report.runs):
        out.say(f"    and {count_of(len(report.runs) - len(shown), 'run')} more; --all shows them")


def _run_line(live: LiveRun) -> str:
    tenant = f" for {safe(live.run.tenant)}" if live.run.tenant else ""
    ended = ", ended" if live.latched else ""
    return f"{safe(live.run.run_id)}  {safe(live.run.agent)}{tenant}  {live.level.label}{ended}"


def _steps_by_run(in_flight: Iterable[str]) -> dict[str, list[str]]:
    steps: dict[str, list[str]] = {}
    for name in in_flight:
        run_id, _, step_id = name.rpartition("/")
        steps.setdefault(run_id, []).append(step_id)
    return steps


def _as_json(
    places: Places, orders: Sequence[tuple[Order, list[str]]], there: SwitchesStatus | None, here: _Here | None
) -> dict[str, Any]:
    return {
        "store": None if here is None else str(places.store),
        "stamp": None if here is None else here.standing.stamp,
        "orders": [{**order_as_json(order), "at": at} for order, at in orders],
        "guards": [
            {"guard_id": each.guard_id, "problem": here.problems[each.guard_id], "report": _report_as_json(each.report)}
            for each in (here.sightings if here is not None else ())
            if here is not None
        ],
        **({"switches": [], "waiting": [], "guards_at_switches": []} if there is None else switches_as_json(there)),
    }


def _report_as_json(report: GuardReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(report)
    for run, live in zip(fields["runs"], report.runs, strict=True):
        run["level"] = live.level.label
    return fields
