"""What a run did before it was resumed: calls that have had their effect are answered, and not made again.

RS1. *Once.* A recorded step answers one call: the same action with the same arguments, the oldest first.
RS2. *Only what stands.* Steps that were undone, or never took effect, answer nothing; their calls are made anew.
RS3. *Nothing in silence.* What no call asked for again is told: it stands, although the new attempt went elsewhere.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import msgspec

from rescind.model.history import StepRecord
from rescind.model.step import REDACTED, RunInfo, digest_of


class EarlierSteps:
    """The steps that stand, by what was called. Thread-safe."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self._lock = threading.Lock()
        self._by_call: defaultdict[str, deque[StepRecord]] = defaultdict(deque)
        for record in sorted(records, key=lambda each: each.intended_sequence):
            requested = {name: value for name, value in record.step.requested.items() if value != REDACTED}
            self._by_call[digest_of(record.step.action, requested)].append(record)

    def take(self, digest: str) -> StepRecord | None:
        """The step that answers this call; it answers no other (RS1). None if there is none."""
        with self._lock:
            waiting = self._by_call.get(digest)
            return waiting.popleft() if waiting else None

    def give_back(self, digest: str, record: StepRecord) -> None:
        """The call was not answered after all: the same call is to find the step again, and not to be made anew."""
        with self._lock:
            self._by_call[digest].appendleft(record)

    def left(self) -> tuple[StepRecord, ...]:
        """The steps that no call has asked for, in the order of their intents (RS3)."""
        with self._lock:
            left = [record for waiting in self._by_call.values() for record in waiting]
        return tuple(sorted(left, key=lambda each: each.intended_sequence))


class Resumption(msgspec.Struct, frozen=True):
    """From where a run is carried on, and with what.

    Attributes:
        run: The run.
        checkpoint_id: The checkpoint; empty for the run's beginning.
        state: Its state; None at the beginning.
        earlier: What was done after it and stands.
        allow: The only actions that it may call from now on; None for what it says itself.
    """

    run: RunInfo
    checkpoint_id: str
    state: Any
    earlier: EarlierSteps
    allow: frozenset[str] | None = None
