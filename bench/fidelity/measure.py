"""Makes a place with the environments in it, lets workers score there, and says in rows what they found."""

import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.fidelity.score import Kinship, Verdict
from bench.form import OUT, Row, Unavailable, row

PINNED = ("agentdojo==0.1.35", "time-machine==3.6.0", "mpmath==1.4.1")
ALONE = ("bfcl-eval==2026.3.23",)
"""Without what it depends on, which is gigabytes for models that nobody runs here."""

WORKERS = 2
_NONE = 0.001
"""Percent: what stands for nothing, so that a ratio to it is one, and nothing is not as good as everything."""

_ROOT = Path(__file__).parent.parent.parent


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement as a worker says it; see `Judgement`."""

    benchmark: str
    available: int
    task: str
    mode: str
    verdict: Verdict
    detail: str
    changed: bool
    steps: int
    kinship: Kinship | None
    by_snapshot: Verdict | None


def measure() -> list[Row]:
    found = _scored(_python(), full=bool(os.environ.get("BENCH_FULL")))
    rows: list[Row] = []
    for benchmark in dict.fromkeys(each.benchmark for each in found):
        rows += rows_of(benchmark, [each for each in found if each.benchmark == benchmark])
    for each in found:
        if each.verdict in (Verdict.SILENTLY_WRONG, Verdict.NO_EFFECT, Verdict.NOT_JUDGED):
            print(f"{each.mode}, {each.task}: {each.verdict}: {each.detail}", file=sys.stderr)
    return rows


# --- the place ---


def _python() -> Path:
    """The interpreter of a virtual environment with the benchmarks in it. Raises: Unavailable."""
    place = OUT / "fidelity-venv"
    python, mark = place / "bin" / "python", place / "complete"
    ours = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = "\n".join([*PINNED, *ALONE, *ours])
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return python
    print(f"fidelity: installing {', '.join((*PINNED, *ALONE))} into {place} …", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(place)])
    _run([str(python), "-m", "pip", "install", "--quiet", *PINNED, *ours])
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *ALONE])
    mark.write_text(wanted, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise Unavailable(
            f"suite fidelity needs {', '.join((*PINNED, *ALONE))} from a package index, and they could not be "
            f"installed: {' / '.join(last)}. Nothing was measured."
        )


def _scored(python: Path, *, full: bool) -> list[Found]:
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}", "PYTHONHASHSEED": "0"}
    command = [str(python), "-W", "ignore", "-m", "bench.fidelity.worker"]
    with ExitStack() as stack:
        # Files, since a pipe that is full would hold one worker up until the other is done.
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(WORKERS)]
        workers = [
            subprocess.Popen(
                [*command, str(part), str(WORKERS), "full" if full else "some"], env=environment, stdout=output
            )
            for part, output in enumerate(outputs)
        ]
        for worker in workers:
            worker.wait()
        for output in outputs:
            output.seek(0)
        said = [output.read() for output in outputs]
    if any(worker.returncode for worker in workers):
        raise Unavailable("a worker of suite fidelity failed; its words stand above. Nothing was measured.")
    return [msgspec.json.decode(line, type=Found) for output in said for line in output.splitlines()]


# --- the rows ---


def rows_of(name: str, found: list[Found]) -> list[Row]:
    """The rows of one benchmark."""
    rows = [_of_mode(f"{name}: {mode}", each) for mode, each in _by_mode(found) if mode != "pair"]
    pairs = [each for each in found if each.mode == "pair"]
    free = [each for each in pairs if each.kinship is not Kinship.CONTENDED]
    contended = [each for each in pairs if each.kinship is Kinship.CONTENDED]
    rows.append(_of_pairs(f"{name}: pairs without conflict", free, _is_well))
    if contended:
        rows.append(_of_pairs(f"{name}: pairs with one cell", contended, _is_well))
    wrong = sum(each.verdict is Verdict.SILENTLY_WRONG for each in found)
    theirs = sum(each.by_snapshot is Verdict.SILENTLY_WRONG for each in pairs)
    note = f"reference: pairs of which a snapshot of the whole state, put back, is wrong, out of {len(pairs)}"
    rows.append(
        row(f"{name}: silently wrong", ours=wrong, reference=max(theirs, 1), unit="", target=0, n=len(found), note=note)
    )
    return rows


def _is_well(each: Found) -> bool:
    match each.kinship:
        case Kinship.APART | Kinship.OTHER_CELLS:
            return each.verdict is Verdict.EXACT
        case Kinship.DEPENDENT:
            return each.verdict in (Verdict.EXACT, Verdict.KEPT)
        case _:
            return each.verdict in (Verdict.EXACT, Verdict.REPORTED)


def _by_mode(found: list[Found]) -> Iterable[tuple[str, list[Found]]]:
    return [
        (mode, [each for each in found if each.mode == mode]) for mode in dict.fromkeys(each.mode for each in found)
    ]


def _of_mode(name: str, found: list[Found]) -> Row:
    changed, steps = sum(each.changed for each in found), sum(each.steps for each in found)
    return row(
        name,
        ours=max(_percent(each.verdict is Verdict.EXACT for each in found), _NONE),
        reference=100.0,
        unit="%",
        target=1.0,
        n=len(found),
        note=f"{len(found)} of {found[0].available} tasks, {changed} of which change the state; {steps:,} steps",
        higher_is_better=True,
    )


def _of_pairs(name: str, found: list[Found], is_well: Callable[[Found], bool]) -> Row:
    theirs = max(_percent(each.by_snapshot is Verdict.EXACT for each in found), _NONE)
    kinds = Counter(f"{each.kinship.value if each.kinship else '?'}, {each.verdict.value}" for each in found)
    return row(
        name,
        ours=max(_percent(map(is_well, found)), _NONE),
        reference=theirs,
        unit="%",
        target=theirs / 100,  # which is to say: ours is 100 %
        n=len(found),
        note=f"{len(found)} of the pairs taken from {found[0].available}; reference: a snapshot of the whole state. "
        + "; ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
        higher_is_better=True,
    )


def _percent(which: Iterable[bool]) -> float:
    every = list(which)
    return 100.0 * sum(every) / len(every)
