"""Reconciling the journal with what target systems know: steps in doubt are asked for and get their end.

A call that lost its reply keeps its idempotency key for itself: nobody knows whether it may be made again, so a
repeated call is refused (`StepInDoubt`). Once the target system has said what became of it, the journal says so, too,
and a repeated call is answered with the recorded result, or made. The laws are DT1 to DT3 of `doubt`; nothing is
changed at any target.
"""

from collections.abc import Container, Mapping
from typing import cast

import msgspec

from rescind.clock import Clock, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import Settle
from rescind.compensation.doubt import Resolved, as_known, doubt_of, is_in_doubt, resolve_step
from rescind.compensation.planning.selection import Selection, select_steps
from rescind.compensation.port import Compensator, Prober
from rescind.journal.port import Draft, Journal
from rescind.model.entry import Ended, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed
from rescind.model.probe import Probe, ProbeResult
from rescind.model.step import Snapshot


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step in doubt.

    `outcome` and `after` are what the journal says of it now; without an outcome nobody knows yet, and `detail` says
    why.
    """

    step: StepRef
    action: str
    outcome: Completed | Failed | None
    after: Snapshot | None = None
    detail: str = ""


def reconcile(
    journal: Journal,
    selection: Selection,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    live_runs: Container[str] = (),
) -> list[Reconciled]:
    """Ask about the selected steps that are in doubt, and record what was found out.

    Args: as for `make_plan`.

    Returns: One for each step in doubt, in order of intent. What was not found counts only once nothing of the call can
        arrive any more (DT2).
    Raises: UsageError, for a selection that names what the journal does not know; JournalUnavailable.
    """
    found: list[Reconciled] = []
    with Waiter() as waiter:
        for record in select_steps(journal, selection):
            if not is_in_doubt(record) or record.is_held or record.disposition is not None:
                continue
            result = _look_into(as_known(record), compensators.get(record.step.action), clock, waiter, live_runs)
            if result.outcome is not None:
                event = Ended(step_id=record.step.step_id, outcome=result.outcome, after=result.after)
                journal.append([Draft(run_id=record.run.run_id, event=event, recorded_at_us=clock.now_us())])
            found.append(result)
    return found


def _look_into(
    record: StepRecord, compensator: Compensator | None, clock: Clock, waiter: Waiter, live_runs: Container[str]
) -> Reconciled:
    def said(outcome: Completed | Failed | None, detail: str = "", after: Snapshot | None = None) -> Reconciled:
        return Reconciled(step=record.ref, action=record.step.action, outcome=outcome, after=after, detail=detail)

    if isinstance(record.outcome, Completed):  # an undo has asked before
        return said(record.outcome, after=record.after)
    if compensator is None or not compensator.action.probed:
        return said(None, f"{doubt_of(record)}; {record.step.action!r} has no probe here")
    if problem := compensator.accepts(record.step.arguments):
        return said(None, problem)
    # Who lives is looked at first: a process that dies between both looks may have done it after it was asked for.
    is_live = record.run.run_id in live_runs
    answer = _ask(cast("Prober", compensator), record, waiter)
    now = from_us(clock.now_us())
    resolved = resolve_step(record, compensator.action, answer, now, doubt=doubt_of(record), is_live=is_live)
    match resolved:
        case Resolved(completed):
            return said(cast("Completed", completed.outcome), after=completed.after)
        case Settle(because=because):
            return said(Failed(because))
        case _:
            return said(None, resolved.detail)


def _ask(prober: Prober, record: StepRecord, waiter: Waiter) -> ProbeResult:
    try:
        answer: ProbeResult = waiter.result_of(prober.probe(record, record.step.idempotency_key))
    except Exception as error:  # noqa: BLE001  # whatever a target system raises, it has told nothing (DT3)
        return ProbeResult(answer=Probe.CANNOT_TELL, detail=f"{type(error).__name__}: {error}")
    return answer
