"""What must hold over several systems, checked by functions of the user's after the writes that it depends on."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rescind.errors import CallDenied, RunHalted
from rescind.guard.watched_read import is_checking
from rescind.triggers.consistency import ConsistencyWatch, holds, wrong
from rescind.triggers.patterns import names_matching

if TYPE_CHECKING:
    from rescind.guard.governed import Governed
    from rescind.model.signal import Finding

Check = Callable[[], object]
"""True, None or an empty text: it holds. False, or a text that says what is wrong: it does not. Raising: likewise."""


ANY = ("*",)


class Invariant:
    """One of them. It is checked by one thread at a time, and not more often than every `every_s` seconds."""

    def __init__(self, name: str, check: Check, *, after: tuple[str, ...], every_s: float) -> None:
        self.name = name
        self._check, self._every_s = check, every_s
        self._concerns = names_matching(after or ANY)
        self._next_s = float("-inf")
        self._lock = threading.Lock()

    def look(self, run: "Governed", action: str, now_s: float) -> "Finding | None":
        """Check it after a write of this action, if it is time to.

        Returns: What there is to say; None if it holds, if that was said, or if nobody has asked.
        """
        if now_s < self._next_s or not self._concerns(action):
            return None
        watch = None if run.watch is None else run.watch.watch_of(ConsistencyWatch)
        if not isinstance(watch, ConsistencyWatch) or not self._lock.acquire(blocking=False):
            return None
        try:
            self._next_s = now_s + self._every_s
            token = is_checking.set(True)
            try:
                return watch.invariant(self.name, self._answer())
            except (CallDenied, RunHalted):  # it may not look now, so nobody knows; the run is held in any case
                return None
            finally:
                is_checking.reset(token)
        finally:
            self._lock.release()

    def problem(self) -> str:
        """What does not hold now; empty if it holds. What cannot be looked at does not hold."""
        token = is_checking.set(True)
        try:
            answer: object = self._check()
        except Exception as error:  # noqa: BLE001  # what cannot be checked does not hold
            answer = error
        finally:
            is_checking.reset(token)
        return "" if holds(answer) else f"{self.name}: {wrong(answer)}"

    def after_fork(self) -> None:
        """In a forked child: the thread that held the lock may not have come along."""
        self._lock = threading.Lock()

    def _answer(self) -> object:
        try:
            return self._check()
        except (CallDenied, RunHalted):
            raise
        except Exception as error:  # noqa: BLE001  # what cannot be checked does not hold
            return error
