"""Incidents: one story for all signals of one cause, in a run of its own in the journal.

I1. Signals of one cause (kind, rule and scope) are one incident, however many they are and whoever notices them. Of
    two guards that open it in the same moment, one opens it and the other one joins.
I2. A signal is noted once, however often it arrives.
I3. A signal that was noticed before an incident's close belongs to that incident, however late it arrives: it joins
    its story, opens nothing and alerts nobody. One that was noticed after it opens the next one, which is numbered.
I4. Alerted once, and then in digests at growing intervals; one process of all says each.
I5. Bounded: after `SIGNALS_NOTED_MAX` signals further ones are only counted, by the process that noticed them, and the
    next digest says how many; after `NOTES_MAX` lines only what a person says is written down.
I6. What cannot be read is no reason to be silent: an incident with an entry that cannot be read may be closed, so a
    signal of its cause opens the next one. Nothing is done about that incident itself, and the others go on.
"""

import hashlib
from bisect import bisect_left

import msgspec

from rescind.clock import Clock, from_us
from rescind.containment.timeline import NOTED_KINDS, Incident, fold_incidents, signal_note
from rescind.errors import EntryUnreadable, JournalUnavailable, SequenceConflict, UsageError
from rescind.journal.behind import again
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import Event, IncidentClosed, IncidentNoted, IncidentOpened, RunOpened
from rescind.model.scope import Scope, Term
from rescind.model.signal import Signal
from rescind.model.step import RunInfo, canonical_json
from rescind.triggers.digest import digest_text, due_at_s

INCIDENT_AGENT = "rescind-incident"
"""The agent name of the runs that incidents are recorded in: `Query(agent_name=INCIDENT_AGENT)` finds them all."""

SIGNALS_NOTED_MAX = 100
"""Signals of one incident that are written down one by one. Nobody reads more, and each costs a write."""

NOTES_MAX = 1_000
"""Lines of a timeline. Its run is read whole whenever a signal joins it; a thousand take some ten milliseconds."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a signal.

    Attributes:
        incident_id: Where it belongs.
        opened: Whether this call opened the incident.
        noted: Whether it is in the timeline or counted there; if not, its caller counts it (I5).
        alert: What people should hear now, and nobody else will say; empty if nothing. It counts what was uncounted.
    """

    incident_id: str
    opened: bool = False
    noted: bool = True
    alert: str = ""


def open_or_join(
    journal: Journal,
    signal: Signal,
    *,
    clock: Clock,
    guard_id: str,
    tenant: str = "",
    agent: str = "",
    uncounted: int = 0,
) -> Joined:
    """The incident that a signal belongs to, opened if there is none. Durable on return.

    Args:
        journal: Where incidents are.
        signal: The signal; one that calls for an incident.
        clock: The time.
        guard_id: Who opens it.
        tenant: Whose incident it is, if it is about one run.
        agent: `NAME` or `NAME@VERSION`: signals about single runs of it are then one incident about the agent, and not
            one for each run.
        uncounted: Signals of this cause that this process was told were not noted, and that no digest has counted.

    Raises: JournalUnavailable.
    """
    scope = scope_of(signal, agent)
    cause = signal.cause_in(scope)

    def turn(*, crowded: bool = False) -> Joined:
        incident_id, incident = _belonging(journal, cause, signal)
        if incident is None:
            drafts, joined = _opening(signal, incident_id, cause, scope, guard_id, tenant, clock)
        else:
            drafts, joined = _joining(signal, incident, uncounted, clock)
            if crowded:
                drafts = [msgspec.structs.replace(draft, expected_position=None) for draft in drafts]
        if drafts:
            journal.append(drafts)
        return joined

    try:
        return again(turn)
    except SequenceConflict:  # who wrote in between, so many times, matters less than the signal
        busy = JournalUnavailable(f"the incident of {cause} is being written to by others all the time")
        return again(lambda: turn(crowded=True), busy=busy, turns=1)


