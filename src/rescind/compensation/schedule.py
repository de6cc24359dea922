"""Which step of a plan may begin now. Pure bookkeeping; the first of the plan is always the first of what is ready."""

import heapq
from collections import defaultdict
from collections.abc import Collection

from rescind.compensation.decision import Plan, PlanItem
from rescind.model.entry import StepRef

_Waiting = StepRef | int
"""Who waits: a step, or the gate of that index."""


class Schedule:
    """The steps of a plan that have to be worked on.

    What is not worked on is finished as soon as what it waits for is, and no sooner: an older step at the same target
    must not overtake a newer one because a step between them is left to a person.

    Args:
        plan: The plan.
        work: The steps to work on.
        alone: Those of them of which only one may be under way at a time.
    """

    def __init__(self, plan: Plan, work: Collection[StepRef], alone: Collection[StepRef] = ()) -> None:
        self._alone, self._one_is_under_way = frozenset(alone), False
        self._items = {item.step: (number, item) for number, item in enumerate(plan.items) if item.step in work}
        self._missing: defaultdict[_Waiting, int] = defaultdict(int)
        self._behind: defaultdict[_Waiting, list[_Waiting]] = defaultdict(list)
        self._ready: list[int] = []
        self._ready_alone: list[int] = []
        self._by_number = dict(self._items.values())
        self._steps = {item.step for item in plan.items}
        for index, gate in enumerate(plan.gates):
            self._wait(index, [*gate.steps] if gate.beyond is None else [*gate.steps, gate.beyond])
        for item in plan.items:
            self._wait(item.step, [*item.waits_for, *item.gates])
        passed = [*range(len(plan.gates)), *(item.step for item in plan.items if item.step not in self._items)]
        for each in [each for each in passed if not self._missing[each]]:
            self._release(each)
        # Afterwards, so that a step behind a gate that opened just now is not made ready twice.
        self._ready, self._ready_alone = [], []
        for _, item in self._items.values():
            if not self._missing[item.step]:
                self.again(item.step)

    def next(self) -> PlanItem | None:
        """The next step to begin, or None if none is ready (now)."""
        queues = [self._ready] if self._one_is_under_way else [self._ready, self._ready_alone]
        queue = min((each for each in queues if each), key=lambda each: each[0], default=None)
        if queue is None:
            return None
        self._one_is_under_way = self._one_is_under_way or queue is self._ready_alone
        return self._by_number[heapq.heappop(queue)]

    def pause(self, step: StepRef) -> None:
        """The step is not under way any more, and not finished either: what waits for it goes on waiting."""
        if step in self._alone:
            self._one_is_under_way = False

    def again(self, step: StepRef) -> None:
        """The step is ready, for the first time or after a pause."""
        heapq.heappush(self._ready_alone if step in self._alone else self._ready, self._items[step][0])

    def finish(self, step: StepRef) -> None:
        """The step, under way or paused, is finished; what waited for nothing else is ready."""
        self.pause(step)
        self._release(step)

    def _wait(self, who: _Waiting, whom: list[_Waiting]) -> None:
        for each in whom:
            # Gates, and steps that are not worked on, are always waited for: they pass it on themselves, below.
            if isinstance(each, int) or each in self._steps:
                self._missing[who] += 1
                self._behind[each].append(who)

    def _release(self, first: _Waiting) -> None:
        stack: list[_Waiting] = [first]
        while stack:
            for each in self._behind.pop(stack.pop(), []):
                self._missing[each] -= 1
                if self._missing[each]:
                    continue
                if isinstance(each, int) or each not in self._items:
                    stack.append(each)
                else:
                    self.again(each)
