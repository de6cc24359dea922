"""Restores in conflict that are put off, and which of them may succeed by now. Pure bookkeeping."""

import heapq
from typing import TYPE_CHECKING

from rescind.compensation.decision import PlanItem
from rescind.compensation.execution.requests import ForPerson

if TYPE_CHECKING:
    from rescind.model.entry import StepRef


class Deferred:
    """The deferred items. True while there are any."""

    def __init__(self) -> None:
        self._undone_at_begin: dict[StepRef, int] = {}
        self._items: dict[StepRef, tuple[PlanItem, ForPerson]] = {}
        self._newest: list[tuple[int, StepRef]] = []
        self._looked_at = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def begin(self, item: PlanItem, *, undone: int) -> None:
        """The item is begun when so many others were undone."""
        self._undone_at_begin[item.step] = undone

    def defer(self, item: PlanItem, conflict: ForPerson) -> None:
        """The item, begun before, ended in this conflict."""
        self._items[item.step] = (item, conflict)
        heapq.heappush(self._newest, (-item.intended_sequence, item.step))

    def take_hopeful(self, *, undone: int) -> list[PlanItem]:
        """The items that were begun before the last of so many was undone; they are deferred no more."""
        if undone == self._looked_at:  # As last time, so a thousand conflicts are not looked through a thousand times.
            return []
        self._looked_at = undone
        hopeful = [item for item, _ in self._items.values() if self._undone_at_begin[item.step] < undone]
        for item in hopeful:
            del self._items[item.step]
        self._newest = [entry for entry in self._newest if entry[1] in self._items]
        heapq.heapify(self._newest)
        return hopeful

    def take_newest(self) -> tuple[PlanItem, ForPerson]:
        """The newest of the items, which is deferred no more. There must be one."""
        return self._items.pop(heapq.heappop(self._newest)[1])
