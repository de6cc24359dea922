"""The facts that detectors judge, made of a journal: what a guard had, as far as it is on record.

A journal holds no reads, no refused calls and nothing that tools said of their own calls. What was noticed of those is
in it as signals, and these are facts too.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from rescind.clock import to_us
from rescind.model.entry import Ended, Entry, Intended, RunClosed, RunOpened, Signalled, Verified
from rescind.model.signal import Signal, SignalKind
from rescind.model.step import REDACTED, RunInfo, Step, digest_of
from rescind.triggers.facts import Call, End

LOOK_AHEAD = 1_000
"""Entries within which a step's verification is awaited. It is written right after the end, by the same process; in
between are those of other runs of the same moment."""

KEPT_MAX = 20_000
"""Runs and open calls that are remembered. Beyond that the one is forgotten that has been silent for longest."""

SPAWN = "run.spawn"
"""What detectors see as the action when a run opens another one; as in a guard."""

MICRO = 1_000_000

_NOT_RECORDED: dict[SignalKind, frozenset[str]] = {
    SignalKind.VERDICT: frozenset(),
    SignalKind.LOST_IDENTITY: frozenset(),
    SignalKind.TOOL_UNCERTAINTY: frozenset({"low_parse", "schema_drift", "partial_failure", "no_receipt"}),
    SignalKind.VERIFICATION_FAILURE: frozenset({"approved_differs"}),
    SignalKind.BUDGET: frozenset({"max_usd"}),
    SignalKind.INCONSISTENCY: frozenset({"invariant"}),
    SignalKind.POLICY_VIOLATION: frozenset({"revoked_lease"}),
}
"""Signals that come of what no journal holds, by kind and rule, no rule for all: they are taken from it as they were
given at the time, and what a detector says that lacks its facts does not count."""


K = TypeVar("K")
V = TypeVar("V")


class Closed(msgspec.Struct, frozen=True, gc=False):
    """A process has ended its part of a run."""

    run_id: str


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A signal of what the journal does not hold, as it was given at the time."""

    run: RunInfo
    signal: Signal


Fact = Call | End | Closed | Recorded


def facts_of(entries: Iterable[Entry]) -> Iterator[Fact]:
    """The facts that the entries tell of, in their order. A verification changes the end that it belongs to."""
    line: deque[tuple[int, Fact]] = deque()
    calls: OrderedDict[tuple[str, str], Call] = OrderedDict()
    ends: dict[tuple[str, str], End] = {}
    runs: OrderedDict[str, RunInfo] = OrderedDict()
    for number, entry in enumerate(entries):
        while line and line[0][0] <= number - LOOK_AHEAD:
            yield _taken(line, ends)
        fact = _fact(entry, calls, ends, runs)
        if fact is not None:
            line.append((number, fact))
    while line:
        yield _taken(line, ends)


def calls_of(entries: Iterable[Entry]) -> Iterator[Call | End]:
    """The calls and their ends that the entries tell of, in their order."""
    return (fact for fact in facts_of(entries) if isinstance(fact, Call | End))


def _taken(line: "deque[tuple[int, Fact]]", ends: dict[tuple[str, str], End]) -> Fact:
    fact = line.popleft()[1]
    if isinstance(fact, End):
        ends.pop((fact.call.run.run_id, fact.call.step_id), None)
    return fact


def _fact(
    entry: Entry,
    calls: OrderedDict[tuple[str, str], Call],
    ends: dict[tuple[str, str], End],
    runs: OrderedDict[str, RunInfo],
) -> Fact | None:
    event, run_id = entry.event, entry.run.run_id
    match event:
        case RunOpened():
            keep(runs, run_id, entry.run, most=KEPT_MAX)
            parent = runs.get(entry.run.parent_run or "")
            return (
                None
                if parent is None
                else Call(run=parent, action=SPAWN, writes=False, at_s=_seconds(entry), spawns=True)
            )
        case RunClosed():
            return Closed(run_id)
        case Intended(step):
            call = _call(entry, step)
            keep(calls, (run_id, step.step_id), call, most=KEPT_MAX)
            return call
        case Ended():
            asked = calls.pop((run_id, event.step_id), None)
            if asked is None:  # it was intended before the part of the journal that is looked at
                return None
            end = ends[run_id, event.step_id] = End(call=asked, at_s=_seconds(entry), outcome=event.outcome)
            return end
        case Verified():
            if (run_id, event.step_id) in ends:
                ends[run_id, event.step_id].verified = event.holds
            return None
        case Signalled(signal) if only_recorded(signal.kind, signal.rule):
            return Recorded(entry.run, signal)
        case _:
            return None


def only_recorded(kind: SignalKind, rule: str) -> bool:
    """Whether such a signal comes of what no journal holds, and can only be taken from it as it was given."""
    rules = _NOT_RECORDED.get(kind)
    return rules is not None and (not rules or rule in rules)


def _call(entry: Entry, step: Step) -> Call:
    arguments = {name: value for name, value in step.arguments.items() if value != REDACTED}
    return Call(
        run=entry.run,
        action=step.action,
        writes=True,
        at_s=_seconds(entry),
        arguments=arguments,
        target=step.target,
        # A step without a key of the caller's has no digest in the journal.
        repeats=step.arguments_digest or digest_of(step.action, arguments),
        step_id=step.step_id,
    )


def _seconds(entry: Entry) -> float:
    return to_us(entry.recorded_at) / MICRO


def keep(known: OrderedDict[K, V], key: K, value: V, *, most: int) -> None:
    """Remember something as the newest, and forget the oldest beyond a bound."""
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
