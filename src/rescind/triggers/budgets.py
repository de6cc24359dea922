"""What a run may spend: writes, calls, seconds, dollars. A run and those that it starts spend from one ledger.

So a run cannot spend more by starting others. What is asked for beyond the budget is found before it is done; dollars
are known only afterwards, so the call that spends the last of them is made, and none after it.
"""

import math
from itertools import count
from weakref import WeakValueDictionary

import msgspec

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import about_run, check_number, check_whole, is_news
from rescind.triggers.detector import Moment, together
from rescind.triggers.facts import Call, End

_NANO = 1_000_000_000
_ALL_THERE_IS = 1 << 62
"""Billionths of a dollar that a call has cost whose cost cannot be read."""


class BudgetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run may spend, with all that it starts. None: as much as it likes.

    Attributes:
        max_steps: Writes.
        max_tool_calls: Calls, reads and writes.
        max_seconds: From its first call on.
        max_usd: As its tools report it.
    """

    max_steps: int | None = None
    max_tool_calls: int | None = None
    max_seconds: float | None = None
    max_usd: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tool_calls"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 0, 1_000_000_000)
        if self.max_seconds is not None:
            check_number("max_seconds", self.max_seconds, 0.001, 1e9)
        if self.max_usd is not None:
            check_number("max_usd", self.max_usd, 0.000_001, 1e9)


class Ledger:
    """What a run has spent, with the runs that it started. Threads share it.

    `steps` and `calls` are what was asked for, what was refused for the budget included.
    """

    __slots__ = ("_next_call", "_next_step", "calls", "nano_usd", "started_s", "steps")

    def __init__(self) -> None:
        """Nothing is spent, and the time has not begun."""
        self._next_call, self._next_step = count(1), count(1)  # a number each, also for calls that overlap
        self.calls = self.steps = self.nano_usd = 0
        self.started_s: float | None = None

    def call(self) -> int:
        """The number of the next call, from 1."""
        number = next(self._next_call)
        self.calls = max(number, self.calls)
        return number

    def step(self) -> int:
        """The number of the next write, from 1."""
        number = next(self._next_step)
        self.steps = max(number, self.steps)
        return number

    def elapsed_s(self, at_s: float) -> float:
        """Seconds since the first call, which is this one if there was none."""
        if self.started_s is None:
            self.started_s = at_s
        return at_s - self.started_s

    def spend(self, usd: float) -> None:
        """Add what a call has cost; all there is, if nobody can read it."""
        readable = not isinstance(usd, bool) and isinstance(usd, int | float) and 0 <= usd <= 1e9  # pyright: ignore[reportUnnecessaryIsInstance]  # tools may err
        # Whole billionths, so that ten calls of ten cents are one dollar.
        self.nano_usd += round(usd * _NANO) if readable else _ALL_THERE_IS


class BudgetDetector:
    """Finds runs that spend more than they have."""

    def __init__(self, config: BudgetConfig) -> None:
        """A detector with these limits."""
        self.config = config
        self._watches: WeakValueDictionary[str, BudgetWatch] = WeakValueDictionary()

    def watch(self, run: RunInfo) -> "BudgetWatch | None":
        """Begin to watch a run; None if it has no budget.

        It spends from the ledger of the nearest run that started it and is still watched; else from its own.
        """
        if self.config == BudgetConfig():
            return None
        watch = BudgetWatch(self.config, run, self._ledger_of(run))
        self._watches[run.run_id] = watch
        return watch

    def _ledger_of(self, run: RunInfo) -> Ledger:
        # Its own first: a run that is entered again goes on spending what it had.
        for run_id in (run.run_id, *run.ancestors):
            known = self._watches.get(run_id)
            if known is not None:
                return known.ledger
        return Ledger()


class BudgetWatch:
    """One run, and the ledger that it spends from."""

    __slots__ = ("__weakref__", "_config", "_run_id", "_said", "ledger")

    skips = frozenset({Moment.PLAIN_END})

    def __init__(self, config: BudgetConfig, run: RunInfo, ledger: Ledger) -> None:
        """Spend from this ledger."""
        self._config, self._run_id, self.ledger = config, run.run_id, ledger
        self._said: dict[int, float] | None = None

    def asked(self, call: Call) -> Finding | None:
        """Whether there is anything left for this call."""
        config, ledger = self._config, self.ledger
        found: list[Finding] = []
        elapsed_s = ledger.elapsed_s(call.at_s)
        if config.max_seconds is not None and not elapsed_s <= config.max_seconds:
            found.append(self._found("max_seconds", elapsed_s, config.max_seconds, "seconds"))
        if config.max_usd is not None and ledger.nano_usd >= round(config.max_usd * _NANO):
            found.append(self._found("max_usd", ledger.nano_usd / _NANO, config.max_usd, "US dollars"))
        number = ledger.call()
        if config.max_tool_calls is not None and number > config.max_tool_calls:
            found.append(self._found("max_tool_calls", number, config.max_tool_calls, "calls"))
        number = ledger.step() if call.writes else 0
        if config.max_steps is not None and number > config.max_steps:
            found.append(self._found("max_steps", number, config.max_steps, "writes"))
        return together(found)

    def ended(self, end: End) -> Finding | None:
        """Add what the call has cost."""
        if end.report is None or end.report.usd == 0:
            return None
        self.ledger.spend(end.report.usd)
        limit = self._config.max_usd
        if limit is None or self.ledger.nano_usd <= round(limit * _NANO):
            return None
        finding = self._found("max_usd", self.ledger.nano_usd / _NANO, limit, "US dollars")
        return None if finding.again else finding

    def left(self, at_s: float) -> dict[str, float]:
        """What is left, at least 0: `steps`, `tool_calls`, `seconds`, `usd`, those of them that have a limit."""
        config, ledger = self._config, self.ledger
        left: dict[str, float] = {}
        if config.max_steps is not None:
            left["steps"] = max(0, config.max_steps - ledger.steps)
        if config.max_tool_calls is not None:
            left["tool_calls"] = max(0, config.max_tool_calls - ledger.calls)
        if config.max_seconds is not None:
            spent_s = 0.0 if ledger.started_s is None else at_s - ledger.started_s
            left["seconds"] = max(0.0, config.max_seconds - spent_s)
        if config.max_usd is not None:
            left["usd"] = max(0, round(config.max_usd * _NANO) - ledger.nano_usd) / _NANO
        return left

    def _found(self, rule: str, spent: float, limit: float, unit: str) -> Finding:
        said = self._said = self._said or {}
        amount = f"{spent:,}" if isinstance(spent, int) else f"{spent:,.2f}"
        return Finding(
            kind=SignalKind.BUDGET,
            rule=rule,
            severity=Severity.HIGH,
            scope=about_run(self._run_id),
            detail=f"{amount} {unit} in this run and those it started, {limit:,} are allowed",
            facts={"spent": None if math.isnan(spent) else spent, "limit": limit},
            again=not is_news(said, rule, max(spent, 1e-9)),
        )
