"""Where approvals are decided: at the switches, where there are any; else in the journal of this machine's store.

Guards that follow switches obey no decision of their machine's journal, since whoever has that could approve itself. So
a store is only asked if it was named, or if there are no switches.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rescind.cli.places import Given, Places, find_places
from rescind.cli.safe import safe
from rescind.cli.stores import journal_of, store_words
from rescind.cli.trouble import failed, trouble_line
from rescind.clock import SystemClock, from_us
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.port import Journal
from rescind.model.approval import DENIED, Approval, ApprovalState
from rescind.recovery.approvals import decide, find_approval, list_approvals
from rescind.recovery.reading import the_one_meant
from rescind.switch.approval_wire import ApprovalDoc, DecisionDoc
from rescind.switch.client.approvals import get_approvals, post_decision
from rescind.switch.client.asking import Reply, Switches

if TYPE_CHECKING:
    from rescind.database.address import StoreAt


class ApprovalDesk(Protocol):
    """Reads and decides approvals in one place."""

    @property
    def trouble(self) -> list[str]:
        """What could not be asked, one safe line each."""
        ...

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

    def __init__(self, journal: Journal, store: "StoreAt") -> None:
        self._journal, self._store, self._clock = journal, store, SystemClock()
        self.trouble: list[str] = []

    def words(self) -> list[str]:
        """See `ApprovalDesk`."""
        return store_words(self._store)

    def approvals(self, *, waiting_only: bool) -> list[Approval]:
        """See `ApprovalDesk`."""
        gaps: list[EntryUnreadable] = []
        now = from_us(self._clock.now_us())
        found = list_approvals(self._journal, now=now, waiting_only=waiting_only, gaps=gaps)
        self.trouble = [f"an approval is left out, since it may be decided already: {safe(str(gap))}" for gap in gaps]
        return found

    def find(self, approval_id: str) -> Approval:
        """See `ApprovalDesk`."""
        return find_approval(self._journal, approval_id)

    def decide(self, approval_id: str, decision: str, *, actor: str, note: str) -> Approval:
        """See `ApprovalDesk`."""
        return decide(self._journal, approval_id, decision, actor=actor, note=note, clock=self._clock)


class SwitchesDesk:
    """The switches: what any of them has, and each decision told to all of them."""

    def __init__(self, places: Places) -> None:
        self._places, self._clock = places, SystemClock()
        self.trouble: list[str] = []

    @property
    def _switches(self) -> Switches:
        return self._places.switches

    def words(self) -> list[str]:
        """See `ApprovalDesk`."""
        return [word for url in self._places.given.urls for word in ("--switch", url)]

    def approvals(self, *, waiting_only: bool) -> list[Approval]:
        """See `ApprovalDesk`. Raises: SwitchesFailed, if no switch answers."""
        found = self._known(every=not waiting_only)
        now = from_us(self._clock.now_us())
        return [each for each in oldest_first(found) if not waiting_only or each.state(now) is ApprovalState.WAITING]

    def find(self, approval_id: str) -> Approval:
        """See `ApprovalDesk`. Raises: SwitchesFailed, if no switch answers."""
        found = self._known(every=True)
        return found[the_one_meant(approval_id, found, what="approval")]

    def decide(self, approval_id: str, decision: str, *, actor: str, note: str) -> Approval:
        """See `ApprovalDesk`. Raises: SwitchesFailed, if no switch took it."""
        approval = self.find(approval_id)
        now = from_us(self._clock.now_us())
        closed = approval.closed_because(now)
        if closed:
            raise UsageError(closed)
        doc = DecisionDoc(decision=decision, note=note, actor=actor, decided_at=now)
        replies = post_decision(self._switches, approval.approval_id, doc, clock=self._clock).every()
        answers = [reply.answer for reply in replies if reply.answer is not None]
        if not answers:
            raise _not_taken(replies)
        # A switch that does not know it hears of it from the others, or the guard asks those that do.
        self.trouble = [trouble_line(reply) for reply in replies if reply.answer is None and reply.status != 404]
        return _united(answers)

    def _known(self, *, every: bool) -> dict[str, Approval]:
        replies = get_approvals(self._switches, every=every, clock=self._clock).every()
        if all(reply.answer is None for reply in replies):
            raise failed("no switch says what waits for an approval", replies)
        self.trouble = [trouble_line(reply) for reply in replies if reply.answer is None]
        return known_approvals(replies)


@contextmanager
def desk_of(given: Given) -> Generator[ApprovalDesk]:
    """The place that a command line names, for the length of a block.

    Raises: UsageError, if there is none; ConfigError.
    """
    places = find_places(given)
    if places.switches.urls and given.store is None:
        yield SwitchesDesk(places)
        return
    assert places.store is not None, "there is one, if there are no switches"
    with journal_of(places.store) as journal:
        yield JournalDesk(journal, places.store)


def known_approvals(replies: Iterable[Reply[tuple[ApprovalDoc, ...]]]) -> dict[str, Approval]:
    """What the switches that answered say of every approval, by its id."""
    by_id: dict[str, list[ApprovalDoc]] = {}
    for reply in replies:
        for doc in reply.answer or ():
            by_id.setdefault(doc.asked.approval_id, []).append(doc)
    return {approval_id: _united(docs) for approval_id, docs in by_id.items()}


def oldest_first(approvals: Mapping[str, Approval]) -> list[Approval]:
    """In the order in which they were asked."""
    return sorted(approvals.values(), key=lambda each: (each.asked_at, each.approval_id))


def _united(docs: Sequence[ApprovalDoc]) -> Approval:
    """What the switches say of one approval: decided, if it is at any; denied, if it is at any."""
    decided = sorted((doc for doc in docs if doc.decided is not None), key=_denied_first)
    return (decided or list(docs))[0].approval


def _denied_first(doc: ApprovalDoc) -> bool:
    return doc.decided is None or doc.decided.decision != DENIED


def _not_taken(replies: Sequence[Reply[Any]]) -> Exception:
    # Somebody was faster, or it has expired: nothing is broken, and the switch says what became of it.
    conflict = next((reply for reply in replies if reply.status == 409), None)
    return UsageError(safe(conflict.detail)) if conflict is not None else failed("no switch took the decision", replies)
