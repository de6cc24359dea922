"""The laws of `Journal`, one test per law and store. J2 on disk is in `test_processes`."""

import asyncio
import functools
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from builders import NOON, NOON_US, a_draft, a_run, a_step, at_once, ended, intended, opened
from journal.stores import CLAIM, everything, journal_database, new_journal, open_runs, run_ids, sequences
from rescind.errors import SequenceConflict, UsageError
from rescind.journal.chain import Link, entry_hash, genesis, verify_chain
from rescind.journal.codec import prepare
from rescind.journal.port import Appended, Draft, Journal, Query, Slot, SlotClaim, SlotState, SlotTaken
from rescind.model.entry import (
    CompensationEnded,
    Disposition,
    Ended,
    Entry,
    Event,
    Intended,
    ReviewOpened,
    ReviewResolved,
    RunOpened,
    StepRef,
)
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.step import Target


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    kind = request.param
    place = journal_database(request.getfixturevalue("postgres")) if kind == "postgres" else tmp_path
    journal = new_journal(kind, place)
    yield journal
    journal.close()


def compensated(disposition: Disposition, step_id: str = "1") -> Draft:
    return a_draft(CompensationEnded(step_id=step_id, disposition=disposition, plan_digest="p"))


# --- J1: order ---


def test_j1_sequences_count_from_one_without_gaps_over_all_runs(journal: Journal) -> None:
    first = journal.append([opened("run-a"), opened("run-b")])
    second = journal.append([intended(a_step(), "run-b"), intended(a_step(), "run-a")])

    assert first == Appended((1, 2), (0, 0))
    assert second == Appended((3, 4), (1, 1))
    assert [entry.sequence for entry in everything(journal)] == [1, 2, 3, 4]


