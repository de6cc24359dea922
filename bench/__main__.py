"""`python -m bench [--full] [SUITE…]`: measure, print a table of ratios, write `bench/out/SUITE.json`.

With `--full`, suites that take a sample (`fidelity`) take everything.
"""

import os
import sys
from collections.abc import Callable

from bench import (
    cold,
    cold_switch,
    gate,
    planning,
    postgres,
    probes,
    scale,
    stop,
    switch,
    undo,
    undo_durable,
    undo_sql,
    undo_workers,
    writes,
)
from bench.fidelity import measure as fidelity
from bench.form import Row, Unavailable, show
from bench.triggers import breakers, cost, stream

SUITES: dict[str, tuple[Callable[[], list[Row]], ...]] = {
    "core": (gate.measure, writes.measure, stop.measure, probes.measure, cold.measure, undo.measure, scale.measure),
    "stop": (switch.measure, cold_switch.measure),
    "undo": (
        planning.measure,
        undo.measure,
        undo_durable.measure,
        undo_durable.sizes,
        undo_workers.measure,
        undo_sql.measure,
        postgres.measure,
    ),
    "fidelity": (fidelity.measure,),
    "triggers": (cost.measure, breakers.measure, stream.measure),
}


def main(names: list[str]) -> int:
    if {"-h", "--help"} & {*names}:
        print(f"{__doc__}\nSuites: {', '.join(SUITES)}; all of them, if none is named.")
        return 0
    if "--full" in names:
        os.environ["BENCH_FULL"] = "1"
        names = [name for name in names if name != "--full"]
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        print(f"unknown suite {unknown[0]!r}; there are: {', '.join(SUITES)}", file=sys.stderr)
        return 2
    missing = 0
    for name in names or SUITES:
        rows: list[Row] = []
        load = os.getloadavg()[0]
        try:
            for measure in SUITES[name]:
                print(f"{name}: {measure.__module__.removeprefix('bench.')} …", file=sys.stderr, flush=True)
                rows += measure()
        except Unavailable as problem:
            print(problem, file=sys.stderr)
            missing = 1
            continue
        show(name, rows)
        loads = f"{load:.1f} at the beginning, {os.getloadavg()[0]:.1f} at the end"
        print(f"  {os.cpu_count()} cores; load average {loads}")
    return missing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
