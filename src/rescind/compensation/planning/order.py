"""In which order steps are undone: reverse happens-before.

Three kinds of edges say that one step is undone before another. Declared ones (`depends_on`, and an action's `after`)
are what a person wrote, causal ones (`causal_parents`) what the guard saw, and same-target ones follow from time: of
calls that overlap, the one that ended last is undone first. Where they contradict each other, which takes an import or
a dependency on a later step, the less certain give way: first same-target edges, then causal ones. Declared edges that
form a cycle mean that no order is right; their steps are reported, and not ordered among each other.

Among what is not ordered the newest goes first. All of it costs O(n log n): same-target edges lead only to the nearest
newer neighbour, and an action's `after` goes through gates.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, pairwise

import msgspec

from rescind.compensation.decision import Gate
from rescind.compensation.planning.nesting import containers_of, end_of
from rescind.model.action import Action, EffectClass
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.model.step import Target

Edge = tuple[int, int]
"""First and then: the node that is finished before the other begins."""

Place = Target | str
"""What steps have in common that touch the same thing."""

ALONE = -1
"""In the place of a number: no other step has this place."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The order of some steps.

    Attributes:
        records: The steps, first to be undone first.
        places: For each of `records`, in their order: the number of its place if others have the same, else `ALONE`.
        waits_for: For each of `records`, in their order: the steps that must be finished before, in this order.
        blocks_on: Those of them that were declared to depend on the step; steps without such are left out.
        gates_of: For each step, the gates that must be open before; steps without such are left out.
        gates: The gates that `gates_of` counts, each after the one beyond it.
        cyclic: Steps whose declared dependencies lead back to them.
        inside: See `containers_of`.
    """

    records: tuple[StepRecord, ...]
    places: Sequence[int]
    waits_for: Sequence[tuple[StepRef, ...]]
    blocks_on: Mapping[StepRef, tuple[StepRef, ...]]
    gates_of: Mapping[StepRef, tuple[int, ...]]
    gates: tuple[Gate, ...]
    cyclic: frozenset[StepRef]
    inside: Mapping[StepRef, StepRef]


def order_steps(records: Iterable[StepRecord], actions: Mapping[str, Action]) -> Order:
    """Order the steps, each of which may appear once. The order of `records` makes no difference."""
    steps = sorted(records, key=lambda record: record.intended_sequence, reverse=True)
    graph = _Graph(steps)
    places = _places(steps)
    inside = containers_of(steps, places)
    gates, gate_edges = _gates(steps, actions)
    size = len(steps) + len(gates)
    declared, knots, cyclic = [*_declared(graph), *gate_edges], list[Edge](), frozenset[StepRef]()
    causal, same_target = list(_causal(graph, inside)), list(_same_target(steps, places))
    order = _sorted(size, len(steps), chain(declared, causal, same_target))
    if len(order) < size:  # they contradict each other, which is rare: then kind by kind
        declared, knots, cyclic = _without_cycles(declared, graph, size=size)
        causal = _consistent(size, len(steps), declared + knots, causal)
        same_target = _consistent(size, len(steps), declared + knots + causal, same_target)
        order = _sorted(size, len(steps), declared + knots + causal + same_target)
    assert len(order) == size
    return _as_order(steps, order, chain(declared, causal, same_target), declared, places, gates, cyclic, inside)


def place_of(record: StepRecord) -> Place | None:
    """What a step shares with others of the same target; None if nothing is known to be shared.

    Reversible steps without a target share their action: they may be restores of one thing, and in the wrong order
    those would be conflicts. Who wants them undone in parallel declares targets.
    """
    step = record.step
    if step.target is not None:
        return step.target
    return step.action if step.effect_class is EffectClass.REVERSIBLE else None


def _places(steps: Sequence[StepRecord]) -> list[int]:
    """For each step the number of its place, or `ALONE`: what only one step touches is not worth remembering."""
    places = [ALONE] * len(steps)
    first: dict[Place, int] = {}
    for number, record in enumerate(steps):
        place = place_of(record)
        if place is not None:
            found = first.setdefault(place, number)
            if found != number:
                places[found] = places[number] = found
    return places


class _Graph:
    """The steps as nodes: newest is 0."""

    def __init__(self, steps: Sequence[StepRecord]) -> None:
        self.steps = steps
        # By run and then by step: most names are of the same run, and need no reference made to be found.
        self._nodes: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for number, record in enumerate(steps):
            self._nodes[record.run.run_id][record.step.step_id] = number
        assert sum(map(len, self._nodes.values())) == len(steps), "a step is given twice"

    def find(self, run_id: str, name: str) -> int | None:
        """The node of a step as another step of `run_id` names it: `STEP`, or `RUN/STEP`; None if it is not here."""
        found = self._nodes[run_id].get(name)
        if found is None and "/" in name:
            other_run, _, step_id = name.rpartition("/")
            found = self._nodes[other_run].get(step_id) if other_run in self._nodes else None
        return found


def _declared(graph: _Graph) -> Iterator[Edge]:
    for number, record in enumerate(graph.steps):
        for name in _each_once(record.step.depends_on):
            earlier = graph.find(record.run.run_id, name)
            if earlier is not None:
                yield number, earlier


def _causal(graph: _Graph, inside: Mapping[StepRef, StepRef]) -> Iterator[Edge]:
    outer = set(inside.values())
    for number, record in enumerate(graph.steps):
        for name in _each_once(record.step.causal_parents):
            earlier = graph.find(record.run.run_id, name)
            if earlier is not None and earlier != number and not _is_made_inside(record, graph.steps[earlier], outer):
                yield number, earlier


def _each_once(names: tuple[str, ...]) -> Iterable[str]:
    return names if len(names) < 2 else dict.fromkeys(names)


def _is_made_inside(record: StepRecord, cause: StepRecord, outer: Collection[StepRef]) -> bool:
    """Whether the step's cause was still under way when it ended, and comes first as a whole: see `nesting`."""
    return cause.ref in outer and record.run.run_id == cause.run.run_id and end_of(record) < end_of(cause)


