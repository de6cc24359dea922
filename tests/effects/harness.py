"""Performs a write as a guard would, and keeps its snapshots as a journal would: as JSON."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from rescind.guard.effect import Call, Effect, PastStep, Touch
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Snapshot

Tool = Callable[..., Any]
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


@dataclass(kw_only=True)
class World:
    """A target, an effect on it, a tool that writes to it, and somebody else who does."""

    effect: Effect
    tool: Tool
    meddle: Callable[[], Any]
    content: Callable[[], Any]
    arguments: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    abandons: bool = True  # whether it can tell, after the tool raised, that nothing changed
    rolls_back: bool = False  # whether it takes back what a tool did that raised
