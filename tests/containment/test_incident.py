"""Incidents: the laws I1 to I6, over signals that come twice, late and in any order."""

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOON, a_draft, events_of, spoil
from rescind.containment.incident import (
    INCIDENT_AGENT,
    NOTES_MAX,
    SIGNALS_NOTED_MAX,
    Joined,
    close,
    digest,
    incident_of,
    list_incidents,
    note,
    open_or_join,
    scope_of,
)
from rescind.containment.incident_desk import IncidentDesk
from rescind.containment.timeline import fold_incidents
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Journal, Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import IncidentNoted, IncidentOpened, RunOpened
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import RunInfo
from rescind.testing import ManualClock


def a_signal(
    signal_id: str = "sig-1", scope: str = "run:r-1", *, at: datetime = NOON, severity: Severity = Severity.HIGH
) -> Signal:
    return Signal(
        signal_id=signal_id,
        kind=SignalKind.BLAST_RADIUS,
        rule="records_per_run",
        severity=severity,
        scope=Scope.parse(scope),
        detail="101 records in this run, 100 are allowed",
        facts={"records": 101},
        noticed_at=at,
        run_id="r-1",
        step_id="7",
        source="guard-1",
    )


class Desk:
    """A journal and a clock, and short words for what is done with them."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal: Journal = journal or MemoryJournal()
        self.clock = ManualClock(NOON)

    def signal(self, signal: Signal, **fields: str) -> Joined:
        return open_or_join(self.journal, signal, clock=self.clock, guard_id="guard-1", **fields)  # type: ignore[arg-type]

    def close(self, incident_id: str) -> None:
        close(self.journal, incident_id, actor="ann", note="fixed", clock=self.clock)

    def later(self, duration_s: float) -> datetime:
        self.clock.advance(duration_s)
        return self.clock.now()


def test_the_first_signal_opens_an_incident_that_says_what_was_noticed_with_which_numbers() -> None:
    desk = Desk()
    joined = desk.signal(a_signal(), tenant="acme")

    (incident,) = list_incidents(desk.journal)
    assert joined.opened
    assert incident.incident_id == joined.incident_id
    assert (incident.cause, incident.title) == (a_signal().cause, a_signal().detail)
    assert (incident.severity, incident.is_open, incident.signals) == (Severity.HIGH, True, 1)
    (line,) = incident.of("signal")
    assert (line.ref, line.detail, line.actor) == ("sig-1", "101 records in this run, 100 are allowed", "guard-1")
    assert line.facts["facts"] == {"records": 101}
    assert desk.journal.run(joined.incident_id) == RunInfo(
        run_id=joined.incident_id, agent_name=INCIDENT_AGENT, tenant="acme"
    )


def test_a_hundred_runs_of_one_agent_are_one_incident_and_not_a_hundred() -> None:
    desk = Desk()
    joined = [
        desk.signal(a_signal(f"sig-{n}", f"run:r-{n}"), agent="billing-agent@2", tenant=f"t{n}") for n in range(100)
    ]

    assert [each.opened for each in joined] == [True] + [False] * 99
    (incident,) = list_incidents(desk.journal)
    assert incident.scope == "agent:billing-agent@2"
    assert incident.signals == 100
    assert desk.journal.run(incident.incident_id).tenant == ""  # type: ignore[union-attr]  # it is there


@pytest.mark.parametrize(
    ("scope", "agent", "grouped"),
    [
        ("run:r", "", "run:r"),
        ("run:r", "a@1", "agent:a@1"),
        ("tree:r+action:pay", "a@1", "action:pay+agent:a@1"),
        ("agent:a+run:r", "a@1", "agent:a"),
        ("action:pay", "a@1", "action:pay"),
    ],
)
def test_an_agent_stands_in_the_place_of_its_runs(scope: str, agent: str, grouped: str) -> None:
    assert str(scope_of(a_signal(scope=scope), agent)) == grouped


def test_other_rules_and_other_scopes_are_other_incidents() -> None:
    desk = Desk()
    first = desk.signal(a_signal())
    assert desk.signal(a_signal("sig-2", "run:r-2")).opened
    other = msgspec.structs.replace(a_signal("sig-3"), rule="tenants_per_run")
    assert desk.signal(other).opened
    assert not desk.signal(a_signal("sig-4")).opened
    assert incident_of(desk.journal, first.incident_id).signals == 2


def test_a_signal_is_noted_once_however_often_it_comes() -> None:
    desk = Desk()
    for _ in range(3):
        joined = desk.signal(a_signal())
    assert not joined.opened
    assert joined.noted
    assert incident_of(desk.journal, joined.incident_id).signals == 1
    assert len(events_of(desk.journal)) == 4  # opened twice over: the run, the incident, its signal, its alert


def test_after_a_close_a_late_signal_joins_the_history_and_a_new_one_opens_the_next() -> None:
    desk = Desk()
    first = desk.signal(a_signal())
    early = desk.later(60)
    desk.later(60)
    desk.close(first.incident_id)

    late = desk.signal(a_signal("sig-2", at=early))
    assert (late.incident_id, late.opened, late.alert) == (first.incident_id, False, "")
    closed = incident_of(desk.journal, first.incident_id)
    assert not closed.is_open
    assert [line.late for line in closed.of("signal")] == [False, True]

    desk.later(1)
    after = desk.signal(a_signal("sig-3", at=desk.clock.now()))
    assert after.opened
    assert after.incident_id.removesuffix("_2") == first.incident_id.removesuffix("_1")
    assert desk.signal(a_signal("sig-4", at=early)).incident_id == first.incident_id


def test_the_right_one_of_many_incidents_is_found() -> None:
    desk = Desk()
    moments: list[datetime] = []
    for number in range(13):
        moments.append(desk.later(10))
        joined = desk.signal(a_signal(f"sig-{number}", at=moments[-1]))
        assert joined.opened
        desk.later(10)
        desk.close(joined.incident_id)
    for number, moment in enumerate(moments, start=1):
        late = desk.signal(a_signal(f"late-{number}", at=moment))
        assert (late.incident_id.rpartition("_")[2], late.opened) == (str(number), False)


# --- in any order, twice, late ---

Arrival = tuple[int, str]
"""Minutes after noon at which it is noticed, and its scope."""

_SCOPES = ("run:a", "run:b")
_CLOSES = (30, 60)  # minutes after noon; whatever is open then is closed


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 89), st.sampled_from(_SCOPES)), min_size=1, max_size=25),
    st.data(),
)
def test_signals_twice_late_and_in_any_order_make_the_same_incidents(
    arrivals: list[Arrival], data: st.DataObject
) -> None:
    signals = [
        a_signal(f"sig-{number}", scope, at=NOON + timedelta(minutes=minute))
        for number, (minute, scope) in enumerate(arrivals)
    ]
    expected = _expected(signals)
    repeated = [*signals, *data.draw(st.lists(st.sampled_from(signals), max_size=10))]
    told = _told(data.draw(st.permutations(repeated)), signals)
    assert told == expected


def _expected(signals: list[Signal]) -> dict[tuple[str, int], frozenset[str]]:
    """By the definition: the incident of a signal is counted by how many were closed before it was noticed."""
    found: dict[tuple[str, int], set[str]] = {}
    for scope in _SCOPES:
        number, is_open = 1, False
        events: list[tuple[datetime, int, Signal | None]] = [
            *((signal.noticed_at, 0, signal) for signal in signals if str(signal.scope) == scope),
            *((NOON + timedelta(minutes=minute), 1, None) for minute in _CLOSES),
        ]
        for _, _, signal in sorted(events, key=lambda event: event[:2]):
            if signal is not None:
                found.setdefault((scope, number), set()).add(signal.signal_id)
                is_open = True
            elif is_open:
                number, is_open = number + 1, False
    return {key: frozenset(ids) for key, ids in found.items()}


def _told(arrivals: list[Signal], signals: list[Signal]) -> dict[tuple[str, int], frozenset[str]]:
    """Deliver them: the first of each incident in time, so that it is there to be closed, the rest as they come."""
    desk = Desk()
    firsts: dict[tuple[str, int], Signal] = {}
    for signal in sorted(signals, key=lambda each: each.noticed_at):
        period = sum(signal.noticed_at > NOON + timedelta(minutes=minute) for minute in _CLOSES)
        firsts.setdefault((str(signal.scope), period), signal)
    for period in range(len(_CLOSES) + 1):
        for (_, its_period), signal in firsts.items():
            if its_period == period:
                desk.clock = ManualClock(signal.noticed_at)
                desk.signal(signal)
        if period < len(_CLOSES):
            desk.clock = ManualClock(NOON + timedelta(minutes=_CLOSES[period]))
            for incident in list_incidents(desk.journal):
                if incident.is_open:
                    desk.close(incident.incident_id)
    desk.clock = ManualClock(NOON + timedelta(minutes=90))
    for signal in arrivals:
        assert not desk.signal(signal).opened
    return {
        (incident.scope, int(incident.incident_id.rpartition("_")[2])): frozenset(
            line.ref for line in incident.of("signal")
        )
        for incident in list_incidents(desk.journal)
    }


# --- many at once ---

_OPENER = """
import sys
from pathlib import Path
from builders import NOON
from containment.test_incident import a_signal
from rescind.clock import SystemClock
from rescind.containment.incident import open_or_join
from rescind.journal.sqlite import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
opened = 0
for number in range(10):
    signal = a_signal(f"{sys.argv[2]}-{number}", f"run:{number}")
    opened += open_or_join(journal, signal, clock=SystemClock(), guard_id=sys.argv[2]).opened
