"""What the flow of a write asks for, as values: whoever drives it does the I/O. See `flow`."""

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from rescind.clock import Clock
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import Entry


class LookUp(msgspec.Struct, frozen=True):
    """Ask the journal who holds an idempotency key. Answer: `Slot | None`."""

    tenant: str
    key: str


class Append(msgspec.Struct, frozen=True):
    """Make drafts durable. Answer: `Appended | SlotTaken`."""

    drafts: tuple[Draft, ...]


class ReadRun(msgspec.Struct, frozen=True):
    """Read a short run, if its chain has grown beyond `position`. Answer: all its entries, or none at all."""

    run_id: str
    position: int = -1


class Wait(msgspec.Struct, frozen=True):
    """Let some time pass, in which others may go on. Answer: None."""

    clock: Clock
    duration_s: float


class Perform(msgspec.Struct, frozen=True):
    """Call something of the user's, and await it if it answers with an awaitable. Answer: its result."""

    function: Callable[[], Any]


class Boundary(msgspec.Struct, frozen=True):
    """The last moment before the tool: a cancellation that came meanwhile is raised here. Answer: None."""


class Returned(msgspec.Struct, frozen=True):
    """The guarded call returns this."""

    value: Any


class Threw(msgspec.Struct, frozen=True):
    """The guarded call raises this. A value and not a raise, so that a tool's StopIteration survives the generator."""

    error: BaseException


Request = LookUp | Append | ReadRun | Wait | Perform | Boundary
Answer = Any
WriteFlow = Generator[Request, Answer, Returned | Threw]


def read_run(journal: Journal, request: ReadRun) -> list[Entry]:
    """The answer to a `ReadRun`; two look-ups in an index, so it may be asked for often."""
    head = journal.head(request.run_id)
    if head is None or head.position <= request.position:
        return []
    return journal.entries(Query(run_id=request.run_id))
