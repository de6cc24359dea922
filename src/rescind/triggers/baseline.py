"""What healthy runs of an agent version look like, as far as it fits in a small file.

A baseline is a sample of healthy runs, each as a sketch: which actions in which order, and of each argument a short
keyed hash. Everything that is judged by is counted from these sketches when it is needed (see `likeness`), and so is
the threshold: what is stored are observations and no conclusions.

Laws, cited by the tests:

BL1. Merging is union: commutative, associative, idempotent. A run that is learned twice counts once.
BL2. It is bounded, whatever is learned: of each agent version the runs with the smallest keyed hash are kept, which are
    a fair sample, and the same one in whatever order they came.
BL3. No value of an argument is in it, and no run's id; only keyed hashes of 32 bits, each of which many values in the
    world share. Who has the file has the key too and can test a guess: it is as confidential as a journal's digests.

Rates and volumes are sums and no sets: they are exempt from idempotence, and whoever merges the same hours twice has
counted them twice.
"""

import contextlib
import heapq
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from rescind.errors import UsageError
from rescind.model.step import RunInfo
from rescind.triggers.facts import Call, End
from rescind.triggers.rates import Recorded, baselines_of

FORMAT = "rescind-baseline/1"

RUNS_MAX = 2_000
"""Runs kept per agent version: enough for a budget of 2 in 1,000, and a model of about 2 MB."""

AGENTS_MAX = 200
CALLS_MAX = 64
"""Calls of one run that a sketch holds; what comes later in a longer run is not learned from."""

VALUES_MAX = 12
"""Arguments of one call that are looked at, and elements of one list."""

TEXT_MAX = 256
"""Characters of a text that are hashed; together with its length."""

SCOPES_MAX = 5_000
FILE_BYTES_MAX = 256 * 1024 * 1024
_ENDS_PER_FOLD = 1_000
_RECENT_MAX = 1_000  # hashes that are remembered, since the same few values come again and again


class BaselineError(UsageError):
    """A file is no baseline that can be used, or two baselines cannot be merged. Nothing was changed."""


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call, as it is remembered.

    Attributes:
        action: The action's name.
        writes: Whether it changed something.
        identity: Hash of action and arguments; 0 if they were not known.
        values: Hashes of the arguments by parameter name; several of a list. Empty of reads. The target is among them,
            under an empty name.
    """

    action: str
    writes: bool
    identity: int = 0
    values: dict[str, tuple[int, ...]] = {}


class Sketch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One healthy run: the hash of its id, its workflow (empty if it has none), and its first calls in their order.

    A run may have called nothing.
    """

    run: int
    workflow: str
    calls: tuple[Seen, ...]


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """How often an action is called: calls in all, windows of five minutes with at least one, and the busiest one."""

    calls: int
    windows: int
    busiest: int

    def __post_init__(self) -> None:
        if not 1 <= self.windows <= self.calls or not 1 <= self.busiest <= self.calls:
            raise ValueError("a volume has at least one call in each window, and no more in the busiest than in all")


