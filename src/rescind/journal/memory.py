"""The journal in memory: the laws of `Journal` without a disk, for tests, simulations and benchmarks."""

import heapq
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from rescind.clock import from_us, to_us
from rescind.journal.admission import Refusal, frees_slot, refusal_of, slot_of
from rescind.journal.chain import entry_hash, genesis
from rescind.journal.codec import REVIEW_KINDS, Prepared, decode_event, prepare, target_digest
from rescind.journal.port import PAGE_LIMIT, Appended, ChainHead, Draft, Query, Slot, SlotClaim, SlotTaken
from rescind.model.entry import CompensationEnded, Ended, Entry, Event, Intended, RunOpened
from rescind.model.step import RunInfo

_RUN_FIELDS = ("trace_id", "tenant", "agent_name")


class _Run:
    """A run, the sequences of its entries in order, and its last hash."""

    __slots__ = ("hash", "info", "sequences")

    def __init__(self, info: RunInfo) -> None:
        self.info, self.hash = info, genesis(info.run_id)
        self.sequences: list[int] = []


class _Row(msgspec.Struct, frozen=True):
    """An entry as it was recorded; readers get what its bytes say, as from a disk."""

    run: RunInfo
    position: int
    at_us: int
    kind: str
    target: bytes | None
    hash: bytes
    body: bytes


class _Held(msgspec.Struct, frozen=True):
    """Who holds a key; the sequences of its intent and, where there is one, its end."""

    claim: SlotClaim
    run_id: str
    step_id: str
    intent: int
    outcome: int | None = None


