"""Our breaker beside pybreaker and purgatory: how soon it trips, how rarely for nothing, and who waits for whom.

Ours is what users run: the detector of rates, where it is about tripping; a guard under a policy, with its journal and
its orders in files, where it is about waiting and entering.

The first two tables are those of Shin's, Ramdas' and Rinaldo's e-detector against five failures in a row, which is what
both libraries count. `PUBLISHED` are the figures of an independent implementation, simulated before ours was written.
`python -m bench.triggers.breakers` prints the tables of docs/breakers.md; the suite `triggers` has the rows.
"""

import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pybreaker
from purgatory import SyncCircuitBreakerFactory

from bench.form import Row, interleaved, row
from rescind.clock import SystemClock, SystemIds
from rescind.errors import BreakerOpen
from rescind.guard.guard import Guard
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.outcome import Completed
from rescind.model.scope import Scope
from rescind.model.step import RunInfo
from rescind.switch.desk import new_order
from rescind.triggers.facts import Call, End
from rescind.triggers.known import detector_names
from rescind.triggers.policy_file import PolicyFile
from rescind.triggers.rates import RatesConfig, RatesDetector
from rescind.triggers.window import FAILED

ACTION, AGENT = "bench.call", "bench@1"

RUNS = 200
HEALTHY_FIRST, SICK_MAX = 500, 4_000
"""Calls before the change, and how many after it are waited for a trip."""

BREAKERS, HEALTHY_CALLS = 20, 200_000

NEVER_S = 1e9
ROUNDS = 15


class Setting(NamedTuple):
    """A healthy and a sick rate of failures, what is tolerated, and the published calls to trip at 10^6 and 10^4."""

    healthy: float
    sick: float
    p_max: float
    published: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.healthy:.0%} → {self.sick:.0%} ({self.p_max:.0%})"


SETTINGS = (
    Setting(0.02, 0.15, 0.05, (203, 125)),
    Setting(0.02, 0.30, 0.05, (47, 29)),
    Setting(0.02, 0.50, 0.05, (17, 11)),
    Setting(0.02, 0.90, 0.05, (6, 4)),
    Setting(0.10, 0.50, 0.20, (61, 39)),
    Setting(0.25, 0.70, 0.35, (51, 32)),
)
HEALTHY = ((0.02, 0.05), (0.10, 0.20), (0.25, 0.35))
LIMITS = (1e6, 1e4)
CONTENDERS = ("ours 10^6", "ours 10^4", "pybreaker", "purgatory")

Contender = Callable[[bool], bool]
"""One call, bad or not; whether the breaker is open after it."""


class Bad(Exception):
    """A call failed."""


def _fail() -> None:
    raise Bad


def _succeed() -> None:
    return None


def ours(p_max: float, limit: float) -> Contender:
    detector, group = RatesDetector(RatesConfig(**rates(p_max, limit))), (ACTION, AGENT, "", "")
    at_s = 0.0

    def call(bad: bool) -> bool:
        nonlocal at_s
        at_s += 0.1
        return detector.record(group, at_s, FAILED if bad else 0) is not None

    return call


def rates(p_max: float, limit: float = 1e4, *, probes: int = 3) -> dict[str, Any]:
    """The limits of `RatesConfig`, where nothing but failures counts."""
    return {
        "error_rate_pct": p_max * 100,
        "anomaly_rate_pct": None,
        "slow_rate_pct": None,
        "volume_spike_factor": None,
        "limit": limit,
        "cooldown_seconds": 1,
        "probes": probes,
    }


