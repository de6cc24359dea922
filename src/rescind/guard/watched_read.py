"""A read, as the detectors of its run see it: asked for, and ended. Nothing of it is recorded."""

from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rescind.errors import CallDenied, RunHalted
from rescind.guard.reporting import Collecting
from rescind.model.outcome import Completed, Failed, Outcome
from rescind.triggers.facts import End

if TYPE_CHECKING:
    from rescind.guard.governed import Governed
    from rescind.guard.results import Results

is_checking: ContextVar[bool] = ContextVar("rescind_is_checking", default=False)
"""Whether an invariant is being checked here. It makes the same reads after each write, and they are not the run's."""

_FAILED = Failed("raised")  # of a read nothing else matters: nothing was changed in any case
_COMPLETED = Completed()


class WatchedRead:
    """Around one call of a read whose run is watched."""

    __slots__ = ("_asked", "_collecting", "_outcome", "_problem", "_results", "_run")

    def __init__(
        self, run: "Governed", action: str, results: "Results", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Ask the detectors.

        Raises: CallDenied, RunHalted.
        """
        self._run, self._results, self._problem = run, results, ""
        self._outcome: Outcome = _FAILED
        digest = _digest(action, args, kwargs)
        self._asked = None if is_checking.get() else run.asked(action, writes=False, repeats=digest)
        self._collecting = Collecting()

    def __enter__(self) -> Self:
        self._collecting.__enter__()
        return self

    def completed(self, result: Any) -> None:
        """It has returned."""
        watching = self._run.guard.watching
        if watching is not None:
            self._problem = self._results.problem_with(result, watching.learned)
        self._outcome = _COMPLETED

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._collecting.__exit__(kind, error, at)
        if self._asked is not None and not _says_nothing(error):
            end = End(
                call=self._asked,
                at_s=self._run.guard.clock.boot_s(),
                outcome=self._outcome,
                report=self._collecting.report,
                problem=self._problem,
            )
            self._run.ended(end)


def _says_nothing(error: BaseException | None) -> bool:
    # Its caller has given it up (a cancellation, an interrupt), or a call within it was refused: nothing was changed,
    # and it says nothing of the tool.
    return error is not None and (not isinstance(error, Exception) or isinstance(error, CallDenied | RunHalted))


def _digest(action: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    # What has no hash is compared with nothing: a detector of loops must not find one where it cannot tell.
    try:
        return str(hash((action, args, tuple(kwargs.items()))))
    except Exception:  # noqa: BLE001  # a __hash__ of the caller's may raise what it likes
        return ""
