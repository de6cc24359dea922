"""What `ObjectGraph` promises beyond the contract: two runs on one object, aliases, types, overlapping calls."""

import asyncio
import contextlib
import contextvars
import copy
import io
import itertools
import random
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import a_guard, steps_of
from effects.harness import a_past_step, opened, perform, recorded, the_way_back, version_now
from rescind.clock import SystemIds
from rescind.compensation.decision import Plan, Restore, Settle
from rescind.compensation.effects import ObjectGraph
from rescind.compensation.effects.object_lists import merged
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.errors import Conflict, NothingChanged, UsageError
from rescind.guard.effect import Probe
from rescind.guard.guard import Guard
from rescind.model.outcome import Failed, Unknown
from rescind.model.probe import ProbeResult
from rescind.testing import ManualClock


class Desk:
    def __init__(self) -> None:
        self.status = {"a": "open", "b": "open"}
        self.log: list[Any] = ["opened"]
        self.next_id = 1
        self.views = 0

    def status_of(self, key: str) -> str:
        return self.status[key]


def desk_of(guard: Guard, desk: Desk, **options: Any) -> dict[str, Callable[..., Any]]:
    graph = ObjectGraph(desk, **options)

    @guard.write("desk.set", effect=graph)
    def set_status(key: str, value: str) -> None:
        desk.status[key] = value

    @guard.write("desk.note", effect=graph)
    def note(text: str) -> int:
        desk.log.append(text)
        desk.next_id += 1
        return desk.next_id

    @guard.write("desk.read", effect=graph)
    def read() -> str:
        return str(desk.status)

    @guard.write("desk.view", effect=graph)
    def view() -> int:
        desk.views += 1
        return desk.views

    @guard.write("desk.lost", effect=graph)
    def lost(key: str) -> None:
        desk.status[key] = "lost"
        raise TimeoutError("no reply")

    return {"set": set_status, "note": note, "read": read, "view": view, "lost": lost}


def undone(guard: Guard, run_id: str) -> Plan:
    plan = make_plan(guard.journal, Selection(run_ids=(run_id,)), guard.compensators, ManualClock())
    apply_plan(plan, guard.journal, guard.compensators, ManualClock(), SystemIds(), actor="ann")
    return plan


def test_of_two_runs_that_alternate_one_is_undone_and_the_other_stays_exactly() -> None:
    guard, desk = a_guard(), Desk()
    tools = desk_of(guard, desk, counters=("next_id",))
    one, two = contextvars.copy_context(), contextvars.copy_context()
    one.run(guard.run(agent="one@1", run_id="one").__enter__)
    two.run(guard.run(agent="two@1", run_id="two").__enter__)
    for number in range(3):
        one.run(tools["set"], "a", f"one {number}")
        one.run(tools["note"], f"one {number}")
        two.run(tools["set"], "b", f"two {number}")
        two.run(tools["note"], f"two {number}")
        two.run(tools["read"])
    undone(guard, "one")
    assert desk.status == {"a": "open", "b": "two 2"}
    assert desk.log == ["opened", "two 0", "two 1", "two 2"]
    assert desk.next_id == 7  # a number that was given is not given again
    assert undone(guard, "one").is_settled
    undone(guard, "two")
    assert vars(desk) == vars(Desk()) | {"next_id": 6}


def test_a_run_alone_comes_back_whole_and_a_call_that_changed_nothing_leaves_nothing_to_undo() -> None:
    guard, desk = a_guard(), Desk()
    tools = desk_of(guard, desk)
    with guard.run(agent="one@1", run_id="one"):
        tools["set"]("a", "closed")
        tools["set"]("a", "open")
        tools["read"]()
        tools["view"]()
        tools["note"]("x")
        tools["set"]("c", "new")
    read, view = steps_of(guard.journal)[2:4]
    assert read.after == read.step.before
    assert view.after != view.step.before  # reads that write are seen
    plan = undone(guard, "one")
    assert vars(desk) == vars(Desk())
    assert sum(isinstance(item.decision, Restore) for item in plan.items) == 5
    assert sum(isinstance(item.decision, Settle) for item in plan.items) == 1


