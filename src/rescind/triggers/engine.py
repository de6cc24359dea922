"""All detectors of a policy over the calls of runs: the same in the guard and in a replay.

N1. A detector that raises makes a finding of its own, and the others are asked all the same: no call goes by unseen
    because a detector has broken.
N2. A policy that is read anew takes over what was seen so far, for each detector whose settings have not changed.
N3. A run that makes no calls costs one small object; watches are made with its first call.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import about_run
from rescind.triggers.detector import ENDS, Detector, Moment, Watch
from rescind.triggers.facts import Call, End
from rescind.triggers.policy import Tally

NOTHING: tuple[Finding, ...] = ()

FAILURES_TOLD_MAX = 3
"""Signals that one detector's failures make per run: it fails at each call, and one is enough to act upon."""


class Detecting(Protocol):
    """What an engine needs of a policy."""

    def detectors(self) -> Sequence[Detector]:
        """Those that are switched on; the same objects for as long as their settings are the same."""
        ...


class Engine:
    """The detectors of one policy. One engine serves all runs of a process."""

    def __init__(self, policy: Detecting) -> None:
        """An engine for this policy."""
        self.detectors = tuple(policy.detectors())

    def adopt(self, policy: Detecting) -> None:
        """Go on under another policy (N2)."""
        detectors = tuple(policy.detectors())
        if [*map(id, detectors)] != [*map(id, self.detectors)]:
            self.detectors = detectors

    def watch(self, run: RunInfo) -> "RunWatch":
        """Begin to watch a run."""
        return RunWatch(self, run)


class RunWatch:
    """One run, as all detectors see it."""

    __slots__ = (
        "_asks",
        "_begun",
        "_detectors",
        "_engine",
        "_failures",
        "_other_ends",
        "_plain_ends",
        "_run",
        "_told",
        "tally",
    )

    def __init__(self, engine: Engine, run: RunInfo) -> None:
        """Nothing is looked at before the first call (N3)."""
        self._engine, self._run = engine, run
        self._detectors: tuple[Detector, ...] = ()
        self._begun: tuple[tuple[Detector, Watch], ...] = ()
        self._asks: tuple[Callable[[Call], Finding | None], ...] = ()
        self._plain_ends: tuple[Callable[[End], Finding | None], ...] = ()
        self._other_ends: tuple[Callable[[End], Finding | None], ...] = ()
        self._failures: dict[str, int] | None = None
        self.tally = Tally()
        self._told: dict[str, str] | None = None

    @property
    def told(self) -> dict[str, str]:
        """The latest signal of each kind and rule, by id; for whoever makes signals of findings."""
        if self._told is None:
            self._told = {}
        return self._told

    def asked(self, call: Call) -> tuple[Finding, ...]:
        """What is found before the call is made, by all detectors; empty if nothing."""
        if self._detectors is not self._engine.detectors:
            self._take_up()
        found = NOTHING
        for look in self._asks:
            try:
                finding = look(call)
            except Exception as error:  # noqa: BLE001  # N1
                finding = self._failed(look, error)
            if finding is not None:
                found = (*found, finding, *finding.besides)
        return found

    def ended(self, end: End) -> tuple[Finding, ...]:
        """What is found once the call has ended."""
        if self._detectors is not self._engine.detectors:
            self._take_up()
        found = NOTHING
        for look in self._plain_ends if end.is_plain else self._other_ends:
            try:
                finding = look(end)
            except Exception as error:  # noqa: BLE001  # N1
                finding = self._failed(look, error)
            if finding is not None:
                found = (*found, finding, *finding.besides)
        return found

    def watch_of(self, kind: type) -> Watch | None:
        """The watch of this type, to be asked for what it knows besides findings; None if it has none."""
        return next((watch for _, watch in self._begun if isinstance(watch, kind)), None)

    def _take_up(self) -> None:
        detectors = self._engine.detectors
        # By identity: a detector whose settings are the same is the same object, and keeps what it has seen (N2).
        kept = {id(each): watch for each, watch in self._begun}
        self._begun = tuple((each, kept.get(id(each)) or self._begin(each)) for each in detectors)
        watches = [watch for _, watch in self._begun]
        self._asks = tuple(watch.asked for watch in watches if not _skips(watch, Moment.ASKED))
        self._plain_ends = tuple(watch.ended for watch in watches if not _skips(watch, Moment.PLAIN_END))
        self._other_ends = tuple(watch.ended for watch in watches if not _skips(watch, Moment.OTHER_END))
        self._detectors = detectors  # last: another thread that sees it finds the watches in place

    def _begin(self, detector: Detector) -> Watch:
        try:
            return detector.watch(self._run) or _BLIND
        except Exception as error:  # noqa: BLE001  # N1: said at each call, which it then cannot see
            return _Broken(f"{type(detector).__name__} could not begin: {type(error).__name__}")

    def _failed(self, look: Callable[..., object], error: Exception) -> Finding:
        name = type(getattr(look, "__self__", look)).__name__
        failures = self._failures = self._failures or {}
        failures[name] = failures.get(name, 0) + 1
        return Finding(
            kind=SignalKind.DETECTOR_FAILURE,
            rule="raised",
            severity=Severity.HIGH,
            scope=about_run(self._run.run_id),
            # The kind of error and no more: its text may hold arguments that are to be kept out of the journal.
            detail=f"{name.lstrip('_')} raised {type(error).__name__}; nobody knows what it would have said",
            facts={"detector": name.lstrip("_"), "error": type(error).__name__, "failures": failures[name]},
            again=failures[name] > FAILURES_TOLD_MAX,  # what the policy refuses for it is refused each time
        )


def _skips(watch: Watch, moment: Moment) -> bool:
    return moment in getattr(watch, "skips", ())


class _Blind:
    """The watch of a detector that has nothing to say of a run."""

    __slots__ = ()

    skips: frozenset[Moment] = frozenset(Moment)

    def asked(self, call: Call) -> None:
        """Nothing."""

    def ended(self, end: End) -> None:
        """Nothing."""


_BLIND = _Blind()


class _Broken(_Blind):
    __slots__ = ("_why",)

    skips = ENDS

    def __init__(self, why: str) -> None:
        self._why = why

    def asked(self, call: Call) -> None:
        raise RuntimeError(self._why)