def _same_target(steps: Sequence[StepRecord], places: Sequence[int]) -> Iterator[Edge]:
    newer: dict[int, int] = {}
    shared = [number for number, place in enumerate(places) if place != ALONE]
    for number in sorted(shared, key=lambda each: -end_of(steps[each])):
        place = places[number]
        if place in newer:
            yield newer[place], number
        newer[place] = number


def _gates(steps: Sequence[StepRecord], actions: Mapping[str, Action]) -> tuple[list[Gate], list[Edge]]:
    """Gates for `Action.after`, and the edges into and out of them. Gate g is node `len(steps) + g`."""
    by_action: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, record in enumerate(steps):
        by_action[record.run.run_id][record.step.action].append(number)
    gates: list[Gate] = []
    edges: list[Edge] = []
    for run in by_action.values():
        for name in sorted(run):
            for earlier in actions[name].after if name in actions else ():
                if earlier in run:
                    _add_gates(steps, run[name], run[earlier], gates, edges)
    return gates, edges


def _add_gates(
    steps: Sequence[StepRecord], dependents: list[int], earlier: list[int], gates: list[Gate], edges: list[Edge]
) -> None:
    # From the newest to the oldest: each of `earlier` waits for the last gate, which leads to all newer dependents.
    last: int | None = None
    pending: list[int] = []
    is_dependent, is_earlier = set(dependents), set(earlier)
    for number in heapq.merge(dependents, earlier) if dependents is not earlier else dependents:
        if number in is_earlier:
            if pending:
                beyond, last = last, len(gates)
                gates.append(Gate(steps=tuple(steps[each].ref for each in pending), beyond=beyond))
                edges += [(each, len(steps) + last) for each in pending]
                edges += [] if beyond is None else [(len(steps) + beyond, len(steps) + last)]
                pending = []
            if last is not None:
                edges.append((len(steps) + last, number))
        if number in is_dependent:
            pending.append(number)


def _without_cycles(
    declared: list[Edge], graph: _Graph, *, size: int
) -> tuple[list[Edge], list[Edge], frozenset[StepRef]]:
    """The declared edges without those inside cycles, edges to put in their place, and the steps in cycles.

    What is in a cycle is strung on a line instead, gates last, so that whatever waits for a part of it still comes
    after all of it; and all of it comes after whatever a part of it waits for.
    """
    if len(_sorted(size, len(graph.steps), declared)) == size:
        return declared, [], frozenset()
    component = _components(size, declared)
    inside = {node for first, then in declared if component[first] == component[then] for node in (first, then)}
    members: defaultdict[int, list[int]] = defaultdict(list)
    for node in sorted(inside):
        members[component[node]].append(node)
    knots = [edge for line in members.values() for edge in pairwise(line)]
    kept = [edge for edge in declared if component[edge[0]] != component[edge[1]]]
    knots += [(first, members[component[then]][0]) for first, then in kept if component[then] in members]
    cyclic = frozenset(graph.steps[node].ref for node in inside if node < len(graph.steps))
    return kept, knots, cyclic