def test_j1_what_a_reader_has_seen_stays_the_beginning_of_what_he_sees_later(journal: Journal) -> None:
    open_runs(journal, "run-0", "run-1", "run-2", "run-3")
    seen: list[list[int]] = []

    def write(name: str) -> None:
        for number in range(25):
            journal.append([intended(a_step(str(number)), name)])

    writers = [threading.Thread(target=write, args=(f"run-{number}",)) for number in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.append(sequences(journal, Query()))
    for writer in writers:
        writer.join()
    seen.append(sequences(journal, Query()))

    assert seen[-1] == list(range(1, 105))
    assert all(page == list(range(1, len(page) + 1)) for page in seen)


# --- J3: contention ---


def test_j3_of_two_appends_that_expect_one_position_the_second_fails_and_learns_the_actual_one(
    journal: Journal,
) -> None:
    journal.append([opened()])
    journal.append([a_draft(Intended(a_step("1")), expected_position=1)])

    with pytest.raises(SequenceConflict) as conflict:
        journal.append([a_draft(Intended(a_step("2")), expected_position=1)])

    assert (conflict.value.run_id, conflict.value.expected, conflict.value.actual) == ("run-1", 1, 2)
    assert len(everything(journal)) == 2


def test_j3_of_many_threads_exactly_one_gets_a_position(journal: Journal) -> None:
    journal.append([opened()])
    outcomes: list[str] = []

    def race(name: str) -> None:
        try:
            journal.append([a_draft(Intended(a_step(name)), expected_position=1)])
            outcomes.append("won")
        except SequenceConflict:
            outcomes.append("lost")

    at_once(functools.partial(race, str(number)) for number in range(8))

    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def test_j3_expected_positions_count_the_drafts_before_in_the_same_append(journal: Journal) -> None:
    journal.append([
        a_draft(RunOpened(run=a_run(), guard_id="g"), expected_position=0),
        a_draft(Intended(a_step()), expected_position=1),
    ])  # fmt: skip

    assert journal.head("run-1") is not None
    with pytest.raises(SequenceConflict):
        journal.append([ended("1"), a_draft(Intended(a_step("2")), expected_position=2)])


# --- J4: atomicity ---


def test_j4_one_refused_draft_takes_the_whole_append_with_it(journal: Journal) -> None:
    journal.append([opened()])

    with pytest.raises(UsageError, match="run run-2 is not open"):
        journal.append([intended(a_step()), intended(a_step(), "run-2")])
    with pytest.raises(SequenceConflict):
        journal.append([opened("run-3"), a_draft(Intended(a_step()), expected_position=7)])

    assert len(everything(journal)) == 1
    assert journal.run("run-3") is None
    assert journal.append([opened("run-3")]) == Appended((2,), (0,))


def test_an_append_of_nothing_is_nothing(journal: Journal) -> None:
    assert journal.append([]) == Appended((), ())
    assert asyncio.run(journal.append_async([])) == Appended((), ())
    assert everything(journal) == []


# --- J5: chain ---


def test_j5_every_hash_covers_the_entry_before_it_and_the_head_is_the_last(journal: Journal) -> None:
    drafts = [opened(), intended(a_step()), ended("1"), opened()]
    for draft in drafts:
        journal.append([draft])

    entries = everything(journal)
    expected = genesis("run-1")
    for position, (draft, entry) in enumerate(zip(drafts, entries, strict=True)):
        expected = entry_hash(expected, position, draft.recorded_at_us, prepare([draft])[0].body)
        assert (entry.position, entry.hash) == (position, expected.hex())
    head = journal.head("run-1")
    assert head is not None
    assert (head.run_id, head.position, head.hash) == ("run-1", 3, expected.hex())


def test_j5_chains_of_concurrent_runs_do_not_mix(journal: Journal) -> None:
    names = [f"run-{number}" for number in range(6)]

    def write(name: str) -> None:
        journal.append([opened(name)])
        for number in range(20):
            journal.append([intended(a_step(str(number)), name), ended(str(number), run_id=name)])

    at_once(functools.partial(write, name) for name in names)

    for name in names:
        entries = everything(journal, Query(run_id=name))
        assert [entry.position for entry in entries] == list(range(41))
        assert list(verify_chain(name, [_link(entry) for entry in entries])) == []


def _link(entry: Entry) -> Link:
    draft = Draft(
        run_id=entry.run.run_id, event=entry.event, recorded_at_us=int(entry.recorded_at.timestamp() * 1_000_000)
    )
    body = prepare([draft])[0].body
    return Link(entry.sequence, entry.position, draft.recorded_at_us, body, bytes.fromhex(entry.hash))


# --- J6: slots ---


def test_j6_a_second_claim_is_answered_with_the_slot_and_nothing_is_appended(journal: Journal) -> None:
    journal.append([opened(), opened("run-2")])
    journal.append([intended(a_step("1"), claim=CLAIM)])

    other = SlotClaim("acme", "key-1", "digest-2")
    answer = journal.append([intended(a_step("9"), "run-2"), intended(a_step("2"), "run-2", claim=other)])

    held = Slot(claim=CLAIM, run_id="run-1", step_id="1", action="invoice.status.update", state=SlotState.OPEN)
    assert answer == SlotTaken(held)
    assert journal.slot("acme", "key-1") == held
    assert len(everything(journal)) == 3


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Completed({"id": "inv_1", "lines": [1, 2]}), SlotState.COMPLETED), (Unknown("no reply"), SlotState.UNKNOWN)],
)
def test_j6_a_slot_says_how_its_step_ended(journal: Journal, outcome: Outcome, state: SlotState) -> None:
    journal.append([opened(), intended(a_step(), claim=CLAIM)])
    journal.append([ended("1", outcome)])

    slot = journal.slot("acme", "key-1")

    assert slot is not None
    assert slot.state is state
    assert slot.completed == (outcome if isinstance(outcome, Completed) else None)
    assert slot.reason == ("no reply" if isinstance(outcome, Unknown) else "")
    assert journal.append([intended(a_step("2"), claim=CLAIM)]) == SlotTaken(slot)


def test_j6_a_failed_step_frees_its_key(journal: Journal) -> None:
    journal.append([opened(), intended(a_step(), claim=CLAIM)])
    journal.append([ended("1", Failed("refused by the bank"))])

    assert journal.slot("acme", "key-1") is None
    assert isinstance(journal.append([intended(a_step("2"), claim=CLAIM)]), Appended)


@pytest.mark.parametrize("disposition", list(Disposition))
def test_j6_an_undone_step_frees_its_key_and_one_under_review_does_not(
    journal: Journal, disposition: Disposition
) -> None:
    journal.append([opened(), intended(a_step(), claim=CLAIM), ended("1")])
    journal.append([compensated(disposition)])

    slot = journal.slot("acme", "key-1")

    # What a later change has superseded had its effect, and nobody has taken that back.
    assert (slot is not None) == (disposition in (Disposition.REVIEW, Disposition.SUPERSEDED))


