"""Releasing what is held, by whoever holds the credentials: laws HE1 to HE6 are in `guard.held`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import from_us
from rescind.errors import JournalUnavailable, OrdersUnavailable, RescindError, UsageError
from rescind.guard.flow import name_of
from rescind.guard.releasing import NotReleased, release_step, standing_in
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.recovery.held import Decision, Fate, HeldWatch, decide, drop_held, find_held
from rescind.recovery.held_run import Held, HeldRun

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
        failed: Those of them that were to be released or dropped now, and could not be.
        unread: Runs that may hold something, which cannot be told, and why; nothing of them is done (HE6).
    """

    released: tuple[tuple[StepRef, str], ...] = ()
    dropped: tuple[tuple[StepRef, str], ...] = ()
    waiting: tuple[tuple[StepRef, str], ...] = ()
    failed: tuple[tuple[StepRef, str], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()


def release_due(guard: "Guard", watch: HeldWatch | None = None) -> Round:
    """Release and drop what is due among the actions that this guard declares, run by run, in order.

    To be called again and again by whoever holds the credentials; any number of processes may do so at once (HE2).

    Args:
        guard: The application's.
        watch: Of its journal, kept by whoever calls again and again.
    """
    now = from_us(guard.clock.now_us())
    tools = guard.compensators
    watch = watch or HeldWatch(guard.journal)
    runs = watch.by_run(now=now)
    rounds = [_release_run_alone(guard, tools, run, held, now) for run, held in runs]
    return Round(
        released=tuple(pair for each in rounds for pair in each.released),
        dropped=tuple(pair for each in rounds for pair in each.dropped),
        waiting=tuple(pair for each in rounds for pair in each.waiting),
        failed=tuple(pair for each in rounds for pair in each.failed),
        unread=tuple((run_id, str(gap)) for run_id, gap in watch.unread.items()),
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
        return _release(run, tool, held, HeldRun(guard.journal, held.ref.run_id))


def _release_run_alone(
    guard: "Guard", tools: "Mapping[str, WriteTool]", chain: HeldRun, held_ones: Sequence[Held], now: datetime
) -> Round:
    """As `_release_run`; what is wrong with one run keeps nothing of others waiting."""
    try:
        return _release_run(guard, tools, chain, held_ones, now)
    except (JournalUnavailable, OrdersUnavailable):
        raise  # nothing of any run can be released now
    except RescindError as error:  # others write to it all the time
        failed = tuple((held.ref, f"not released: {error}") for held in held_ones)
        return Round(waiting=failed, failed=failed)


def _release_run(
    guard: "Guard", tools: "Mapping[str, WriteTool]", chain: HeldRun, held_ones: Sequence[Held], now: datetime
) -> Round:
    released: list[tuple[StepRef, str]] = []
    dropped: list[tuple[StepRef, str]] = []
    waiting: list[tuple[StepRef, str]] = []
    failed: list[tuple[StepRef, str]] = []
    to_drop: dict[str, list[Held]] = {}
    behind = ""
    with standing_in(guard, held_ones[0].record.run) as run:
        for held in held_ones:
            tool = tools.get(held.record.step.action)
            decision = decide(held, run.foresee(held.record.step.action), now=now, behind=behind)
            if decision.fate is Fate.RELEASE and tool is None:
                decision = Decision(Fate.WAIT, "its action is not declared here")
            if decision.fate is Fate.DROP:
                to_drop.setdefault(decision.because, []).append(held)  # together: each append reads the run
                continue
            if decision.fate is Fate.WAIT or tool is None:
                waiting.append((held.ref, decision.because))
                behind = behind or held.ref.step_id
                continue
            dropped += _drop(guard, to_drop)  # before anything that was held later is done (HE4)
            try:
                released.append((held.ref, _release(run, tool, held, chain)))
            except Exception as error:  # noqa: BLE001  # an argument's type may look at anything when it is made
                words = str(error) if isinstance(error, RescindError) else name_of(error)
                failed.append((held.ref, f"not released: {words}"))
                waiting.append(failed[-1])
                behind = behind or held.ref.step_id
    dropped += _drop(guard, to_drop)
    return Round(released=tuple(released), dropped=tuple(dropped), waiting=tuple(waiting), failed=tuple(failed))


def _drop(guard: "Guard", to_drop: dict[str, list[Held]]) -> list[tuple[StepRef, str]]:
    dropped: list[tuple[StepRef, str]] = []
    for because, held_ones in to_drop.items():
        run_id, step_ids = held_ones[0].ref.run_id, {held.ref.step_id for held in held_ones}
        gone = drop_held(guard.journal, run_id, step_ids, because=because, actor=guard.guard_id, clock=guard.clock)
        dropped += [(held.ref, because) for held in held_ones if held.ref.step_id in gone]
    to_drop.clear()
    return dropped


def _release(run: "Run", tool: "WriteTool", held: Held, chain: HeldRun) -> str:
    """Release it, where its run stands now: what was released before it has moved the run on.

    Returns: How it ended, in words.
    Raises: RescindError, if its tool did not run, and it is held still, or was released or dropped by somebody else.
    """
    # What its types do not allow any more would reach it as raw JSON values, and that would be a guess.
    arguments = held.record.step.arguments
    problem = tool.accepts(arguments) or tool.signature.misfit(arguments)
    if problem:
        raise UsageError(f"{held.ref} cannot be released: {tool.name} {problem}; it is still held")
    now = chain.held_now(held.ref.step_id)
    if now is None or now.run_end is not held.run_end:
        raise NotReleased(f"{held.ref} moved on; it was not released here")
    error: Exception | None = None
    try:
        release_step(run, tool, now.record, now.position)
    except NotReleased:
        raise
    except Exception as problem_of_tool:  # noqa: BLE001  # a tool raises what it likes; the journal has its outcome
        error = problem_of_tool
    # Whatever was raised, and by whom: whether the tool ran is what the journal says.
    try:
        record = chain.record(held.ref.step_id)
    except RescindError as unreadable:
        return f"nobody knows whether it was released: {unreadable}"
    if record.is_held:
        raise _still_held(held, error) from error
    return _in_words(record, error)


def _still_held(held: Held, error: Exception | None) -> RescindError:
    if isinstance(error, RescindError):
        return error
    return UsageError(f"{held.ref} cannot be released: {'' if error is None else name_of(error)}; it is still held")


def _in_words(record: StepRecord, error: Exception | None) -> str:
    match record.outcome:
        case Completed() if record.verified is False:
            return "done, and its postcondition does not hold"
        case Completed():
            return "done"
        case Failed(reason):
            return f"failed and changed nothing: {reason}"
        case Unknown(reason):
            return f"nobody knows whether it took effect: {reason}"
        case None:
            return f"in doubt: its end could not be recorded ({type(error).__name__})"
