"""Live progress of an undo, on a terminal."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rescind.compensation.result import StepResult

if TYPE_CHECKING:
    from rich.console import Console


class DrawnProgress:
    """One bar that counts steps, and the last action beside it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("undoing", total=total)

    def advance(self, result: StepResult) -> None:
        """One more step has its end."""
        self._progress.advance(self._task)


@contextmanager
def drawn_progress(total: int, console: "Console") -> Generator[DrawnProgress]:
    """A bar for as long as the block lasts; it leaves nothing on the screen."""
    columns = (TextColumn("undoing", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield DrawnProgress(progress, total)