def test_j6_the_end_of_an_old_holder_does_not_touch_the_new_one(journal: Journal) -> None:
    journal.append([opened(), intended(a_step("1"), claim=CLAIM), ended("1", Failed("no"))])
    journal.append([intended(a_step("2"), claim=CLAIM)])
    journal.append([ended("1", Completed("late")), compensated(Disposition.RESTORED, "1")])

    slot = journal.slot("acme", "key-1")

    assert slot is not None
    assert (slot.step_id, slot.state) == ("2", SlotState.OPEN)


def test_j6_keys_of_different_tenants_never_meet(journal: Journal) -> None:
    journal.append([opened(), opened("run-2", tenant="globex")])
    journal.append([intended(a_step(), claim=CLAIM)])

    answer = journal.append([intended(a_step(), "run-2", claim=SlotClaim("globex", "key-1", "digest-1"))])

    assert isinstance(answer, Appended)


def test_j6_a_keyed_step_may_begin_and_end_in_one_append_and_its_key_move_on_in_the_next(journal: Journal) -> None:
    journal.append([opened(), intended(a_step("1"), claim=CLAIM), ended("1", Failed("no"))])
    journal.append([intended(a_step("2"), claim=CLAIM), ended("2", Completed(7))])

    slot = journal.slot("acme", "key-1")

    assert slot is not None
    assert (slot.step_id, slot.completed) == ("2", Completed(7))


def test_j6_one_of_many_concurrent_claims_wins_and_the_others_learn_who(journal: Journal) -> None:
    open_runs(journal, *(f"run-{number}" for number in range(8)))
    answers: list[Appended | SlotTaken] = []

    def claim(name: str) -> None:
        answers.append(journal.append([intended(a_step(), name, claim=CLAIM)]))

    at_once(functools.partial(claim, f"run-{number}") for number in range(8))

    taken = [answer.slot for answer in answers if isinstance(answer, SlotTaken)]
    assert len(taken) == 7
    assert {slot.run_id for slot in taken} == {everything(journal)[8].run.run_id}


@pytest.mark.parametrize(
    "drafts",
    [
        pytest.param([ended("1")], id="an end"),
        pytest.param([intended(a_step("1"), claim=CLAIM), intended(a_step("2"), claim=CLAIM)], id="twice"),
    ],
)
def test_a_claim_that_makes_no_sense_is_a_mistake(journal: Journal, drafts: list[Draft]) -> None:
    journal.append([opened()])
    drafts = [Draft(run_id=d.run_id, event=d.event, recorded_at_us=d.recorded_at_us, claim=CLAIM) for d in drafts]

    with pytest.raises(UsageError, match="key-1"):
        journal.append(drafts)

    assert journal.slot("acme", "key-1") is None


def test_a_step_holds_one_key(journal: Journal) -> None:
    journal.append([opened(), intended(a_step(), claim=CLAIM)])

    with pytest.raises(UsageError, match="a step holds one key"):
        journal.append([intended(a_step(), claim=SlotClaim("acme", "key-2", "d"))])


# --- J8: pages ---


def a_busy_journal(journal: Journal) -> list[Event]:
    """Two traces, two tenants, three agents, four runs, review tasks, an hour apart each."""
    agents = {"a": "billing-agent", "b": "billing-agent", "c": "mail-agent", "d": "mail-agent"}
    events: list[Event] = []
    for hour in range(6):
        for name, agent in agents.items():
            run = a_run(
                name,
                agent_name=agent,
                agent_version="1" if name in "ac" else "2",
                tenant="acme" if name in "ad" else "globex",
                trace_id="t-1" if name in "ab" else "t-2",
            )
            event: Event
            if hour == 0:
                event = RunOpened(run=run, guard_id="g")
            elif hour == 4:
                event = ReviewOpened(
                    task_id=f"task-{name}", action="x", reason="r", detail="", steps=(StepRef(name, "1"),)
                )
            elif hour == 5:
                event = ReviewResolved(task_id=f"task-{name}", resolution="done", actor="ops")
            else:
                event = Intended(a_step(str(hour), target=Target("erp", "invoice", f"inv_{hour % 2}")))
            journal.append([a_draft(event, name, recorded_at_us=NOON_US + hour * 3_600_000_000)])
            events.append(event)
    return events


