"""An incident as its events tell it: when it began and why, what belongs to it, and who closed it.

Whatever order the events came in, the story is the same: a thing is in it once, and stands at its own moment. A signal
stands where it was noticed, not where it was written down.
"""

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from rescind.model.entry import (
    Entry,
    IncidentClosed,
    IncidentNoted,
    IncidentOpened,
    RunOpened,
    StageApproved,
    StageEnded,
)
from rescind.model.signal import Severity, Signal

NOTED_KINDS = ("signal", "order", "lift", "snapshot", "alert", "note")
"""What a line of the timeline can be about."""


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a timeline.

    Attributes:
        at: When it happened; of a signal, when it was noticed.
        what: One of `NOTED_KINDS`.
        ref: The id of the thing.
        detail: For people.
        actor: Who did it, where somebody did.
        facts: As recorded, JSON values.
        late: Whether it was written down after the incident was closed.
    """

    at: datetime
    what: str
    ref: str
    detail: str
    actor: str = ""
    facts: dict[str, Any] = {}
    late: bool = False


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an incident.

    Attributes:
        incident_id: The run that holds its events.
        cause: What its signals are grouped by.
        scope: Whom it is about, as text.
        title: What the first signal said.
        severity: The worst of its signals.
        opened_at: When it was opened.
        opened_by: The guard that opened it.
        signals: How many there were, those that were only counted included.
        told: How many of them people have heard of, by alerts.
        timeline: Oldest first.
        closed_at: None while it is open.
        length: Events in its run; the position that the next one gets.
    """

    incident_id: str
    cause: str
    scope: str
    title: str
    severity: Severity
    opened_at: datetime
    opened_by: str
    signals: int
    told: int
    timeline: tuple[Noted, ...]
    closed_at: datetime | None = None
    closed_by: str = ""
    close_note: str = ""
    length: int

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return self.closed_at is None

    def as_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """The incident as JSON values; its timeline only in a whole one."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        fields["severity"], fields["state"] = self.severity.label, "open" if self.is_open else "closed"
        del fields["length"]
        if not whole:
            del fields["timeline"]
        return fields

    def of(self, what: str) -> tuple[Noted, ...]:
        """The lines of one kind, oldest first."""
        return tuple(noted for noted in self.timeline if noted.what == what)

    def holds(self, what: str, ref: str) -> bool:
        """Whether this thing is in the timeline."""
        return any((noted.what, noted.ref) == (what, ref) for noted in self.timeline)


class _Draft(msgspec.Struct):
    opened: IncidentOpened
    opened_at: datetime
    opened_by: str
    noted: dict[tuple[str, str], Noted] = {}
    closed: IncidentClosed | None = None
    closed_at: datetime | None = None
    length: int = 0


def fold_incidents(entries: Iterable[Entry]) -> list[Incident]:
    """The incidents that the entries tell of, oldest first. Entries come in order of sequence, of any runs."""
    drafts: dict[str, _Draft] = {}
    openers: dict[str, str] = {}
    for entry in entries:
        match entry.event:
            case RunOpened(guard_id=guard_id):
                openers.setdefault(entry.run.run_id, guard_id)
            case IncidentOpened() as opened if opened.incident_id not in drafts:
                opener = openers.get(entry.run.run_id, "")
                drafts[opened.incident_id] = _Draft(opened, entry.recorded_at, opener)
            case IncidentNoted() as noted if noted.incident_id in drafts:
                draft = drafts[noted.incident_id]
                draft.noted.setdefault((noted.what, noted.ref), _line(noted, entry, late=draft.closed is not None))
            case StageEnded() | StageApproved():
                pass  # its course, which `recovery.stages` tells; here they only count
            case IncidentClosed() as closed if closed.incident_id in drafts:
                draft = drafts[closed.incident_id]
                if draft.closed is None:
                    draft.closed, draft.closed_at = closed, entry.recorded_at
            case _:
                continue
        if entry.run.run_id in drafts:
            drafts[entry.run.run_id].length = entry.position + 1
    return [_told(draft) for draft in drafts.values()]


def signal_note(incident_id: str, signal: Signal) -> IncidentNoted:
    """The line that a signal is."""
    said = {
        "severity": signal.severity.label,
        "scope": str(signal.scope),
        "kind": signal.kind.value,
        "rule": signal.rule,
        "noticed_at": signal.noticed_at.isoformat(),
    }
    named = {"run_id": signal.run_id, "step_id": signal.step_id, "facts": signal.facts}
    return IncidentNoted(
        incident_id=incident_id,
        what="signal",
        ref=signal.signal_id,
        detail=signal.detail,
        actor=signal.source,
        facts=said | {name: value for name, value in named.items() if value},
    )


def _line(noted: IncidentNoted, entry: Entry, *, late: bool) -> Noted:
    at = entry.recorded_at
    with contextlib.suppress(KeyError, TypeError, ValueError):  # written by another version, or by no rescind at all
        noticed_at = datetime.fromisoformat(noted.facts["noticed_at"])
        at = noticed_at if noticed_at.tzinfo is not None else at
    return Noted(
        at=at,
        what=noted.what,
        ref=noted.ref,
        detail=noted.detail,
        actor=noted.actor,
        facts=noted.facts,
        late=late,
    )


def _told(draft: _Draft) -> Incident:
    lines = sorted(draft.noted.values(), key=lambda noted: (noted.at, noted.what != "signal", noted.what, noted.ref))
    alerts = [noted.facts for noted in lines if noted.what == "alert"]
    counted = sum(_count(facts.get("uncounted")) for facts in alerts)
    severities = [
        draft.opened.severity,
        *(noted.facts.get("severity", "") for noted in lines if noted.what == "signal"),
    ]
    return Incident(
        incident_id=draft.opened.incident_id,
        cause=draft.opened.cause,
        scope=draft.opened.scope,
        title=draft.opened.title,
        severity=max(_severity(each) for each in severities),
        opened_at=draft.opened_at,
        opened_by=draft.opened_by,
        signals=sum(noted.what == "signal" for noted in lines) + counted,
        told=sum(_count(facts.get("more", 1)) for facts in alerts),
        timeline=tuple(lines),
        closed_at=draft.closed_at,
        closed_by="" if draft.closed is None else draft.closed.actor,
        close_note="" if draft.closed is None else draft.closed.note,
        length=draft.length,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _severity(text: Any) -> Severity:
    try:
        return Severity.parse(str(text))
    except ValueError:
        return Severity.INFO
