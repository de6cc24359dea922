"""Standing orders, sorted into pigeonholes, so that a run finds those that concern it without looking at the others.

    everything ─────────────────────────▶ everybody's
    tenant:acme+agent:billing-agent ────▶ hole (tenant, acme)         the most selective of its terms
    run:run_01 ─────────────────────────▶ hole (run, run_01)

This happens when orders change, and never in a call: a gate is left with the few orders that cover its run.
"""

from collections.abc import Iterable

from rescind.model.order import Order
from rescind.model.scope import Scope, Subject

SELECTIVE = ("run", "tree", "tenant", "workflow", "agent")
"""Kinds of terms, those first that usually cover the fewest runs. An action says nothing about a run."""

_Hole = tuple[str, str]
_Ranked = list[tuple[int, Order]]


class Compiled:
    """A set of standing orders. `orders` has them most severe first."""

    __slots__ = ("_everybodys", "_everybodys_alone", "_holes", "_kinds", "orders")

    def __init__(self, orders: Iterable[Order]) -> None:
        """Compile the orders; one that comes twice counts once."""
        self.orders = tuple(sorted(set(orders), key=lambda order: (-order.level, order.placed_at, order.order_id)))
        self._everybodys: _Ranked = []
        self._holes: dict[_Hole, _Ranked] = {}
        for rank, order in enumerate(self.orders):
            hole = _hole_of(order.scope)
            (self._everybodys if hole is None else self._holes.setdefault(hole, [])).append((rank, order))
        self._everybodys_alone = tuple(order for _, order in self._everybodys)
        self._kinds = {kind for kind, _ in self._holes}

    def concerning(self, subject: Subject) -> tuple[Order, ...]:
        """The orders that cover this run, or would if it called some action; most severe first."""
        found: _Ranked = []
        if self._holes:
            for hole in self._holes_of(subject):
                found += (each for each in self._holes.get(hole, ()) if each[1].scope.may_cover(subject))
        if not found:
            return self._everybodys_alone  # one for all runs: most are concerned by nothing of their own
        return tuple(order for _, order in sorted([*self._everybodys, *found], key=lambda each: each[0]))

    def _holes_of(self, subject: Subject) -> list[_Hole]:
        holes: list[_Hole] = []
        kinds = self._kinds
        if "run" in kinds:
            holes.append(("run", subject.run_id))
        if "tree" in kinds:
            holes += (("tree", run_id) for run_id in {subject.run_id, *subject.lineage})
        if "tenant" in kinds:
            holes.append(("tenant", subject.tenant))
        if "workflow" in kinds:
            holes.append(("workflow", subject.workflow))
        if "agent" in kinds:
            holes.append(("agent", subject.agent_name))
            holes.append(("agent", f"{subject.agent_name}@{subject.agent_version}"))
        return holes


def _hole_of(scope: Scope) -> _Hole | None:
    terms = [term for term in scope.terms if term.kind in SELECTIVE]
    if not terms:
        return None
    best = min(terms, key=lambda term: SELECTIVE.index(term.kind))
    return best.kind, best.value
