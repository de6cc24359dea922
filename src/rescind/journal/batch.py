"""A batch: appends on their way into one commit, as every store on disk places them.

Each append is judged against the state that those before it leave, and only then placed, so a refused one leaves no
trace and disturbs nobody. Nothing is written here: a store's recorder takes what a batch has come to, writes it in one
transaction, and answers for it. If that fails, the caches, which were ahead of the disk, are thrown away.
"""

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from rescind.errors import StoreFormatError
from rescind.journal.admission import Refusal, frees_slot, refusal_of
from rescind.journal.chain import entry_hash, genesis
from rescind.journal.codec import Prepared
from rescind.journal.port import Appended, Slot, SlotClaim
from rescind.journal.rows import Held
from rescind.model.entry import CompensationEnded, Ended, Event, Intended, RunOpened
from rescind.model.step import RunInfo

_CACHED_MAX = 20_000  # Runs, or held keys, kept in memory: about 10 MB. Beyond it they are looked up again.

EntryRow = tuple[int, int, int, int, str, bytes | None, bytes, bytes]
"""Sequence, run key, position, time in µs, kind, target, hash, body: the columns of `entries`, in their order."""


class Head:
    """The end of a run's chain, as far as a batch has got."""

    __slots__ = ("hash", "keyed", "position", "run", "run_key", "sequence")

    def __init__(self, run: RunInfo, run_key: int, position: int, digest: bytes, *, keyed: bool) -> None:
        self.run, self.run_key, self.position, self.hash = run, run_key, position, digest
        self.keyed = keyed  # Whether any step of the run holds a key: most runs have none, and need no look-up.
        self.sequence = 0


class SlotChange(enum.Enum):
    """What an entry does to a slot."""

    CLAIM = "claim"
    SETTLE = "settle"
    FREE = "free"


class Tables(Protocol):
    """What a batch asks of what is committed."""

    def find_head(self, run_id: str) -> Head | None:
        """A run and the end of its chain; None for an unknown run."""
        ...

    def find_held(self, tenant: str, key: str) -> Held | None:
        """Who holds a key."""
        ...

    def find_held_by(self, run_key: int, step_id: str) -> Held | None:
        """Which key a step holds."""
        ...

    def find_body(self, sequence: int) -> bytes:
        """The body of an entry that is there."""
        ...


