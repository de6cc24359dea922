"""`rescind incidents recover`: the course of an incident on the screen."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.cli.app import WHAT_APP_IS, load_guard
from rescind.cli.liveness import live_runs_of
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import command_line
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.execution.limits import Limits
from rescind.config import load_settings
from rescind.errors import UsageError
from rescind.guard.guard import Guard
from rescind.model.signal import SignalKind
from rescind.recovery.course import Standing, approve, drive, read_course
from rescind.recovery.places import appliers_of
from rescind.recovery.stage_work import Means
from rescind.recovery.stages import DONE, STAGES, Course, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

_WAITS, _FAILED = 0, 1

_DIGITS_SHOWN = 16


def recover_incident(incident_id: str, *, app: str | None, digest: str | None, note: str, actor: str, out: Out) -> int:
    """Drive the course as far as it goes. Returns the exit status.

    Raises: UsageError, also for a plan that the incident never had; PlanOutdated, if there is another one by now.
    """
    if app is None:
        raise UsageError(f"recovering runs the compensations of your application; name it with --app: {WHAT_APP_IS}")
    guard = load_guard(app)
    with closing(guard):
        means = means_of(guard, actor)
        if digest is not None:
            stage = read_course(guard.journal, incident_id).next or Stage.RESUME
            approve(guard.journal, incident_id, stage, digest.lower(), actor=actor, note=note, clock=means.clock)
        standing = drive(incident_id, means)
        _say(incident_id, standing, guard, app, out)
        out.emit(_as_json(incident_id, standing))
    return _FAILED if standing.stage is not None and not standing.waits else _WAITS


def means_of(guard: Guard, actor: str) -> Means:
    """What a course is driven with, from the guard of an application and the configuration around it."""
    undo = load_settings().config.undo
    looks: dict[str, Callable[[], str]] = {each.name: each.problem for each in guard.invariants}
    return Means(
        journal=guard.journal,
        orders=guard.orders,
        compensators=guard.compensators,
        invariants=looks,
        clock=SystemClock(),
        ids=SystemIds(),
        actor=actor,
        parallel=undo.parallel,
        retries=undo.retries,
        limits=Limits(undo.systems),
        compensate_on=_compensate_on(guard),
        live_runs=lambda: live_runs_of(guard),
        appliers=None if guard.stores.place is None else appliers_of(guard.stores.place),
    )


def _compensate_on(guard: Guard) -> frozenset[SignalKind]:
    return frozenset() if guard.watching is None else guard.watching.policy.compensate_on


def _say(incident_id: str, standing: Standing, guard: Guard, app: str, out: Out) -> None:
    out.say(f"incident {safe(incident_id)}", style="bold")
    for stage in STAGES:
        out.tell(_line(standing, stage), behind=22, style=_style(standing, stage))
    store = guard.stores.place
    if store is None:
        return
    out.say()
    if standing.waits:
        shown = standing.subject[:_DIGITS_SHOWN]
        words = ("incidents", "recover", incident_id, "--app", app, "--approve", shown)
        out.say(f"{safe(standing.detail)}; to let it begin:")
        if standing.stage is Stage.COMPENSATE:
            runs = [word for run in _runs(standing.course) for word in ("--run", run)]
            out.say(f"  {command_line('undo', *runs, '--app', app, store=store)}   (shows every step)", style="dim")
        out.say(f"  {command_line(*words, store=store)}")
    elif standing.stage is not None:
        out.say(f"{standing.stage.value} failed: {safe(standing.detail)}; the incident stays open", style="red")
    else:
        for run, name in _checkpoints(standing.course):
            out.tell(f"  {safe(run)}  {safe(name)}", behind=4)
        out.say("every stage is done; what is left is yours:")
        out.say(f"  {command_line('incidents', 'report', incident_id, store=store)}")
        out.say(f'  {command_line("incidents", "close", incident_id, store=store)} --note "…"')


def _line(standing: Standing, stage: Stage) -> str:
    ended = standing.course.ended.get(stage)
    if ended is not None:
        return f"  {stage.value:<11} {ended.how:<7} {safe(ended.detail)}"
    waits = "waits" if stage is standing.stage else ""
    return f"  {stage.value:<11} {waits}".rstrip()


def _style(standing: Standing, stage: Stage) -> str:
    ended = standing.course.ended.get(stage)
    if ended is None:
        return "yellow" if stage is standing.stage else "dim"
    return "green" if ended.how == DONE else "red"


def _runs(course: Course) -> list[str]:
    found: list[str] = course.fact(Stage.CONTAIN, "runs") or []
    return found[:5]


def _checkpoints(course: Course) -> list[tuple[str, str]]:
    found: dict[str, str] = course.fact(Stage.RESUME, "checkpoints") or {}
    return list(found.items())[:12]


def _as_json(incident_id: str, standing: Standing) -> dict[str, Any]:
    return {
        "incident_id": incident_id,
        "stage": None if standing.stage is None else standing.stage.value,
        "waits": standing.waits,
        "detail": standing.detail,
        "subject": standing.subject,
        "stages": {stage.value: msgspec.to_builtins(each) for stage, each in standing.course.ended.items()},
    }
