"""The alert of a call that waits for a person. Its arguments are not in it: who decides looks at all of them."""

import hashlib
import shlex
from datetime import UTC, datetime

import msgspec

from rescind.model.entry import ApprovalAsked
from rescind.switch.alerts.alert import Alert
from rescind.switch.alerts.text import line_of

_TITLE_LENGTH_MAX = 160


def alert_of_asked(asked: ApprovalAsked, *, switch_id: str, at: datetime) -> Alert:
    """The alert of an approval that is on the switch's disk, and waits.

    Args:
        asked: What is asked.
        switch_id: The switch that says so.
        at: When, aware.
    """
    approval_id = line_of(asked.approval_id)
    lines = {
        "because": line_of(asked.because),
        "target": line_of(asked.target) if asked.target else "",
        "tenant": line_of(asked.run.tenant),
        "run": line_of(asked.run.run_id),
        "expires": f"{asked.expires_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "switch": line_of(switch_id),
        "to see it": f"rescind approvals show {shlex.quote(approval_id)}",
    }
    return Alert(
        alert_id="approval-asked_" + hashlib.sha256(asked.approval_id.encode("utf-8", "replace")).hexdigest()[:32],
        kind="approval.asked",
        severity="warning",
        title=line_of(f"APPROVE? {asked.action} by {asked.run.agent}", _TITLE_LENGTH_MAX),
        body="\n".join(f"{name}: {value}" for name, value in lines.items() if value),
        subject=f"approval/{approval_id}",
        switch_id=switch_id,
        at=at,
        data={
            "approval_id": asked.approval_id,
            "run": msgspec.to_builtins(asked.run),
            "action": asked.action,
            "because": asked.because,
            "expires_at": msgspec.to_builtins(asked.expires_at),
        },
    )