class Batch:
    """What the next commit will hold, and caches of what was committed before. Not thread-safe.

    Attributes:
        last_sequence: Of the last entry placed.
        rows: The entries placed.
        touched: The heads that moved.
        opened: The heads of new runs.
        slot_changes: What becomes of slots, in order.
        seen_heads: The runs that were asked for, by their id: key and hash before this batch; None for unknown runs.
        seen_slots: The slots that were asked for, by tenant and key, as they were before this batch.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.last_sequence = 0
        self._first_pending = 1
        self.forget()

    def begin(self) -> None:
        """Nothing is placed yet."""
        if len(self._heads) + len(self._held_by) > _CACHED_MAX:
            self.forget()
        self._first_pending = self.last_sequence + 1

    def append(self, drafts: Sequence[Prepared]) -> Appended | Refusal:
        """Place all drafts, or say why not and place none."""
        try:
            refusal = refusal_of(drafts, self)
        except StoreFormatError as unreadable:  # The slot it asks for cannot be read; that is its own trouble alone.
            return unreadable
        if refusal is not None:
            return refusal
        first = self.last_sequence + 1
        positions = tuple([self._place(prepared) for prepared in drafts])
        return Appended(tuple(range(first, first + len(positions))), positions)

    def committed(self, *, moved_by: int = 0) -> int:
        """What was placed is durable, under numbers that are so many higher. How many entries that were."""
        entries = len(self.rows)
        if moved_by:
            self._renumber(moved_by)
        self._clear_pending()
        return entries

    def forget(self) -> None:
        """Throw away what was placed and everything known."""
        self._heads: dict[str, Head | None] = {}
        self._held: dict[tuple[str, str], Held | None] = {}
        self._held_by: dict[tuple[int, str], Held | None] = {}
        self._clear_pending()

    # --- looking up ahead, for stores where each question is a journey ---

    def unknown_runs(self, drafts: Iterable[Prepared]) -> set[str]:
        """The runs that these drafts will ask for and that are not known yet."""
        return {prepared.draft.run_id for prepared in drafts} - self._heads.keys()

    def unknown_slots(self, drafts: Iterable[Prepared]) -> tuple[set[tuple[str, str]], set[tuple[int, str]]]:
        """The keys (tenant, key), and the steps (run key, step id), that these drafts will ask for.

        Ask after the heads are known: steps of runs that are not, or that hold no key, need no look-up.
        """
        keys: set[tuple[str, str]] = set()
        steps: set[tuple[int, str]] = set()
        for prepared in drafts:
            claim, event, head = prepared.draft.claim, prepared.draft.event, self._heads.get(prepared.draft.run_id)
            if claim is not None:
                keys.add((claim.tenant, claim.key))
            if head is None or not head.keyed:
                continue
            if claim is not None and isinstance(event, Intended):
                steps.add((head.run_key, event.step.step_id))
            elif isinstance(event, Ended | CompensationEnded):
                steps.add((head.run_key, event.step_id))
        return keys - self._held.keys(), steps - self._held_by.keys()

    def learn_heads(self, runs: Iterable[str], found: Iterable[Head]) -> None:
        """What was found of the runs that were asked for; the others are unknown."""
        self._heads |= dict.fromkeys(runs)
        for head in found:
            self._heads[head.run.run_id] = head

    def learn_slots(self, keys: set[tuple[str, str]], steps: set[tuple[int, str]], found: Iterable[Held]) -> None:
        """What was found of the keys and steps that were asked for; the others are free."""
        self._held |= dict.fromkeys(keys)
        self._held_by |= dict.fromkeys(steps)
        for held in found:
            self._remember(held)

    # --- what `refusal_of` asks ---

    def run_and_position(self, run_id: str) -> tuple[RunInfo, int] | None:
        """See `admission.Standing`."""
        head = self._find_head(run_id)
        if run_id not in self.seen_heads:
            self.seen_heads[run_id] = None if head is None else (head.run_key, head.hash)
        return None if head is None else (head.run, head.position + 1)

    def held(self, claim: SlotClaim) -> Slot | None:
        """See `admission.Standing`."""
        held = self._find_held(claim.tenant, claim.key)
        if held is None:
            return None
        return held.slot(self._body(held.intent), None if held.outcome is None else self._body(held.outcome))

    def holds_slot(self, run_id: str, step_id: str) -> bool:
        """See `admission.Standing`."""
        head = self._heads.get(run_id)
        return head is not None and head.keyed and self._find_held_by(head.run_key, step_id) is not None

    # --- placing ---

    def _place(self, prepared: Prepared) -> int:
        draft = prepared.draft
        event, at_us = draft.event, draft.recorded_at_us
        self.last_sequence = sequence = self.last_sequence + 1
        head = self._heads.get(draft.run_id)
        if head is None:
            assert isinstance(event, RunOpened)
            head = self._open(event.run, sequence)
        head.position = position = head.position + 1
        head.hash = digest = entry_hash(head.hash, position, at_us, prepared.body)
        head.sequence = sequence
        self.touched.add(head)
        self.rows.append(
            (sequence, head.run_key, position, at_us, prepared.kind, prepared.target, digest, prepared.body)
        )
        if draft.claim is not None:
            self._claim(draft.claim, head, event, sequence)
        elif head.keyed:
            self._settle(head.run_key, event, sequence)
        return position

    def _open(self, run: RunInfo, sequence: int) -> Head:
        head = Head(run, sequence, -1, genesis(run.run_id), keyed=False)
        self._heads[run.run_id] = head
        self.opened.append(head)
        return head

    def _claim(self, claim: SlotClaim, head: Head, event: Event, sequence: int) -> None:
        assert isinstance(event, Intended)
        step_id = event.step.step_id
        held = Held(claim.tenant, claim.key, claim.digest, head.run_key, head.run.run_id, step_id, sequence)
        self.slot_changes.append((SlotChange.CLAIM, held))
        self._remember(held)
        head.keyed = True

    def _settle(self, run_key: int, event: Event, sequence: int) -> None:
        if not isinstance(event, Ended | CompensationEnded):
            return
        held = self._find_held_by(run_key, event.step_id)
        if held is None:
            return
        if frees_slot(event):
            self.slot_changes.append((SlotChange.FREE, held))
            self._held[held.tenant, held.key] = None
            self._held_by[run_key, event.step_id] = None
        elif isinstance(event, Ended):
            settled = msgspec.structs.replace(held, outcome=sequence)
            self.slot_changes.append((SlotChange.SETTLE, settled))
            self._remember(settled)

    # --- looking up, through the caches ---

    def _find_head(self, run_id: str) -> Head | None:
        try:
            return self._heads[run_id]
        except KeyError:
            head = self._heads[run_id] = self._tables.find_head(run_id)
            return head

    def _find_held(self, tenant: str, key: str) -> Held | None:
        # A change of this batch is in the caches and not yet in the tables, so whatever is not cached is as on disk.
        try:
            held = self._held[tenant, key]
        except KeyError:
            held = self._tables.find_held(tenant, key)
        self.seen_slots.setdefault((tenant, key), held)
        return held

    def _find_held_by(self, run_key: int, step_id: str) -> Held | None:
        try:
            held = self._held_by[run_key, step_id]
        except KeyError:
            held = self._tables.find_held_by(run_key, step_id)
        if held is not None:
            self.seen_slots.setdefault((held.tenant, held.key), held)
        return held

    def _remember(self, held: Held) -> None:
        self._held[held.tenant, held.key] = held
        self._held_by[held.run_key, held.step_id] = held

    def _body(self, sequence: int) -> bytes:
        if sequence >= self._first_pending:
            return self.rows[sequence - self._first_pending][7]
        return self._tables.find_body(sequence)

    def _renumber(self, moved_by: int) -> None:
        """Give what this batch brought into the caches the numbers that it got."""

        def actual(number: int) -> int:
            return number + moved_by if number >= self._first_pending else number

        def as_it_is(held: Held | None) -> Held | None:
            if held is None:
                return None
            outcome = None if held.outcome is None else actual(held.outcome)
            return msgspec.structs.replace(
                held, run_key=actual(held.run_key), intent=actual(held.intent), outcome=outcome
            )

        for head in self.opened:
            head.run_key = actual(head.run_key)
        for name in {(held.tenant, held.key) for _, held in self.slot_changes}:
            self._held[name] = as_it_is(self._held[name])
        for run_key, step_id in {(held.run_key, held.step_id) for _, held in self.slot_changes}:
            self._held_by[actual(run_key), step_id] = as_it_is(self._held_by.pop((run_key, step_id)))

    def _clear_pending(self) -> None:
        self.rows: list[EntryRow] = []
        self.touched: set[Head] = set()
        self.opened: list[Head] = []
        self.slot_changes: list[tuple[SlotChange, Held]] = []
        self.seen_heads: dict[str, tuple[int, bytes] | None] = {}
        self.seen_slots: dict[tuple[str, str], Held | None] = {}
