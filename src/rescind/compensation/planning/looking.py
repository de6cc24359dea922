"""Handlers of declared actions called for many steps, as many at once as they allow: to look, and to ask.

A call that fails is an answer as well. None of them changes anything (C1).
"""

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import msgspec

from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import Asks
from rescind.compensation.doubt import is_in_doubt
from rescind.compensation.planning.known import Observation
from rescind.compensation.port import Compensator, Prober, idempotency_key_of
from rescind.guard.flow import name_of
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.model.probe import Probe, ProbeResult
from rescind.model.step import Arguments, Snapshot

V = TypeVar("V")

# What is left of arguments and results, one for all steps.
_NOTHING: Arguments = {}
_COMPLETED = Completed()


class Handlers:
    """The handlers of the declared actions.

    Args:
        compensators: The declared actions by name.
        parallel: How many to call at once; of those not declared parallel one at a time (C4).
        waiter: Waits for those that are coroutines.
    """

    def __init__(self, compensators: Mapping[str, Compensator], *, parallel: int, waiter: Waiter) -> None:
        self._compensators, self._parallel, self._waiter = compensators, parallel, waiter

    def look(self, records: Sequence[StepRecord]) -> dict[StepRef, Observation]:
        """What is at the targets of these steps. What looking needed is dropped from the records."""
        return self._in_turns(records, self._observe)

    def ask(self, records: Sequence[StepRecord], asked: Mapping[StepRef, Asks]) -> dict[StepRef, ProbeResult]:
        """What the target systems of these steps say, asked about what `asked` says."""
        return self._in_turns(records, lambda record: self._probe(record, asked[record.ref]))

    def _in_turns(self, records: Sequence[StepRecord], call: Callable[[StepRecord], V]) -> dict[StepRef, V]:
        """Call a handler of each of these records, as many at once as is allowed."""
        if not records:
            return {}
        # Handlers not declared parallel are called one after the other (C4), while the others look beside them.
        alone = [each for each in records if not self._compensators[each.step.action].parallel]
        apart = [each for each in records if self._compensators[each.step.action].parallel]
        turns: list[Iterable[StepRecord]] = [alone] if alone else []
        if apart:
            # The others share one line: a look that takes long holds nobody up, and no look needs a ticket of its own.
            turns += [_Line(apart)] * max(1, min(self._parallel, len(apart)) - len(turns))

        def take(turn: Iterable[StepRecord]) -> dict[StepRef, V]:
            return {each.ref: contextvars.copy_context().run(call, each) for each in turn}

        found: dict[StepRef, V] = {}
        with ThreadPoolExecutor(max(1, min(self._parallel, len(turns))), "rescind-look") as pool:
            for answers in [pool.submit(contextvars.copy_context().run, take, turn) for turn in turns]:
                found |= answers.result()
        return found

    def _observe(self, record: StepRecord) -> Observation:
        compensator = self._compensators[record.step.action]
        try:
            answer = compensator.observe(record)
            # Most handlers just answer, and to find out whether an answer is awaitable costs more than it should.
            seen: Snapshot | None = answer if isinstance(answer, Snapshot) else self._waiter.result_of(answer)
            return Observation.of(seen)
        except Exception as error:  # noqa: BLE001  # whatever a target raises, the plan says so
            return Observation(problem=f"looking at the target failed: {name_of(error)}")
        finally:
            if not (compensator.action.probed and is_in_doubt(record)):
                _slim(record)

    def _probe(self, record: StepRecord, asks: Asks) -> ProbeResult:
        key = record.step.idempotency_key if asks is Asks.STEP else idempotency_key_of(record)
        prober = cast("Prober", self._compensators[record.step.action])
        try:
            probe: ProbeResult = self._waiter.result_of(prober.probe(record, key))
        except Exception as error:  # noqa: BLE001  # whatever a target system raises, it has told nothing (DT3)
            return ProbeResult(answer=Probe.CANNOT_TELL, detail=name_of(error))
        return probe


def _slim(record: StepRecord) -> None:
    """Let go of images and arguments. The step was looked at and will not be again, and planning goes by versions."""
    step = record.step
    before = step.before and msgspec.structs.replace(step.before, image=None)
    record.step = msgspec.structs.replace(step, before=before, requested=_NOTHING, approved=None)
    record.after = record.after and msgspec.structs.replace(record.after, image=None)
    if isinstance(record.outcome, Completed):
        record.outcome = _COMPLETED


class _Line:
    """Records that several threads take one after the other, each once."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self._records, self._lock = iter(records), threading.Lock()

    def __iter__(self) -> Iterator[StepRecord]:
        return self

    def __next__(self) -> StepRecord:
        with self._lock:
            return next(self._records)
