"""Scores a part of the tasks, where the environments are: `python -m bench.fidelity.worker PART PARTS full|some`.

Prints one JSON object a line: a judgement, with the benchmark it is of, and out of how many it was taken.
"""

import datetime
import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module

import msgspec

from bench.fidelity import bfcl, dojo
from bench.fidelity.environments import Task
from bench.fidelity.score import Judgement, Scorer

BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
OFFSETS_S = {"": -60, "one": 0, "two": 7}

BENCHMARKS: dict[str, tuple[Callable[[], list[Task]], Callable[[], list[Task]], int, int]] = {
    "AgentDojo banking": (partial(dojo.tasks, "banking"), partial(dojo.pairs, "banking"), 1, 1),
    "AgentDojo slack": (partial(dojo.tasks, "slack"), partial(dojo.pairs, "slack"), 1, 1),
    "AgentDojo travel": (partial(dojo.tasks, "travel"), partial(dojo.pairs, "travel"), 1, 5),
    "AgentDojo workspace": (partial(dojo.tasks, "workspace"), partial(dojo.pairs, "workspace"), 3, 53),
    "BFCL multi-turn": (bfcl.tasks, bfcl.pairs, 3, 11),
}
"""Tasks, pairs of them, and of how many one is taken unless all are. No such number divides what the lists repeat."""


@contextmanager
def logical(run: str, number: int) -> Generator[None]:
    """A time and a chance that only the run and the number of the call decide."""
    moment = BEGIN + datetime.timedelta(seconds=OFFSETS_S[run] + 60 * number)
    random.seed(f"{run} {number}")
    with import_module("time_machine").travel(moment, tick=False):
        yield


def main(part: int, parts: int, *, full: bool) -> None:
    scorer = Scorer(around=logical)
    for benchmark, (make_tasks, make_pairs, task_every, pair_every) in BENCHMARKS.items():
        tasks, pairs = make_tasks(), make_pairs()
        for task in tasks[:: 1 if full else task_every][part::parts]:
            for name, mode in scorer.modes().items():
                _say(benchmark, len(tasks), scorer.judged(mode, task, name))
        for number, pair in enumerate(pairs[:: 1 if full else pair_every]):
            if number % parts == part:
                # Which of the two is undone changes with the number, in another rhythm than the parts.
                judged = scorer.judged(partial(scorer.pair, undone=number // parts % 2), pair, "pair")
                _say(benchmark, len(pairs), judged)


def _say(benchmark: str, available: int, judged: Judgement) -> None:
    print(msgspec.json.encode({"benchmark": benchmark, "available": available, **asdict(judged)}).decode(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), full=sys.argv[3] == "full")
