"""Signals and wake-ups of the supervisor's one loop, in one descriptor to wait for."""

import collections
import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Self

_BYTES = 4096

_HEARD = ("INT", "QUIT", "HUP", "TERM", "USR1", "USR2", "WINCH", "CONT", "CHLD", "TSTP")


class Signals:
    """Collects signals, in order, from entry to exit. In the main thread, and before other threads begin.

    A signal that was ignored before stays ignored, here and in the program, as `nohup` expects.
    """

    def __init__(self) -> None:
        self._arrived: collections.deque[int] = collections.deque(maxlen=1000)
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._reader, self._writer = os.pipe()
        self._wakeup_before = -1
        self.mask_before: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # A line on a terminal whose foreground is the program's must not suspend the supervisor. Threads inherit this.
        self.mask_before = tuple(signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU]))
        for number in _numbers():
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
                self._before[number] = signal.signal(number, self._arrive)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask_before)

    def wake(self) -> None:
        """End a `wait`, from any thread. Never waits itself."""
        with contextlib.suppress(BlockingIOError):  # full: it will wake up anyway
            os.write(self._writer, b"w")

    def wait(self, timeout_s: float, descriptors: Iterable[int] = ()) -> None:
        """Until a signal, a wake-up, something to read in one of the descriptors, or time is up."""
        ready, _, _ = select.select([self._reader, *descriptors], [], [], timeout_s)
        if self._reader in ready:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._reader, _BYTES)) == _BYTES:
                    pass

    def arrived(self) -> list[int]:
        """The signals since the last call."""
        signals: list[int] = []
        while self._arrived:
            signals.append(self._arrived.popleft())
        return signals

    def _arrive(self, number: int, _frame: FrameType | None) -> None:
        self._arrived.append(number)


def _numbers() -> list[signal.Signals]:
    return [signal.Signals[f"SIG{name}"] for name in _HEARD if f"SIG{name}" in signal.Signals.__members__]
