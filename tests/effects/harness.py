"""Performs a write as a guard would, and keeps its snapshots as a journal would: as JSON."""

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from linecache import getline
from types import FrameType
from typing import Any, cast

import msgspec

from rescind.guard.effect import Call, Effect, PastStep, Touch
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Snapshot

Tool = Callable[..., Any]
TraceFunction = Callable[[FrameType, str, Any], Any]
EFFECTS = os.path.join("rescind", "compensation", "effects")
RUN = RunInfo(run_id="run-1", agent_name="billing-agent")


def a_call(arguments: dict[str, Any]) -> Call:
    return Call(run=RUN, step_id="1", action="a.write", arguments=arguments, target=None, idempotency_key="run-1/1")


def recorded(snapshot: Any) -> Snapshot:
    assert isinstance(snapshot, Snapshot)
    return msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot)


def opened(effect: Effect, **arguments: Any) -> Touch:
    touch = effect.open(a_call(arguments))
    return cast("Touch", touch)


def a_past_step(before: Snapshot | None, after: Snapshot | None, arguments: dict[str, Any]) -> PastStep:
    return PastStep(
        run=RUN,
        step_id="1",
        action="a.write",
        arguments=arguments,
        target=None,
        result=None,
        outcome=Completed(None),
        before_snapshot=before,
        after_snapshot=after,
        idempotency_key="run-1/1",
    )


def perform(effect: Effect, tool: Tool, **arguments: Any) -> PastStep:
    """Open, run the tool, settle."""
    touch = opened(effect, **arguments)
    before = recorded(touch.before)
    try:
        result = tool(**arguments)
    except BaseException:
        touch.abandon()
        raise
    return a_past_step(before, recorded(touch.settle(result)), arguments)


def version_now(effect: Effect, step: PastStep) -> str:
    return recorded(effect.observe(step)).version


def the_way_back(step: PastStep) -> PastStep:
    """The undo of the undo of the step."""
    return msgspec.structs.replace(step, before_snapshot=step.after_snapshot, after_snapshot=step.before_snapshot)


def merged(effect: Effect, step: PastStep, image: Any) -> Snapshot:
    """What a guard hands to `restore` as what is to be put there, if the action's `.merge` has returned this image."""
    snapshot_of = getattr(effect, "snapshot_of", None)
    made = Snapshot.of(image, absent=image is None) if snapshot_of is None else snapshot_of(step, image)
    return recorded(made)


class Killed(BaseException):
    """The process ends here."""


_NO_DEATH_AT = ("with ", "try:")


def lines_of(work: Callable[[], Any], *, die_at: int | None = None) -> int:
    """Do the work, which dies at its line with that number, counting those of effects only.

    Not at a `with`: its line comes again when the block is left, and there a lock would stay locked, which no process
    leaves behind. Nor at a `try`, which does nothing, and which CPython 3.11 does not count to the block of a `with`
    around it. What else it held is let go of, as when a process ends.

    Returns: how many such lines it ran through.
    """
    count = 0

    def local(frame: FrameType, event: str, _: Any) -> TraceFunction:
        nonlocal count
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith(_NO_DEATH_AT):
            count += 1
            if count == die_at:
                raise Killed
        return local

    def each(frame: FrameType, event: str, _: Any) -> TraceFunction | None:
        return local if EFFECTS in frame.f_code.co_filename else None

    earlier = sys.gettrace()
    sys.settrace(each)
    try:
        work()
    except Killed:
        pass
    finally:
        sys.settrace(earlier)
    gc.collect(1)  # what died is young
    return count


@dataclass(kw_only=True)
class World:
    """A target, an effect on it, a tool that writes to it, and somebody else who does.

    Attributes:
        meddle: Somebody else changes what the step left.
        mend: And changes it back, so that the content is the step's again.
        cut_off: Nobody can reach the target from here on; None for a target in our own memory.
        knows_its_calls: It knows of each call what it changed, also if no end was recorded.
        undo_can_be_undone: Otherwise `restore` says so, by a conflict.
        goes_over: It can put something over a later change; otherwise `restore` says so, by a conflict.
    """

    effect: Effect
    tool: Tool
    meddle: Callable[[], Any]
    mend: Callable[[], Any]
    content: Callable[[], Any]
    cut_off: Callable[[], Any] | None
    sees_aba: bool = False
    knows_its_calls: bool = False
    undo_can_be_undone: bool = True
    goes_over: bool = True
    close: Callable[[], Any] = lambda: None  # at the end of the test
    arguments: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    abandons: bool = True  # whether it can tell, after the tool raised, that nothing changed
    rolls_back: bool = False  # whether it takes back what a tool did that raised