def test_keys_that_are_equal_and_not_the_same_come_back_as_they_were() -> None:
    cells: dict[Any, Any] = {1: "a", 0.0: "z", "x": "stays", 2: "b"}
    before = [(repr(key), value) for key, value in cells.items()]
    graph = ObjectGraph([cells], name="cells")

    def replace() -> None:
        for key, equal, value in ((1, True, "a"), (0.0, -0.0, "z"), (2, 2.0, "changed")):
            del cells[key]
            cells[equal] = value

    step = perform(graph, replace)
    after = [(repr(key), value) for key, value in cells.items()]
    assert after != before
    graph.restore(step)
    assert [(repr(key), value) for key, value in cells.items()] == before
    graph.restore(the_way_back(step))
    assert [(repr(key), value) for key, value in cells.items()] == after


def test_where_both_wrote_to_one_cell_it_is_a_conflict_that_names_it() -> None:
    desk = Desk()
    graph = ObjectGraph(desk, name="desk")
    step = perform(graph, lambda: desk.status.update(a="one"))
    perform(graph, lambda: desk.status.update(a="two"))
    with pytest.raises(Conflict, match=r"desk\[0\]\.status\['a'\]|desk.*status\['a'\]"):
        graph.restore(step)
    assert desk.status["a"] == "two"


def test_a_cell_that_another_call_took_and_put_back_is_a_conflict_although_its_value_is_the_same() -> None:
    desk = Desk()
    graph = ObjectGraph(desk, name="desk")
    one = perform(graph, lambda: desk.status.update(a="one"))
    two = perform(graph, lambda: desk.status.update(a="two"))
    three = perform(graph, lambda: desk.status.update(a="one"))
    for step in (one, two):
        with pytest.raises(Conflict, match=r"status\['a'\]"):
            graph.restore(step)
        assert desk.status["a"] == "one"
    assert version_now(graph, one).endswith(":changed")
    for step in (three, two, one):
        graph.restore(step)
    assert vars(desk) == vars(Desk())
    perform(graph, lambda: desk.status.update(a="two"))
    perform(graph, lambda: desk.status.update(a="open"))
    with pytest.raises(Conflict, match=r"status\['a'\]"):
        graph.restore(the_way_back(one))


def test_a_step_in_doubt_that_others_have_written_over_is_known_to_have_happened() -> None:
    desk = Desk()
    graph = ObjectGraph(desk)
    step = perform(graph, lambda: desk.status.update(a="one"))
    perform(graph, lambda: desk.status.update(a="two"))
    found = ProbeResult.read(graph.probe(step))
    assert found.answer is Probe.FOUND
    assert found.after is not None
    assert found.after.version.endswith(":after")
    assert version_now(graph, step).endswith(":changed")


def test_an_answer_that_was_lost_is_known_all_the_same() -> None:
    guard, desk = a_guard(), Desk()
    tools = desk_of(guard, desk)
    with guard.run(agent="one@1", run_id="one"), pytest.raises(TimeoutError):
        tools["lost"]("a")
    (record,) = steps_of(guard.journal)
    assert isinstance(record.outcome, Unknown)
    undone(guard, "one")
    assert vars(desk) == vars(Desk())
    graph = ObjectGraph(desk)
    touch = opened(graph)
    desk.status["b"] = "lost"
    assert not touch.abandon()
    step = a_past_step(recorded(touch.before), None, {})
    found = ProbeResult.read(graph.probe(step))
    assert (found.answer, found.after and found.after.version) == (Probe.FOUND, version_now(graph, step))
    graph.restore(step)
    assert desk.status["b"] == "open"
    assert graph.probe(step) is Probe.NOT_FOUND


