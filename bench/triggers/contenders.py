"""What is compared: each contender learns from healthy runs, and then says at which call it would stop a run."""

import dataclasses
import enum
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from bench.triggers.runs import Run
from rescind.clock import EPOCH
from rescind.model.signal import Severity, Signal
from rescind.model.step import RunInfo
from rescind.triggers.baseline import learn
from rescind.triggers.behaviour import BehaviourConfig, BehaviourDetector
from rescind.triggers.deciding import decide_at
from rescind.triggers.detector import Detector
from rescind.triggers.engine import Engine
from rescind.triggers.evidence import Rule
from rescind.triggers.facts import Call
from rescind.triggers.outage import Outages
from rescind.triggers.policy_file import read_policy
from rescind.triggers.rates import RatesConfig, RatesDetector

Stop = Callable[[Run], int | None]
"""At which call, from 1, a run is stopped; None if it is not. Asked of run after run, in the order of the stream."""

Contender = Callable[[Sequence[Run]], Stop]
"""Given healthy runs to learn from: what stops a run."""

KEY = b"0123456789abcdef"
CLASSIC_ERROR_RATE, CLASSIC_FACTOR = 0.15, 3.0
RUN_EVERY_S = 30.0


class Source(enum.Enum):
    """What healthy runs are learned from."""

    GUARD = "all calls of all runs"
    OPENINGS = "writes, and which runs there were"
    JOURNAL = "writes; a run that makes none is not in it"


def _facts_of(healthy: Iterable[Run], *, labelled: bool, source: Source) -> Iterator[RunInfo | Call]:
    for run in healthy:
        if source is not Source.JOURNAL:
            yield run.info(labelled=labelled)
        yield from (call for call, _ in run.facts(labelled=labelled) if source is Source.GUARD or call.writes)


def behaviour(
    false_stops_per_1000: int = BehaviourConfig().false_stops_per_1000,
    *,
    labelled: bool = True,
    source: Source = Source.GUARD,
    least: Severity = Severity.HIGH,
) -> Contender:
    """Our detector with a baseline.

    Args:
        false_stops_per_1000: Its budget.
        labelled: Whether runs say their workflow.
        source: What is learned from.
        least: The severity from which on a finding stops the run.
    """

    def prepare(healthy: Sequence[Run]) -> Stop:
        config = BehaviourConfig(false_stops_per_1000=false_stops_per_1000)
        detector = BehaviourDetector(config, learn(_facts_of(healthy, labelled=labelled, source=source), key=KEY))
        return lambda run: first_finding(detector, run, labelled=labelled, least=least)

    return prepare


def whole_policy(healthy: Sequence[Run]) -> Stop:
    """The built-in policy with a baseline and its budget written, as a guard has it: what contains a run stops it."""
    baseline = learn(_facts_of(healthy, labelled=True, source=Source.GUARD), key=KEY)
    budget = f"detect: {{behaviour: {{false_stops_per_1000: {BehaviourConfig().false_stops_per_1000}}}}}"
    policy = dataclasses.replace(read_policy(budget.encode(), name="bench"), baseline=baseline)
    engine, outages, moments = Engine(policy), Outages(policy.outage), itertools.count()

    def stop(run: Run) -> int | None:
        watch, began_s = engine.watch(run.info(labelled=True)), next(moments) * RUN_EVERY_S
        for number, (call, end) in enumerate(run.facts(labelled=True, began_s=began_s), start=1):
            found = watch.asked(call)
            outages.ended(end)
            for finding in (*found, *watch.ended(end)):
                signal = Signal.of(finding, signal_id="", noticed_at=EPOCH, run_id=run.run_id)
                times = watch.tally.count(finding)
                decision = decide_at(policy, outages, signal, call, times=times)
                if not decision.shadow and not decision.recoverable:
                    return number
        return None

    return stop


def limits_only(_healthy: Sequence[Run]) -> Stop:
    """Our detector with nothing learned: retries, repeated calls, steps, mutations."""
    detector = BehaviourDetector(BehaviourConfig())
    return lambda run: first_finding(detector, run, labelled=True)


