"""`rescind resume RUN --entry …`: carry a run on from a safe checkpoint, under tighter permissions."""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from rescind.cli.app import import_program, load_guard
from rescind.cli.checkpoint_view import choice_as_json, say_choice
from rescind.cli.liveness import open_guards
from rescind.cli.moments import to_the_second
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stopping import resume_command
from rescind.cli.stores import living_guards
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, SystemIds
from rescind.errors import RescindError, UsageError
from rescind.guard.earlier import Resumption
from rescind.guard.guard import Guard
from rescind.model.level import Level
from rescind.model.order import covering
from rescind.model.scope import Scope
from rescind.recovery.checkpoint import Story, find_boundary, read_story
from rescind.recovery.resume import choose, choose_this, record_resumption, resumption_of
from rescind.switch.desk import place

FAILED = 1

_GATES = (Level.SUPERVISED, Level.READ_ONLY)


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one such command."""

    run_id: str
    entry: str
    app: str | None
    checkpoint: str | None
    level: str | None
    allow: tuple[str, ...] | None
    actor: str
    reason: str


def resume_run(request: RunRequest, out: Out) -> int:
    """Carry the run on, in this process. Returns the exit status: 1, if its program raised.

    Raises: UsageError, if no checkpoint is safe, orders hold the run, or the entry is none; nothing was changed then.
    """
    level = _level_of(request.level)
    function, guard = _program(request)
    with closing(guard):
        story = read_story(guard.journal, request.run_id)
        this = None if request.checkpoint is None else find_boundary(story, request.checkpoint)
        choice = choose(story) if this is None else choose_this(story, this)
        resumption = resumption_of(story, choice, allow=request.allow)
        guard.resume(resumption)  # names an action that is not declared, before anything is changed
        _refuse_held(guard, story)
        _refuse_living(guard, story)
        say_choice(story, choice, out)
        # First: of two who would carry it on, the second has placed no order.
        record_resumption(
            guard.journal,
            story,
            resumption,
            guard_id=guard.guard_id,
            actor=request.actor,
            reason=request.reason,
            level=level.label if level is not None else "",
            clock=SystemClock(),
        )
        if level is not None:
            _hold(guard, story, level, request)
            lift = resume_command([f"run:{story.run.run_id}"], guard.stores.place or Path())
            out.say(f"held at {level.label} from here; to lift that:\n  {lift}")
        error = _run(function, resumption.state)
        if not guard.was_resumed and error is None:
            raise UsageError(f"{request.entry} has opened no run of {story.run.agent_name}, so nothing was carried on")
        return _tell(request, choice_as_json(story, choice), resumption, error, out)


def _tell(
    request: RunRequest, chosen: dict[str, Any], resumption: Resumption, error: Exception | None, out: Out
) -> int:
    left = resumption.earlier.left()
    out.say()
    if error is not None:
        out.say(f"{safe(request.entry)} raised {type(error).__name__}: {safe(error)}", style="red")
    else:
        out.say(f"{safe(request.entry)} came to its end", style="green")
    if left:
        out.say(
            f"{count_of(len(left), 'earlier effect')} stand that were not asked for again: "
            f"{list_of(str(record.ref) for record in left)}",
            style="yellow",
        )
        out.say(f"to look at them: rescind undo --run {safe(resumption.run.run_id)}")
    out.emit(
        chosen
        | {
            "not_asked_for_again": [str(record.ref) for record in left],
            "error": None if error is None else f"{type(error).__name__}: {error}",
        }
    )
    return FAILED if error is not None else 0


def _program(request: RunRequest) -> tuple[Callable[..., Any], Guard]:
    module_name, _, name = request.entry.partition(":")
    if not name:
        raise UsageError(f"--entry {request.entry!r} names no function; write MODULE:FUNCTION, such as shop.agent:main")
    module = import_program(module_name, said="--entry")
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"--entry: {module_name} has no function {name!r}")
    return function, load_guard(request.app or module_name)


def _run(function: Callable[..., Any], state: Any) -> Exception | None:
    """Call the program, with the checkpoint's state if it takes an argument. What it raises is its own business."""
    takes_state = bool(inspect.signature(function).parameters)
    try:
        result = function(state) if takes_state else function()
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except RescindError as error:
        return error
    except Exception as error:  # noqa: BLE001
        return error
    return None


def _level_of(text: str | None) -> Level | None:
    if text is None:
        return None
    try:
        level = Level.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if level not in _GATES:
        raise UsageError(f"--level {level.label} would not let the run go on; give supervised or read-only")
    return level


def _refuse_held(guard: Guard, story: Story) -> None:
    holding = [order for order in covering(guard.standing(), story.run.subject, "") if order.level >= Level.PAUSED]
    if holding:
        store = guard.stores.place or Path()
        command = resume_command([order.order_id for order in holding], store)
        raise UsageError(
            f"run {story.run.run_id} is held at {holding[0].level.label} by {len(holding)} standing order"
            f"{'s' if len(holding) > 1 else ''}, since {to_the_second(holding[0].placed_at)}. Lift first: {command}"
        )


def _refuse_living(guard: Guard, story: Story) -> None:
    # A guard on another machine whose lease has run out holds itself back; mostly, its machine is gone.
    store, run_id = guard.stores.place, story.run.run_id
    living = {each.guard_id for each in living_guards(store) if not each.silent} if store is not None else set[str]()
    acting = (living & open_guards(guard.journal, run_id)) - {guard.guard_id}
    if acting:
        raise UsageError(
            f"a living process acts for run {run_id} (guard {min(acting)}); two of them would do everything twice. "
            "End it, or wait for its end, and resume then"
        )


def _hold(guard: Guard, story: Story, level: Level, request: RunRequest) -> None:
    place(
        guard.orders,
        Scope.parse(f"run:{story.run.run_id}"),
        level,
        reason=f"carried on: {request.reason}",
        actor=request.actor,
        clock=SystemClock(),
        ids=SystemIds(),
    )
