"""Where approvals are decided: at the switches, where there are any; else in the journal of this machine's store."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rescind.cli.places import Given, find_places
from rescind.cli.stores import journal_of, store_words
from rescind.clock import SystemClock, from_us
from rescind.errors import UsageError
from rescind.journal.port import Journal
from rescind.model.approval import Approval
from rescind.recovery.approvals import decide, find_approval, list_approvals


class ApprovalDesk(Protocol):
    """Reads and decides approvals in one place."""

    def words(self) -> list[str]:
        """What another command needs to be told to go to the same place."""
        ...

    def approvals(self, *, waiting_only: bool) -> list[Approval]:
        """The approvals, oldest first."""
        ...

    def find(self, approval_id: str) -> Approval:
        """The one with this id, or the only one whose id begins so. Raises: UsageError."""
        ...

    def decide(self, approval_id: str, decision: str, *, actor: str, note: str) -> Approval:
        """Decide, for good. Raises: UsageError, if there is nothing to decide any more."""
        ...


class JournalDesk:
    """The journal of a store on this machine."""

    def __init__(self, journal: Journal, store: Path) -> None:
        self._journal, self._store, self._clock = journal, store, SystemClock()

    def words(self) -> list[str]:
        """See `ApprovalDesk`."""
        return store_words(self._store)

    def approvals(self, *, waiting_only: bool) -> list[Approval]:
        """See `ApprovalDesk`."""
        return list_approvals(self._journal, now=from_us(self._clock.now_us()), waiting_only=waiting_only)

    def find(self, approval_id: str) -> Approval:
        """See `ApprovalDesk`."""
        return find_approval(self._journal, approval_id)

    def decide(self, approval_id: str, decision: str, *, actor: str, note: str) -> Approval:
        """See `ApprovalDesk`."""
        return decide(self._journal, approval_id, decision, actor=actor, note=note, clock=self._clock)


@contextmanager
def desk_of(given: Given) -> Generator[ApprovalDesk]:
    """The place that a command line names, for the length of a block.

    Raises: UsageError, if there is none; ConfigError.
    """
    places = find_places(given)
    # Guards that follow switches obey no decision of their machine's journal: whoever has that could approve itself.
    if places.switches.urls and given.store is None:
        raise UsageError(
            "approvals at switches are not decided here yet; name a store with --store DIR for guards without switches"
        )
    assert places.store is not None, "there is one, if there are no switches"
    with journal_of(places.store) as journal:
        yield JournalDesk(journal, places.store)
