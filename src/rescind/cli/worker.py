"""`rescind worker`: a process that holds the tools and carries out undos; and who of them lives."""

import contextlib
import importlib.metadata
import logging
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rescind.cli.app import load_guard
from rescind.cli.liveness import live_runs_of, may_still_write
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import guards_of, same_store
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, SystemIds
from rescind.config import load_settings
from rescind.errors import UsageError
from rescind.guard.guard import Guard
from rescind.recovery.places import engine_url, locks_of, register_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rescind.compensation.sharing.worker import UndoWorker
    from rescind.database.address import StoreAt
    from rescind.recovery.chores import Chores


@click.command(
    epilog="""\b
Examples:
  rescind worker shop.tools              run one, or as many as you like
  rescind worker --list                  who lives, and what each can do
  rescind worker --follow undo_3f2c…     how far a plan is
"""
)
@click.argument("app", required=False, metavar="MODULE[:GUARD]")
@click.option("--list", "listed", is_flag=True, help="Show the workers of the store.")
@click.option("--follow", metavar="PLAN", help="Follow a plan that was left to the workers.")
@common
def worker(*, app: str | None, listed: bool, follow: str | None, out: Out) -> int:
    """Hold the tools of MODULE and their credentials, and carry out the undos that are left to the workers.

    `rescind undo … --apply --workers` leaves a plan to them: it is spread over all that have its actions, and goes on
    wherever it was if one of them dies. A worker also releases what is held, tells `review.webhook` of review tasks,
    and drives incidents of the kinds that the policy names in `compensate_on`. Ctrl-C or SIGTERM lets the steps under
    way come to their end, and hands the rest to others.
    """
    if sum((app is not None, listed, follow is not None)) != 1:
        raise UsageError("give the module that declares your tools, or --list, or --follow PLAN, and one of them only")
    if listed:
        from rescind.cli.worker_list import list_workers

        return list_workers(given_store(), out)
    if follow is not None:
        from rescind.cli.worker_list import follow_plan

        return follow_plan(given_store(), follow, out)
    assert app is not None
    return _run(app, out)


def _run(app: str, out: Out) -> int:
    guard = load_guard(app)
    try:
        from rescind.recovery.engine_dbos import DbosEngine

        store = _store_of(guard, app)
        from rescind.compensation.sharing.worker import UndoWorker

        if isinstance(store, Path):
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _logged():
            undo_worker = UndoWorker(
                register_of(store),
                locks_of(store, SystemClock()),
                guard.journal,
                guard.compensators,
                lambda worker_id: DbosEngine(engine_url(store), worker_id),
                module=app,
                version=_version_of(app),
                clock=SystemClock(),
                ids=SystemIds(),
                systems=load_settings().config.undo.systems,
                live_runs=lambda: live_runs_of(guard),
            )
            chores, answers = _chores_of(guard), _answers_of(guard, undo_worker, store)
            with _ended_by_signals() as ended:
                undo_worker.start()
                chores.start()
                answers.start()
                tools = undo_worker.info.tools
                out.say(f"worker {undo_worker.info.worker_id} lives", style="bold")
                out.say(f"  its store  {safe(store)}")
                out.say(
                    f"  its tools  {count_of(len(tools), 'action')}: {list_of(safe(each.action) for each in tools)}"
                )
                out.emit({"worker": undo_worker.info, "store": str(store)})
                ended.wait()
                out.say("leaving: the steps under way come to their end, and others go on with the rest")
                chores.close()
                answers.close()
                undo_worker.close()
    finally:
        guard.close()
    return 0


def _chores_of(guard: Guard) -> "Chores":
    """Held effects, the incidents that the policy lets start, and the webhook of review tasks, if there is one."""
    from rescind.cli.recover import means_of
    from rescind.cli.review_export import channel_of
    from rescind.recovery.chores import Chore, Chores, exporting, recovering, releasing

    clock, closing = SystemClock(), threading.Event()
    chores: list[Chore] = [releasing(guard)]
    means = means_of(guard, "rescind-worker")
    if means.compensate_on:
        chores.append(recovering(msgspec.structs.replace(means, is_leaving=closing.is_set)))
    if load_settings().config.review.webhook:
        chores.append(exporting(guard.journal, channel_of(None, None), clock))
    return Chores(chores, clock, closing)


def _answers_of(guard: Guard, worker: "UndoWorker", store: "StoreAt") -> "Chores":
    """Requests for plans are answered in a thread of their own: a long plan must not hold up what is to be released."""
    from rescind.compensation.sharing.planner import Planner
    from rescind.recovery.chores import ANSWER_EVERY_S, Chore, Chores

    def may_write(run_ids: "Sequence[str]") -> list[str]:
        runs = [run for run in map(guard.journal.run, run_ids) if run is not None]
        with guards_of(store) as guards:
            standing = guard.orders.standing()  # before the guards are sighted: what they bound is then at least this
            return may_still_write(guard.journal, runs, guards.living(), standing)

    planner = Planner(
        worker.info.worker_id,
        guard.journal,
        guard.compensators,
        workers=worker.living,
        ring=worker.ring,
        clock=SystemClock(),
        ids=SystemIds(),
        undo=load_settings().config.undo,
        live_runs=lambda: live_runs_of(guard),
        may_write=may_write,
    )
    return Chores([Chore("requests", ANSWER_EVERY_S, planner.answer_open)], SystemClock())


def _store_of(guard: Guard, app: str) -> "StoreAt":
    store = guard.stores.place
    if store is None:
        raise UsageError(f"the guard of {app} keeps its journal nowhere that other processes could find it")
    given = given_store()
    if given is not None and not same_store(given, store):
        raise UsageError(
            f"--store is {given}, and the guard of {app} keeps its stores in {store}; leave --store out, or name the "
            "same store"
        )
    return store


def _version_of(app: str) -> str:
    """The version of the distribution that the module belongs to; empty if it belongs to none."""
    name = app.partition(":")[0].partition(".")[0]
    names = importlib.metadata.packages_distributions().get(name, [])
    return importlib.metadata.version(names[0]) if names else ""


@contextlib.contextmanager
def _ended_by_signals() -> Generator[threading.Event]:
    """An event that is set by Ctrl-C or SIGTERM. The second one ends the process at once; nothing is lost by that."""
    ended = threading.Event()

    def end(number: int, _frame: Any) -> None:
        ended.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _logged() -> Generator[None]:
    """What happens meanwhile, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("rescind")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
