"""Each store against a list, in orders nobody planned."""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from builders import NOON, NOON_US, a_draft, a_step, ended, opened
from journal.stores import journal_database, keyed, new_journal
from rescind.errors import SequenceConflict, UsageError
from rescind.journal.audit import verify
from rescind.journal.port import Appended, Draft, Query, SlotClaim, SlotState, SlotTaken
from rescind.journal.postgres import PostgresJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import CompensationEnded, Disposition, Intended
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.step import Target
from servers import Postgres

RUNS = st.sampled_from(["run-a", "run-b", "run-c"])
KEYS = st.sampled_from(["k1", "k2"])
OUTCOMES = st.sampled_from([Completed({"n": 1}), Failed("f"), Unknown("u")])
DISPOSITIONS = st.sampled_from(list(Disposition))
TENANTS = {"run-a": "acme", "run-b": "acme", "run-c": "globex"}
TRACES = {"run-a": "t1", "run-b": "t2", "run-c": "t2"}


class JournalMachine(RuleBasedStateMachine):
    kind = "memory"
    writers_at_once = 1

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        place = self.place()
        self.writers = [new_journal(self.kind, place) for _ in range(self.writers_at_once)]
        self.journal = self.writers[0]
        self.model: list[Draft] = []
        self.held: dict[tuple[str, str], list[object]] = {}  # run, step, state
        self.steps = 0

    def place(self) -> Path | str:
        return self.folder

    def teardown(self) -> None:
        for writer in self.writers:
            writer.close()
        if isinstance(self.journal, SqliteJournal | PostgresJournal):  # closed, it can be audited still
            assert verify(self.journal).findings == ()
        shutil.rmtree(self.folder)

    def append(self, *drafts: Draft) -> None:
        before = len(self.model)
        positions = []
        for draft in drafts:
            positions.append(self.positions(draft.run_id))
            self.model.append(draft)
        expected = Appended(tuple(range(before + 1, before + 1 + len(drafts))), tuple(positions))
        assert self.journal.append(drafts) == expected

    def positions(self, run_id: str) -> int:
        return sum(draft.run_id == run_id for draft in self.model)

    def at(self) -> int:
        return NOON_US + (len(self.model) * 7) % 5 * 1_000_000  # a clock that jumps back and forth

    @rule(run_id=RUNS)
    def open_run(self, run_id: str) -> None:
        draft = opened(run_id, tenant=TENANTS[run_id], trace_id=TRACES[run_id])
        self.append(Draft(run_id=run_id, event=draft.event, recorded_at_us=self.at()))

    @rule(run_id=RUNS, key=st.none() | KEYS, number=st.integers(0, 2), end=st.none() | OUTCOMES)
    def intend(self, run_id: str, key: str | None, number: int, end: Outcome | None) -> None:
        self.steps += 1
        step_id = str(self.steps)
        claim = None if key is None else SlotClaim(TENANTS[run_id], key, "d")
        step = a_step(step_id, target=Target("erp", "invoice", str(number)), **({} if claim is None else keyed(claim)))
        drafts = [Draft(run_id=run_id, event=Intended(step), recorded_at_us=self.at(), claim=claim)]
        if end is not None:
            drafts.append(ended(step_id, end, run_id))
        if not self.positions(run_id):
            with pytest.raises(UsageError):
                self.journal.append(drafts)
            return
        name = (TENANTS[run_id], key or "")
        if claim is not None and name in self.held:
            answer = self.journal.append(drafts)
            assert isinstance(answer, SlotTaken)
            assert [answer.slot.run_id, answer.slot.step_id, answer.slot.state] == self.held[name]
            return
        if claim is not None:
            self.held[name] = [run_id, step_id, SlotState.OPEN]
        self.append(*drafts)
        if end is not None:
            self.settle(run_id, step_id, end)

    @rule(run_id=RUNS, back=st.integers(0, 3), outcome=OUTCOMES)
    def end(self, run_id: str, back: int, outcome: Outcome) -> None:
        step_id = str(self.steps - back)
        if self.positions(run_id):
            self.append(ended(step_id, outcome, run_id))
            self.settle(run_id, step_id, outcome)

    @rule(run_id=RUNS, back=st.integers(0, 3), disposition=DISPOSITIONS)
    def compensate(self, run_id: str, back: int, disposition: Disposition) -> None:
        step_id = str(self.steps - back)
        if self.positions(run_id):
            event = CompensationEnded(step_id=step_id, disposition=disposition, plan_digest="p")
            self.append(a_draft(event, run_id))
            if disposition not in (Disposition.REVIEW, Disposition.SUPERSEDED):  # the effect stands
                self.settle(run_id, step_id, Failed("undone"))

    def settle(self, run_id: str, step_id: str, outcome: Outcome) -> None:
        for name, held in list(self.held.items()):
            if held[:2] == [run_id, step_id]:
                if isinstance(outcome, Failed):
                    del self.held[name]
                else:
                    held[2] = SlotState.COMPLETED if isinstance(outcome, Completed) else SlotState.UNKNOWN

    @rule(run_id=RUNS, lag=st.integers(1, 3))
    def stale_append_is_refused(self, run_id: str, lag: int) -> None:
        position = self.positions(run_id)
        if position:
            with pytest.raises(SequenceConflict) as conflict:
                self.journal.append([
                    a_draft(Intended(a_step("x")), run_id, expected_position=position),
                    a_draft(Intended(a_step("y")), run_id, expected_position=position + 1 - lag),
                ])  # fmt: skip
            assert conflict.value.actual == position + 1

    @rule(after=st.integers(0, 20), limit=st.integers(0, 20))
    def page_equals_slice(self, after: int, limit: int) -> None:
        page = self.journal.entries(Query(), after=after, limit=limit)
        assert [entry.event for entry in page] == [draft.event for draft in self.model[after : after + limit]]

    @rule(
        tenant=st.none() | st.sampled_from(["acme", "globex", "nobody"]),
        trace=st.none() | st.sampled_from(["t1", "t2"]),
        number=st.none() | st.integers(0, 2),
        since=st.none() | st.integers(0, 5),
        after=st.integers(0, 10),
        limit=st.integers(0, 6),
    )
    def query_equals_filter(
        self, tenant: str | None, trace: str | None, number: int | None, since: int | None, after: int, limit: int
    ) -> None:
        query = Query(
            tenant=tenant,
            trace_id=trace,
            target=None if number is None else Target("erp", "invoice", str(number)),
            since=None if since is None else NOON + timedelta(seconds=since),
        )
        expected = [
            sequence
            for sequence, draft in enumerate(self.model, start=1)
            if tenant in (None, TENANTS[draft.run_id])
            and trace in (None, TRACES[draft.run_id])
            and (since is None or draft.recorded_at_us >= NOON_US + since * 1_000_000)
            and (number is None or (isinstance(draft.event, Intended) and draft.event.step.target == query.target))
        ]
        page = self.journal.entries(query, after=after, limit=limit)
        assert [entry.sequence for entry in page] == [sequence for sequence in expected if sequence > after][:limit]
        runs = sorted({self.model[sequence - 1].run_id for sequence in expected})
        assert [run.run_id for run in self.journal.runs(query)] == runs

    @rule()
    def reopen(self) -> None:
        if self.kind == "sqlite":
            self.journal.close()
            self.journal = self.writers[0] = new_journal(self.kind, self.folder)

    @rule(number=st.integers(0, 2))
    def another_writer(self, number: int) -> None:
        """Go on with another one, where there can be several: what it knows is out of date then."""
        self.journal = self.writers[number % len(self.writers)]

    @invariant()
    def slots_agree(self) -> None:
        for tenant in ("acme", "globex"):
            for key in ("k1", "k2"):
                slot = self.journal.slot(tenant, key)
                assert (None if slot is None else [slot.run_id, slot.step_id, slot.state]) == self.held.get(
                    (tenant, key)
                )


class SqliteJournalMachine(JournalMachine):
    kind = "sqlite"


class PostgresJournalMachine(JournalMachine):
    kind = "postgres"
    writers_at_once = 3
    server: Postgres

    def place(self) -> str:
        return journal_database(self.server)

    def append(self, *drafts: Draft) -> None:
        super().append(*drafts)
        self.another_writer(len(self.model))


_SETTINGS = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

TestMemory = JournalMachine.TestCase
TestMemory.settings = _SETTINGS
TestSqlite = SqliteJournalMachine.TestCase
TestSqlite.settings = _SETTINGS


@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_postgres(postgres: Postgres, examples: int) -> None:
    PostgresJournalMachine.server = postgres
    run_state_machine_as_test(PostgresJournalMachine, settings=settings(_SETTINGS, max_examples=examples))
