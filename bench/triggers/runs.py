"""The labelled stream: runs that real models made, read from the folder that `RESCIND_DATA` names.

Each file `*.jsonl` or `*.jsonl.gz` in it whose rows hold `run_id`, `label`, `suite`, `model` and `calls` is read; a
call is `[tool, arguments, flags]`: `w` it changed state, `e` it ended in an error, `i` it serves an injected goal.
"""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rescind.model.outcome import Completed, Failed
from rescind.model.step import RunInfo, digest_of
from rescind.triggers.facts import Call, End

DATA = "RESCIND_DATA"
BESIDE = Path(__file__).parents[3] / "shared" / "data"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the stream.

    Attributes:
        rogue: Whether it did what an attacker wanted.
        suite: Its environment; stands for the agent.
        task: What its user asked for; stands for the workflow.
        calls: Tool, arguments and flags, in order. May be empty.
    """

    run_id: str
    rogue: bool
    suite: str
    task: str
    model: str
    calls: tuple[tuple[str, dict[str, Any], str], ...]

    def info(self, *, labelled: bool) -> RunInfo:
        """The run, with its workflow or without."""
        return RunInfo(run_id=self.run_id, agent_name=self.suite, workflow=self.task if labelled else "")

    def facts(self, *, labelled: bool, began_s: float = 0.0) -> Iterator[tuple[Call, End]]:
        """What a guard would have known, with the workflow or without; 5 s from call to call."""
        run = self.info(labelled=labelled)
        for number, (tool, arguments, flags) in enumerate(self.calls):
            at_s = began_s + 5.0 * number
            call = Call(
                run=run,
                action=tool,
                writes="w" in flags,
                at_s=at_s,
                arguments=arguments,
                repeats=digest_of(tool, arguments),
            )
            outcome = Failed("an error in the recording") if "e" in flags else Completed()
            yield call, End(call=call, at_s=at_s + 1.0, outcome=outcome)

    @property
    def injected_at(self) -> int | None:
        """The number, from 1, of the first call that serves the attacker; None if none is marked."""
        return next((number for number, call in enumerate(self.calls, start=1) if "i" in call[2]), None)


def folder() -> Path | None:
    """Where the data is; None if there is none."""
    path = Path(os.environ[DATA]) if DATA in os.environ else BESIDE
    return path if path.is_dir() else None


def read_runs(path: Path) -> list[Run]:
    """All runs in a folder, ordered by their ids, each once. May be empty."""
    runs: dict[str, Run] = {}
    for file in sorted((*path.glob("*.jsonl"), *path.glob("*.jsonl.gz"))):
        for row in _rows(file):
            if "calls" not in row:
                break  # another kind of file
            run = _run_of(row)
            runs[run.run_id] = run
    return [runs[run_id] for run_id in sorted(runs)]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    content = file.read_bytes()
    text = gzip.decompress(content) if file.suffix == ".gz" else content
    return (json.loads(line) for line in text.splitlines())


def _run_of(row: dict[str, Any]) -> Run:
    _, _, rest = row["run_id"].partition(f"/{row['suite']}/")  # MODEL/SUITE/TASK/ATTACK/INJECTION
    task = rest.partition("/")[0]
    return Run(
        run_id=row["run_id"],
        rogue=row["label"] == "rogue",
        suite=row["suite"],
        task=f"{row['suite']}/{task}" if task else "",
        model=row["model"],
        calls=tuple((tool, arguments, flags) for tool, arguments, flags in row["calls"]),
    )