def classic(_healthy: Sequence[Run]) -> Stop:
    """The three classic signals as breakers over the stream, a run every 30 s: 15 %, 10 %, 3 x within 300 s."""
    detector = RatesDetector(RatesConfig(rule=Rule.WINDOW))
    moments = itertools.count()
    return lambda run: first_finding(
        detector, run, labelled=True, began_s=next(moments) * RUN_EVERY_S, least=Severity.INFO
    )


def classic_per_run(healthy: Sequence[Run]) -> Stop:
    """The same per run, which suits them better: 15 % of its calls fail, or it makes 3 x the usual number of calls."""
    usual = sum(len(run.calls) for run in healthy) / len(healthy)

    def stop(run: Run) -> int | None:
        failed = 0
        for number, (_, _, flags) in enumerate(run.calls, start=1):
            failed += "e" in flags
            if failed / number >= CLASSIC_ERROR_RATE or number > CLASSIC_FACTOR * usual:
                return number
        return None

    return stop


def after_writes(writes_max: int) -> Contender:
    """Stop after so many writes: the next one is refused."""

    def stop(run: Run) -> int | None:
        writes = 0
        for number, (_, _, flags) in enumerate(run.calls, start=1):
            writes += "w" in flags
            if writes > writes_max:
                return number
        return None

    return lambda _healthy: stop


def unseen_tool(healthy: Sequence[Run]) -> Stop:
    """Stop at a tool that no healthy run has used."""
    known = {(run.suite, tool) for run in healthy for tool, _, _ in run.calls}

    def stop(run: Run) -> int | None:
        return next((at for at, call in enumerate(run.calls, start=1) if (run.suite, call[0]) not in known), None)

    return stop


def unseen_pair(healthy: Sequence[Run]) -> Stop:
    """Stop at a pair of consecutive tools that no healthy run has used."""
    known = {(run.suite, *pair) for run in healthy for pair in _pairs(run)}

    def stop(run: Run) -> int | None:
        return next((at for at, pair in enumerate(_pairs(run), start=2) if (run.suite, *pair) not in known), None)

    return stop


def _pairs(run: Run) -> list[tuple[str, str]]:
    return list(itertools.pairwise(tool for tool, _, _ in run.calls))


def first_finding(
    detector: Detector, run: Run, *, labelled: bool, began_s: float = 0.0, least: Severity = Severity.HIGH
) -> int | None:
    """At which call of a run a detector of ours first says something of this severity.

    From `high` on the default policy holds the run; a warning refuses one call, and the run goes on.
    """
    watch = None
    for number, (call, end) in enumerate(run.facts(labelled=labelled, began_s=began_s), start=1):
        watch = watch or detector.watch(call.run)
        if watch is None:
            return None
        found = [each for each in (watch.asked(call), watch.ended(end)) if each is not None]
        if any(each.severity >= least for finding in found for each in (finding, *finding.besides)):
            return number
    return None


PAIRS = "unseen pair of tools"
OURS = "behaviour, workflow given"

CONTENDERS: dict[str, Contender] = {
    OURS: behaviour(),
    "behaviour, no workflow": behaviour(labelled=False),
    "behaviour, learned from writes": behaviour(source=Source.OPENINGS),
    "behaviour, learned from a journal": behaviour(source=Source.JOURNAL),
    "behaviour, warnings counted": behaviour(least=Severity.INFO),
    "behaviour, nothing learned": limits_only,
    "the whole built-in policy": whole_policy,
    "classic signals, breakers": classic,
    "classic signals, per run": classic_per_run,
    "stop after one write": after_writes(1),
    "stop after three writes": after_writes(3),
    "unseen tool": unseen_tool,
    PAIRS: unseen_pair,
}
"""By name."""


def tasks_of(runs: Iterable[Run]) -> list[str]:
    """The users' tasks, in order of their names."""
    return sorted(Counter(run.task for run in runs))
