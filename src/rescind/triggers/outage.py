"""Is the tool down, or is this run out of order? The question that is asked before a run is contained for its errors.

If a tool is down, everybody fails on it: the runs are healthy, and stopping each of them would be the outage's second
half. If only one fails where others succeed, the tool is healthy. The latest outcome of each run on an action, within
a short window, tells the two apart; where too few runs have called it, nobody can tell, and we say so.
"""

import enum
import os
import threading
import weakref
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from rescind.triggers.facts import End

ACTIONS_MAX = 1_000
"""Actions that are remembered; the one that was called least recently is forgotten first."""

RUNS_MAX = 256
"""Runs that are remembered for each action, the latest callers. A share of 256 is as good as one of all."""

SINCE_WINDOWS = 10
"""How many windows back calls are compared that came after a run began to fail; and who has called an action within so
many is waited for, before that run counts as the only one that does."""

_FEW = 0.2
"""At most one in five of the others may fail too, for one that fails to be out of order."""


FRESH_SHARE = 0.1
"""How old, in windows, an outcome may be before the same one is written down again."""


class Cause(enum.StrEnum):
    """Whose fault it is."""

    OUTAGE = "outage"  # most runs fail on this action
    ROGUE = "rogue"  # this one does, or its agent, and others do not
    UNCLEAR = "unclear"  # too few have called it lately, or they are of two minds


class OutageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tells an outage.

    Attributes:
        runs_min: How many runs must have called the action within the window, before anything is said.
        share_pct: From what share of them on, in percent, failing is an outage.
        window_seconds: How old an outcome may be.
    """

    runs_min: int = 3
    share_pct: float = 60.0
    window_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 2 <= self.runs_min <= RUNS_MAX:
            raise ValueError(f"runs_min is {self.runs_min}; it must be from 2 to {RUNS_MAX}")
        if not 50 < self.share_pct <= 100:
            raise ValueError(f"share_pct is {self.share_pct:g}; it must be more than 50 and at most 100")
        if not 1 <= self.window_seconds <= 86_400:
            raise ValueError(f"window_seconds is {self.window_seconds:g}; it must be from 1 to 86400")


class _Last(NamedTuple):
    at_s: float
    agent: str
    good: bool
    since_s: float  # of a failure: when the first of those in a row was


class Outages:
    """The latest outcomes of all runs of the process, by action. Thread-safe; bounded by the two maxima above."""

    def __init__(self, config: OutageConfig | None = None) -> None:
        """Nothing has been seen."""
        self.config = config or OutageConfig()
        self._fresh_s = self.config.window_seconds * FRESH_SHARE
        self._actions: OrderedDict[str, OrderedDict[str, _Last]] = OrderedDict()
        self._newest_s = 0.0
        self._lock = threading.RLock()  # a signal's handler may come by here in the middle of it
        _outages.add(self)

    def ended(self, end: End) -> None:
        """A call has ended."""
        if end.was_refused:
            return
        run, action = end.call.run, end.call.action
        seen = self._actions.get(action, _NONE).get(run.run_id)
        if seen is not None and seen.good == end.is_good and end.at_s - seen.at_s < self._fresh_s:
            return  # known, and recent enough; most calls of most runs are this one
        with self._lock:
            runs = self._actions.get(action)
            if runs is None:
                if len(self._actions) >= ACTIONS_MAX:
                    self._actions.popitem(last=False)
                runs = self._actions[action] = OrderedDict()
            known = runs.get(run.run_id)
            if known is not None and known.at_s > end.at_s:
                return  # a late fact changes nothing
            fails_on = known is not None and not known.good and not end.is_good
            since_s = known.since_s if known is not None and fails_on else end.at_s
            runs[run.run_id] = _Last(end.at_s, run.agent, end.is_good, since_s)
            runs.move_to_end(run.run_id)
            self._actions.move_to_end(action)
            if len(runs) > RUNS_MAX:
                runs.popitem(last=False)
            self._newest_s = max(self._newest_s, end.at_s)

    def judge(self, action: str, run_id: str, *, at_s: float | None = None) -> Cause:
        """Why this run fails on this action.

        Args:
            action: The action.
            run_id: The run, which has failed on it.
            at_s: Now, on the clock of the facts; the newest fact's time if it is not given.
        """
        known = self._lately(action, at_s, windows=SINCE_WINDOWS)
        runs = self._lately(action, at_s)
        own = runs.get(run_id)
        if own is None or own.good:
            return Cause.UNCLEAR
        # What succeeded before this run began to fail says nothing of now, if there is enough that came since.
        since = [last for last in known.values() if last.at_s >= own.since_s]
        compared = since if len(since) >= self.config.runs_min else list(runs.values())
        return self._judge(own, compared) if len(compared) >= self.config.runs_min else Cause.UNCLEAR

    def is_early(self, action: str, run_id: str, *, at_s: float | None = None) -> bool:
        """Whether nobody can tell yet: others call this action too, but too few did since this run began to fail on it.

        The first run to meet an outage looks as one out of order does.

        Args: as for `judge`.
        """
        runs = self._lately(action, at_s, windows=SINCE_WINDOWS)
        own = runs.get(run_id)
        if own is None or own.good or len(runs) < 2:
            return False
        return sum(last.at_s >= own.since_s for last in runs.values()) < self.config.runs_min

    def _lately(self, action: str, at_s: float | None, *, windows: int = 1) -> dict[str, _Last]:
        with self._lock:
            since_s = (self._newest_s if at_s is None else at_s) - windows * self.config.window_seconds
            return {name: last for name, last in self._actions.get(action, _NONE).items() if last.at_s >= since_s}

    def _judge(self, own: _Last, everybody: list[_Last]) -> Cause:
        share = self.config.share_pct / 100
        # An agent that fails in many runs is not an outage, as long as the runs of others succeed.
        others = [last for last in everybody if last.agent != own.agent]
        if len(others) >= self.config.runs_min - 1:
            everybody = [*others, own]
        failing = sum(not last.good for last in everybody)
        if failing >= share * len(everybody):
            return Cause.OUTAGE
        return Cause.ROGUE if failing - 1 <= _FEW * (len(everybody) - 1) else Cause.UNCLEAR

    def renew_lock(self) -> None:
        """In a forked child: the thread that held the lock may not have come along."""
        self._lock = threading.RLock()


_NONE: OrderedDict[str, _Last] = OrderedDict()

_outages: "weakref.WeakSet[Outages]" = weakref.WeakSet()


def _after_fork() -> None:
    for outages in list(_outages):
        outages.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
