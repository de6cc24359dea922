"""The one form of all benchmarks: rows of ours against a reference, smaller ratios are better."""

import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

OUT = Path(__file__).parent / "out"


class Unavailable(Exception):
    """What is to be measured, or measured against, is not here and cannot be had."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        ours, reference: Medians in `unit`.
        ratio: Arranged so that smaller is better; `met` means `ratio <= target`. A target of None only informs.
        n: Samples behind the medians.
    """

    name: str
    ours: float
    reference: float
    unit: str
    ratio: float
    target: float | None
    met: bool | None
    n: int
    note: str = ""


def row(
    name: str,
    *,
    ours: float,
    reference: float,
    unit: str,
    target: float | None,
    n: int,
    note: str = "",
    higher_is_better: bool = False,
) -> Row:
    """A row with its ratio and verdict worked out."""
    ratio = reference / ours if higher_is_better else ours / reference
    met = None if target is None else ratio <= target
    return Row(
        name=name, ours=ours, reference=reference, unit=unit, ratio=ratio, target=target, met=met, n=n, note=note
    )


def interleaved(ours: Callable[[], float], reference: Callable[[], float], *, rounds: int) -> tuple[float, float]:
    """Medians of both, measured in turn, so that a drift of the machine hits both alike. One round warms up.

    Garbage is collected before each sample and not once for both: it leaves the processor's caches empty, and whoever
    came second had them full again. That was worth a fifth of a sample of 5 ms.
    """
    mine: list[float] = []
    theirs: list[float] = []
    ours(), reference()
    for number in range(rounds):
        pair = [(ours, mine), (reference, theirs)]
        for measured, samples in pair if number % 2 == 0 else reversed(pair):
            gc.collect()
            samples.append(measured())
    return statistics.median(mine), statistics.median(theirs)


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def show(suite: str, rows: list[Row]) -> None:
    """Print the table and write `bench/out/SUITE.json`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bench {suite}", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("ours", "reference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for heading in ("ratio", "target", "met", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in rows:
        met = {True: "[green]yes[/]", False: "[red]NO[/]", None: "-"}[item.met]
        target = "-" if item.target is None else f"≤ {item.target:.3g}"
        table.add_row(
            item.name, _number(item.ours), _number(item.reference), item.unit,
            f"{item.ratio:.2f}", target, met, str(item.n),
        )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    for item in rows:
        if item.note:
            console.print(f"  [bold]{item.name}[/]: {item.note}", highlight=False)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{suite}.json"
    path.write_text(json.dumps(msgspec.to_builtins(rows), indent=1) + "\n", encoding="utf-8")
