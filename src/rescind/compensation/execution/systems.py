"""The target systems of an undo: what is under way at each, and which of them rest. Pure bookkeeping.

    takes steps ─▶ several troubles in a row ─▶ rests ─▶ one step as a probe ─▶ takes steps
                                                 ▲               │ trouble
                                                 └── longer ─────┘ ─▶ at last: lost, for this undo

A system that does not answer fails every step alike. Without a rest, 10,000 steps would each use up their tries on it,
and go to a person one and all, for an outage of a minute. So after a few troubles in a row everything for that system
waits, longer each time, and one step alone finds out whether it is back. A system that is not is lost: its steps are
not reached, which says truly that nobody tried, and a later undo goes on with them. A review task would ask a person to
decide about each, where nothing is to be decided.
"""

from rescind.compensation.execution.limits import Limiter, Limits
from rescind.compensation.execution.trying import doubled_s
from rescind.errors import Transient
from rescind.guard.flow import name_of

TROUBLES_MAX = 5
"""Troubles in a row until a system rests. One slow moment fails as many steps as are under way; fewer than that many
retries of one step fail here and there."""

WAITING_MAX = 64
"""Steps of one system that may wait for another try. A system that fails at half of all tries must not draw in all."""


def is_trouble(error: BaseException | None) -> bool:
    """Whether the error says that the system is not well, rather than what it thinks of the step."""
    return isinstance(error, Transient | ConnectionError | TimeoutError)


class _System:
    def __init__(self) -> None:
        self.under_way = self.waiting = 0
        self.troubles = self.rests = 0
        self.free_at_s = 0.0
        self.lost = ""


class Systems:
    """All systems that were heard of.

    Args:
        limits: Steps at once.
        limiter: Tries per second.
        rests_max: Rests in a row, after which a system is lost.
    """

    def __init__(self, limits: Limits, limiter: Limiter, *, rests_max: int) -> None:
        self._limits, self._limiter, self._rests_max = limits, limiter, rests_max
        self._systems: dict[str, _System] = {}
        self._newly_lost: list[str] = []

    @property
    def lost(self) -> dict[str, str]:
        """The systems that are lost, and what was last heard of them."""
        return {name: system.lost for name, system in self._systems.items() if system.lost}

    def take_lost(self) -> list[str]:
        """The systems that were lost since this was asked last."""
        taken, self._newly_lost = self._newly_lost, []
        return taken

    def begin(self, name: str, now_s: float) -> bool:
        """A step wants to be tried for the first time. Whether it may: then it is under way."""
        return self._of(name).waiting < WAITING_MAX and self._take(name, now_s)

    def resume(self, name: str, now_s: float) -> bool:
        """A step that waits wants to be tried again. Whether it may: then it is under way, and waits no more."""
        if not self._take(name, now_s):
            return False
        self._of(name).waiting -= 1
        return True

    def wait(self, name: str) -> None:
        """A step that was under way waits for another try."""
        system = self._of(name)
        system.under_way -= 1
        system.waiting += 1

    def end(self, name: str) -> None:
        """A step that was under way has come to an end."""
        self._of(name).under_way -= 1

    def give_up(self, name: str) -> None:
        """A step that waits will not be tried again."""
        self._of(name).waiting -= 1

    def answered(self, name: str) -> None:
        """The system has answered, whatever it was."""
        system = self._of(name)
        system.troubles = system.rests = 0

    def troubled(self, name: str, error: BaseException, now_s: float) -> None:
        """The system was not well."""
        system = self._of(name)
        is_resting = system.rests > 0 and now_s < system.free_at_s  # what was under way before comes in
        system.troubles += 1
        if isinstance(error, Transient):
            system.free_at_s = max(system.free_at_s, now_s + error.retry_after_s)
        if is_resting or system.troubles < TROUBLES_MAX:
            return
        if system.rests >= self._rests_max:
            self._newly_lost += [] if system.lost else [name]
            system.lost = name_of(error)
            return
        rest_s = doubled_s(system.rests)
        system.rests += 1
        system.free_at_s = max(system.free_at_s, now_s + rest_s)

    def free_in_s(self, names: set[str], now_s: float) -> float | None:
        """Seconds until one of these may take a step again; None if none of them will by waiting alone."""
        waits = [
            system.free_at_s - now_s for system in map(self._of, names) if not system.lost and system.free_at_s > now_s
        ]
        return min(waits, default=None)

    def _take(self, name: str, now_s: float) -> bool:
        system = self._of(name)
        parallel = 1 if system.rests else self._limits.parallel_of(name)
        if system.lost or now_s < system.free_at_s or (parallel is not None and system.under_way >= parallel):
            return False
        wait_s = self._limiter.try_acquire(name)
        if wait_s > 0:
            system.free_at_s = now_s + wait_s
            return False
        system.under_way += 1
        return True

    def _of(self, name: str) -> _System:
        system = self._systems.get(name)
        if system is None:
            system = self._systems[name] = _System()
        return system