class Guarded:
    """A call through our breaker, as a run makes it."""

    def __init__(self, folder: Path, limits: dict[str, Any]) -> None:
        """A guard with its stores in this folder, whose policy watches rates and nothing else."""
        path = folder / "policy.yaml"
        path.write_text(json.dumps({"detect": dict.fromkeys(detector_names(), "off") | {"rates": limits}}))
        self.guard = Guard.at(folder / "store", policy=PolicyFile(path))
        self._dependency: Callable[[], None] = _succeed
        self._write = self.guard.write(ACTION, irreversible="it is only waited for")(lambda: self._dependency())

    def __call__(self, dependency: Callable[[], None]) -> None:
        """One write, in a run of its own. All that are under way at once have the same dependency."""
        self._dependency = dependency
        with self.guard.run(AGENT):
            self._write()

    def trip(self) -> None:
        """Call and fail until it is open."""
        with contextlib.suppress(BreakerOpen):
            while True:
                with contextlib.suppress(Bad):
                    self(_fail)

    def force_open(self) -> None:
        """What an operator does, by an order that is durable and reaches all processes of the machine."""
        order = new_order(
            Scope.parse(f"action:{ACTION}"),
            Level.READ_ONLY,
            reason="bench",
            actor="bench",
            clock=SystemClock(),
            ids=SystemIds(),
            measure=Measure.FORCED_OPEN,
        )
        self.guard.orders.place(order)


@contextlib.contextmanager
def guarded(*, probes: int = 3) -> Iterator[Guarded]:
    """One that is closed in the end."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Guarded(Path(folder), rates(0.15, probes=probes))
        try:
            yield ours
        finally:
            ours.guard.close()


def of_pybreaker() -> Contender:
    breaker = pybreaker.CircuitBreaker(reset_timeout=NEVER_S)

    def call(bad: bool) -> bool:
        try:
            breaker.call(_fail if bad else _succeed)
        except Bad:
            return False
        except pybreaker.CircuitBreakerError:  # on the call that trips it
            return True
        return False

    return call


def of_purgatory() -> Contender:
    breaker = SyncCircuitBreakerFactory(default_ttl=NEVER_S).get_breaker("bench")

    def call(bad: bool) -> bool:
        with contextlib.suppress(Bad), breaker:
            if bad:
                raise Bad
        return bad and breaker.context.state == "opened"

    return call


def contenders(p_max: float) -> tuple[Contender, ...]:
    """In the order of `CONTENDERS`."""
    return ours(p_max, LIMITS[0]), ours(p_max, LIMITS[1]), of_pybreaker(), of_purgatory()


# --- how soon, how rarely ---


class Soon(NamedTuple):
    """The share of runs that tripped after the change and within `SICK_MAX` calls, and their median of calls."""

    tripped: float
    calls: float | None

    def __str__(self) -> str:
        if self.calls is None:
            return "never"
        return f"{self.calls:.0f}" if self.tripped >= 0.99 else f"{self.calls:.0f} ({self.tripped:.0%} ever)"


def calls_to_trip(setting: Setting, runs: int = RUNS) -> list[Soon]:
    """For each contender, on the same calls."""
    chance = random.Random(f"{setting}")
    needed: list[list[int]] = [[] for _ in CONTENDERS]
    for _ in range(runs):
        before = [chance.random() < setting.healthy for _ in range(HEALTHY_FIRST)]
        after = [chance.random() < setting.sick for _ in range(SICK_MAX)]
        for call, found in zip(contenders(setting.p_max), needed, strict=True):
            if not _trips(call, before):  # who trips before the change has tripped for nothing
                until = _trips(call, after)
                found += [until] if until else []
    return [Soon(len(found) / runs, statistics.median(found) if found else None) for found in needed]


def false_trips(healthy: float, p_max: float) -> list[int]:
    """Of `BREAKERS`, how many tripped within `HEALTHY_CALLS` healthy calls, for each contender on the same calls."""
    chance = random.Random(f"{healthy}")
    tripped = [0 for _ in CONTENDERS]
    for _ in range(BREAKERS):
        calls = [chance.random() < healthy for _ in range(HEALTHY_CALLS)]
        for index, call in enumerate(contenders(p_max)):
            tripped[index] += _trips(call, calls) > 0
    return tripped


def alternating() -> list[int]:
    """At which of 10,000 calls, of which every second one fails, each contender trips; 0 for never."""
    calls = [number % 2 == 0 for number in range(10_000)]
    return [_trips(call, calls) for call in contenders(0.15)]


def _trips(call: Contender, calls: Iterable[bool]) -> int:
    return next((number for number, bad in enumerate(calls, start=1) if call(bad)), 0)


# --- who waits, who enters ---


def enter_half_open() -> tuple[int, int, int, int]:
    """Of 16 callers at once, how many enter: ours with one probe and with three, pybreaker, purgatory."""
    return (
        _our_half_open(1),
        _our_half_open(3),
        _callers(_pybreaker_half_open()),
        _callers(_purgatory_half_open()),
    )


def _callers(call: Callable[[Callable[[], None]], None]) -> int:
    together, lock = threading.Barrier(16), threading.Lock()
    entered = 0

    def dependency() -> None:
        nonlocal entered
        with lock:
            entered += 1
        time.sleep(0.2)  # long enough for all to be there while the first is under way
        raise Bad

    def caller() -> None:
        together.wait()
        with contextlib.suppress(Exception):
            call(dependency)

    _in_threads(16, caller)
    return entered


def _our_half_open(probes: int) -> int:
    with guarded(probes=probes) as breaker:
        breaker.trip()
        time.sleep(1.1)  # its cooldown
        return _callers(breaker)


def _pybreaker_half_open() -> Callable[[Callable[[], None]], None]:
    breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=0.05)
    with contextlib.suppress(Exception):
        breaker.call(_fail)
    time.sleep(0.1)
    return breaker.call


def _purgatory_half_open() -> Callable[[Callable[[], None]], None]:
    breaker = SyncCircuitBreakerFactory(default_threshold=1, default_ttl=0.05).get_breaker("bench")
    with contextlib.suppress(Bad), breaker:
        raise Bad
    time.sleep(0.1)

    def call(dependency: Callable[[], None]) -> None:
        with breaker:
            dependency()

    return call


def open_during_a_call_ms() -> tuple[float, float]:
    """How long an operator's open takes while a call of 1 s is under way: our order, pybreaker."""
    with guarded() as breaker:
        mine = _open_during(lambda: breaker(_long), breaker.force_open)
    theirs = pybreaker.CircuitBreaker()
    return mine, _open_during(lambda: theirs.call(_long), theirs.open)


