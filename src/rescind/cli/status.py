"""`rescind status`: what stands, who obeys it, and what is in flight."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from rescind.cli.moments import ago
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.stopping import order_as_json
from rescind.cli.stores import find_store, orders_of
from rescind.cli.words import count_of, list_of
from rescind.clock import from_us
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.switch.port import GuardReport, LiveRun, Standing
from rescind.switch.presence import Sighting, living_guards

_ORDERS_SHOWN, _RUNS_SHOWN = 20, 12  # the most severe orders come first

_STYLES = {Level.NORMAL: "", Level.SUPERVISED: "yellow", Level.READ_ONLY: "yellow", Level.PAUSED: "yellow"}


@click.command()
@click.option("--all", "every", is_flag=True, help="Every order, and every run of every guard.")
@common
def status(*, every: bool, out: Out) -> int:
    """Show the standing orders, and every guard with its runs, process by process.

    Exit status 1 if a living guard cannot be seen, does not follow the orders, or has lowered itself.
    """
    store = find_store(given_store())
    with orders_of(store) as orders:
        standing = orders.standing()
    sightings = living_guards(store)
    problems = {sighting.guard_id: problem_of(sighting, standing) for sighting in sightings}
    _say_orders(standing.orders, out, every=every)
    out.say()
    _say_guards(sightings, problems, out, every=every)
    out.emit(_as_json(store, standing, sightings, problems))
    return 1 if any(problems.values()) else 0


def problem_of(sighting: Sighting, standing: Standing) -> str:
    """Why this guard is not known to follow the orders; empty if it does."""
    report = sighting.report
    if report is None:
        return sighting.problem or "unknown: it cannot be read"
    if report.fault:
        return f"refuses writes by itself: {report.fault}"
    if standing.settled and report.bound_stamp < standing.stamp:
        return "has not taken up the newest orders: it is starting, busy, or stopped by the system"
    return ""


def _say_orders(standing: Sequence[Order], out: Out, *, every: bool) -> None:
    out.say(count_of(len(standing), "standing order") if standing else "no standing orders", style="bold")
    shown = standing if every else standing[:_ORDERS_SHOWN]
    for order in shown:
        out.say(f"  {order.level.label} {safe(order.scope)}", style="yellow" if order.level < Level.HALTED else "red")
        out.say(f"    {order.order_id}, {ago(order.placed_at)} ago by {safe(order.actor)}")
        if order.reason:
            out.say(f"    {safe(order.reason)}")
    if len(shown) < len(standing):
        out.say(f"  and {len(standing) - len(shown):,} more; --all shows them")


def _say_guards(sightings: Sequence[Sighting], problems: dict[str, str], out: Out, *, every: bool) -> None:
    out.say(count_of(len(sightings), "living guard") if sightings else "no living guards", style="bold")
    for sighting in sightings:
        report, problem = sighting.report, problems[sighting.guard_id]
        if report is None:
            out.say(f"  {safe(sighting.guard_id)}", style="yellow")
        else:
            age = ago(from_us(report.started_at_us))
            flight = f", {count_of(len(report.in_flight), 'step')} in flight" if report.in_flight else ""
            out.say(f"  pid {report.pid}  {short(report.program, 48)}  for {age}{flight}")
        if problem:
            out.say(f"    {safe(problem)}", style="yellow")
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
    store: Path, standing: Standing, sightings: Sequence[Sighting], problems: dict[str, str]
) -> dict[str, Any]:
    return {
        "store": str(store),
        "stamp": standing.stamp,
        "orders": [order_as_json(order) for order in standing.orders],
        "guards": [
            {"guard_id": each.guard_id, "problem": problems[each.guard_id], "report": _report_as_json(each.report)}
            for each in sightings
        ],
    }


def _report_as_json(report: GuardReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(report)
    for run, live in zip(fields["runs"], report.runs, strict=True):
        run["level"] = live.level.label
    return fields
