"""Letting a held effect go: the second half of a write's life, driven by whoever holds the credentials.

    gate ─▶ look at the target ─▶ release, durable and the only one ─▶ gate again ─▶ the tool, as for any write

Die before the release is durable, and the step is held as before; die after it, and the step is in doubt, as any
write whose intent has no end. Laws HE1 to HE6 are in `held`, W1 to W4 in `flow`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rescind.errors import RescindError, SequenceConflict
from rescind.guard.call import WriteCall
from rescind.guard.drive import drive, drive_async
from rescind.guard.flow import invoke, let_go, name_of, try_append
from rescind.guard.gate import Limits
from rescind.guard.request import Append, Boundary, Perform, Threw, WriteFlow
from rescind.guard.run import Run
from rescind.model.outcome import Failed

if TYPE_CHECKING:
    from rescind.guard.guard import Guard
    from rescind.guard.tool import WriteTool
    from rescind.model.history import StepRecord
    from rescind.model.step import RunInfo


class NotReleased(RescindError):
    """Somebody else released or dropped the step first, or wrote to its run: look again."""


@contextmanager
def standing_in(guard: "Guard", info: "RunInfo") -> Generator[Run]:
    """The run, as orders see it, for as long as something of it is released. Nothing of it goes on."""
    run = Run(guard, info, limits=Limits(), fallback=None, numbered_after_opening=True)
    guard.begin(run)
    try:
        guard.wait_for_switch()
        guard.refresh(run)
        run.mark_open(None)
        yield run
    finally:
        guard.end(run)


def release_step(run: Run, tool: "WriteTool", record: "StepRecord", position: int) -> Any:
    """Run the tool of a held step, now.

    Args:
        run: The step's run, from `standing_in`.
        tool: Its action as it is declared here.
        record: The step, held.
        position: Where the run's chain goes on, when that was read.

    Returns: What the tool returned.

    Raises:
        NotReleased: It was not this call that released it; nothing was done.
        CallDenied, RunHalted: The orders forbid it now. If the release was durable by then, the step failed.
        Exception: What the tool raised; the step is then unknown, or failed if it vouches for that.
    """
    call = WriteCall.of_held(tool, run, record)
    flow = release_flow(call, position)
    if not tool.is_async:
        return drive(flow, run.guard.journal)
    import asyncio  # synchronous tools do without

    return asyncio.run(drive_async(flow, run.guard.journal))


def release_flow(call: WriteCall, position: int) -> WriteFlow:
    """The release of one held step, as a generator without I/O; see `flow`."""
    try:
        call.admit()
        call.check_orders()
        touch = yield Perform(call.look_at_target)
    except BaseException as error:  # noqa: BLE001  # handed on by the driver; nothing has happened yet
        return Threw(error)
    try:
        call.take_off_again()
        try:
            yield Append((call.release(touch.before, position),))
        except SequenceConflict:
            yield from let_go(touch)
            return Threw(
                NotReleased(f"step {call.step_id} of run {call.run.run_id} moved on; it was not released here")
            )
        except BaseException as error:  # noqa: BLE001
            # Whether it became durable or not: the tool has not run, and that is what the next line tries to say.
            yield from let_go(touch)
            if not isinstance(error, RescindError):
                yield from try_append(call, Failed(f"interrupted before the tool ran: {name_of(error)}"), error)
            return Threw(error)
        try:
            call.check_orders()
            yield Boundary()
        except BaseException as error:  # noqa: BLE001
            yield from let_go(touch)
            yield from try_append(call, Failed(f"refused before the tool ran: {name_of(error)}"), error)
            return Threw(error)
        return (yield from invoke(call, touch))
    finally:
        call.land()