class MemoryJournal:
    """A `Journal` that forgets when the process ends. Everything but J2 holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[_Row] = []
        self._read: dict[int, Entry] = {}  # Entries by sequence, decoded when first asked for.
        self._runs: dict[str, _Run] = {}
        self._runs_by: defaultdict[tuple[str, str], list[_Run]] = defaultdict(list)
        self._by_target: defaultdict[bytes, list[int]] = defaultdict(list)
        self._reviews: list[int] = []
        self._held: dict[tuple[str, str], _Held] = {}
        self._held_by: dict[tuple[str, str], _Held] = {}

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        prepared = prepare(drafts)
        with self._lock:
            answer: Appended | Refusal | None = refusal_of(prepared, self)
            if answer is None:
                first = len(self._rows) + 1
                positions = tuple([self._place(each) for each in prepared])
                answer = Appended(tuple(range(first, first + len(positions))), positions)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def append_async(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`. Takes microseconds, so it does not leave the loop."""
        return self.append(drafts)

    def submit(self, drafts: Sequence[Draft]) -> None:
        """See `Journal`."""
        self.append(drafts)

    def slot(self, tenant: str, key: str) -> Slot | None:
        """See `Journal`."""
        with self._lock:
            return self.held(SlotClaim(tenant, key, ""))

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """See `Journal`."""
        with self._lock:
            page = islice(self._matching(query, after), max(0, limit))
            return [self._entry(sequence) for sequence in page]

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """See `Journal`."""
        with self._lock:
            if query.target is None and not query.reviews and query.since is None and query.until is None:
                found = {run.info.run_id for run in self._candidates(query)}
            else:
                found = {self._rows[sequence - 1].run.run_id for sequence in self._matching(query, 0)}
            page = heapq.nsmallest(max(0, limit), (run_id for run_id in found if run_id > after_run))
            return [self._runs[run_id].info for run_id in page]

    def run(self, run_id: str) -> RunInfo | None:
        """See `Journal`."""
        run = self._runs.get(run_id)
        return None if run is None else run.info

    def head(self, run_id: str) -> ChainHead | None:
        """See `Journal`."""
        with self._lock:
            run = self._runs.get(run_id)
            return None if run is None else ChainHead(run_id, len(run.sequences) - 1, run.hash.hex())

    def close(self) -> None:
        """See `Journal`. There is nothing to let go of; what was written can still be read."""

    # --- what `refusal_of` asks; the lock is held ---

    def run_and_position(self, run_id: str) -> tuple[RunInfo, int] | None:
        """See `admission.Standing`."""
        run = self._runs.get(run_id)
        return None if run is None else (run.info, len(run.sequences))

    def held(self, claim: SlotClaim) -> Slot | None:
        """See `admission.Standing`."""
        held = self._held.get((claim.tenant, claim.key))
        if held is None:
            return None
        end = None if held.outcome is None else self._event(held.outcome)
        return slot_of(held.claim, held.run_id, self._event(held.intent), end)

    def holds_slot(self, run_id: str, step_id: str) -> bool:
        """See `admission.Standing`."""
        return (run_id, step_id) in self._held_by

    # --- placing ---

    def _place(self, prepared: Prepared) -> int:
        draft = prepared.draft
        run = self._runs.get(draft.run_id)
        if run is None:
            assert isinstance(draft.event, RunOpened)
            run = self._open(draft.event.run)
        position, sequence = len(run.sequences), len(self._rows) + 1
        run.hash = entry_hash(run.hash, position, draft.recorded_at_us, prepared.body)
        run.sequences.append(sequence)
        if prepared.target is not None:
            self._by_target[prepared.target].append(sequence)
        if prepared.kind in REVIEW_KINDS:
            self._reviews.append(sequence)
        self._rows.append(
            _Row(run.info, position, draft.recorded_at_us, prepared.kind, prepared.target, run.hash, prepared.body)
        )
        self._keep_slots(draft, sequence)
        return position

    def _open(self, info: RunInfo) -> _Run:
        run = self._runs[info.run_id] = _Run(info)
        for field in _RUN_FIELDS:
            self._runs_by[field, getattr(info, field)].append(run)
        return run

    def _keep_slots(self, draft: Draft, sequence: int) -> None:
        event = draft.event
        if draft.claim is not None:
            assert isinstance(event, Intended)
            self._hold(_Held(draft.claim, draft.run_id, event.step.step_id, sequence))
        elif isinstance(event, Ended | CompensationEnded):
            held = self._held_by.get((draft.run_id, event.step_id))
            if held is None:
                return
            if frees_slot(event):
                del self._held[held.claim.tenant, held.claim.key], self._held_by[draft.run_id, event.step_id]
            elif isinstance(event, Ended):
                self._hold(msgspec.structs.replace(held, outcome=sequence))

    def _hold(self, held: _Held) -> None:
        self._held[held.claim.tenant, held.claim.key] = self._held_by[held.run_id, held.step_id] = held

    # --- reading ---

    def _matching(self, query: Query, after: int) -> Iterator[int]:
        """The sequences of matching entries after `after`, in order; takes only as many steps as are asked for."""
        since = None if query.since is None else to_us(query.since)
        until = None if query.until is None else to_us(query.until)
        target = None if query.target is None else target_digest(query.target)
        for sequence in self._sequences(query, target, after):
            row = self._rows[sequence - 1]
            if (
                _run_matches(query, row.run)
                and (target is None or row.target == target)
                and (since is None or row.at_us >= since)
                and (until is None or row.at_us < until)
                and (not query.reviews or row.kind in REVIEW_KINDS)
            ):
                yield sequence

    def _sequences(self, query: Query, target: bytes | None, after: int) -> Iterable[int]:
        if target is not None:
            return _behind(self._by_target.get(target, []), after)
        if query.reviews:
            return _behind(self._reviews, after)
        if not _names_runs(query):
            return range(max(0, after) + 1, len(self._rows) + 1)
        return heapq.merge(*(_behind(run.sequences, after) for run in self._candidates(query)))

    def _candidates(self, query: Query) -> list[_Run]:
        """The runs that match what the query says of runs."""
        if query.run_id is not None:
            run = self._runs.get(query.run_id)
            found = [] if run is None else [run]
        else:
            named = [(field, getattr(query, field)) for field in _RUN_FIELDS if getattr(query, field) is not None]
            found = self._runs_by.get(named[0], []) if named else list(self._runs.values())
        return [run for run in found if _run_matches(query, run.info)]

    def _entry(self, sequence: int) -> Entry:
        entry = self._read.get(sequence)
        if entry is None:
            row = self._rows[sequence - 1]
            entry = self._read[sequence] = Entry(
                sequence=sequence,
                position=row.position,
                run=row.run,
                recorded_at=from_us(row.at_us),
                event=self._event(sequence),
                hash=row.hash.hex(),
            )
        return entry

    def _event(self, sequence: int) -> Event:
        row = self._rows[sequence - 1]
        return decode_event(sequence, row.body, row.run.run_id)


def _behind(sequences: list[int], after: int) -> Iterator[int]:
    # By index: a slice would copy the rest for each page, and an islice would walk what lies before.
    return map(sequences.__getitem__, range(bisect_right(sequences, after), len(sequences)))


def _names_runs(query: Query) -> bool:
    return query.run_id is not None or any(getattr(query, field) is not None for field in _RUN_FIELDS)


def _run_matches(query: Query, run: RunInfo) -> bool:
    return (
        (query.run_id is None or run.run_id == query.run_id)
        and (query.trace_id is None or run.trace_id == query.trace_id)
        and (query.tenant is None or run.tenant == query.tenant)
        and (query.agent_name is None or run.agent_name == query.agent_name)
        and (query.agent_name is None or query.agent_version is None or run.agent_version == query.agent_version)
    )
