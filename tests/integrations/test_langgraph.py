"""LangGraph: the world goes back with the graph, to a checkpoint of its own SQLite and PostgreSQL savers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

import rescind
from builders import steps_of
from rescind.clock import SystemIds
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection, select_steps
from rescind.compensation.planning.survey import make_plan
from rescind.errors import UsageError
from rescind.guard.guard import Guard
from rescind.integrations.langgraph import current_checkpoint, follow
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import PAGE_LIMIT, Query
from rescind.model.entry import Entry
from rescind.model.step import EngineCheckpoint
from rescind.switch.memory import MemoryOrders
from rescind.testing.clock import ManualClock

if TYPE_CHECKING:
    from servers import Postgres

pytest.importorskip("langgraph")


class State(TypedDict):
    done: list[str]


class Workflow:
    """A graph of three nodes, each of which charges a customer, over a saver."""

    def __init__(self, saver: Any) -> None:
        from langgraph.graph import END, START, StateGraph

        self.clock = ManualClock()
        self.guard = Guard.over(MemoryJournal(), MemoryOrders(), clock=self.clock)
        follow(self.guard)
        self.charged: list[str] = []

        @self.guard.write("card.charge", target=lambda name: ("psp", "customer", name))
        def charge(name: str) -> None:
            self.charged.append(name)

        @charge.compensate(idempotent=True)
        def refund(step: rescind.PastStep) -> None:
            self.charged.remove(step.arguments["name"])

        def node(name: str) -> Callable[[State], State]:
            def run(state: State) -> State:
                charge(name)
                return {"done": [*state["done"], name]}

            return run

        graph = StateGraph(State)
        names = ("ann", "bob", "cid")
        for name in names:
            graph.add_node(name, node(name))  # type: ignore[call-overload]  # its overloads know only plain functions
        for before, after in zip((START, *names), (*names, END), strict=True):
            graph.add_edge(before, after)
        self.app = graph.compile(checkpointer=saver)

    def invoke(self, thread: str, state: Any, **configurable: str) -> Any:
        with self.guard.run("billing-agent@1"):
            return self.app.invoke(state, {"configurable": {"thread_id": thread, **configurable}})

    def checkpoint_before(self, thread: str, node: str) -> str:
        """The id of the newest checkpoint from which this node runs next."""
        for snapshot in self.app.get_state_history({"configurable": {"thread_id": thread}}):
            if snapshot.next == (node,):
                return str(snapshot.config["configurable"]["checkpoint_id"])
        raise AssertionError(f"no checkpoint before {node}")

    def undo(self, **selection: Any) -> None:
        plan = make_plan(self.guard.journal, Selection(**selection), self.guard.compensators, self.clock)
        apply_plan(plan, self.guard.journal, self.guard.compensators, self.clock, SystemIds(), actor="ops")


@contextmanager
def sqlite_saver(path: Path) -> Iterator[Any]:
    from langgraph.checkpoint.sqlite import SqliteSaver

    with SqliteSaver.from_conn_string(str(path / "checkpoints.db")) as saver:
        yield saver


@contextmanager
def postgres_saver(url: str) -> Iterator[Any]:
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        yield saver


@pytest.fixture(params=["sqlite", "postgres"])
def workflow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workflow]:
    made: AbstractContextManager[Any]
    if request.param == "sqlite":
        made = sqlite_saver(tmp_path)
    else:
        server: Postgres = request.getfixturevalue("postgres")
        made = postgres_saver(server.new_database())
    with made as saver:
        yield Workflow(saver)


def test_each_step_carries_the_checkpoint_that_its_node_ran_from(workflow: Workflow) -> None:
    workflow.invoke("t-1", {"done": []})
    made_from = [step.step.engine_checkpoint for step in steps_of(workflow.guard.journal)]
    assert made_from == [
        EngineCheckpoint(engine="langgraph", thread="t-1", checkpoint_id=workflow.checkpoint_before("t-1", name))
        for name in ("ann", "bob", "cid")
    ]
    assert current_checkpoint() is None


def test_the_world_is_put_back_to_a_checkpoint_and_the_graph_goes_on_from_there(workflow: Workflow) -> None:
    workflow.invoke("t-1", {"done": []})
    workflow.invoke("t-2", {"done": []})
    checkpoint_id = workflow.checkpoint_before("t-1", "bob")

    workflow.undo(to_checkpoint=checkpoint_id)
    assert workflow.charged == ["ann", "ann", "bob", "cid"]  # the other thread is left alone

    ended = workflow.invoke("t-1", None, checkpoint_id=checkpoint_id)
    assert ended["done"] == ["ann", "bob", "cid"]
    assert sorted(workflow.charged) == ["ann", "ann", "bob", "bob", "cid", "cid"]


def test_what_a_time_travel_did_is_taken_back_with_the_rest(workflow: Workflow) -> None:
    workflow.invoke("t-1", {"done": []})
    cid, bob = workflow.checkpoint_before("t-1", "cid"), workflow.checkpoint_before("t-1", "bob")
    workflow.invoke("t-1", None, checkpoint_id=bob)
    assert workflow.charged == ["ann", "bob", "cid", "bob", "cid"]

    workflow.undo(to_checkpoint=cid)
    assert workflow.charged == ["ann", "bob"]


def test_a_checkpoint_that_no_step_was_made_from_is_named_with_its_thread(workflow: Workflow) -> None:
    workflow.invoke("t-1", {"done": []})
    history = list(workflow.app.get_state_history({"configurable": {"thread_id": "t-1"}}))
    first = str(history[-1].config["configurable"]["checkpoint_id"])
    chosen = select_steps(workflow.guard.journal, Selection(to_checkpoint=f"t-1/{first}"))
    assert len(chosen) == 3

    last = str(history[0].config["configurable"]["checkpoint_id"])
    with pytest.raises(UsageError, match="has done nothing since"):
        select_steps(workflow.guard.journal, Selection(to_checkpoint=f"t-1/{last}"))
    with pytest.raises(UsageError, match="knows no checkpoint"):
        select_steps(workflow.guard.journal, Selection(to_checkpoint="1f000000-0000"))


def test_a_checkpoint_of_a_run_is_gone_back_to_as_well() -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders(), clock=ManualClock())

    @guard.write("mail.send", irreversible="sent")
    def mail(to: str) -> None: ...

    with guard.run("a@1", run_id="run-1") as run:
        mail("ann")
        made = run.checkpoint()
        mail("bob")
    with guard.run("a@1", run_id="run-2"):
        mail("cid")
    chosen = select_steps(guard.journal, Selection(to_checkpoint=made.checkpoint_id[:12]))
    assert [(step.run.run_id, step.step.arguments["to"]) for step in chosen] == [("run-1", "bob")]


class WatchedJournal(MemoryJournal):
    """Says what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Query] = []

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        self.asked.append(query)
        return super().entries(query, after=after, limit=limit)


def test_a_checkpoint_of_a_run_that_is_named_is_found_without_reading_other_runs() -> None:
    journal = WatchedJournal()
    guard = Guard.over(journal, MemoryOrders(), clock=ManualClock())

    @guard.write("mail.send", irreversible="sent")
    def mail(to: str) -> None: ...

    made: list[str] = []
    for run_id in ("run-1", "run-2"):
        with guard.run("a@1", run_id=run_id) as run:
            mail("ann")
            made.append(run.checkpoint().checkpoint_id)
            mail("bob")
    journal.asked.clear()
    chosen = select_steps(journal, Selection(run_ids=("run-2",), to_checkpoint=made[1]))
    assert [(step.run.run_id, step.step.arguments["to"]) for step in chosen] == [("run-2", "bob")]
    assert {query.run_id for query in journal.asked} == {"run-2"}
    assert select_steps(journal, Selection(run_ids=("run-2",), to_checkpoint=made[0])) == []
