"""Which way steps are taken: back, which is an undo, or forth again, which is a redo.

Both are carried out by one executor. What differs is how it sees a step, and how it says what it did.
"""

from typing import Protocol

from rescind.model.entry import CompensationEnded, Event
from rescind.model.history import StepRecord


class Way(Protocol):
    """How steps are seen, and what is said of them."""

    def see(self, record: StepRecord) -> StepRecord:
        """The step as the executor treats it: something to be put from its `after` to its `before`."""
        ...

    def say(self, event: Event) -> Event:
        """The event that says in the journal what the executor means by this one."""
        ...

    def hear(self, event: Event) -> CompensationEnded | None:
        """The end of a step that this event of the journal says; None if it says no end of this way."""
        ...


class Back:
    """An undo: everything is what it is."""

    def see(self, record: StepRecord) -> StepRecord:
        """See `Way`."""
        return record

    def say(self, event: Event) -> Event:
        """See `Way`."""
        return event

    def hear(self, event: Event) -> CompensationEnded | None:
        """See `Way`."""
        return event if isinstance(event, CompensationEnded) else None


BACK = Back()