print(opened, flush=True)
journal.close()
"""


def test_two_processes_that_notice_the_same_thing_open_one_incident(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    SqliteJournal(path).close()
    command = [sys.executable, "-c", _OPENER, str(path)]
    tests = str(Path(__file__).parent.parent)
    processes = [
        subprocess.Popen(
            [*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": tests}
        )
        for name in ("g1", "g2", "g3")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]

    journal = SqliteJournal(path)
    incidents = list_incidents(journal)
    openings = [entry for entry in journal.entries(Query()) if isinstance(entry.event, IncidentOpened)]
    journal.close()
    assert sum(int(answer) for answer in answers) == len(incidents) == len(openings) == 10
    for incident in incidents:
        assert sorted(line.ref[:2] for line in incident.of("signal")) == ["g1", "g2", "g3"]
        assert len(incident.of("alert")) == 1


def test_a_close_that_meets_another_is_told_so() -> None:
    desk = Desk()
    incident_id = desk.signal(a_signal()).incident_id
    desk.close(incident_id)
    with pytest.raises(UsageError, match="was closed by ann at 2026-11-21 12:00:00 UTC"):
        desk.close(incident_id)


# --- alerted once, then in digests ---


def test_people_hear_of_an_incident_once_and_then_in_digests() -> None:
    desk = Desk()
    alerts = {0: desk.signal(a_signal("sig-0")).alert}
    for second in range(1, 400):
        at = desk.later(1)
        alerts[second] = desk.signal(a_signal(f"sig-{second}", at=at)).alert
    said = {second: alert for second, alert in alerts.items() if alert}
    assert said[0] == "blast_radius.records_per_run on run:r-1: 101 records in this run, 100 are allowed"
    assert said[60] == "60 more signals in 60 s, 61 in all"
    assert list(said) == [0, 60, 360]


def test_after_a_hundred_signals_only_their_number_is_written_down_and_none_is_lost() -> None:
    journal, clock = MemoryJournal(), ManualClock(NOON)
    desk = IncidentDesk(journal, clock=clock, guard_id="guard-1")
    for number in range(1_000):
        joined = desk.open_or_join(a_signal(f"sig-{number}", at=clock.now()))
        clock.advance(1)
    clock.advance(3_600)
    (last,) = desk.digests()
    assert last.alert.endswith("1,000 in all")
    assert desk.digests() == ()
    incident = incident_of(journal, joined.incident_id)
    assert (len(incident.of("signal")), incident.signals) == (SIGNALS_NOTED_MAX, 1_000)
    assert incident.length < 120


def test_a_digest_is_said_by_one_process_and_of_a_closed_incident_by_none() -> None:
    desk = Desk()
    incident_id = desk.signal(a_signal()).incident_id
    desk.signal(a_signal("sig-2"))
    desk.later(61)
    assert digest(desk.journal, incident_id, clock=desk.clock) == "1 more signal in 61 s, 2 in all"
    assert digest(desk.journal, incident_id, clock=desk.clock) == ""
    desk.signal(a_signal("sig-3"))
    desk.close(incident_id)
    desk.later(10_000)
    assert digest(desk.journal, incident_id, clock=desk.clock) == ""


# --- what else belongs to it ---


def test_orders_snapshots_and_notes_stand_in_the_timeline_once_and_in_time() -> None:
    desk = Desk()
    incident_id = desk.signal(a_signal()).incident_id

    def noted(what: str, ref: str) -> bool:
        desk.later(1)
        return note(desk.journal, incident_id, what, ref, f"{what} {ref}", clock=desk.clock, actor="policy")

    assert noted("order", "ord-1")
    assert noted("snapshot", "r-1")
    assert noted("order", "ord-1")
    timeline = incident_of(desk.journal, incident_id).timeline
    assert [(line.what, line.ref) for line in timeline] == [
        ("signal", "sig-1"),
        ("alert", "alert_1"),
        ("order", "ord-1"),
        ("snapshot", "r-1"),
    ]


def test_a_full_timeline_takes_only_what_a_person_says() -> None:
    desk = Desk()
    incident_id = desk.signal(a_signal()).incident_id
    drafts = [
        a_draft(IncidentNoted(incident_id=incident_id, what="order", ref=f"ord-{n}", detail="held"), incident_id)
        for n in range(NOTES_MAX)
    ]
    desk.journal.append(drafts)
    assert not note(desk.journal, incident_id, "order", "ord-x", "held", clock=desk.clock)
    assert note(desk.journal, incident_id, "note", "n-1", "called the bank", clock=desk.clock)
    assert not desk.signal(a_signal("sig-2")).noted


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda desk: note(desk.journal, "inc_no", "order", "o", "d", clock=desk.clock), "rescind incidents list"),
        (lambda desk: note(desk.journal, "inc_no", "odd", "o", "d", clock=desk.clock), "signal, order, lift"),
        (lambda desk: desk.close("inc_no"), "no incident 'inc_no'"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_remedy(act: Callable[[Desk], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        act(Desk())


def test_what_another_version_wrote_is_told_as_far_as_it_is_understood() -> None:
    journal = MemoryJournal()
    run = RunInfo(run_id="inc_x_1", agent_name=INCIDENT_AGENT)
    opened = IncidentOpened(incident_id="inc_x_1", cause="c", scope="s", title="t", severity="apocalyptic")
    odd = {"noticed_at": "yesterday", "severity": 7, "uncounted": "many"}
    drafts = [
        a_draft(RunOpened(run=run, guard_id="g"), "inc_x_1"),
        a_draft(opened, "inc_x_1"),
        a_draft(IncidentNoted(incident_id="inc_x_1", what="signal", ref="1", detail="", facts=odd), "inc_x_1"),
        a_draft(IncidentNoted(incident_id="inc_x_1", what="omen", ref="1", detail="", facts={}), "inc_x_1"),
        a_draft(IncidentNoted(incident_id="inc_x_1", what="alert", ref="1", detail="", facts=odd), "inc_x_1"),
    ]
    journal.append(drafts)
    (incident,) = fold_incidents(journal.entries(Query()))
    assert (incident.severity, incident.signals, len(incident.timeline)) == (Severity.INFO, 1, 3)
    assert incident.length == 5


# --- I6 ---


def test_i6_a_signal_of_an_incident_that_cannot_be_read_opens_the_next_and_alerts() -> None:
    journal, clock = MemoryJournal(), ManualClock()
    first = open_or_join(journal, a_signal("sig-1"), clock=clock, guard_id="guard-1")
    other = open_or_join(journal, a_signal("sig-2", "run:r-2"), clock=clock, guard_id="guard-1")
    sequence = spoil(journal, first.incident_id, "incident_noted")

    joined = open_or_join(journal, a_signal("sig-3"), clock=clock, guard_id="guard-2")
    assert joined.opened
    assert joined.alert
    assert joined.incident_id not in (first.incident_id, other.incident_id)
    assert open_or_join(journal, a_signal("sig-4"), clock=clock, guard_id="guard-2").incident_id == joined.incident_id

    gaps: list[EntryUnreadable] = []
    known = {incident.incident_id for incident in list_incidents(journal, gaps=gaps)}
    assert known == {first.incident_id, other.incident_id, joined.incident_id}
    assert [(gap.sequence, gap.run_id) for gap in gaps] == [(sequence, first.incident_id)]
    with pytest.raises(EntryUnreadable):
        close(journal, first.incident_id, actor="ann", clock=clock)


def test_i6_an_incident_that_cannot_be_read_keeps_no_other_from_its_digest() -> None:
    journal, clock = MemoryJournal(), ManualClock()
    desk = IncidentDesk(journal, clock=clock, guard_id="guard-1")
    first = desk.open_or_join(a_signal("sig-1"))
    desk.open_or_join(a_signal("sig-2", "run:r-2"))
    for number in range(3, 6):
        desk.open_or_join(a_signal(f"sig-{number}", "run:r-2"))
    spoil(journal, first.incident_id)
    clock.advance(timedelta(days=1).total_seconds())

    assert len(desk.digests()) == 1
