"""Held effects: a write that is journaled now and made later, so that its undo is to drop it.

HE1. *Nothing yet.* While a step is held, its tool has not begun; that its intent is durable says no more than that.
HE2. *Once.* A step is released or dropped, one of the two, once: either is appended at an expected position of its
    run's chain, so of two who try, one fails and looks again.
HE3. *Released like any write.* The tool begins after the release is durable, under the orders of that moment (W2).
HE4. *In order.* Of one run, nothing is released before what was held earlier and is held still.
HE5. *A doubt is not let go.* A run that was halted drops what it holds. One that failed, or has not ended, keeps it
    until a person decides, or nobody did for so long that it is dropped.
HE6. *Not past what cannot be read.* Of a run with an entry that cannot be read nothing is released or dropped: that
    entry may say that it was, or that the run was halted. It is told, and what other runs hold goes on.
"""

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.errors import DeclarationError
from rescind.journal.port import Draft
from rescind.model.entry import EffectHeld, RunOpened, StepRef
from rescind.model.step import RunInfo

if TYPE_CHECKING:
    from rescind.guard.effect import Touch
    from rescind.guard.run import Run
    from rescind.guard.tool import WriteTool
    from rescind.model.step import Snapshot

HELD_AGENT = "rescind-held"
"""The agent name of the runs that list what others hold."""

HELD_RUN_PREFIX = "held_"
"""What the ids of those runs begin with, before the id of the run that holds."""

HOLD_MAX = timedelta(days=30)

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class HeldEffect(msgspec.Struct, frozen=True):
    """What a held call is answered with. As a text it tells a language model that nothing has happened yet.

    Attributes:
        step: The step that is held.
        action: What will be done.
        until: From when on; None: once the run has ended.
    """

    step: StepRef
    action: str
    until: datetime | None = None

    def __str__(self) -> str:
        when = "once this run has ended" if self.until is None else f"after {self.until.isoformat(timespec='seconds')}"
        return f"{self.action} is held and was not done yet; it will be done {when}, unless it is dropped ({self.step})"


def held_run_of(info: "RunInfo") -> str:
    """The id of the run that lists what this one holds."""
    return f"{HELD_RUN_PREFIX}{info.run_id}"


def listing_of(run: "Run", step: StepRef, action: str) -> tuple[Draft, ...]:
    """The drafts by which a held step is found without reading every run."""
    info, now_us = run.info, run.guard.clock.now_us()
    listing = RunInfo(run_id=held_run_of(info), agent_name=HELD_AGENT, tenant=info.tenant)
    events = (RunOpened(run=listing, guard_id=run.guard.guard_id), EffectHeld(step=step, action=action))
    return tuple(Draft(run_id=listing.run_id, event=event, recorded_at_us=now_us) for event in events)


def check_hold(tool: "WriteTool", function: Callable[..., Any]) -> None:
    """Whether a call of this tool could be made later, from the journal alone. Raises: DeclarationError."""
    where = f"{tool.name} ({tool.place})"
    if isinstance(tool.hold, timedelta) and not timedelta() < tool.hold <= HOLD_MAX:
        raise DeclarationError(f"{where}: hold={tool.hold} is not between nothing and {HOLD_MAX.days} days")
    if not isinstance(tool.hold, timedelta) and tool.hold != "run":
        raise DeclarationError(f"{where}: hold={tool.hold!r} is neither a timedelta nor 'run'")
    if tool.redact:
        raise DeclarationError(
            f"{where}: a held call is made from the journal, which redact= keeps {', '.join(sorted(tool.redact))} out "
            "of; pass a reference to the secret, or do not hold it"
        )
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in _BY_NAME:
            raise DeclarationError(
                f"{where}: a held call is made by name, and {parameter} has none; name each argument"
            )


class NoTouch:
    """The target of a call that is held: nobody has looked, and nobody will have touched it."""

    before: "Snapshot | None" = None

    def settle(self, result: Any) -> None:
        """Never called: the tool does not run."""
        raise AssertionError("a held tool does not run")

    def abandon(self) -> bool:
        """Nothing was touched."""
        return True


if TYPE_CHECKING:
    _: Touch = NoTouch()
