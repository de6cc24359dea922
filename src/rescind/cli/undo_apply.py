"""`rescind undo --apply`: one at a time, on runs that are still, and only what was shown."""

import fcntl
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from rescind.cli.entry import explain
from rescind.cli.holding import hold_still, refuse_if_live
from rescind.cli.out import Out
from rescind.cli.plan_status import PlainProgress
from rescind.cli.plan_view import summary_of
from rescind.cli.shown import forget_shown, last_shown, was_shown
from rescind.cli.stopping import order_as_json, resume_command
from rescind.cli.stores import local_folder
from rescind.cli.undo_request import DIGITS_SHOWN
from rescind.cli.undo_result import FAULT, result_as_json, result_status, say_result
from rescind.cli.undo_session import Session, apply_command, show_plan
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.decision import Plan, kind_of
from rescind.compensation.execution.account import Progress
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.execution.schedule import system_of
from rescind.compensation.paperwork import plan_run_of
from rescind.compensation.result import UndoResult
from rescind.errors import PlanOutdated, PlanUnknown, RescindError, RunStillLive, UndoBusy
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import PlanFinished, PlanStarted
from rescind.model.order import Order
from rescind.model.step import RunInfo
from rescind.recovery.places import appliers_of

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

LOCK_NAME = "undo.lock"

DECLINED = 1

_LOOKS_MAX = 10
"""How often runs that begin meanwhile are looked at, before somebody must stop their agent."""


def apply_undo(session: Session, out: Out) -> int:
    """Apply the plan that was shown. Returns the exit status.

    Raises: UndoBusy, RunStillLive, PlanOutdated, PlanUnknown, and then nothing was undone; UndoStopped, if the journal
        failed.
    """
    held: list[Order] = []
    lock = nullcontext() if session.by_workers else one_at_a_time(session.store)
    with lock, _saying_what_is_held(held, session.store, out):
        plan = _still_plan(session, held, out)
        if not plan.is_settled:
            if session.by_workers:
                session.refuse_unable(plan)
            _check_shown(session, plan, out)
            if not _is_wanted(session, plan, out):
                out.say(f"nothing was {'undone' if session.request.verb == 'undo' else 'redone'}")
                _say_held(held, session.store, out)
                out.emit({"declined": True, "held": [order_as_json(order) for order in held]})
                return DECLINED
            refuse_if_live(session, _runs_in(session, plan))  # an answer may take minutes
        # From here on the journal moves. If this process is killed, the next `--apply` meets another plan, which is the
        # rest of this one: it must not be refused for being another.
        forget_shown(local_folder(session.store), session.key)
        clock = SystemClock()
        begun_s = clock.monotonic_s()
        if session.by_workers and not plan.is_settled:
            from rescind.cli.undo_workers import leave_to_workers

            found = leave_to_workers(session, plan, out)
            if found is None:
                return 0
            result = found
        else:
            result = _carry_out(session, plan, out)
        took_s = clock.monotonic_s() - begun_s
        comparison = session.compare(plan, result)
    say_result(session, plan, result, comparison, standing=session.orders.standing().orders, took_s=took_s, out=out)
    out.emit(result_as_json(session, plan, result, held=held, took_s=took_s) | {"comparison": comparison})
    return result_status(plan, result) or (FAULT if comparison.differs else 0)


def _still_plan(session: Session, held: list[Order], out: Out) -> Plan:
    """The plan as of now, none of whose runs may still write.

    A run may begin between the look at the runs and the plan, so the plan's runs are looked at, too; and if one of them
    had to be held, it may have written before, so the plan is made again.

    Raises: RunStillLive.
    """
    runs = _runs_of(session)
    for _ in range(_LOOKS_MAX):
        hold_still(session, runs, held, out)
        checked = {run.run_id for run in runs}
        plan = session.plan()
        runs = [run for run in _runs_in(session, plan) if run.run_id not in checked]
        if not runs:
            return plan
        runs = _runs_in(session, plan)
    raise RunStillLive(
        [run.run_id for run in runs],
        remedy="New runs begin faster than they can be looked at: stop their agent, then undo again. "
        "Nothing was undone",
    )


def _runs_of(session: Session) -> list[RunInfo]:
    return [run for run in map(session.journal.run, session.run_ids) if run is not None]


def _runs_in(session: Session, plan: Plan) -> list[RunInfo]:
    return [run for run in map(session.journal.run, plan.runs) if run is not None]


@contextmanager
def _saying_what_is_held(held: Sequence[Order], store: "StoreAt", out: Out) -> Generator[None]:
    """Let no error leave without the orders that were placed before it: they go on to hold their runs."""
    try:
        yield
    except RescindError as error:
        if held:
            explain(error, _words_of_held(held, store), held=[order_as_json(order) for order in held])
        raise
    except BaseException:
        _say_held(held, store, out)
        raise


def _say_held(held: Sequence[Order], store: "StoreAt", out: Out) -> None:
    if held:
        out.note(_words_of_held(held, store), style="yellow")


