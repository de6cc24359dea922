"""A guard under a policy, with a tool that writes and one that reads, in memory and on a manual clock."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders import events_of
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.model.entry import Signalled
from rescind.model.order import Order
from rescind.switch.memory import MemoryOrders
from rescind.testing.clock import ManualClock
from rescind.triggers.policy_file import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Callable


class Shop:
    """A guard under a policy, with a tool that writes and one that reads."""

    def __init__(self, folder: Path, policy: str, orders: Any = None) -> None:
        self.path = folder / "rescind.yaml"
        self.path.write_text(policy)
        self.clock = ManualClock()
        self.guard = Guard.over(
            MemoryJournal(), orders or MemoryOrders(), clock=self.clock, policy=PolicyFile(self.path)
        )
        self.effects: list[str] = []
        self.fails: Callable[[str], bool] = lambda _: False

        @self.guard.write("shelf.put", target=lambda what: ("shop", "shelf", what), irreversible="sold")
        def put(what: str) -> None:
            self.effects.append(what)
            if self.fails(what):
                raise RuntimeError("the shelf broke")

        @self.guard.read("shelf.get")
        def get(what: str) -> str:
            return what

        self.put, self.get = put, get

    def signals(self) -> list[Signalled]:
        return [event for event in events_of(self.guard.journal) if isinstance(event, Signalled)]

    def standing(self) -> tuple[Order, ...]:
        return self.guard.orders.standing().orders