def test_a_tool_that_raised_before_it_changed_anything_failed() -> None:
    guard, desk = a_guard(), Desk()
    graph = ObjectGraph(desk)

    @guard.write("desk.refuse", effect=graph)
    def refuse() -> None:
        raise ValueError("no")

    with guard.run(agent="one@1"), pytest.raises(ValueError, match="no"):
        refuse()
    assert isinstance(steps_of(guard.journal)[0].outcome, Failed)
    assert issubclass(NothingChanged, Exception)


def test_a_step_of_another_process_is_left_alone() -> None:
    desk = Desk()
    step = perform(ObjectGraph(desk), lambda: desk.status.update(a="one"))
    later = ObjectGraph(desk)
    with pytest.raises(UsageError, match="a process that has ended"):
        version_now(later, step)
    with pytest.raises(Conflict, match="not known here"):
        later.restore(step)
    assert later.probe(step) is Probe.CANNOT_TELL
    assert desk.status["a"] == "one"


def test_only_so_many_calls_are_kept() -> None:
    desk = Desk()
    graph = ObjectGraph(desk, calls_max=2)
    steps = [perform(graph, lambda: desk.status.update(a=str(desk.next_id))) for _ in range(3)]
    with pytest.raises(Conflict, match="more than 2 calls ago"):
        graph.restore(steps[0])


# --- identity and types ---


@dataclass(slots=True)
class Point:
    x: int = 0
    tags: set[str] = field(default_factory=lambda: set[str]())


@dataclass(frozen=True)
class Frozen:
    values: list[int]


class Named(dict[str, Any]):
    pass


def test_aliases_stay_one_object_and_types_stay_what_they_are() -> None:
    shared: list[Any] = [1]
    root: dict[str, Any] = {"a": shared, "b": shared, "c": (shared, Frozen([1])), "n": Named(k=[1]), "p": Point()}
    root["n"].extra = {"x": 1}
    root["o"], root["k"] = OrderedDict(a=1, b=2), Counter("aab")
    root["self"] = root
    before = repr(root)
    graph = ObjectGraph(root)

    def tool() -> None:
        shared.append(2)
        root["b"] = [1, 2]
        root["c"][1].values.clear()
        root["n"]["k"].append(2)
        root["n"].extra["x"] = 2
        root["o"].move_to_end("a")
        root["k"].update("b")
        root["p"].tags.add("t")
        root["p"].x = 5
        root["p"] = Point(9)
        del root["a"]

    step = perform(graph, tool)
    graph.restore(step)
    assert repr(root) == before
    assert root["a"] is root["b"] is root["c"][0] is shared
    assert list(root["o"]) == ["a", "b"]
    assert root["n"].extra == {"x": 1}
    assert type(root["n"]) is Named
    assert list(root) == ["a", "b", "c", "n", "p", "o", "k", "self"]