QUERIES = [
    Query(),
    Query(run_id="a"),
    Query(run_id="nobody"),
    Query(run_id="a", tenant="globex"),
    Query(trace_id="t-1"),
    Query(tenant="acme"),
    Query(agent_name="mail-agent"),
    Query(agent_name="mail-agent", agent_version="1"),
    Query(agent_version="1"),
    Query(target=Target("erp", "invoice", "inv_1")),
    Query(target=Target("erp", "invoice", "inv_1"), tenant="acme"),
    Query(target=Target("erp", "invoice")),
    Query(since=NOON + timedelta(hours=2)),
    Query(until=NOON + timedelta(hours=2)),
    Query(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=4), agent_name="billing-agent"),
    Query(since=NOON + timedelta(hours=9)),
    Query(reviews=True),
    Query(reviews=True, trace_id="t-2", until=NOON + timedelta(hours=5)),
    Query(reviews=True, target=Target("erp", "invoice", "inv_1")),
]


def matches(query: Query, entry: Entry) -> bool:
    """The meaning of a query, as its docstring says it."""
    event, run = entry.event, entry.run
    return (
        query.run_id in (None, run.run_id)
        and query.trace_id in (None, run.trace_id)
        and query.tenant in (None, run.tenant)
        and query.agent_name in (None, run.agent_name)
        and (query.agent_name is None or query.agent_version in (None, run.agent_version))
        and (query.since is None or entry.recorded_at >= query.since)
        and (query.until is None or entry.recorded_at < query.until)
        and (query.target is None or (isinstance(event, Intended) and event.step.target == query.target))
        and (not query.reviews or isinstance(event, ReviewOpened | ReviewResolved))
    )


def test_j8_a_page_holds_what_matches_in_order_strictly_after_and_at_most_the_limit(journal: Journal) -> None:
    events = a_busy_journal(journal)
    every = journal.entries(Query())
    assert [entry.event for entry in every] == events

    for query in QUERIES:
        matching = [entry for entry in every if matches(query, entry)]
        assert journal.entries(query) == matching, query
        assert everything(journal, query, limit=2) == matching, query
        for after, limit in [(0, 0), (3, 5), (7, 1), (24, 9), (99, 9), (-5, 3), (2, -1)]:
            expected = [entry for entry in matching if entry.sequence > after][: max(0, limit)]
            assert journal.entries(query, after=after, limit=limit) == expected, (query, after, limit)


def test_j8_runs_are_those_with_a_matching_entry_by_id_in_pages(journal: Journal) -> None:
    a_busy_journal(journal)
    every = journal.entries(Query())

    for query in QUERIES:
        matching = sorted({entry.run.run_id for entry in every if matches(query, entry)})
        assert run_ids(journal, query) == matching, query
        for after, limit in [("", 0), ("a", 2), ("b", 9), ("zz", 9), ("", 1)]:
            expected = [name for name in matching if name > after][:limit]
            assert run_ids(journal, query, after_run=after, limit=limit) == expected, (query, after, limit)


def test_j8_a_time_range_finds_entries_although_clocks_went_back(journal: Journal) -> None:
    journal.append([opened()])
    for number in (5, 1, 9, 0, 3):
        journal.append([a_draft(Intended(a_step(str(number))), recorded_at_us=NOON_US - number)])

    since, until = NOON - timedelta(microseconds=5), NOON - timedelta(microseconds=1)

    assert sequences(journal, Query(since=since, until=until)) == [2, 6]


# --- runs ---


def test_a_draft_for_a_run_that_is_not_open_is_a_mistake(journal: Journal) -> None:
    with pytest.raises(UsageError, match="run run-1 is not open"):
        journal.append([intended(a_step())])
    assert journal.run("run-1") is None
    assert journal.head("run-1") is None


@pytest.mark.parametrize("other", [{"agent_name": "mail-agent"}, {"tenant": "globex"}])
def test_a_run_stays_with_its_agent_and_tenant(journal: Journal, other: dict[str, str]) -> None:
    journal.append([opened()])

    with pytest.raises(UsageError, match="run-1 belongs to agent billing-agent of tenant acme"):
        journal.append([opened(**other)])

    assert journal.run("run-1") == a_run()


def test_a_run_may_not_be_opened_twice_as_two_in_one_append(journal: Journal) -> None:
    with pytest.raises(UsageError, match="belongs to"):
        journal.append([opened(), opened(tenant="globex")])
    assert journal.run("run-1") is None


