"""Live progress of an undo, on a terminal: one bar for all, and one for each target system if there are several."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rescind.cli.safe import ELLIPSIS, safe
from rescind.compensation.result import StepResult

if TYPE_CHECKING:
    from rich.console import Console

    from rescind.model.entry import StepRef
    from rescind.recovery.undo_status import UndoStatus

SYSTEMS_MAX = 6
"""Systems that get a bar of their own; the others are seen in the bar for all."""

_NAME_MAX = 16


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        if task.finished:  # of some that ended at once it would be the speed of a drawing
            return Text("")
        speed = task.fields.get("rate") or task.speed
        return Text("" if not speed else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


class DrawnProgress:
    """Bars that count steps."""

    def __init__(self, progress: Progress, systems: Mapping["StepRef", str]) -> None:
        self._progress, self._systems = progress, systems
        self._all = progress.add_task("undoing", total=len(systems))
        self._workers = _Workers(progress)
        totals: dict[str, int] = {}
        for system in systems.values():
            totals[system] = totals.get(system, 0) + 1
        largest = sorted(totals, key=lambda name: (-totals[name], name))[:SYSTEMS_MAX] if len(totals) > 1 else []
        self._tasks: dict[str, TaskID] = {
            name: progress.add_task(f"  {safe(name)[:_NAME_MAX]}", total=totals[name]) for name in largest
        }

    def advance(self, result: StepResult) -> None:
        """One more step has its end."""
        self._progress.advance(self._all)
        task = self._tasks.get(self._systems.get(result.step, ""))
        if task is not None:
            self._progress.advance(task)
        if result.by:
            self._workers.advance(result.by)


class _Workers:
    """A bar for each worker: its part of what is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}

    def advance(self, worker: str) -> None:
        """One more step was carried out by it."""
        self.show({**self._done, worker: self._done.get(worker, 0) + 1})

    def show(self, done: Mapping[str, int]) -> None:
        """So many steps were carried out by each."""
        self._done = dict(done)
        total = sum(done.values())
        for worker, count in done.items():
            if worker not in self._tasks and len(self._tasks) < SYSTEMS_MAX:
                self._tasks[worker] = self._progress.add_task(f"  {_short(worker)}", total=None)
            if worker in self._tasks:
                self._progress.update(self._tasks[worker], total=total, completed=count)


def _short(worker: str) -> str:
    """What tells a worker from another one: its id ends in what was thrown."""
    name = safe(worker)
    return name if len(name) <= _NAME_MAX else ELLIPSIS + name[1 - _NAME_MAX :]


@contextmanager
def drawn_progress(systems: Mapping["StepRef", str], console: "Console") -> Generator[DrawnProgress]:
    """Bars for as long as the block lasts; they leave nothing on the screen. `systems` has every step to come."""
    with _progress(console) as progress:
        yield DrawnProgress(progress, systems)


def followed(statuses: "Iterator[UndoStatus]", console: "Console") -> "UndoStatus":
    """Draw an undo that runs elsewhere until it has ended. Returns how it ended."""
    last = None
    with _progress(console) as progress:
        task, workers = progress.add_task("undoing", total=None), _Workers(progress)
        for last in statuses:
            workers.show(last.by_worker)
            held = f"{last.state} by {safe(last.held_by)[:_NAME_MAX]}" if last.held_by else last.state
            progress.update(task, description=held, total=last.total, completed=last.done, rate=last.rate_per_s)
    assert last is not None, "following begins with a look"
    return last


def _progress(console: "Console") -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn("{task.percentage:>3.0f}%", markup=False),  # its own text is markup, which is not read here
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
