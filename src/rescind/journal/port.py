"""The journal's port: what a store promises, as numbered laws.

J1. Order. Nothing ever appears before what a reader has already seen: sequences are given in the order in which
    appends become visible, without gaps.
J2. Durability. When an append has returned, its entries survive `kill -9` and power loss (for stores on disk).
J3. Contention. Of two appends that expect the same position of a run, one fails with `SequenceConflict`.
J4. Atomicity. The drafts of one append appear together or not at all.
J5. Chain. Each entry's hash covers the previous entry of its run; positions count from 0 without gaps.
J6. Slots. For each (tenant, idempotency key) at most one claimed step is open or completed; a second claim is answered
    with the slot, and none of its append's drafts appears.
J7. Refusal. An append that cannot be made durable raises `JournalUnavailable`, and nothing of it ever appears.
J8. Pages. A page holds what matches, in order of sequence, strictly after `after`, at most `limit`; a limit of 0
    is an empty page.
"""

import enum
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from rescind.model.entry import Entry, Event
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Target

PAGE_LIMIT = 1_000
"""Entries a page holds by default. A page of full entries stays near a megabyte."""


class SlotState(enum.StrEnum):
    """What is known of the effect behind an idempotency key."""

    OPEN = "open"  # intended, no end yet
    COMPLETED = "completed"
    UNKNOWN = "unknown"
    # A failed or undone step frees its key: there is no slot then.


class SlotClaim(msgspec.Struct, frozen=True):
    """A claim on an idempotency key, made by the append of an intent. Keys of different tenants never meet."""

    tenant: str
    key: str
    digest: str


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds an idempotency key, and how that ended. `completed` is set when the state is completed."""

    claim: SlotClaim
    run_id: str
    step_id: str
    action: str
    state: SlotState
    completed: Completed | None = None
    reason: str = ""


class SlotTaken(msgspec.Struct, frozen=True):
    """The answer to an append whose claim met a held slot. Nothing was appended."""

    slot: Slot


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way into the journal.

    Attributes:
        run_id: The run whose chain it joins. A `RunOpened` event must be the first of a run's drafts.
        event: What happened.
        recorded_at_us: Wall-clock microseconds since 1970, when it happened.
        claim: The slot to claim, with an `Intended` event of a keyed step.
        expected_position: The position this draft must get; None for whatever comes next.
    """

    run_id: str
    event: Event
    recorded_at_us: int
    claim: SlotClaim | None = None
    expected_position: int | None = None


class Appended(msgspec.Struct, frozen=True):
    """Where the drafts of one append now stand, in their order: global sequences and positions in their runs."""

    sequences: tuple[int, ...]
    positions: tuple[int, ...]


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries: all conditions must hold; an empty query means all.

    `since` is inclusive, `until` exclusive, both aware, both against `recorded_at`. `agent_version` only narrows
    `agent_name`. `target` matches the steps intended on it. `reviews` keeps only entries of review tasks.
    """

    run_id: str | None = None
    trace_id: str | None = None
    tenant: str | None = None
    agent_name: str | None = None
    agent_version: str | None = None
    target: Target | None = None
    since: datetime | None = None
    until: datetime | None = None
    reviews: bool = False


class ChainHead(msgspec.Struct, frozen=True):
    """The last link of a run's chain."""

    run_id: str
    position: int
    hash: str


class Journal(Protocol):
    """A store that keeps the laws above. Thread-safe; async methods never block the loop, sync ones never need one."""

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """Append all drafts or none; on return they are durable.

        Raises:
            JournalUnavailable: They could not be made durable (J7).
            SequenceConflict: An expected position was taken (J3).
            UsageError: A run is not opened yet, or its attributes contradict its first opening.
        """
        ...

    async def append_async(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """As `append`. A cancelled await does not withdraw the drafts; shield it and look at the answer."""
        ...

    def submit(self, drafts: Sequence[Draft]) -> None:
        """As `append`, but without waiting and without an answer: for records nobody's safety depends on."""
        ...

    def slot(self, tenant: str, key: str) -> Slot | None:
        """Who holds the key, or None if it is free."""
        ...

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """One page of matching entries (J8)."""
        ...

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """One page of runs with a matching entry, by run id, strictly after `after_run`. May be empty."""
        ...

    def run(self, run_id: str) -> RunInfo | None:
        """One run, or None if the journal has not heard of it."""
        ...

    def head(self, run_id: str) -> ChainHead | None:
        """The last link of a run's chain, or None for an unknown run."""
        ...

    def close(self) -> None:
        """Make everything submitted durable, then let go of files and threads. A second close does nothing."""
        ...