def test_a_continued_run_stays_what_it_was_first_opened_as(journal: Journal) -> None:
    journal.append([opened(ancestors=("run-0", "run-00"), workflow="refunds", session="s-1")])
    journal.append([opened(agent_version="2.5.0", trace_id="another")])

    first = a_run(ancestors=("run-0", "run-00"), workflow="refunds", session="s-1")
    assert journal.run("run-1") == first
    assert [entry.run for entry in everything(journal)] == [first, first]


def test_a_draft_opens_its_own_run_only(journal: Journal) -> None:
    with pytest.raises(UsageError, match="opens run run-2"):
        journal.append([a_draft(RunOpened(run=a_run("run-2"), guard_id="g"), "run-1")])


# --- what is written is what is read ---


def test_an_entry_reads_as_json_values_whatever_was_put_in(journal: Journal) -> None:
    arguments = {"amounts": (1, 2), "note": "naïve ☂ \x00", "nested": {"deep": [None, True, 1.5]}}
    journal.append([opened(), intended(a_step(requested=arguments))])
    arguments["note"] = "changed behind the journal's back"

    event = everything(journal)[1].event

    assert isinstance(event, Intended)
    assert event.step.requested == {
        "amounts": [1, 2], "note": "naïve ☂ \x00", "nested": {"deep": [None, True, 1.5]}
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(a_draft(Ended(step_id="1", outcome=Completed(object()))), id="no JSON"),
        pytest.param(a_draft(Intended(a_step("\ud800"))), id="half a character"),
        pytest.param(intended(a_step(), claim=SlotClaim("acme", "\ud800", "")), id="half a character in a key"),
        pytest.param(a_draft(Intended(a_step()), recorded_at_us=-1), id="before 1970"),
        pytest.param(a_draft(Intended(a_step()), recorded_at_us=2**62), id="after 9999"),
    ],
)
def test_what_cannot_be_stored_is_a_mistake_of_that_append_alone(journal: Journal, bad: Draft) -> None:
    journal.append([opened()])

    with pytest.raises(UsageError, match="run-1"):
        journal.append([bad])

    assert len(everything(journal)) == 1


# --- async, submit, close ---


def test_threads_and_tasks_append_together_and_nothing_is_lost(journal: Journal) -> None:
    open_runs(journal, "tasks-0", "tasks-1", "threads-0", "threads-1")

    async def task(name: str, number: int) -> Appended | SlotTaken:
        return await journal.append_async([intended(a_step(str(number)), name)])

    async def many(name: str) -> None:
        answers = await asyncio.gather(*(task(name, number) for number in range(50)))
        assert all(isinstance(answer, Appended) for answer in answers)

    def in_thread(name: str) -> None:
        for number in range(50):
            journal.append([intended(a_step(str(number)), name)])

    workers = [threading.Thread(target=asyncio.run, args=(many(f"tasks-{n}"),)) for n in range(2)]
    workers += [threading.Thread(target=in_thread, args=(f"threads-{n}",)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert len(everything(journal)) == 4 + 200
    for name in ("tasks-0", "tasks-1", "threads-0", "threads-1"):
        steps = [e.event.step.step_id for e in everything(journal, Query(run_id=name)) if isinstance(e.event, Intended)]
        assert sorted(steps, key=int) == [str(number) for number in range(50)]


def test_async_appends_raise_like_the_others(journal: Journal) -> None:
    with pytest.raises(UsageError, match="not open"):
        asyncio.run(journal.append_async([intended(a_step())]))


def test_a_cancelled_await_does_not_withdraw_the_drafts(journal: Journal) -> None:
    journal.append([opened()])

    async def cancelled() -> None:
        append = asyncio.ensure_future(journal.append_async([intended(a_step())]))
        await asyncio.sleep(0)
        append.cancel()
        await asyncio.gather(append, return_exceptions=True)

    asyncio.run(cancelled())
    journal.append([ended("1")])

    assert [type(entry.event) for entry in everything(journal)] == [RunOpened, Intended, Ended]


def test_what_was_submitted_is_there_after_the_next_append(journal: Journal) -> None:
    journal.append([opened()])
    journal.submit([intended(a_step("1"))])
    journal.append([intended(a_step("2"))])

    assert len(everything(journal)) == 3


def test_a_second_close_does_nothing(journal: Journal) -> None:
    journal.append([opened()])
    journal.close()
    journal.close()