def test_a_model_of_pydantic_comes_back_with_what_it_knows_of_its_fields() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Mail(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        to: str
        read: bool = False

    inbox = {"m": Mail(to="ann")}
    graph = ObjectGraph(inbox)
    step = perform(graph, lambda: setattr(inbox["m"], "read", True))
    assert inbox["m"].model_fields_set == {"to", "read"}
    graph.restore(step)
    assert inbox["m"].model_fields_set == {"to"}
    assert inbox["m"] == Mail(to="ann")


def test_equal_values_of_another_type_are_another_value() -> None:
    root: dict[str, Any] = {"a": 1, "b": 0.0}
    graph = ObjectGraph(root)
    step = perform(graph, lambda: root.update(a=True, b=-0.0))
    assert step.before_snapshot != step.after_snapshot
    graph.restore(step)
    assert repr(root) == "{'a': 1, 'b': 0.0}"


def test_what_cannot_be_looked_into_is_refused_before_the_tool_unless_it_does_not_matter() -> None:
    root: dict[str, Any] = {"ids": itertools.count(), "lock": threading.Lock(), "call": len, "type": int}
    with pytest.raises(UsageError, match=r"\['ids'\] is a itertools.count.*ignore=\(count,\)"):
        opened(ObjectGraph(root))
    assert opened(ObjectGraph(root, ignore=(itertools.count,))).abandon()
    with pytest.raises(UsageError, match="more than 3 objects"):
        opened(ObjectGraph([[], [], [], []], objects_max=3))


def test_what_a_tool_brought_in_and_took_away_again_is_forgotten() -> None:
    root: dict[str, Any] = {}
    graph = ObjectGraph(root)
    perform(graph, lambda: root.update(odd=iter([])))
    with pytest.raises(UsageError, match="list_iterator"):
        opened(graph)
    root.clear()
    assert opened(graph).abandon()
    for _ in range(300):
        perform(graph, lambda: root.update(x=[[]]))
    assert graph._shadow is not None
    assert len(graph._shadow._parts) < 350


# --- calls at once ---


def test_calls_of_several_threads_take_turns_and_each_is_undone_alone() -> None:
    guard, desk = a_guard(), Desk()
    tools = desk_of(guard, desk)

    def work(name: str) -> None:
        with guard.run(agent="one@1", run_id=name):
            for number in range(10):
                tools["set"](name, str(number))

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    undone(guard, "t1")
    assert desk.status == {"a": "open", "b": "open", "t0": "9", "t2": "9", "t3": "9"}


def test_tasks_that_overlap_are_nobody_s_to_undo_and_a_call_within_a_call_is() -> None:
    desk = Desk()
    graph = ObjectGraph(desk)

    async def both() -> list[Any]:
        begun = asyncio.Event()

        async def first() -> Any:
            touch = opened(graph)
            desk.status["a"] = "first"
            begun.set()
            await asyncio.sleep(0.01)
            return a_past_step(recorded(touch.before), recorded(touch.settle(None)), {})

        async def second() -> Any:
            await begun.wait()
            return perform(graph, lambda: desk.status.update(b="second"))

        return list(await asyncio.gather(first(), second()))

    for step in asyncio.run(both()):
        with pytest.raises(Conflict, match="overlapped"):
            graph.restore(step)

    def outer() -> None:
        desk.log.append("outer")
        inner.append(perform(graph, lambda: desk.log.append("inner")))
        desk.log.append("again")

    inner: list[Any] = []
    step = perform(graph, outer)
    graph.restore(step)
    assert desk.log == ["opened"]
    graph.restore(inner[0])
    assert desk.log == ["opened"]
    with pytest.raises(Conflict, match="part of a call that is undone"):
        graph.restore(the_way_back(inner[0]))
    graph.restore(the_way_back(step))
    assert desk.log == ["opened", "outer", "inner", "again"]
    assert version_now(graph, inner[0]) == inner[0].after_snapshot.version


# --- lists, and everything, against a model ---

NEW = itertools.count(100)
LISTS = st.lists(st.integers(0, 9), max_size=6, unique=True)


def edit(elements: list[Any], choices: random.Random, mine: set[Any]) -> None:
    kind = choices.randrange(4)
    place = choices.randrange(len(elements) + 1)
    if kind <= 1:
        elements.insert(place, element := object())
        mine.add(element)
    elif elements and elements[place - 1] not in mine:
        if kind == 2:
            del elements[place - 1]
        else:
            elements[place - 1] = object()


@given(LISTS, st.randoms(use_true_random=False))
def test_a_merge_of_lists_has_both_edits_or_none(base: list[Any], choices: random.Random) -> None:
    ours, theirs = list(base), list(base)
    edit(ours, choices, set())
    edit(theirs, choices, set())
    both = merged(base, ours, theirs)
    if both is None:
        return
    assert {*both} == ({*base} & {*ours} & {*theirs}) | ({*ours} - {*base}) | ({*theirs} - {*base})
    assert [each for each in both if each in ours] == [each for each in ours if each in both]
    assert [each for each in both if each in theirs] == [each for each in theirs if each in both]
    assert merged(base, base, theirs) == theirs
    assert merged(base, ours, base) == ours


def test_two_calls_on_one_cell_are_done_again_in_their_order_and_not_over_anothers() -> None:
    desk = Desk()
    graph = ObjectGraph(desk)
    one, two = (perform(graph, lambda value=value: desk.status.update(a=value)) for value in ("ann", "bob"))
    for step in (two, one):
        graph.restore(step)
    for step in (one, two):
        graph.restore(the_way_back(step))
    assert desk.status["a"] == "bob"
    for step in (two, one):
        graph.restore(step)
    perform(graph, lambda: desk.status.update(a="ann"))  # what the first one had left there
    with pytest.raises(Conflict, match=r"status\['a'\]"):
        graph.restore(the_way_back(two))
    assert desk.status["a"] == "ann"


OPERATIONS = ("attribute", "set", "delete", "append", "first", "make", "into", "member", "count")
PROGRAM = st.lists(st.tuples(st.booleans(), st.sampled_from(OPERATIONS), st.integers(0, 2)), max_size=12)


def operate(state: Desk, who: bool, operation: str, number: int) -> None:
    """One call. What it does depends on nobody's earlier calls, but where it does it may be the same place."""
    name, value = f"k{number}", f"{who}{operation}{number}"
    match operation:
        case "attribute":
            setattr(state, name, value)
        case "set":
            state.status[name] = value
        case "delete":
            state.status.pop(name, None)
        case "append":
            state.log.append(value)
        case "first":
            state.log.insert(0, value)
        case "make":
            state.status[f"made by {who}"] = {}  # type: ignore[assignment]
        case "into":
            made: Any = state.status.get(f"made by {number > 0}")
            if isinstance(made, dict):
                made[value] = [value]
        case "member":
            state.__dict__.setdefault("tags", set()).add(f"{number}")
        case _:
            state.next_id += 1


@settings(max_examples=150, deadline=None)
@given(PROGRAM)
def test_undoing_one_of_two_runs_gives_the_other_alone_or_says_where_it_does_not(
    program: list[tuple[bool, str, int]],
) -> None:
    desk = Desk()
    graph = ObjectGraph(desk)
    steps = [(who, perform(graph, lambda who=who, op=op, n=n: operate(desk, who, op, n))) for who, op, n in program]
    whole = copy.deepcopy(vars(desk))
    for who, step in reversed(steps):
        if who:
            seen = version_now(graph, step)
            try:
                graph.restore(step)
            except Conflict:
                assert seen not in (step.before_snapshot.version,)  # type: ignore[union-attr]
                assert any(not other for other, _ in steps)  # alone, nothing is in conflict
                return
    if not any(not who for who, _ in steps):
        assert vars(desk) == vars(Desk())
        assert list(vars(desk)) == list(vars(Desk()))
    dependent = any(op in ("into", "member", "delete") for _, op, _ in program)
    alone = Desk()
    for who, op, n in program:
        if not who:
            operate(alone, who, op, n)
    if not dependent:
        assert vars(desk) == vars(alone)
    for who, step in steps:
        if who:
            with contextlib.suppress(Conflict):
                graph.restore(step)
    if not dependent:
        assert vars(desk) == vars(alone)
    for who, step in steps:
        if who:
            try:
                graph.restore(the_way_back(step))
            except Conflict:
                assert dependent
                return
    assert vars(desk) == whole


# --- values that look like something else ---


@dataclass
class Holder:
    value: Any


def test_a_value_that_stands_for_unset_elsewhere_is_a_value() -> None:
    holder = Holder(msgspec.UNSET)
    items = {"a": msgspec.UNSET, "b": 1}
    graph = ObjectGraph(holder, items)

    def tool() -> None:
        holder.value = 5
        items["a"] = 5
        items["b"] = msgspec.UNSET

    graph.restore(perform(graph, tool))
    assert holder.value is msgspec.UNSET
    assert items == {"a": msgspec.UNSET, "b": 1}


def test_integers_too_long_for_a_text_are_values() -> None:
    long = 10**5000
    holder = Holder(long)
    graph = ObjectGraph(holder)
    step = perform(graph, lambda: setattr(holder, "value", long + 1))
    holder.value = long + 1  # an equal one
    graph.restore(step)
    assert holder.value == long


@pytest.mark.parametrize(("make", "more"), [(io.BytesIO, b"more"), (io.StringIO, "more")])
def test_buffers_that_are_written_like_files_are_put_back(make: Any, more: Any) -> None:
    holder = Holder(make(more))
    buffer = holder.value
    buffer.seek(1)
    graph = ObjectGraph(holder)
    step = perform(graph, lambda: buffer.write(more + more))
    assert step.after_snapshot
    assert step.after_snapshot.version.endswith("after")
    graph.restore(step)
    assert holder.value is buffer
    assert (buffer.getvalue(), buffer.tell()) == (more, 1)
    graph.restore(the_way_back(step))
    assert buffer.getvalue() == more[:1] + more + more
    buffer.close()
    with pytest.raises(Conflict, match="value"):
        graph.restore(step)
    perform(graph, lambda: None)  # it can be looked at still


class Pair(tuple[int, int]):
    """A value that has attributes besides."""


class Money(Decimal):
    pass


def test_attributes_of_values_are_seen() -> None:
    pair, money = Pair((1, 2)), Money("1.10")
    pair.name, money.name = "old", ["old"]  # type: ignore[attr-defined]
    graph = ObjectGraph(Holder([pair, money]))

    def tool() -> None:
        pair.name = "new"  # type: ignore[attr-defined]
        money.name.append("new")  # type: ignore[attr-defined]

    graph.restore(perform(graph, tool))
    assert (pair.name, money.name) == ("old", ["old"])  # type: ignore[attr-defined]


def test_an_object_that_only_a_bound_method_leads_to_is_seen() -> None:
    holder = Holder(Desk().log.append)
    bank = Desk()
    graph = ObjectGraph(Holder({"set": bank.status_of}), holder)
    graph.restore(perform(graph, lambda: bank.status.update(a="closed")))
    assert bank.status == {"a": "open", "b": "open"}


# --- calls that outlive what they began in ---


def test_a_call_of_a_task_that_outlived_the_call_which_began_it_is_no_part_of_that() -> None:
    desk = Desk()
    graph = ObjectGraph(desk)
    outer = opened(graph)
    inside = contextvars.copy_context()  # as of a task that the tool starts
    desk.log.append("outer")
    outer_step = a_past_step(recorded(outer.before), recorded(outer.settle(None)), {})
    inner_step = inside.run(perform, graph, lambda: desk.status.update(a="inner"))
    graph.restore(outer_step)
    assert version_now(graph, inner_step).endswith("after")
    graph.restore(inner_step)
    assert desk.status == {"a": "open", "b": "open"}


def test_a_call_of_another_thread_overlaps_with_a_task_that_has_no_turn() -> None:
    desk = Desk()
    graph = ObjectGraph(desk)
    one, two = contextvars.copy_context(), contextvars.copy_context()
    first, second = one.run(opened, graph), two.run(opened, graph)
    one.run(first.settle, None)
    steps: list[Any] = []

    def meanwhile() -> None:
        touch = opened(graph)
        desk.status["b"] = "the task's"
        steps.append(a_past_step(recorded(touch.before), recorded(touch.settle(None)), {}))

    thread = threading.Thread(target=meanwhile)
    thread.start()
    thread.join()
    two.run(second.settle, None)
    with pytest.raises(Conflict, match="overlapped"):
        graph.restore(steps[0])
    assert desk.status["b"] == "the task's"