def _words_of_held(held: Sequence[Order], store: "StoreAt") -> str:
    ids = [order.order_id for order in held]
    scopes = list_of(f"{order.scope} by {order.order_id}" for order in held)
    return f"still held at read_only: {scopes}. To let go:\n  {resume_command(ids, store)}"


def _outdated(session: Session, plan: Plan, shown: str) -> RescindError:
    error: RescindError = PlanOutdated(shown=shown, current=plan.digest)
    if not (was_shown(local_folder(session.store), shown) or _was_applied(session, plan, shown)):
        known_by = "was shown on this machine lately, or ever applied in this store"
        error = PlanUnknown(named=shown, current=plan.digest, known_by=known_by)
    command = apply_command(plan, session)
    look = session.request.command(store=session.store)
    words = f"to see the new plan:\n  {look}\nto apply exactly that one:\n  {command}"
    explain(error, words, shown=shown, current=plan.digest, apply=command)
    return error


def _check_shown(session: Session, plan: Plan, out: Out) -> None:
    """Let nothing be applied that was not shown. A plan that never was is shown now.

    Raises: PlanOutdated, PlanUnknown.
    """
    wanted = session.request.shown
    if wanted is None:
        last = last_shown(local_folder(session.store), session.key)
        if last is None:
            show_plan(plan, session, out)
            return
        if last != plan.digest:
            raise _outdated(session, plan, last)
    elif not plan.digest.startswith(wanted) and _is_rest_of(session, plan, wanted):
        out.say(f"going on with plan {wanted[:DIGITS_SHOWN]}, which was begun and not finished")
    elif not plan.digest.startswith(wanted):
        raise _outdated(session, plan, wanted)
    out.say(f"plan {plan.digest[:DIGITS_SHOWN]}: {summary_of(plan)}", style="bold")


def _was_applied(session: Session, plan: Plan, digest: str) -> bool:
    run_id = plan_run_of(msgspec.structs.replace(plan, digest=digest))
    return len(digest) >= DIGITS_SHOWN and session.journal.run(run_id) is not None


def _is_rest_of(session: Session, plan: Plan, wanted: str) -> bool:
    """Whether the plan is what is left of the wanted one: the same steps, of which some were dealt with since.

    Steps are never removed from a journal, so as many of the same runs are the same. What else may have changed are
    targets; and a target that was changed is left to a person when its turn comes.
    """
    if len(wanted) < DIGITS_SHOWN:
        return False
    begun: PlanStarted | None = None
    run_id = plan_run_of(msgspec.structs.replace(plan, digest=wanted))
    for entry in every_entry(session.journal, Query(run_id=run_id)):
        if isinstance(entry.event, PlanStarted) and entry.event.plan_digest.startswith(wanted):
            begun = entry.event
        elif isinstance(entry.event, PlanFinished):
            begun = None
    return begun is not None and (begun.steps, begun.runs) == (len(plan.items), plan.runs)


def _is_wanted(session: Session, plan: Plan, out: Out) -> bool:
    if session.request.sure or not out.can_ask:
        return True
    pending = count_of(sum(plan.counts.get(kind, 0) for kind in ("restore", "compensate")), "step")
    return click.confirm(f"{session.request.verb.capitalize()} {pending} now?", default=False)


def _carry_out(session: Session, plan: Plan, out: Out) -> UndoResult:
    with _drawn_progress(plan, out) as progress:
        return apply_plan(
            plan,
            session.journal,
            session.tools,
            SystemClock(),
            SystemIds(),
            parallel=session.parallel,
            retries=session.retries,
            limits=session.limits,
            within_s=session.within_s,
            way=session.way,
            actor=session.request.actor,
            reason=session.request.reason,
            progress=progress,
            appliers=appliers_of(session.store),
        )


@contextmanager
def _drawn_progress(plan: Plan, out: Out) -> Generator[Progress | None]:
    pending = [item for item in plan.items if not kind_of(item.decision).startswith("already_")]
    if not pending:
        yield None
    elif not out.is_live:
        yield PlainProgress(len(pending), SystemClock(), out).advance
    else:
        from rescind.cli.progress import drawn_progress

        with drawn_progress({item.step: system_of(item) for item in pending}, out.console()) as progress:
            yield progress.advance


@contextmanager
def one_at_a_time(store: "StoreAt") -> Generator[None]:
    """Hold the store's undo lock. The kernel takes it back from a process that dies; a database, from a connection.

    Raises: UndoBusy; JournalUnavailable, if the database cannot be asked.
    """
    if not isinstance(store, Path):
        from rescind.database.locking import locked

        with locked(store, "undo") as taken:
            if not taken:
                raise UndoBusy(
                    f"another undo is being applied in {store}; wait until it has ended, then run this again"
                )
            yield
        return
    descriptor = os.open(store / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UndoBusy(
                f"another undo is being applied in {store}; wait until it has ended, then run this again"
            ) from error
        yield
    finally:
        os.close(descriptor)
