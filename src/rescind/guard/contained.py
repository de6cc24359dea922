"""What containment means to one run beside the level it is held at: who may start runs, and the state it leaves."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rescind.model.entry import RunSnapshot
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Subject
from rescind.model.step import RunInfo

if TYPE_CHECKING:
    from rescind.guard.governed import Governed

NAMES_MAX = 100
"""Steps and children that a snapshot names one by one. Who has more is told from their number in the journal."""


def fan_out_blocked(
    standing: Iterable[Order], info: RunInfo, action: str | None, *, above: bool = False
) -> Order | None:
    """The order by which a run may start nothing further; None if there is none.

    Args:
        standing: All that stands.
        info: The run that would start something; with `above`, the run that would be started.
        action: The action that would start something.
        above: Whether those above the run are asked: its tenant and workflow are theirs, and of their agents only
            itself knows.
    """
    blocking = [order for order in standing if order.measure is Measure.BLOCK_FAN_OUT]
    if not blocking:
        return None
    subjects = [_above(info, index) for index in range(len(info.ancestors))] if above else [info.subject]
    return next((order for order in blocking for each in subjects if order.scope.covers(each, action)), None)


def _above(info: RunInfo, index: int) -> Subject:
    # Of an ancestor in another process only the id is known. Agents often differ along a tree, so the child's counts:
    # an agent that may start nothing does not start copies of itself either.
    return Subject(
        run_id=info.ancestors[index],
        agent_name=info.agent_name,
        agent_version=info.agent_version,
        tenant=info.tenant,
        workflow=info.workflow,
        lineage=frozenset(info.ancestors[index:]),
    )


def covered_by_measures(orders: Iterable[Order], subject: Subject) -> tuple[Order, ...]:
    """Those of the orders that contain the run as a whole: they refuse its writes, or are more than a level."""
    return tuple(
        order
        for order in orders
        if (order.level >= Level.READ_ONLY or order.measure is not Measure.LEVEL) and order.scope.covers(subject)
    )


def snapshot_of(run: "Governed", order: Order, *, calls: int, steps: int) -> RunSnapshot:
    """The state of a run at the moment when an order contained it."""
    own = f"{run.run_id}/"
    in_flight = sorted(ref for ref in run.guard.in_flight() if ref.startswith(own))
    return RunSnapshot(
        order_id=order.order_id,
        level=order.level.label,
        calls=calls,
        steps=steps,
        in_flight=tuple(in_flight[:NAMES_MAX]),
        children=tuple(child.run_id for child in run.children[:NAMES_MAX]),
        facts={} if run.watch is None else {"left": run.budget_left(), "signals": run.watch.tally.as_dict()},
    )
