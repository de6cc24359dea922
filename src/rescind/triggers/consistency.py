"""Several systems that no longer agree: one run's writes succeeded in some and failed in others, or an invariant broke.

An invariant is a function of the user's that compares systems. Calling it takes I/O, so the guard does; here its answer
is read.
"""

import msgspec

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import about_run, check_whole, is_news, shown
from rescind.triggers.detector import Moment
from rescind.triggers.distinct import target_key
from rescind.triggers.facts import Call, End

SYSTEMS_MAX = 16
"""Systems of one run in which something succeeded. To tell that they disagree, two are enough."""

FAILURES_MAX = 32
"""Targets of one run on which something failed and that are kept apart."""


class ConsistencyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When systems count as disagreeing.

    Attributes:
        failures_min: So many failures that no later success on the same target has mended, while writes to another
            system succeeded. One alone is often mended by the next attempt.
        invariants: Whether broken invariants are told of.
    """

    failures_min: int = 2
    invariants: bool = True

    def __post_init__(self) -> None:
        check_whole("failures_min", self.failures_min, 1, 1_000)


class ConsistencyDetector:
    """Finds runs that leave several systems in disagreement."""

    def __init__(self, config: ConsistencyConfig) -> None:
        """A detector with these limits."""
        self.config = config

    def watch(self, run: RunInfo) -> "ConsistencyWatch":
        """Begin to watch a run."""
        return ConsistencyWatch(self.config, run)


class ConsistencyWatch:
    """One run, and the systems that it has written to."""

    __slots__ = ("_config", "_failures", "_run_id", "_said", "_succeeded")

    skips = frozenset({Moment.ASKED})

    def __init__(self, config: ConsistencyConfig, run: RunInfo) -> None:
        """Nothing has been written yet."""
        self._config, self._run_id = config, run.run_id
        self._succeeded: set[str] | None = None  # systems
        self._failures: dict[int, tuple[str, int]] | None = None  # by target: its system, and how often
        self._said: dict[int, float] | None = None

    def asked(self, call: Call) -> Finding | None:
        """Nothing: what disagrees shows afterwards."""

    def ended(self, end: End) -> Finding | None:
        """Whether systems disagree by now."""
        target = end.call.target
        if not end.call.writes or target is None or end.was_refused:
            return None
        key, system = target_key(target), shown(target.system, 40)
        if end.is_good and not (end.report is not None and end.report.failed_parts):
            succeeded = self._succeeded = self._succeeded or set()
            if len(succeeded) < SYSTEMS_MAX:
                succeeded.add(system)
            if not self._failures:
                return None
            self._mended(key)
        else:
            failures = self._failures = self._failures or {}
            if key in failures or len(failures) < FAILURES_MAX:
                failures[key] = system, failures.get(key, (system, 0))[1] + 1
        return self._disagreement()

    def invariant(self, name: str, answer: object) -> Finding | None:
        """Read what an invariant has answered.

        Args:
            name: The invariant's.
            answer: What its function returned: True, None or an empty text mean that it holds, False and a text that
                says what is wrong that it does not. Or the exception that it raised. What is none of these tells
                nothing, so it does not count as holding.

        Returns: a finding, if it does not hold; None also while that has been said.
        """
        if not self._config.invariants:
            return None
        said = self._said = self._said or {}
        what = ("invariant", name)
        if holds(answer):
            said.pop(hash(what), None)
            return None
        if not is_news(said, what):
            return None
        return Finding(
            kind=SignalKind.INCONSISTENCY,
            rule="invariant",
            severity=Severity.CRITICAL,
            scope=about_run(self._run_id),
            detail=f"invariant {shown(name)} does not hold: {wrong(answer)}",
            facts={"invariant": shown(name)},
        )

    def _mended(self, key: int) -> None:
        assert self._failures is not None
        self._failures.pop(key, None)
        if not self._failures and self._said:
            self._said.pop(hash("partial_failures"), None)  # what fails from now on is another story

    def _disagreement(self) -> Finding | None:
        if not self._failures or not self._succeeded:
            return None
        failures, succeeded = list(self._failures.copy().values()), self._succeeded.copy()
        times = sum(number for _, number in failures)
        failed = {system for system, _ in failures}
        if times < self._config.failures_min or len(failed | succeeded) < 2:
            return None
        said = self._said = self._said or {}
        if not is_news(said, "partial_failures", times):
            return None
        in_these, in_those = ", ".join(sorted(failed)[:5]), ", ".join(sorted(succeeded)[:5])
        return Finding(
            kind=SignalKind.INCONSISTENCY,
            rule="partial_failures",
            severity=Severity.HIGH,
            scope=about_run(self._run_id),
            detail=f"{times} failed writes in {in_these}, never mended, while writes in {in_those} succeeded",
            facts={"failures": times, "failed": sorted(failed)[:SYSTEMS_MAX], "succeeded": sorted(succeeded)},
        )


def holds(answer: object) -> bool:
    """Whether what a check has answered says that it holds: True, None or an empty text, and nothing else."""
    return answer is None or answer is True or (isinstance(answer, str) and not answer)


def wrong(answer: object) -> str:
    """What a check has answered, or raised, that does not hold; in words that may be recorded."""
    if answer is False:
        return "it said so"
    if isinstance(answer, BaseException):
        # The kind of error and no more: its text may hold what is to be kept out of the journal.
        return f"it raised {type(answer).__name__}"
    if isinstance(answer, str):
        return shown(answer, 200)
    return f"it answered with a {type(answer).__name__}, where True or False is asked"
