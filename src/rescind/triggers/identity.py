"""Whether the agent knows what, whose and which record it is about to change.

A tool reports how sure it was of that. A write that was not sure has happened, and is told of. A read that was not sure
is remembered: the next write that may rest on it is found before it is made, until a report says otherwise.
"""

from typing import Literal

import msgspec

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo, Target
from rescind.triggers.bounds import about_run, check_number, check_texts, is_news, ratio_of, shown
from rescind.triggers.detector import Moment
from rescind.triggers.distinct import target_key
from rescind.triggers.facts import Call, End

REMEMBERED_MAX = 16
"""Targets that a run was unsure of and that are kept apart. Of one more it is as if nobody knew which target it is."""

_ANY = 0


class IdentityConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sure a tool must be.

    Attributes:
        confidence_min: The least confidence, from 0 to 1.
        of: In what, by the names that tools report.
        rests_on: Which writes rest on a read that was not sure: those on the `same_target` (and where either of the two
            names none, nobody knows better), or `any`.
    """

    confidence_min: float = 0.8
    of: tuple[str, ...] = ("target", "tenant", "record")
    rests_on: Literal["same_target", "any"] = "same_target"

    def __post_init__(self) -> None:
        check_number("confidence_min", self.confidence_min, 0, 1)
        check_texts("of", self.of, most=16)


class IdentityDetector:
    """Finds writes by somebody who is not sure what he writes to."""

    def __init__(self, config: IdentityConfig) -> None:
        """A detector with these limits."""
        self.config = config

    def watch(self, run: RunInfo) -> "IdentityWatch":
        """Begin to watch a run."""
        return IdentityWatch(self.config, run)


class _Doubt:
    """A read that was not sure. `said` once a write was found for it."""

    __slots__ = ("action", "confidence", "of", "said")

    def __init__(self, of: str, confidence: float, action: str, *, said: bool) -> None:
        self.of, self.confidence, self.action, self.said = of, confidence, action, said


class IdentityWatch:
    """One run, and what it was not sure of."""

    __slots__ = ("_config", "_doubts", "_run_id", "_said", "_unsure_writes")

    skips = frozenset({Moment.PLAIN_END})

    def __init__(self, config: IdentityConfig, run: RunInfo) -> None:
        """Nothing is in doubt yet."""
        self._config, self._run_id = config, run.run_id
        self._doubts: dict[int, _Doubt] | None = None  # by target
        self._said: dict[int, float] | None = None
        self._unsure_writes = 0

    def asked(self, call: Call) -> Finding | None:
        """Whether this write may rest on something that nobody was sure of."""
        if not self._doubts or not call.writes:
            return None
        doubt = self._doubt_of(call)
        if doubt is None:
            return None
        again, doubt.said = doubt.said, True
        detail = (
            f"{shown(call.action)} after {doubt.action}, which was {doubt.confidence:.0%} sure of the {doubt.of}; "
            f"{self._config.confidence_min:.0%} is asked"
        )
        return self._finding("unsure_read", doubt.of, doubt.confidence, detail, again=again)

    def ended(self, end: End) -> Finding | None:
        """Remember how sure the tool was; of a write that was not, speak at once."""
        if end.report is None or not end.report.confidence:
            return None
        lowest: tuple[float, str] | None = None
        for name in self._config.of:
            if name in end.report.confidence:
                confidence = ratio_of(end.report.confidence[name])
                self._remove(name, confidence, end.call.target)
                if confidence < self._config.confidence_min and (lowest is None or confidence < lowest[0]):
                    lowest = confidence, name
        if lowest is None:
            return None
        if not end.call.writes:
            self._remember(lowest[1], lowest[0], end.call)
            return None
        return self._unsure_write(lowest[1], lowest[0], end.call)

    def _unsure_write(self, of: str, confidence: float, call: Call) -> Finding | None:
        self._unsure_writes += 1
        said = self._said = self._said or {}
        if not is_news(said, "unsure_write", self._unsure_writes):
            return None
        what = shown(call.action) if call.target is None else f"{shown(call.action)} on {shown(call.target)}"
        detail = f"{what} was {confidence:.0%} sure of the {of}; {self._config.confidence_min:.0%} is asked"
        return self._finding("unsure_write", of, confidence, detail, again=False)

    def _key_of(self, target: Target | None) -> int:
        if target is None or self._config.rests_on == "any":
            return _ANY
        return target_key(target) or 1

    def _doubt_of(self, call: Call) -> _Doubt | None:
        doubts = self._doubts or {}
        key = self._key_of(call.target)
        if key == _ANY:  # a write that names no target may be on any of them
            return next(iter(doubts.copy().values()), None)
        return doubts.get(key) or doubts.get(_ANY)

    def _remember(self, of: str, confidence: float, call: Call) -> None:
        doubts = self._doubts = self._doubts or {}
        key = self._key_of(call.target)
        if key not in doubts and len(doubts) >= REMEMBERED_MAX:
            key = _ANY
        known = doubts.get(key)
        doubts[key] = _Doubt(of, confidence, shown(call.action), said=known is not None and known.said)

    def _remove(self, of: str, confidence: float, target: Target | None) -> None:
        """Somebody is sure of it now."""
        if not self._doubts or confidence < self._config.confidence_min:
            return
        for key in {self._key_of(target), _ANY}:
            known = self._doubts.get(key)
            if known is not None and known.of == of:
                self._doubts.pop(key, None)

    def _finding(self, rule: str, of: str, confidence: float, detail: str, *, again: bool) -> Finding:
        return Finding(
            kind=SignalKind.LOST_IDENTITY,
            rule=rule,
            severity=Severity.CRITICAL if of == "tenant" else Severity.HIGH,
            scope=about_run(self._run_id),
            detail=detail,
            facts={"of": of, "confidence": confidence, "confidence_min": self._config.confidence_min},
            again=again,
        )