def note(
    journal: Journal,
    incident_id: str,
    what: str,
    ref: str,
    detail: str,
    *,
    clock: Clock,
    actor: str = "",
    facts: dict[str, object] | None = None,
) -> bool:
    """Something belongs to an incident's timeline: an order placed for it, a run's snapshot. Durable on return.

    Args:
        journal: Where it is.
        incident_id: The whole id.
        what: One of `NOTED_KINDS`.
        ref: The id of the thing; the same thing is noted once.
        detail: For people.
        clock: The time.
        actor: Who did it.
        facts: JSON values.

    Returns: Whether it is in the timeline; not if that is full and no person speaks (I5).
    Raises: UsageError, for an unknown incident or kind; JournalUnavailable.
    """
    if what not in NOTED_KINDS:
        raise UsageError(f"an incident's timeline has no lines of {what!r}; they are: {', '.join(NOTED_KINDS)}")
    incident = incident_of(journal, incident_id)
    if incident.holds(what, ref):
        return True
    if len(incident.timeline) >= NOTES_MAX and what != "note":
        return False
    event = IncidentNoted(incident_id=incident_id, what=what, ref=ref, detail=detail, actor=actor, facts=facts or {})
    # At any position: who notes the same thing meanwhile writes the same line, which is told once.
    journal.append([Draft(run_id=incident_id, event=event, recorded_at_us=clock.now_us())])
    return True


def close(journal: Journal, incident_id: str, *, actor: str, note: str = "", clock: Clock) -> Incident:
    """A person closes an incident. Durable on return.

    Returns: The incident as it is now.
    Raises: UsageError, for an unknown one and for one that is closed already; JournalUnavailable.
    """

    def turn() -> Incident:
        incident = incident_of(journal, incident_id)
        if incident.closed_at is not None:
            at = f"{incident.closed_at:%Y-%m-%d %H:%M:%S} UTC"
            raise UsageError(f"incident {incident_id} was closed by {incident.closed_by or 'somebody'} at {at}")
        event = IncidentClosed(incident_id=incident_id, actor=actor, note=note)
        journal.append([_draft(incident_id, event, clock, incident.length)])
        return incident_of(journal, incident_id)

    return again(turn, busy=UsageError(f"incident {incident_id} is being written to by others all the time; try again"))


def list_incidents(journal: Journal, *, gaps: list[EntryUnreadable] | None = None) -> list[Incident]:
    """All incidents, oldest first. Reads their own runs and nothing else.

    Args:
        journal: Where they are.
        gaps: Gets the entries that cannot be read (I6): what is told of their incidents is told without them, and one
            whose first entries they are is missing. Without it, they raise.
    """
    query = Query(agent_name=INCIDENT_AGENT)
    return fold_incidents(every_entry(journal, query) if gaps is None else readable_entries(journal, query, gaps))


def incident_of(journal: Journal, incident_id: str) -> Incident:
    """One incident, by its whole id. Raises: UsageError, if there is none."""
    found = _find(journal, incident_id)
    if found is None:
        raise UsageError(f"the journal knows no incident {incident_id!r}; `rescind incidents list` shows them")
    return found


def digest(journal: Journal, incident_id: str, *, clock: Clock, uncounted: int = 0) -> str:
    """What people should hear of signals that came since the last word, if it is time (I4); empty if it is not."""
    incident = incident_of(journal, incident_id)
    event = _digest(incident, clock, uncounted, more=0)
    if event is None:
        return ""
    try:
        journal.append([_draft(incident_id, event, clock, incident.length)])
    except SequenceConflict:
        return ""  # somebody else has come first; if that was no digest, the next look finds it due
    return event.detail


def scope_of(signal: Signal, agent: str) -> Scope:
    """Whom the incident of a signal is about: its scope, with an agent, if one is given, in the place of its runs."""
    terms = {term for term in signal.scope.terms if term.kind not in ("run", "tree")}
    if not agent or len(terms) == len(signal.scope.terms):
        return signal.scope
    if not any(term.kind == "agent" for term in terms):
        terms.add(Term("agent", agent))
    return Scope(tuple(sorted(terms)))


