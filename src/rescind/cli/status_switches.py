"""The part of `rescind status` that switches know: whether they could take a stop, what stands, who obeys."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from rescind.cli.lifting import Seen, say_waiting, see_standing
from rescind.cli.moments import ago
from rescind.cli.out import Out
from rescind.cli.places import Places
from rescind.cli.safe import safe, short
from rescind.cli.trouble import reply_as_json, trouble_line
from rescind.cli.words import count_of, list_of
from rescind.clock import Clock
from rescind.model.level import Level
from rescind.switch.approval_wire import ApprovalDoc
from rescind.switch.client.approvals import get_approvals
from rescind.switch.client.asking import Reply, Switches
from rescind.switch.client.operator import get
from rescind.switch.wire import Report, RunDoc

_GUARDS_SHOWN, _RUNS_SHOWN = 50, 12


class _Channel(msgspec.Struct, frozen=True, kw_only=True):
    """How alerts to somebody go."""

    name: str
    delivered: int = 0
    pending: int = 0
    given_up: int = 0
    dropped: int = 0
    failing_since: datetime | None = None
    last_problem: str = ""
    gone: bool = False


class _Peer(msgspec.Struct, frozen=True, kw_only=True):
    """How another switch of the federation is, seen from this one."""

    url: str
    switch_id: str = ""
    reachable: bool = True
    problem: str = ""


class _Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a switch says of itself, to anybody."""

    switch_id: str
    accepting: bool
    trouble: str = ""
    sequence: int = 0
    guards_connected: int = 0
    peers: tuple[_Peer, ...] = ()
    alerts: tuple[_Channel, ...] = ()


class _Report(Report, frozen=True, kw_only=True, forbid_unknown_fields=False):
    pass


class _Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A guard, and what it said last to one switch."""

    guard_id: str
    connected: bool
    heard_ago_s: float
    report: _Report


class SwitchesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What all switches say.

    Attributes:
        health: Of each switch.
        seen: What stands.
        guards: Of each guard what it said last, by id, and the switches that it is connected to.
        refusals: Switches that are well and do not say who obeys.
        approvals: What each says of the writes that wait for a person.
    """

    health: tuple[Reply[_Health], ...]
    seen: Seen
    guards: Mapping[str, tuple[_Guard, tuple[str, ...]]]
    refusals: tuple[Reply[tuple[_Guard, ...]], ...]
    approvals: tuple[Reply[tuple[ApprovalDoc, ...]], ...]

    @property
    def is_well(self) -> bool:
        """Whether every switch could take a stop and says what stands, and every guard follows."""
        well = all(reply.answer is not None and reply.answer.accepting for reply in self.health)
        told = all(reply.answer is not None for reply in self.seen.replies) and not self.refusals
        return well and told and not any(guard_problem(*guard) for guard in self.guards.values())


def look_at_switches(switches: Switches, *, clock: Clock) -> SwitchesStatus:
    """Ask all of them at once, for at most three seconds."""
    health = get(switches, "/health", _Health, statuses=(200, 503), clock=clock)
    told = get(switches, "/v1/guards", tuple[_Guard, ...], clock=clock)
    asked = get_approvals(switches, clock=clock)
    seen = see_standing(switches, clock=clock)
    replies = told.every()
    return SwitchesStatus(
        health=tuple(health.every()),
        seen=seen,
        guards=_newest(replies),
        refusals=tuple(reply for reply in replies if reply.answer is None),
        approvals=tuple(asked.every()),
    )


def guard_problem(guard: _Guard, connected_to: Sequence[str]) -> str:
    """Why this guard is not known to follow the orders; empty if it does."""
    if guard.report.fault:
        return f"holds itself at {guard.report.on_silence}: {guard.report.fault}"
    if not connected_to:
        return f"hears no switch that answers here; last heard {guard.heard_ago_s:.0f} s ago"
    if guard.report.bound < 0:
        return "has not taken up any orders yet"
    return ""


def say_switches(status: SwitchesStatus, out: Out) -> None:
    """Say how each switch is."""
    out.say(count_of(len(status.health), "switch", "switches"), style="bold")
    for reply in status.health:
        if reply.answer is None:
            out.say(f"  {trouble_line(reply)}", style="red")
            continue
        _say_health(reply.url, reply.answer, out)
    answering = {reply.url for reply in status.health if reply.answer is not None}
    silent: list[Reply[Any]] = [*status.seen.replies, *status.refusals, *status.approvals]
    for told in silent:
        if told.answer is None and told.url in answering:
            out.say(f"  {trouble_line(told)}", style="red")
            answering.discard(told.url)  # once is enough


