"""An incident for people: what is still held and how it is lifted, then what happened, oldest first."""

from typing import TYPE_CHECKING, cast

import msgspec

from rescind.cli.moments import ago, clock_zone, time_of_day, to_the_second
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.stopping import resume_command
from rescind.cli.stores import command_line
from rescind.cli.words import count_of, list_of
from rescind.containment.timeline import Incident, Noted
from rescind.model.entry import RunSnapshot
from rescind.model.order import Order
from rescind.model.signal import Severity

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

SIGNALS_SHOWN = 12
"""Signals that are listed one by one; `--all` shows the others."""

RUNS_SHOWN = 5

_TEXT_WIDTH = 300

_WHAT = len("signal critical")
_DETAIL = 2 + 19 + 2 + _WHAT + 2

_STYLES = {Severity.CRITICAL: "red", Severity.HIGH: "red", Severity.WARNING: "yellow", Severity.INFO: ""}


class Found(msgspec.Struct, frozen=True):
    """An incident, and what the store knows besides.

    Attributes:
        incident: The incident.
        held: Its orders that stand, most severe first.
        lifted: Ids of its orders that were lifted.
        elsewhere: Ids of its orders that this store has never had.
        snapshots: The state of the runs that they contained, with their ids, oldest first.
    """

    incident: Incident
    held: tuple[Order, ...] = ()
    lifted: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    snapshots: tuple[tuple[str, RunSnapshot], ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs at which it was noticed, by first mention."""
        named = (str(line.facts.get("run_id", "")) for line in self.incident.of("signal"))
        return tuple(dict.fromkeys(filter(None, named)))


def say_head(incident: Incident, out: Out) -> None:
    """What it is, in three lines."""
    state = "open" if incident.is_open else "closed"
    style = _STYLES[incident.severity] if incident.is_open else "dim"
    head = f"{safe(incident.incident_id)}  {incident.severity.label}  {state}  {safe(incident.cause)}"
    out.tell(head, behind=2, style=style)
    out.tell(f"  {short(incident.title, _TEXT_WIDTH)}", behind=2)
    opened = f"opened {ago(incident.opened_at)} ago, at {to_the_second(incident.opened_at)}"
    out.tell(f"  {count_of(incident.signals, 'signal')}, {opened}", behind=2)
    if incident.closed_at is not None:
        note = f": {safe(incident.close_note)}" if incident.close_note else ""
        out.say(f"  closed by {safe(incident.closed_by)} {ago(incident.closed_at)} ago{note}")


def say_whole(found: Found, store: "StoreAt", out: Out, *, every: bool) -> None:
    """All of it: what is held first, since that is what somebody comes for."""
    say_head(found.incident, out)
    _say_held(found, store, out)
    _say_timeline(found, out, every=every)
    _say_snapshots(found, out, every=every)
    _say_next(found, store, out)


def _say_held(found: Found, store: "StoreAt", out: Out) -> None:
    out.say()
    if not found.held:
        out.say("nothing of it is held any more" if found.lifted else "nothing is held for it here")
    else:
        out.say("still held", style="bold")
    for order in found.held:
        out.say(f"  {safe(order.what)}", style="yellow")
        origin = f", {safe(order.origin)}" if order.origin else ""
        out.tell(f"    {safe(order.order_id)} by {safe(order.actor)}{origin}", behind=4)
        out.say(f"    lift  {resume_command([order.order_id], store)}")
    if found.lifted:
        out.say(f"  lifted: {list_of(found.lifted)}")
    if found.elsewhere:
        out.say(f"  not in this store: {list_of(found.elsewhere)}; `rescind status` asks the switches")


def _say_timeline(found: Found, out: Out, *, every: bool) -> None:
    incident = found.incident
    out.say()
    out.say(f"what happened, by this machine's clock ({clock_zone(incident.opened_at)})", style="bold")
    hidden = 0 if every else max(0, len(incident.of("signal")) - SIGNALS_SHOWN)
    shown = 0
    for line in incident.timeline:
        shown += line.what == "signal"
        if line.what == "signal" and shown > SIGNALS_SHOWN and hidden:
            if shown == SIGNALS_SHOWN + 1:
                out.say(f"  {'':19}  and {count_of(hidden, 'further signal')}; --all shows them")
            continue
        _say_line(line, out)
    only_counted = incident.signals - len(incident.of("signal"))
    if only_counted > 0:
        out.say(f"  {'':19}  {count_of(only_counted, 'signal')} more were counted and not written down")


def _say_line(line: Noted, out: Out) -> None:
    what = safe(line.what) + (f" {safe(line.facts.get('severity', ''))}" if line.what == "signal" else "")
    late = " (late)" if line.late else ""
    out.tell(f"  {time_of_day(line.at)}  {what:<{_WHAT}}  {short(line.detail, _TEXT_WIDTH)}{late}", behind=_DETAIL)
    behind = _behind(line)
    if behind:
        out.tell(f"{'':{_DETAIL}}{behind}", behind=_DETAIL, style="dim")


def _behind(line: Noted) -> str:
    if line.what != "signal":
        parts = [short(line.ref, 80), f"by {short(line.actor, 80)}" if line.actor else ""]
        return "" if line.what == "alert" else "  ".join(filter(None, parts))
    # The journal is read as it was written, by whatever version or hand.
    facts = line.facts.get("facts")
    named = cast("dict[str, object]", facts) if isinstance(facts, dict) else {}
    numbers = [f"{short(name, 40)}={short(value, 40)}" for name, value in named.items()]
    run, step = line.facts.get("run_id", ""), line.facts.get("step_id", "")
    where = f"run {short(run, 80)}" + (f" step {short(step, 40)}" if step else "") if run else ""
    return "  ".join(filter(None, [where, ", ".join(numbers[:8]), f"by {short(line.actor, 80)}" if line.actor else ""]))


def _say_snapshots(found: Found, out: Out, *, every: bool) -> None:
    if not found.snapshots:
        return
    out.say()
    out.say("runs when they were contained", style="bold")
    shown = found.snapshots if every else found.snapshots[:RUNS_SHOWN]
    for run_id, snapshot in shown:
        running = f", {count_of(len(snapshot.in_flight), 'step')} in flight" if snapshot.in_flight else ""
        children = f", {count_of(len(snapshot.children), 'child', 'children')}" if snapshot.children else ""
        calls, steps = count_of(snapshot.calls, "call"), count_of(snapshot.steps, "step")
        out.say(f"  {safe(run_id)}  {safe(snapshot.level)}, {calls}, {steps}{running}{children}")
        if snapshot.in_flight:
            out.say(f"    in flight  {list_of(snapshot.in_flight)}")
    if len(shown) < len(found.snapshots):
        out.say(f"  and {count_of(len(found.snapshots) - len(shown), 'further run')}; --all shows them")


def _say_next(found: Found, store: "StoreAt", out: Out) -> None:
    runs = found.runs[:RUNS_SHOWN]
    if not found.incident.is_open and not runs:
        return
    out.say()
    out.say("next", style="bold")
    for run_id in runs:
        out.say(f"  why it was refused        {command_line('policy', 'explain', run_id, store=store)}")
        out.say(f"  see what would be undone  {command_line('undo', '--run', run_id, store=store)} --app …")
    if found.incident.is_open:
        recovering = command_line("incidents", "recover", found.incident.incident_id, store=store)
        out.say(f"  undo it step by step      {recovering} --app …")
        closing = command_line("incidents", "close", found.incident.incident_id, store=store)
        out.say(f'  when it is over           {closing} --note "…"')
