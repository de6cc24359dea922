"""The one form of all benchmarks: rows of ours against a reference, smaller ratios are better."""

import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

OUT = Path(__file__).parent / "out"


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
    """Medians of both, measured in turn, so that a drift of the machine hits both alike. One round warms up."""
    mine: list[float] = []
    theirs: list[float] = []
    ours(), reference()
    for _ in range(rounds):
        gc.collect()
        mine.append(ours())
        theirs.append(reference())
    return statistics.median(mine), statistics.median(theirs)


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(suite: str, rows: list[Row]) -> None:
    """Print the table and write `bench/out/SUITE.json`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bench {suite}", title_justify="left")
    for heading, justify in (
        ("name", "left"), ("ours", "right"), ("reference", "right"), ("unit", "left"),
        ("ratio", "right"), ("target", "right"), ("met", "center"), ("n", "right"), ("note", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # the literals above are the allowed ones
    for item in rows:
        met = {True: "[green]yes[/]", False: "[red]NO[/]", None: "-"}[item.met]
        target = "-" if item.target is None else f"≤ {item.target:g}"
        table.add_row(
            item.name, f"{item.ours:,.4g}", f"{item.reference:,.4g}", item.unit,
            f"{item.ratio:.2f}", target, met, str(item.n), item.note,
        )  # fmt: skip
    Console(width=None).print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{suite}.json"
    path.write_text(json.dumps(msgspec.to_builtins(rows), indent=1) + "\n", encoding="utf-8")
