"""Which step of a plan may begin now. Pure bookkeeping; the first of the plan is always the first of what is ready."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection

from rescind.compensation.decision import Plan, PlanItem
from rescind.model.entry import StepRef

_Waiting = StepRef | int
"""Who waits: a step, or the gate of that index."""


def system_of(item: PlanItem) -> str:
    """The system that the step is undone at: that of its target; without a target, the action stands for it."""
    return item.action if item.target is None else item.target.system


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
        self._ready: dict[tuple[str, bool], list[int]] = {}
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
        self._ready.clear()
        for _, item in self._items.values():
            if not self._missing[item.step]:
                self.again(item.step)

    def next(self, takes: Callable[[PlanItem], bool] = lambda item: True) -> PlanItem | None:
        """The next step to begin, or None if none is ready (now).

        Args:
            takes: Whether a step can be taken now. It is asked about the first ready step of each system, in the
                plan's order, until it says yes: that step is begun.
        """
        for number, system, alone in sorted(
            (queue[0], system, alone)
            for (system, alone), queue in self._ready.items()
            if not (alone and self._one_is_under_way)
        ):
            if takes(self._by_number[number]):
                queue = self._ready[system, alone]
                heapq.heappop(queue)
                if not queue:
                    del self._ready[system, alone]
                self._one_is_under_way = self._one_is_under_way or alone
                return self._by_number[number]
        return None

    @property
    def ready_systems(self) -> set[str]:
        """The systems that steps could be undone at now, if these take them."""
        return {system for system, _ in self._ready}

    def pause(self, step: StepRef) -> None:
        """The step is not under way any more, and not finished either: what waits for it goes on waiting."""
        if step in self._alone:
            self._one_is_under_way = False

    def resume(self, step: StepRef) -> bool:
        """A paused step wants to be under way again. Whether it may."""
        if step not in self._alone:
            return True
        if self._one_is_under_way:
            return False
        self._one_is_under_way = True
        return True

    def again(self, step: StepRef) -> None:
        """The step is ready, for the first time or after a pause."""
        number, item = self._items[step]
        heapq.heappush(self._ready.setdefault((system_of(item), step in self._alone), []), number)

    def finish(self, step: StepRef) -> None:
        """The step, which is not under way (any more), is finished; what waited for nothing else is ready."""
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
