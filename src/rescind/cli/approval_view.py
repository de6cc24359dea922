"""Approvals in words. What agents were told is hostile; see `safe`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from rescind.cli.moments import ago, to_the_second
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.stores import shell_line
from rescind.cli.words import list_of
from rescind.model.approval import APPROVED, Approval, ApprovalState

_VALUE_WIDTH, _VALUE_WIDTH_WHOLE = 40, 4_000
_ARGUMENTS_SHOWN = 8

_STYLES = {ApprovalState.WAITING: "bold", ApprovalState.APPROVED: "green", ApprovalState.DENIED: "red"}


def say_approval(approval: Approval, now: datetime, out: Out, *, whole: bool = False) -> None:
    """Say what is asked, by whom and why; `whole` with every argument in full."""
    asked, state = approval.asked, approval.state(now)
    target = f" on {safe(asked.target)}" if asked.target else ""
    style = _STYLES.get(state, "dim")
    out.say(
        f"{safe(approval.approval_id)}  {safe(asked.action)}{target}  {_standing(approval, state, now)}", style=style
    )
    tenant = f" for {safe(asked.run.tenant)}" if asked.run.tenant else ""
    out.say(f"  asks     {safe(asked.run.agent)}{tenant} in run {safe(asked.run.run_id)}, {ago(approval.asked_at)} ago")
    out.say(f"  because  {safe(asked.because)}")
    _say_arguments(approval, out, whole=whole)
    if approval.uncovered:
        out.say(f"  unseen   {list_of(approval.uncovered)}: kept out of the journal, so not covered by the approval")
    if not approval.is_sound:
        out.say("  forged   these are not the arguments that it is about; it cannot be approved", style="red")
    if approval.decided is not None:
        note = f": {safe(approval.decided.note)}" if approval.decided.note else ""
        out.say(f"  decided  {safe(approval.decided.decision)} by {safe(approval.decided.actor)}{note}")
    if whole:
        out.say(f"  expires  {to_the_second(asked.expires_at)}")
        out.say(f"  digest   {safe(asked.arguments_digest)}")


def say_decided(approval: Approval, out: Out) -> None:
    """Say what was decided, and what it means."""
    decided = approval.decided
    assert decided is not None, "it was decided a moment ago"
    by = f"{decided.decision} by {safe(decided.actor)}"
    if decided.decision == APPROVED:
        out.say(f"{safe(approval.approval_id)} {by}: {safe(approval.asked.action)} may be done once")
        out.say(f"  exactly as it was shown, by run {safe(approval.asked.run.run_id)}, until {_until(approval)}")
    else:
        out.say(f"{safe(approval.approval_id)} {by}: {safe(approval.asked.action)} is refused until {_until(approval)}")


def say_what_next(approval_id: str, words: Sequence[str], out: Out) -> None:
    """Say how to decide."""
    purposes = {"show": "every argument", "approve": "it may be done once", "deny": "it is refused"}
    lines = {shell_line("approvals", verb, approval_id, *words): purpose for verb, purpose in purposes.items()}
    width = max(map(len, lines))
    for line, purpose in lines.items():
        out.say(f"{line:<{width}}  {purpose}")


def say_trouble(lines: Sequence[str], out: Out) -> None:
    """Say which switches did not answer, or did not take it."""
    for line in lines:
        out.note(f"  lacks    {line}", style="yellow")


def as_json(approval: Approval, now: datetime) -> dict[str, Any]:
    """The approval as it stands in answers."""
    decided = approval.decided
    return {
        "approval_id": approval.approval_id,
        "state": approval.state(now).value,
        "run": msgspec.to_builtins(approval.asked.run),
        "action": approval.asked.action,
        "target": None if approval.asked.target is None else str(approval.asked.target),
        "arguments": approval.asked.arguments,
        "arguments_digest": approval.asked.arguments_digest,
        "uncovered": list(approval.uncovered),
        "because": approval.asked.because,
        "asked_at": approval.asked_at,
        "expires_at": approval.asked.expires_at,
        "decision": None if decided is None else decided.decision,
        "decided_by": None if decided is None else decided.actor,
        "note": None if decided is None else decided.note,
        "decided_at": approval.decided_at,
        "used_by": None if approval.used is None else str(approval.used),
    }


def _say_arguments(approval: Approval, out: Out, *, whole: bool) -> None:
    shown = [(name, value) for name, value in approval.asked.arguments.items() if name not in approval.uncovered]
    width = _VALUE_WIDTH_WHOLE if whole else _VALUE_WIDTH
    for name, value in shown if whole else shown[:_ARGUMENTS_SHOWN]:
        text = msgspec.json.encode(value).decode()  # as JSON: a text in quotes is not taken for anything else
        cut = f"  ({len(text):,} characters; --json shows them all)" if whole and len(safe(text)) > width else ""
        out.say(f"    {safe(name)} = {short(text, width)}{cut}")
    if not whole and len(shown) > _ARGUMENTS_SHOWN:
        out.say(f"    and {len(shown) - _ARGUMENTS_SHOWN} more")


def _standing(approval: Approval, state: ApprovalState, now: datetime) -> str:
    if state is ApprovalState.WAITING:
        return f"waiting, expires in {_left(approval.asked.expires_at, now)}"
    if state is ApprovalState.APPROVED:
        return f"approved, to be used within {_left(approval.asked.expires_at, now)}"
    return f"used by step {safe(approval.used)}" if state is ApprovalState.USED else state.value


def _left(moment: datetime, now: datetime) -> str:
    seconds = max(0, round((moment - now).total_seconds()))
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s} {unit}"
    return f"{seconds} s"


def _until(approval: Approval) -> str:
    return to_the_second(approval.asked.expires_at)
