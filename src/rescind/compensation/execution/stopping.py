"""What may hold or end an undo from outside: an interrupt, an order of somebody, and the end of its time."""

import enum
import math
from collections.abc import Callable

from rescind.clock import Clock
from rescind.recovery.control import ControlReader, cancel_words

_LOOK_EVERY_S = 0.4  # Together with a step's own time, an order is to be obeyed within about a second.


class Stop(enum.Enum):
    """Whether steps may begin."""

    NO = "no"
    HOLD = "hold"  # none for now; those that wait go on waiting
    END = "end"  # none any more; those that wait are left


class Stopping:
    """What stands against going on. `interrupt` may be called in any thread, the rest in the runner's.

    Args:
        clock: The time.
        within_s: Seconds from now until no step may begin; None for no such deadline.
        is_leaving: Whether this process ends, which is as an interrupt.
    """

    def __init__(self, clock: Clock, *, within_s: float | None, is_leaving: Callable[[], bool] = lambda: False) -> None:
        self._clock, self._is_leaving = clock, is_leaving
        self._until_s = math.inf if within_s is None else clock.monotonic_s() + within_s
        self._control: ControlReader | None = None
        self._next_look_s = -math.inf
        self._held = False
        self.interrupted = False
        self.why, self.detail = "", ""
        """What ended it, as in `PlanLeft`; empty if nothing did."""

    def obey(self, control: ControlReader) -> None:
        """From now on, look there for orders."""
        self._control = control

    def interrupt(self) -> None:
        """Begin no more steps."""
        self.interrupted = True

    def look(self) -> Stop:
        """What stands now. Raises: JournalUnavailable."""
        now_s = self._clock.monotonic_s()
        if self._control is not None and now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_EVERY_S
            standing = self._control.look()
            self._held = standing.pause is not None
            if standing.cancel is not None:
                self._end("cancelled", cancel_words(standing.cancel))
        if self.interrupted or self._is_leaving():
            self._end("interrupted", "")
        elif now_s >= self._until_s:
            self._end("out_of_time", "its time was over")
        if self.why:
            return Stop.END
        return Stop.HOLD if self._held else Stop.NO

    def left_s(self) -> float:
        """Seconds until its time is over."""
        return self._until_s - self._clock.monotonic_s()

    def _end(self, why: str, detail: str) -> None:
        if not self.why:
            self.why, self.detail = why, detail