def _open_during(call: Callable[[], object], verb: Callable[[], object]) -> float:
    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.1)
    began = time.perf_counter()
    verb()
    took_ms = (time.perf_counter() - began) * 1000
    caller.join()
    return took_ms


def _long() -> None:
    time.sleep(1.0)


def calls_per_s() -> tuple[float, float]:
    """Calls of 20 ms that eight threads make through one breaker: ours, pybreaker."""
    theirs = pybreaker.CircuitBreaker()
    with guarded() as breaker:
        breaker(_succeed)  # opens the files
        return _throughput(lambda: breaker(_short)), _throughput(lambda: theirs.call(_short))


def _throughput(call: Callable[[], object], each: int = 10) -> float:
    began = time.perf_counter()
    _in_threads(8, lambda: [call() for _ in range(each)])
    return 8 * each / (time.perf_counter() - began)


def _short() -> None:
    time.sleep(0.02)


def _in_threads(number: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def per_call_ns() -> tuple[float, float]:
    """A good call that a closed breaker counts: ours, pybreaker."""
    theirs = pybreaker.CircuitBreaker()
    run = RunInfo(run_id="run-1", agent_name="bench", agent_version="1", trace_id="0" * 32)
    watch = RatesDetector().watch(run)
    end = End(call=Call(run=run, action=ACTION, writes=True, at_s=5.0), at_s=5.0, outcome=Completed())
    batch = range(2_000)

    def mine() -> float:
        began = time.perf_counter()
        for _ in batch:
            watch.ended(end)
        return (time.perf_counter() - began) / len(batch) * 1e9

    def reference() -> float:
        began = time.perf_counter()
        for _ in batch:
            theirs.call(_succeed)
        return (time.perf_counter() - began) / len(batch) * 1e9

    return interleaved(mine, reference, rounds=ROUNDS)


# --- the rows ---


def measure() -> list[Row]:
    """The rows of this part."""
    return [*_soon_rows(), *_rare_rows(), *_manner_rows()]


def _soon_rows() -> list[Row]:
    rows: list[Row] = []
    deviations: list[float] = []
    for setting in SETTINGS:
        found = calls_to_trip(setting)
        for soon, published in zip(found[:2], setting.published, strict=True):
            assert soon.calls is not None
            deviations.append(soon.calls / published)
        note = ", ".join(f"{name} {soon}" for name, soon in zip(CONTENDERS, found, strict=True))
        mine, library = found[1].calls, found[2].calls
        rows.append(
            row(
                f"trip, {setting.name}", ours=mine or SICK_MAX, reference=library or SICK_MAX, unit="calls",
                target=None, n=RUNS, note=f"{note}; published {setting.published[0]} and {setting.published[1]}",
            )
        )  # fmt: skip
    worst = max(deviations)
    note = "the slowest of twelve settings against the published table; 1 is as published"
    rows.append(row("trip, as published", ours=worst, reference=1, unit="times", target=1.25, n=RUNS, note=note))
    return rows


def _rare_rows() -> list[Row]:
    rows: list[Row] = []
    for healthy, p_max in HEALTHY:
        found = false_trips(healthy, p_max)
        note = "tripped for nothing: " + ", ".join(
            f"{name} {tripped}" for name, tripped in zip(CONTENDERS, found, strict=True)
        )
        sound = [BREAKERS - tripped for tripped in found]
        rows.append(
            row(
                f"sound, {healthy:.0%} failing", ours=sound[0], reference=sound[2], unit=f"of {BREAKERS}", target=1,
                n=HEALTHY_CALLS, note=f"{note}; of {BREAKERS}, each {HEALTHY_CALLS:,} healthy calls",
                higher_is_better=True,
            )
        )  # fmt: skip
    return rows


def _manner_rows() -> list[Row]:
    one, three, in_pybreaker, in_purgatory = enter_half_open()
    _, at_call, pybreaker_at, purgatory_at = alternating()
    mine_ms, theirs_ms = open_during_a_call_ms()
    mine_per_s, theirs_per_s = calls_per_s()
    mine_ns, theirs_ns = per_call_ns()
    never = f"pybreaker {pybreaker_at or 'never'}, purgatory {purgatory_at or 'never'}"
    return [
        row("half-open, 16 callers", ours=one, reference=in_purgatory, unit="enter", target=1 / 16, n=16,
            note=f"with one probe; with three probes {three}; pybreaker {in_pybreaker}, purgatory {in_purgatory}"),
        row("every second call fails", ours=at_call or 10_000, reference=10_000, unit="calls", target=0.01, n=10_000,
            note=f"until it trips; {never}"),
        row("open during a call", ours=mine_ms, reference=theirs_ms, unit="ms", target=0.1, n=1,
            note="an operator, while a call of 1 s is under way; ours is durable and for all processes of the machine; "
            "reference is pybreaker, which waits for the call"),
        row("8 threads, 20 ms calls", ours=mine_per_s, reference=theirs_per_s, unit="calls/s", target=0.2, n=80,
            higher_is_better=True, note="ours writes intent and outcome of each to a file; reference is pybreaker, "
            "which holds its lock during a call"),
        row("a call, closed", ours=mine_ns, reference=theirs_ns, unit="ns", target=None, n=ROUNDS,
            note="counting it in three breakers (of action and agent, action, agent), each with a window and its usual "
            "volume; reference is a whole call through pybreaker"),
    ]  # fmt: skip


def main() -> int:
    """Print the two tables as Markdown."""
    print(f"| healthy → sick (tolerated) | {' | '.join(CONTENDERS)} | published |")
    print(f"|---|{'---|' * (len(CONTENDERS) + 1)}")
    for setting in SETTINGS:
        cells = [str(soon) for soon in calls_to_trip(setting)]
        print(f"| {setting.name} | {' | '.join(cells)} | {setting.published[0]}, {setting.published[1]} |", flush=True)
    for healthy, p_max in HEALTHY:
        cells = [f"{tripped} of {BREAKERS}" for tripped in false_trips(healthy, p_max)]
        print(f"| false trips at {healthy:.0%} ({p_max:.0%}) | {' | '.join(cells)} | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