def _consistent(size: int, step_count: int, firm: list[Edge], inferred: list[Edge]) -> list[Edge]:
    """Those of the inferred edges that form no cycle with the firm ones, which form none themselves."""
    if len(_sorted(size, step_count, firm + inferred)) == size:
        return inferred
    component = _components(size, firm + inferred)
    # Inside a knot only those stay that agree with one order of the firm edges: edges along a line form no cycle.
    rank = {node: place for place, node in enumerate(_sorted(size, step_count, firm))}
    return [(a, b) for a, b in inferred if component[a] != component[b] or rank[a] < rank[b]]


def _sorted(size: int, step_count: int, edges: Iterable[Edge]) -> list[int]:
    """The nodes, each after all that precede it, the newest possible first; without those in and behind cycles."""
    followers: list[list[int]] = [[] for _ in range(size)]
    missing = [0] * size
    for first, then in edges:
        followers[first].append(then)
        missing[then] += 1
    # A gate opens at once, and not when its turn as a node of some age comes: hence the keys below every step's.
    ready = [node if node < step_count else node - size - 1 for node in range(size) if not missing[node]]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        key = heapq.heappop(ready)
        node = key if key >= 0 else key + size + 1
        order.append(node)
        for follower in followers[node]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready, follower if follower < step_count else follower - size - 1)
    return order


def _components(size: int, edges: Iterable[Edge]) -> list[int]:
    """For each node a number that it shares with exactly the nodes that it is in a cycle with (Kosaraju)."""
    forward: list[list[int]] = [[] for _ in range(size)]
    backward: list[list[int]] = [[] for _ in range(size)]
    for first, then in edges:
        forward[first].append(then)
        backward[then].append(first)
    component = [-1] * size
    for root in reversed(_finishing_order(forward)):
        if component[root] < 0:
            stack = [root]
            while stack:
                node = stack.pop()
                if component[node] < 0:
                    component[node] = root
                    stack += backward[node]
    return component


def _finishing_order(forward: list[list[int]]) -> list[int]:
    seen = [False] * len(forward)
    finished: list[int] = []
    for root in range(len(forward)):
        stack = [] if seen[root] else [(root, iter(forward[root]))]
        seen[root] = True
        while stack:
            node, rest = stack[-1]
            for follower in rest:
                if not seen[follower]:
                    seen[follower] = True
                    stack.append((follower, iter(forward[follower])))
                    break
            else:
                stack.pop()
                finished.append(node)
    return finished


def _as_order(
    steps: Sequence[StepRecord],
    order: list[int],
    edges: Iterable[Edge],
    declared: Iterable[Edge],
    places: Sequence[int],
    gates: list[Gate],
    cyclic: frozenset[StepRef],
    inside: Mapping[StepRef, StepRef],
) -> Order:
    count = len(steps)
    records = tuple(steps[node] for node in order if node < count)
    rank = [0] * count
    for place, node in enumerate(node for node in order if node < count):
        rank[node] = place
    waits_for: list[tuple[StepRef, ...]] = [()] * count
    for then, firsts in _firsts(edges, rank):
        waits_for[then] = tuple([records[first].ref for first in firsts])
    gates_of: defaultdict[int, list[int]] = defaultdict(list)
    for first, then in declared:
        if then < count <= first:
            gates_of[then].append(first - count)
    return Order(
        records=records,
        places=[places[node] for node in order if node < count],
        waits_for=waits_for,
        blocks_on={
            records[then].ref: tuple([records[first].ref for first in firsts])
            for then, firsts in _firsts(declared, rank)
        },
        gates_of={steps[node].ref: tuple(sorted(found)) for node, found in gates_of.items()},
        gates=tuple(gates),
        cyclic=cyclic,
        inside=inside,
    )


def _firsts(edges: Iterable[Edge], rank: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """For each step that others come before: its place in the order, and theirs, all in order. Gates are left out."""
    count = len(rank)
    # One number for an edge: a hundred thousand of them are sorted, and freed of doubles, in no time.
    numbers = sorted({rank[then] * count + rank[first] for first, then in edges if first < count and then < count})
    for then, group in groupby(numbers, lambda number: number // count):
        yield then, [number % count for number in group]
