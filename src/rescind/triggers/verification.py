"""What a call has done is not what it should have done: its postcondition fails, or it did other than was approved."""

import msgspec

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import about_run, is_news, shown
from rescind.triggers.detector import Moment
from rescind.triggers.facts import Call, End


class VerificationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked at.

    Attributes:
        postcondition: Whether the declared postcondition held.
        approved_differs: Whether what was observed is what was approved.
    """

    postcondition: bool = True
    approved_differs: bool = True

    def __post_init__(self) -> None:
        if not self.postcondition and not self.approved_differs:
            raise ValueError("postcondition and approved_differs are both false; to look at neither, switch it `off`")


class VerificationDetector:
    """Finds calls that did other than they should have done."""

    def __init__(self, config: VerificationConfig) -> None:
        """A detector that looks at this."""
        self.config = config

    def watch(self, run: RunInfo) -> "VerificationWatch":
        """Begin to watch a run."""
        return VerificationWatch(self.config, run)


class VerificationWatch:
    """One run. Says the first of a kind, and again when there are twice as many."""

    __slots__ = ("_approved_differs", "_config", "_postcondition", "_run_id", "_said")

    skips = frozenset({Moment.ASKED, Moment.PLAIN_END})

    def __init__(self, config: VerificationConfig, run: RunInfo) -> None:
        """Nothing has been done yet."""
        self._config, self._run_id = config, run.run_id
        self._postcondition = self._approved_differs = 0  # how many
        self._said: dict[int, float] | None = None

    def asked(self, call: Call) -> Finding | None:
        """Nothing: it is not done yet."""

    def ended(self, end: End) -> Finding | None:
        """Whether it did what it should. A difference from what was approved weighs more."""
        found = None
        if end.verified is False and self._config.postcondition:
            self._postcondition += 1
            found = "postcondition"
        if end.approved_differs and self._config.approved_differs:
            self._approved_differs += 1
            found = "approved_differs"
        return self._finding(found, end) if found else None

    def _finding(self, rule: str, end: End) -> Finding | None:
        differs = rule == "approved_differs"
        times = self._approved_differs if differs else self._postcondition
        said = self._said = self._said or {}
        if not is_news(said, rule, times):
            return None
        call = end.call
        what = shown(call.action) if call.target is None else f"{shown(call.action)} on {shown(call.target)}"
        problem = (
            f"what was done differs from what was approved: {shown(end.approved_differs, 200)}"
            if differs
            else "its postcondition does not hold"
        )
        return Finding(
            kind=SignalKind.VERIFICATION_FAILURE,
            rule=rule,
            severity=Severity.CRITICAL if differs else Severity.HIGH,
            scope=about_run(self._run_id),
            detail=f"{what}: {problem}{f', for the {times}. time in this run' if times > 1 else ''}",
            facts={"action": shown(call.action), "times": times},
        )