def _belonging(journal: Journal, cause: str, signal: Signal) -> tuple[str, Incident | None]:
    """Which incident of this cause a signal belongs to (I3): the first that was not closed before it was noticed.

    They are numbered without gaps and closed in order, so that a few of them tell which it is.
    """
    seen: dict[int, tuple[str, Incident | None]] = {}

    def may_hold(number: int) -> bool:
        incident_id = f"inc_{hashlib.sha256(canonical_json(cause)).hexdigest()[:16]}_{number}"
        try:
            incident = _find(journal, incident_id)
        except EntryUnreadable:  # nobody knows whether it is closed: the signal is told in the next one (I6)
            return False
        seen[number] = incident_id, incident
        return incident is None or incident.closed_at is None or signal.noticed_at <= incident.closed_at

    last = 1
    while not may_hold(last):
        last *= 2
    number = bisect_left(range(last // 2 + 1, last), True, key=may_hold) + last // 2 + 1
    return seen[number]


def _opening(
    signal: Signal, incident_id: str, cause: str, scope: Scope, guard_id: str, tenant: str, clock: Clock
) -> tuple[list[Draft], Joined]:
    run = RunInfo(run_id=incident_id, agent_name=INCIDENT_AGENT, tenant=_tenant(scope, tenant))
    opened = IncidentOpened(
        incident_id=incident_id,
        cause=cause,
        scope=str(scope),
        title=signal.detail,
        severity=signal.severity.label,
    )
    alert = f"{signal.name} on {scope}: {signal.detail}"
    events: list[Event] = [
        RunOpened(run=run, guard_id=guard_id),
        opened,
        signal_note(incident_id, signal),
        IncidentNoted(incident_id=incident_id, what="alert", ref="alert_1", detail=alert),
    ]
    drafts = [_draft(incident_id, event, clock, position) for position, event in enumerate(events)]
    return drafts, Joined(incident_id=incident_id, opened=True, alert=alert)


def _joining(signal: Signal, incident: Incident, uncounted: int, clock: Clock) -> tuple[list[Draft], Joined]:
    if incident.holds("signal", signal.signal_id):
        return [], Joined(incident_id=incident.incident_id)
    noted = len(incident.of("signal")) < SIGNALS_NOTED_MAX and len(incident.timeline) < NOTES_MAX
    events: list[Event] = [signal_note(incident.incident_id, signal)] if noted else []
    said = _digest(incident, clock, uncounted if noted else uncounted + 1, more=1 if noted else 0)
    if said is not None:
        events.append(said)
    drafts = [_draft(incident.incident_id, event, clock, incident.length + n) for n, event in enumerate(events)]
    counted = noted or said is not None
    return drafts, Joined(incident_id=incident.incident_id, noted=counted, alert="" if said is None else said.detail)


def _digest(incident: Incident, clock: Clock, uncounted: int, *, more: int) -> IncidentNoted | None:
    """The digest that is due now: of `more` signals and of those in the timeline that no alert has counted."""
    alerts = incident.of("alert")
    fresh = incident.signals + more + uncounted - incident.told
    now_us = clock.now_us()
    last_s = max((noted.at.timestamp() for noted in alerts), default=0.0)
    if not incident.is_open or fresh <= 0 or now_us / 1e6 < due_at_s(len(alerts), last_s):
        return None
    since = (from_us(now_us) - max((noted.at for noted in alerts), default=incident.opened_at)).total_seconds()
    return IncidentNoted(
        incident_id=incident.incident_id,
        what="alert",
        ref=f"alert_{len(alerts) + 1}",
        detail=digest_text(fresh, incident.told + fresh, since),
        facts={"more": fresh, "uncounted": uncounted},
    )


def _tenant(scope: Scope, tenant: str) -> str:
    # Every opener must say the same: what is about an agent that works for many tenants belongs to none of them.
    named = [term.value for term in scope.terms if term.kind == "tenant"]
    if named:
        return named[0]
    return tenant if any(term.kind in ("run", "tree") for term in scope.terms) else ""


def _find(journal: Journal, incident_id: str) -> Incident | None:
    found = fold_incidents(every_entry(journal, Query(run_id=incident_id, agent_name=INCIDENT_AGENT)))
    return found[0] if found else None


def _draft(incident_id: str, event: Event, clock: Clock, position: int) -> Draft:
    return Draft(run_id=incident_id, event=event, recorded_at_us=clock.now_us(), expected_position=position)
