"""Looking at a journal again (RP1 to RP4): the facts that the guard had, and what another policy would have done."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import rescind
from builders import NOON, a_run, a_step
from rescind.journal.memory import MemoryJournal
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import Ended, Entry, Event, Intended, RunClosed, RunOpened, Signalled, Verified
from rescind.model.outcome import Completed, Failed
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import REDACTED, RunInfo, Step, Target
from rescind.switch.memory import MemoryOrders
from rescind.triggers import replay as module
from rescind.triggers.facts import Call, End
from rescind.triggers.policy import Policy
from rescind.triggers.policy_file import PolicyFile, read_policy
from rescind.triggers.recorded import LOOK_AHEAD, SPAWN, calls_of, facts_of
from rescind.triggers.replay import Fired, Replay, replay

RUN = a_run("run-1")


def entries(*events: Event | tuple[RunInfo, Event]) -> list[Entry]:
    """Entries a second apart, of run-1 unless a run is given."""
    found: list[Entry] = []
    for number, each in enumerate(events):
        run, event = each if isinstance(each, tuple) else (RUN, each)
        at = NOON + timedelta(seconds=number)
        found.append(Entry(sequence=number + 1, position=number, run=run, recorded_at=at, event=event, hash=""))
    return found


def a_write(number: int, run: RunInfo = RUN, **fields: object) -> list[tuple[RunInfo, Event]]:
    step = write_of(number, **fields)
    return [(run, Intended(step)), (run, Ended(step_id=step.step_id, outcome=Completed(None)))]


def write_of(number: int, **fields: object) -> Step:
    return a_step(str(number), **({"target": Target("erp", "invoice", f"inv_{number}")} | fields))  # type: ignore[arg-type]


def writes(count: int, run: RunInfo = RUN) -> list[tuple[RunInfo, Event]]:
    return [event for number in range(count) for event in a_write(number, run, arguments_digest=str(number))]


def policy_of(text: str) -> Policy:
    return read_policy(text.encode(), name="p.yaml")


BLAST = "detect: {blast_radius: {records_per_run: 3, records_per_minute: 1000}}\n"


# --- facts ---


def test_rp1_a_call_and_its_end_are_made_of_intent_and_outcome() -> None:
    step = a_step("7", requested={"invoice_id": "inv_1", "card": REDACTED})
    call, end = calls_of(entries(Intended(step), Ended(step_id="7", outcome=Failed("no"))))

    assert isinstance(call, Call)
    assert isinstance(end, End)
    assert (call.run, call.action, call.writes, call.step_id) == (RUN, "invoice.status.update", True, "7")
    assert call.arguments == {"invoice_id": "inv_1"}
    assert (call.target, call.repeats) == (Target("erp", "invoice", "inv_1"), step.arguments_digest)
    assert end.call is call
    assert end.outcome == Failed("no")
    assert end.duration_s == pytest.approx(1.0)


def test_rp1_what_was_approved_and_not_what_was_asked_for_is_what_was_done() -> None:
    step = a_step("1", requested={"amount": 900}, approved={"amount": 5})
    (call,) = calls_of(entries(Intended(step)))

    assert isinstance(call, Call)
    assert call.arguments == {"amount": 5}


@pytest.mark.parametrize("between", [0, 1, LOOK_AHEAD - 2])
def test_rp1_a_verification_belongs_to_the_end_before_it_whatever_other_runs_did_meanwhile(between: int) -> None:
    other = a_run("run-2")
    noise: list[tuple[RunInfo, Event]] = [(other, RunClosed(guard_id="g", how="ended"))] * between
    step = a_step("1")
    facts = calls_of(
        entries(Intended(step), Ended(step_id="1", outcome=Completed(None)), *noise, Verified(step_id="1", holds=False))
    )

    _, end = facts
    assert isinstance(end, End)
    assert end.verified is False


def test_rp4_a_verification_that_never_comes_is_not_awaited_for_ever() -> None:
    step = a_step("1")
    taken = 0

    def endless() -> Iterator[Entry]:
        nonlocal taken
        yield from entries(Intended(step), Ended(step_id="1", outcome=Completed(None)))
        for entry in entries(*[(a_run("run-2"), RunClosed(guard_id="g", how="ended"))] * 5_000):
            taken += 1
            yield entry

    facts = calls_of(endless())
    next(facts)
    end = next(facts)
    assert isinstance(end, End)
    assert end.verified is None
    assert taken <= LOOK_AHEAD + 2


def test_an_outcome_whose_intent_is_not_in_the_journal_is_left_out() -> None:
    assert list(calls_of(entries(Ended(step_id="1", outcome=Completed(None))))) == []


def test_a_child_run_is_a_spawn_of_the_run_that_opened_it() -> None:
    child = a_run("run-2", ancestors=("run-1",))
    opened = [(RUN, RunOpened(run=RUN, guard_id="g")), (child, RunOpened(run=child, guard_id="g"))]
    (call,) = calls_of(entries(*opened))

    assert isinstance(call, Call)
    assert (call.run, call.action, call.spawns, call.writes) == (RUN, SPAWN, True, False)


def test_runs_that_are_paperwork_have_no_calls() -> None:
    assert list(facts_of(entries(RunOpened(run=RUN, guard_id="g")))) == []


# --- firing ---


def fired(text: str, *events: Event | tuple[RunInfo, Event]) -> list[Fired]:
    return list(replay(policy_of(text), facts_of(entries(*events))))


def test_what_would_have_fired_is_said_once_with_its_step_and_its_moment() -> None:
    (found,) = fired(BLAST, *writes(6))

    assert (found.signal.kind, found.signal.rule) == (SignalKind.BLAST_RADIUS, "records_per_run")
    assert (found.signal.run_id, found.signal.step_id, found.action) == ("run-1", "3", "invoice.status.update")
    assert found.at == NOON + timedelta(seconds=6)
    assert found.decision.words == ("deny", "read_only on run", "incident")
    assert found.prevents
    assert not found.already_refused


def test_the_same_journal_gives_the_same_again() -> None:
    assert fired(BLAST, *writes(6)) == fired(BLAST, *writes(6))


def test_a_policy_in_shadow_says_what_it_would_do_and_refuses_nothing() -> None:
    running = Replay(policy_of("mode: shadow\n" + BLAST))
    found = [each for fact in facts_of(entries(*writes(6))) for each in running.feed(fact)]

    assert [each.decision.shadow for each in found] == [True]
    assert (running.runs, running.writes, running.refused) == (1, 6, 0)


@pytest.mark.parametrize(
    ("then", "refused"),
    [
        ("report", 0),
        ("deny", 3),  # the fourth, fifth and sixth record, each again
        ("read_only on run", 3),
        ("read_only on run for 2s", 3),  # each of them holds the run anew
        ("block_fan_out", 0),  # stops no write
    ],
)
def test_rp3_the_writes_that_would_have_been_refused_are_counted(then: str, refused: int) -> None:
    running = Replay(policy_of(f"{BLAST}respond: [{{signal: blast_radius, then: {then}}}]"))
    for fact in facts_of(entries(*writes(6))):
        running.feed(fact)

    assert running.refused == refused


def test_rp3_a_measure_on_an_agent_refuses_its_other_runs_too_and_nobody_elses() -> None:
    twin, other = a_run("run-2"), a_run("run-3", agent_name="mail-agent")
    running = Replay(policy_of(f"{BLAST}respond: [{{signal: blast_radius, then: read_only on agent}}]"))
    for fact in facts_of(entries(*writes(4), *writes(2, twin), *writes(2, other))):
        running.feed(fact)

    assert (running.runs, running.writes, running.refused) == (3, 8, 1 + 2)


def test_rp3_what_fires_after_its_run_was_stopped_says_so() -> None:
    found = fired(BLAST, *writes(9))

    assert [each.already_refused for each in found] == [False, *[True] * (len(found) - 1)]


def test_rp2_a_run_that_was_closed_begins_anew_when_it_is_continued() -> None:
    closed = RunClosed(guard_id="g", how="ended")

    assert fired(BLAST, *writes(3), closed, *writes(3)) == []
    assert len(fired(BLAST, *writes(3), *a_write(9, arguments_digest="9"))) == 1


def test_repeated_signals_of_a_run_are_counted_so_that_the_policy_can_escalate() -> None:
    text = "detect: {policy_violation: {actions: [nothing]}}\n"
    found = fired(text, *(each for n in range(8) for each in a_write(n, action=f"a.{n}", arguments_digest=str(n))))

    assert [each.decision.words for each in found[:3]] == [
        ("deny",),
        ("deny",),
        ("deny", "read_only on run", "incident"),
    ]


def test_rp1_what_a_journal_cannot_show_is_taken_from_its_signals_and_not_made_up() -> None:
    signal = Signal(
        signal_id="sig_1",
        kind=SignalKind.VERDICT,
        rule="fraud",
        severity=Severity.HIGH,
        scope=Scope.parse("run:run-1"),
        detail="three refunds to one card",
        noticed_at=NOON,
        run_id="run-1",
    )
    text = "detect: {tool_uncertainty: {receipts: ['*']}}\n"
    found = fired(text, *writes(2), Signalled(signal))

    # No tool's receipt is in a journal, and its absence there says nothing.
    assert [each.signal.signal_id for each in found] == ["sig_1"]
    assert found[0].decision.words == ("read_only on run", "incident")


def test_a_detector_that_raises_is_a_signal_of_its_own_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from rescind.triggers.blast import BlastWatch

    def broken(self: object, call: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(BlastWatch, "asked", broken)

    found = fired(BLAST, *writes(2))
    assert {each.signal.kind for each in found} == {SignalKind.DETECTOR_FAILURE}


def test_rp4_runs_beyond_the_bound_are_forgotten_and_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS_MAX", 10)
    running = Replay(policy_of(BLAST))
    runs = [a_run(f"run-{number}") for number in range(50)]
    for fact in facts_of(entries(*(each for run in runs for each in a_write(1, run)))):
        running.feed(fact)

    assert running.runs == 50
    assert len(running._watches) <= 10


# --- the guard and its journal ---


def test_a_replay_of_what_a_guard_recorded_finds_what_the_guard_found(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "detect: {blast_radius: {records_per_run: 5, records_per_minute: 1000}, behaviour: {repeats_max: 3}}\n"
        "respond: [{signal: '*', then: report}]\n"
    )
    journal = MemoryJournal()
    guard = rescind.Guard.over(journal, MemoryOrders(), policy=PolicyFile(file))
    kept: list[str] = []

    @guard.write("note.put", target=lambda name: ("notes", "note", name), irreversible="a test")
    def put(name: str) -> None:
        kept.append(name)

    @put.verify
    def _(step: object) -> bool:
        return len(kept) != 4

    for number, names in enumerate(["abcdefgh", "aaaaaaa", "ab", "a" * 5 + "bcdefg"]):
        with guard.run("clerk@1", run_id=f"run-{number}"):
            for name in names:
                with contextlib.suppress(rescind.VerificationFailed):
                    put(name)
    guard.close()

    recorded = list(every_entry(journal, Query()))
    noticed = [
        (entry.run.run_id, entry.event.signal.kind, entry.event.signal.rule, entry.event.signal.detail)
        for entry in recorded
        if isinstance(entry.event, Signalled)
    ]
    again = [
        (each.run.run_id, each.signal.kind, each.signal.rule, each.signal.detail)
        for each in replay(read_policy(file.read_bytes(), name="p"), facts_of(recorded))
    ]
    assert len(noticed) >= 4
    assert {kind for _, kind, _, _ in noticed} >= {
        SignalKind.BLAST_RADIUS,
        SignalKind.BEHAVIOUR,
        SignalKind.VERIFICATION_FAILURE,
    }
    assert again == noticed
