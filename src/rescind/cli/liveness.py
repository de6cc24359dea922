"""Whether a selected run may still write. An undo of a moving target is none.

A run may still write while a living guard has opened it and not closed it, unless that guard has bound the present
orders, one of them holds the whole run at `read_only` or above, and what it had in flight has ended. A guard on another
machine may have died without a word: when its lease has run out, such an order holds it too, for it takes that up
before it may write again.
"""

from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

from rescind.cli.stores import guards_of
from rescind.errors import OrdersUnavailable
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.entry import RunClosed, RunOpened
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.step import RunInfo
from rescind.switch.port import Standing
from rescind.switch.presence import Sighting

if TYPE_CHECKING:
    from rescind.guard.guard import Guard


def may_still_write(
    journal: Journal, runs: Iterable[RunInfo], living: Iterable[Sighting], standing: Standing
) -> list[str]:
    """The ids of the runs that may still write, in the given order.

    Args:
        journal: Says which guards opened and closed each run.
        runs: The runs in question.
        living: The guards of living processes, sighted after `standing` was read.
        standing: The orders, and the stamp that a guard must have bound.
    """
    seen = {sighting.guard_id: sighting for sighting in living}
    return [
        run.run_id
        for run in runs
        if any(not _is_still(seen[guard], run, standing) for guard in open_guards(journal, run.run_id) & seen.keys())
    ]


class LiveRuns:
    """The ids of runs that a living process acts for, looked up when somebody asks about one.

    Of a run whose guards cannot be sighted, nobody can say that it is none.
    """

    def __init__(self, journal: Journal, living: Callable[[], Iterable[Sighting]]) -> None:
        self._journal, self._look = journal, living
        self._living: frozenset[str] | None = None
        self._known: dict[str, bool] = {}

    def __contains__(self, run_id: object) -> bool:
        if not isinstance(run_id, str):
            return False
        if run_id not in self._known:
            self._known[run_id] = self._is_live(run_id)
        return self._known[run_id]

    def _is_live(self, run_id: str) -> bool:
        opened = open_guards(self._journal, run_id)
        if not opened:
            return False
        if self._living is None:
            try:
                self._living = frozenset(sighting.guard_id for sighting in self._look())
            except OrdersUnavailable:
                return True
        return not self._living.isdisjoint(opened)


def live_runs_of(guard: "Guard") -> Container[str]:
    """The same, of the store that this guard keeps its journal in. Ask anew for every plan."""
    store = guard.stores.place
    if store is None:
        return ()

    def look() -> list[Sighting]:
        with guards_of(store) as guards:
            return guards.living()

    return LiveRuns(guard.journal, look)


def holds_writes_of(order: Order, run: RunInfo) -> bool:
    """Whether the order keeps the run from every write, and not only from some actions."""
    return order.level >= Level.READ_ONLY and not order.scope.actions and order.scope.covers(run.subject)


def _is_still(sighting: Sighting, run: RunInfo, standing: Standing) -> bool:
    if not any(holds_writes_of(order, run) for order in standing.orders):
        return False  # also of one that is silent: it may wake, and nothing would hold it then
    report = sighting.report
    if sighting.silent or report is None:
        return sighting.silent
    if not standing.settled or report.bound_stamp < standing.stamp:
        return False
    prefix = f"{run.run_id}/"
    return report.drained_at_s is not None or not any(step.startswith(prefix) for step in report.in_flight)


def open_guards(journal: Journal, run_id: str) -> set[str]:
    """The guards that have opened this run, and not said that they left it."""
    held: set[str] = set()
    for entry in every_entry(journal, Query(run_id=run_id)):
        if isinstance(entry.event, RunOpened):
            held.add(entry.event.guard_id)
        elif isinstance(entry.event, RunClosed):
            held.discard(entry.event.guard_id)
    return held