WINDOW_S = 300.0


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was learned.

    Attributes:
        key: Of the hashes; 16 bytes, and equal in baselines that are merged.
        agents: By `name@version`: sketches in the order of their runs' hashes, which are unique per agent.
        rates: By scope, for `RatesConfig.baselines`: how many calls there were and how many of them were bad.
        volumes: By action.
        format: Version of this form.
    """

    key: bytes
    agents: dict[str, tuple[Sketch, ...]] = {}
    rates: dict[str, Recorded] = {}
    volumes: dict[str, Volume] = {}
    format: str = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"the format is {self.format!r:.60}; this version of rescind reads {FORMAT}")
        if len(self.key) != 16:
            raise ValueError(f"the key has {len(self.key)} bytes; it must have 16")

    def merge(self, other: "Baseline") -> "Baseline":
        """The union of both (laws BL1 and BL2).

        Raises: BaselineError, if their keys differ, so that equal values would not be recognised.
        """
        if self.key != other.key:
            raise BaselineError("these baselines hash with different keys; learn one of them anew with the other's key")
        agents = {
            name: _sampled((*self.agents.get(name, ()), *other.agents.get(name, ())))
            for name in sorted({*self.agents, *other.agents})[:AGENTS_MAX]
        }
        return Baseline(
            key=self.key,
            agents=agents,
            rates=_united(self.rates, other.rates, _added),
            volumes=_united(self.volumes, other.volumes, _joined),
        )


class Hasher:
    """Short keyed hashes of what is not to be stored."""

    __slots__ = ("_blank", "_recent")

    def __init__(self, key: bytes) -> None:
        """A hasher with this key of 16 bytes."""
        self._blank = blake2b(digest_size=4, key=key)
        self._recent: dict[str, int] = {}

    def of(self, text: str) -> int:
        """A number from 1 to 2**32 - 1."""
        known = self._recent.get(text)
        if known is None:
            known = self._hashed(text)
            if len(text) <= TEXT_MAX:
                if len(self._recent) >= _RECENT_MAX:
                    self._recent = {}
                self._recent[text] = known
        return known

    def _hashed(self, text: str) -> int:
        state = self._blank.copy()
        long = len(text) > TEXT_MAX
        # What is no text in UTF-8 (half a surrogate pair) is a value like any other.
        state.update((f"{text[:TEXT_MAX]}#{len(text)}" if long else text).encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest()) or 1

    def values(self, value: Any) -> tuple[int, ...]:
        """The hashes of an argument: one of a scalar, some of a list, none of what has no identity."""
        if type(value) in (list, tuple):
            items = cast("Sequence[Any]", value)
            return tuple(self.of(text) for text in map(_text_of, items[:VALUES_MAX]) if text is not None)
        text = value if type(value) is str else _text_of(value)
        return () if text is None else (self.of(text),)

    def seen(self, call: Call) -> Seen:
        """A call, as it is remembered."""
        identity = self.of(call.repeats) if call.repeats else 0
        if not call.writes:
            return Seen(call.action, False, identity)
        # By name, so that the same arguments are looked at in whatever order they come.
        names = sorted(name for name in call.arguments if type(name) is str and len(name) <= TEXT_MAX)[:VALUES_MAX]
        return Seen(call.action, True, identity, self.arguments(call, ("", *names)))

    def arguments(self, call: Call, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The hashes of a call's arguments of these names, and under an empty name that of its target."""
        hashed: dict[str, tuple[int, ...]] = {}
        for name in names:
            if name:
                values = self.values(call.arguments.get(name))
            else:
                values = (self.of(str(call.target)),) if call.target is not None else ()
            if values:
                hashed[name] = values
        return hashed


