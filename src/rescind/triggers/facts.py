"""The facts that detectors judge: a call that is asked for, and how it ended.

The guard makes them as they happen, and `replay` makes them of a journal, so that a detector cannot tell which of the
two it is looking at. The journal knows no reads and no durations of refused calls; a detector must do without.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from rescind.errors import CallDenied, RescindError, RunHalted
from rescind.model.outcome import Completed, Outcome
from rescind.model.step import RunInfo, Target


class ToolReport(msgspec.Struct, kw_only=True, gc=False):
    """What a tool says of its own call, by `rescind.report`. None: it did not say.

    Attributes:
        confidence: By what it was unsure of (`target`, `tenant`, `record`, `parse`): from 0 to 1.
        receipt: What the other system gave as proof.
        failed_parts: What of a call with several parts did not happen.
        usd: What the call cost.
        observed: Arguments that the other system says it acted upon, by name, as JSON values.
    """

    confidence: dict[str, float] = {}
    receipt: str | None = None
    failed_parts: tuple[str, ...] = ()
    usd: float = 0.0
    observed: dict[str, Any] = {}


class Call(msgspec.Struct, kw_only=True, gc=False):
    """A call that is asked for, before anything has happened.

    Attributes:
        run: Whose call it is.
        action: The action's name.
        writes: Whether it changes something.
        at_s: When, in seconds on a clock that only moves forward; comparable with other facts of the same source.
        arguments: By parameter name, as JSON values, redacted ones left out; empty for reads whose arguments nobody
            has recorded.
        target: What it touches, if that is known.
        repeats: A digest of action and arguments: equal calls have equal ones. Empty if the arguments are not known.
        tenant: On whose data it works, where the target says so; else the run's.
        spawns: Whether it starts further runs.
    """

    run: RunInfo
    action: str
    writes: bool
    at_s: float
    arguments: Mapping[str, Any] = {}
    target: Target | None = None
    repeats: str = ""
    tenant: str = ""
    step_id: str = ""
    spawns: bool = False


class End(msgspec.Struct, kw_only=True, gc=False):
    """How a call ended.

    Attributes:
        call: The call.
        at_s: When.
        outcome: As recorded; of a read, completed or failed.
        verified: Whether its postcondition held; None if it has none.
        report: What the tool said of itself; None if nothing.
        problem: What is wrong with the result for its declared shape; empty if nothing is.
        approved_differs: How what was observed differs from what was approved; empty if it does not.
    """

    call: Call
    at_s: float
    outcome: Outcome
    verified: bool | None = None
    report: ToolReport | None = None
    problem: str = ""
    approved_differs: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it completed, and there is nothing else to say of it: no report, no problem, nothing that differs."""
        return (
            type(self.outcome) is Completed
            and self.report is None
            and not self.problem
            and self.verified is not False
            and not self.approved_differs
        )

    @property
    def was_refused(self) -> bool:
        """Whether it failed since a call within it was refused, or its run was halted: no fault of its own."""
        outcome = self.outcome
        if isinstance(outcome, Completed):
            return False
        return outcome.reason.partition(":")[0] in _REFUSALS or outcome.reason.startswith(CUT_SHORT)

    @property
    def duration_s(self) -> float:
        """How long the call took; of a write, from when its tool began, since it may have waited for a person."""
        return self.at_s - self.call.at_s

    @property
    def is_good(self) -> bool:
        """Whether it completed, and its postcondition holds if it has one."""
        return type(self.outcome) is Completed and self.verified is not False


CUT_SHORT = "cancelled by a stop while it ran"
"""How the outcome of a call begins that a halt of its run has cancelled."""


def _and_below(kind: type[RescindError]) -> set[str]:
    return {kind.__name__}.union(*map(_and_below, kind.__subclasses__()))


_REFUSALS = frozenset(_and_below(CallDenied) | _and_below(RunHalted))
"""How the outcome of a call begins that one of our own refusals has left; recorded, so that a replay tells it too."""