def say_waiting_lifts(status: SwitchesStatus, places: Places, out: Out) -> None:
    """Say which lifts wait for somebody."""
    for lifted in status.seen.waiting:
        say_waiting(lifted, places.given.urls, out)


def say_guards(status: SwitchesStatus, out: Out, *, every: bool) -> None:
    """Say of every guard what it does."""
    guards = list(status.guards.values())
    out.say(f"{count_of(len(guards), 'guard')} at switches" if guards else "no guards at switches", style="bold")
    # Of many, those with a problem come first: they are why somebody looks.
    guards.sort(key=lambda each: not guard_problem(*each))
    shown = guards if every else guards[:_GUARDS_SHOWN]
    for guard, connected_to in shown:
        _say_guard(guard, connected_to, out, every=every)
    if len(shown) < len(guards):
        out.say(f"  and {len(guards) - len(shown):,} more; --all shows them")


def switches_as_json(status: SwitchesStatus) -> dict[str, Any]:
    """The same as a part of the answer."""
    return {
        "switches": [_health_as_json(reply) for reply in status.health],
        "waiting": list(status.seen.waiting),
        "guards_at_switches": [
            {
                "guard_id": guard.guard_id,
                "problem": guard_problem(guard, connected_to),
                "connected_to": list(connected_to),
                "heard_ago_s": guard.heard_ago_s,
                "report": guard.report,
            }
            for guard, connected_to in status.guards.values()
        ],
    }


def _newest(replies: Iterable[Reply[tuple[_Guard, ...]]]) -> dict[str, tuple[_Guard, tuple[str, ...]]]:
    newest: dict[str, tuple[_Guard, tuple[str, ...]]] = {}
    for reply in replies:
        for guard in reply.answer or ():
            known, urls = newest.get(guard.guard_id, (guard, ()))
            urls = (*urls, reply.url) if guard.connected else urls
            newest[guard.guard_id] = (min(guard, known, key=lambda each: each.heard_ago_s), urls)
    return dict(sorted(newest.items()))


def _say_health(url: str, health: _Health, out: Out) -> None:
    connected = count_of(health.guards_connected, "guard")
    if health.accepting:
        out.say(f"  {safe(url)}  takes stops, has {count_of(health.sequence, 'record')}, hears {connected}")
    else:
        out.say(
            f"  {safe(url)}  could take NO stop now, and renews no lease: {short(health.trouble, 200)}", style="red"
        )
    for peer in health.peers:
        if not peer.reachable:
            out.say(f"    does not reach {safe(peer.url)}: {short(peer.problem, 200)}", style="yellow")
    for channel in health.alerts:
        if channel.failing_since is not None or channel.gone:
            since = "" if channel.failing_since is None else f" for {ago(channel.failing_since)}"
            lost = f", {channel.given_up + channel.dropped} lost" if channel.given_up + channel.dropped else ""
            words = f"alerts to {safe(channel.name)} fail{since}{lost}: {short(channel.last_problem, 200)}"
            out.say(f"    {words}", style="yellow")


def _say_guard(guard: _Guard, connected_to: Sequence[str], out: Out, *, every: bool) -> None:
    report = guard.report
    where = f" on {safe(report.host)}" if report.host else ""
    flight = f", {count_of(report.in_flight_count, 'step')} in flight" if report.in_flight_count else ""
    who = f"supervisor of {safe(report.agent)}, " if report.kind == "supervisor" else ""
    out.say(f"  {who}pid {report.pid}{where}  {short(report.program, 48)}{flight}")
    problem = guard_problem(guard, connected_to)
    if problem:
        out.say(f"    {short(problem, 200)}", style="yellow")
    shown = report.runs if every else report.runs[:_RUNS_SHOWN]
    for run in shown:
        out.say(f"    {_run_line(run)}", style=_style(run.level))
    if report.in_flight:
        out.say(f"      in flight: {list_of(report.in_flight)}")
    if len(shown) < report.runs_open:
        out.say(f"    and {count_of(report.runs_open - len(shown), 'run')} more")


def _run_line(run: RunDoc) -> str:
    tenant = f" for {safe(run.tenant)}" if run.tenant else ""
    return f"{safe(run.run_id)}  {safe(run.agent)}{tenant}  {safe(run.level)}{', ended' if run.halted else ''}"


def _style(level: str) -> str:
    return {Level.NORMAL.label: "", Level.HALTED.label: "red"}.get(level, "yellow")


def _health_as_json(reply: Reply[_Health]) -> dict[str, Any]:
    if reply.answer is None:
        return reply_as_json(reply)
    return {"url": reply.url, "state": "answers", **msgspec.to_builtins(reply.answer)}