def _text_of(value: Any) -> str | None:
    """A scalar as text, so that 10 and 10.0 are one value; None for what has no identity of its own."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return None  # one bit: never new for long, and never an identity
    if isinstance(value, int):
        return str(value) if value.bit_length() < 4_000 else f"int#{value.bit_length()}"
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value.is_integer() else repr(value)
    return None


def learn(facts: Iterable[RunInfo | Call | End], *, key: bytes) -> Baseline:
    """Learn from healthy runs.

    Whoever calls this vouches that they were healthy: what a rogue run did in here is never noticed again.

    Args:
        facts: Runs that began, calls, and ends of calls, of any number of runs, each run's in its order. A run that
            calls nothing is known by its beginning only; without it, it counts in no budget.
        key: 16 bytes; that of the baseline which this one is to be merged with, or new random ones.
    """
    learning = _Learning(key)
    for fact in facts:
        learning.add(fact)
    return learning.result()


class _Learning:
    def __init__(self, key: bytes) -> None:
        self._key, self._hasher = key, Hasher(key)
        self._agents: dict[str, _Sample] = {}
        self._ends: list[End] = []
        self._rates: dict[str, Recorded] = {}
        self._windows: dict[str, list[int]] = {}  # by action: calls, windows, busiest, this window, calls in it

    def add(self, fact: RunInfo | Call | End) -> None:
        if isinstance(fact, RunInfo):
            self._calls_of(fact)
            return
        if isinstance(fact, Call):
            self._called(fact)
            return
        self._ends.append(fact)
        if len(self._ends) >= _ENDS_PER_FOLD:
            self._fold()

    def result(self) -> Baseline:
        self._fold()
        return Baseline(
            key=self._key,
            agents={name: sample.sketches() for name, sample in sorted(self._agents.items())},
            rates=dict(sorted(self._rates.items())),
            volumes={
                action: Volume(calls=calls, windows=windows, busiest=max(busiest, current))
                for action, (calls, windows, busiest, _, current) in sorted(self._windows.items())
            },
        )

    def _fold(self) -> None:
        self._rates = _united(self._rates, baselines_of(self._ends), _added)
        self._ends.clear()

    def _called(self, call: Call) -> None:
        self._count(call)
        calls = self._calls_of(call.run)
        if calls is not None and len(calls) < CALLS_MAX:
            calls.append(self._hasher.seen(call))

    def _calls_of(self, run: RunInfo) -> list[Seen] | None:
        """The calls of a run so far; None if it is not in the sample."""
        sample = self._agents.get(run.agent)
        if sample is None:
            if len(self._agents) >= AGENTS_MAX:
                return None
            sample = self._agents[run.agent] = _Sample()
        return sample.calls_of(self._hasher.of(run.run_id), run.workflow)

    def _count(self, call: Call) -> None:
        window = int(call.at_s // WINDOW_S) if math.isfinite(call.at_s) else 0
        known = self._windows.get(call.action)
        if known is None:
            if len(self._windows) < SCOPES_MAX:
                self._windows[call.action] = [1, 1, 1, window, 1]
            return
        known[0] += 1
        if window == known[3]:
            known[4] += 1
            return
        known[1] += 1
        known[2] = max(known[2], known[4])
        known[3:] = window, 1


class _Sample:
    """The runs with the smallest hashes, while they are read (law BL2)."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[str, list[Seen]]] = {}
        self._largest_first: list[int] = []

    def calls_of(self, run: int, workflow: str) -> list[Seen] | None:
        """The calls of a run so far; None if it is not in the sample."""
        known = self._runs.get(run)
        if known is not None:
            return known[1]
        if len(self._runs) >= RUNS_MAX:
            if run >= -self._largest_first[0]:
                return None
            del self._runs[-heapq.heapreplace(self._largest_first, -run)]
        else:
            heapq.heappush(self._largest_first, -run)
        self._runs[run] = workflow, []
        return self._runs[run][1]

    def sketches(self) -> tuple[Sketch, ...]:
        return tuple(Sketch(run, workflow, tuple(calls)) for run, (workflow, calls) in sorted(self._runs.items()))


def _sampled(sketches: Iterable[Sketch]) -> tuple[Sketch, ...]:
    """The sketches with the smallest hashes, each run once: of two sketches of one run, the longer one (law BL1)."""
    runs: dict[int, Sketch] = {}
    for sketch in sketches:
        known = runs.get(sketch.run)
        runs[sketch.run] = sketch if known is None else max(known, sketch, key=_rank)
    return tuple(runs[run] for run in heapq.nsmallest(RUNS_MAX, runs))


def _rank(sketch: Sketch) -> tuple[int, bytes]:
    return len(sketch.calls), msgspec.json.encode(sketch, order="deterministic")


_T = TypeVar("_T")


def _united(ours: Mapping[str, _T], theirs: Mapping[str, _T], both: Callable[[_T, _T], _T]) -> dict[str, _T]:
    united = {**theirs, **ours}
    for name in ours.keys() & theirs.keys():
        united[name] = both(ours[name], theirs[name])
    return {name: united[name] for name in sorted(united)[:SCOPES_MAX]}


def _added(one: Recorded, other: Recorded) -> Recorded:
    return Recorded(
        calls=one.calls + other.calls,
        failed=one.failed + other.failed,
        anomalous=one.anomalous + other.anomalous,
        slow=one.slow + other.slow,
    )


def _joined(one: Volume, other: Volume) -> Volume:
    return Volume(
        calls=one.calls + other.calls,
        windows=one.windows + other.windows,
        busiest=max(one.busiest, other.busiest),
    )


def save(baseline: Baseline, path: Path) -> None:
    """Write a baseline, whole or not at all, readable by its owner only (law BL3).

    Raises: BaselineError, which names the place, if that cannot be.
    """
    text = msgspec.json.encode(baseline, order="sorted")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise BaselineError(f"cannot write {path}: {reason}; name a file in a folder that exists") from error


def load(path: Path) -> Baseline:
    """Read what `save` wrote.

    Raises: BaselineError, which names the place and the remedy.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BaselineError(f"{path} is larger than any baseline; learn it anew")
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except OSError as error:
        reason = error.strerror or error
        raise BaselineError(f"cannot read {path}: {reason}; `rescind baseline learn` writes one") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BaselineError(f"{path} is no baseline: {error}; learn it anew with `rescind baseline learn`") from error
