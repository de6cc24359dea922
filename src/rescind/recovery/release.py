"""Releasing what is held, by whoever holds the credentials: laws HE1 to HE5 are in `guard.held`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import from_us
from rescind.errors import RescindError, UsageError
from rescind.guard.releasing import NotReleased, release_step, standing_in
from rescind.journal.port import Journal, Query
from rescind.model.entry import StepRef
from rescind.model.history import fold_steps
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.recovery.held import Decision, Fate, Held, HeldWatch, decide, drop_held, find_held, held_of_run
from rescind.recovery.reading import every_entry

if TYPE_CHECKING:
    from rescind.guard.guard import Guard
    from rescind.guard.run import Run
    from rescind.guard.tool import WriteTool


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at all that is held came to.

    Attributes:
        released: Steps whose tool ran, with its outcome in words.
        dropped: Steps that were dropped, and why.
        waiting: Steps that are held still, and why.
    """

    released: tuple[tuple[StepRef, str], ...] = ()
    dropped: tuple[tuple[StepRef, str], ...] = ()
    waiting: tuple[tuple[StepRef, str], ...] = ()


def release_due(guard: "Guard", watch: HeldWatch | None = None) -> Round:
    """Release and drop what is due among the actions that this guard declares, run by run, in order.

    To be called again and again by whoever holds the credentials; any number of processes may do so at once (HE2).

    Args:
        guard: The application's.
        watch: Of its journal, kept by whoever calls again and again.
    """
    now = from_us(guard.clock.now_us())
    tools = guard.compensators
    by_run: dict[str, list[Held]] = {}
    for held in (watch or HeldWatch(guard.journal)).held(now=now):
        by_run.setdefault(held.ref.run_id, []).append(held)
    rounds = [_release_run(guard, tools, each, now) for each in by_run.values()]
    return Round(
        released=tuple(pair for each in rounds for pair in each.released),
        dropped=tuple(pair for each in rounds for pair in each.dropped),
        waiting=tuple(pair for each in rounds for pair in each.waiting),
    )


def release_now(guard: "Guard", step: StepRef) -> str:
    """Release one held step because a person says so: whatever it waits for, but not against the orders.

    Returns: How it ended, in words.
    Raises: UsageError, if it is not held, or its action is not declared here; CallDenied, RunHalted.
    """
    held = find_held(guard.journal, str(step), now=from_us(guard.clock.now_us()))
    tool = guard.compensators.get(held.record.step.action)
    if tool is None:
        raise UsageError(f"this application declares no action {held.record.step.action!r}; {held.ref} is still held")
    with standing_in(guard, held.record.run) as run:
        return _release(run, tool, held)


def _release_run(guard: "Guard", tools: "Mapping[str, WriteTool]", held_ones: Iterable[Held], now: datetime) -> Round:
    released: list[tuple[StepRef, str]] = []
    dropped: list[tuple[StepRef, str]] = []
    waiting: list[tuple[StepRef, str]] = []
    behind = ""
    ours = list(held_ones)
    with standing_in(guard, ours[0].record.run) as run:
        for held in ours:
            tool = tools.get(held.record.step.action)
            decision = decide(held, run.foresee(held.record.step.action), now=now, behind=behind)
            if decision.fate is Fate.RELEASE and tool is None:
                decision = Decision(Fate.WAIT, "its action is not declared here")
            if decision.fate is Fate.DROP:
                step_ids = (held.ref.step_id,)
                if drop_held(guard.journal, held.ref.run_id, step_ids, because=decision.because, clock=guard.clock):
                    dropped.append((held.ref, decision.because))
            elif decision.fate is Fate.WAIT or tool is None:
                waiting.append((held.ref, decision.because))
                behind = behind or held.ref.step_id
            else:
                try:
                    released.append((held.ref, _release(run, tool, _moved(guard.journal, held))))
                except NotReleased as error:
                    waiting.append((held.ref, str(error)))
                    behind = behind or held.ref.step_id
                except RescindError as error:
                    waiting.append((held.ref, f"not released: {error}"))
                    behind = behind or held.ref.step_id
    return Round(released=tuple(released), dropped=tuple(dropped), waiting=tuple(waiting))


def _moved(journal: Journal, held: Held) -> Held:
    """The held step, where its run stands now: what was released before it has moved the run on."""
    now = next((each for each in held_of_run(journal, held.ref.run_id) if each.ref == held.ref), None)
    if now is None or now.run_end is not held.run_end:
        raise NotReleased(f"{held.ref} moved on; it was not released here")
    return now


def _release(run: "Run", tool: "WriteTool", held: Held) -> str:
    problem = tool.accepts(held.record.step.arguments)
    if problem:
        raise UsageError(f"{held.ref} cannot be released: {tool.name} {problem}; it is still held")
    error: Exception | None = None
    try:
        release_step(run, tool, held.record, held.position)
    except RescindError:
        raise
    except Exception as problem_of_tool:  # noqa: BLE001  # a tool raises what it likes; the journal has its outcome
        error = problem_of_tool
    return _outcome_of(run.guard.journal, held.ref, error)


def _outcome_of(journal: Journal, step: StepRef, error: Exception | None) -> str:
    records = {each.ref: each for each in fold_steps(every_entry(journal, Query(run_id=step.run_id)))}
    match records[step].outcome:
        case Completed():
            return "done"
        case Failed(reason):
            return f"failed and changed nothing: {reason}"
        case Unknown(reason):
            return f"nobody knows whether it took effect: {reason}"
        case None:
            return f"in doubt: its end could not be recorded ({type(error).__name__})"
