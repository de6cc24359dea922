"""The scorer of suite `fidelity` over a little world of our own: what is right passes, and what is wrong is seen.

A judge that cannot say "wrong" is none, so each way of being wrong is made here on purpose.
"""

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bench.fidelity import measure
from bench.fidelity.environments import Invoke, Task, Tools, World
from bench.fidelity.likeness import hash_of
from bench.fidelity.ownership import Ownership
from bench.fidelity.score import Judgement, Kinship, Scorer, Verdict
from rescind.compensation.effects import ObjectGraph
from rescind.guard.effect import PastStep
from rescind.model.step import Snapshot


class Shop:
    """Reads that write, writes that change nothing, an alias, a generator, objects inside of objects."""

    def __init__(self) -> None:
        self.carts: dict[str, list[str]] = {"ann": [], "bob": []}
        self.recent = self.carts["ann"]
        self.views = 0
        self.prices: dict[str, float] = {}
        self.random = random.Random(7)
        self.owner = "ann"

    def add(self, who: str, article: str) -> int:
        self.carts.setdefault(who, []).append(article)
        return len(self.carts[who])

    def look(self) -> dict[str, list[str]]:
        self.views += 1
        return self.carts

    def price(self, article: str) -> float:
        self.prices[article] = self.random.random()
        return self.prices[article]

    def own(self, who: str) -> str:
        self.owner = who
        return self.owner

    def refuse(self) -> None:
        raise ValueError("not today")


Calls = list[Invoke]


def call(name: str, *arguments: Any) -> Invoke:
    def invoke(tools: Tools) -> Any:
        return tools[name](*arguments)

    return invoke


ALL: Calls = [
    call("add", "ann", "tea"),
    call("look"),
    call("price", "tea"),
    call("refuse"),
    call("add", "cid", "milk"),
    call("own", "bob"),
    call("add", "bob", "rice"),
]


def task_of(*runs: Calls) -> Task:
    def fresh() -> World:
        shop = Shop()
        tools = {name: getattr(shop, name) for name in ("add", "look", "price", "own", "refuse")}
        return World(shop, tools, runs)

    return Task("shop", fresh)


MODES = list(Scorer().modes())


@pytest.mark.parametrize("mode", MODES)
def test_a_run_alone_is_undone_exactly(mode: str) -> None:
    judged = Scorer().modes()[mode](task_of(ALL))
    assert (judged.verdict, judged.detail, judged.changed) == (Verdict.EXACT, "", True)


def paired(one: Calls, two: Calls, *, undone: int = 0, **scorer: Any) -> tuple[Kinship | None, Verdict]:
    judged: Judgement = Scorer(**scorer).pair(task_of(one, two), undone=undone)
    return judged.kinship, judged.verdict


def test_each_kinship_of_two_runs_is_known_and_judged() -> None:
    tea, rice = [call("add", "ann", "tea")] * 2, [call("add", "bob", "rice")] * 2
    assert paired(tea, rice) == (Kinship.APART, Verdict.EXACT)
    assert paired([call("own", "cid")], [call("look")]) == (Kinship.OTHER_CELLS, Verdict.EXACT)
    assert paired(tea, [call("add", "ann", "milk")]) == (Kinship.DEPENDENT, Verdict.EXACT)  # it was told another length
    assert paired([call("own", "bob")], [call("own", "bob")]) == (Kinship.DEPENDENT, Verdict.KEPT)
    assert paired([call("own", "bob")], [call("own", "cid")]) == (Kinship.CONTENDED, Verdict.REPORTED)
    assert paired([call("price", "tea")], [call("price", "tea")]) == (Kinship.CONTENDED, Verdict.REPORTED)


def a_finding(**fields: Any) -> measure.Found:
    defaults: dict[str, Any] = dict.fromkeys(("kinship", "by_snapshot")) | dict.fromkeys(
        ("benchmark", "task", "detail"), ""
    )
    usual: dict[str, Any] = {"mode": "solo", "verdict": Verdict.EXACT, "available": 1, "changed": True, "steps": 1}
    return measure.Found(**(defaults | usual | fields))


@pytest.mark.parametrize("kinship", Kinship)
def test_a_row_is_met_by_all_and_by_no_less(kinship: Kinship) -> None:
    for by_snapshot in (Verdict.EXACT, Verdict.SILENTLY_WRONG):
        well = a_finding(mode="pair", kinship=kinship, by_snapshot=by_snapshot)
        wrong = msgspec.structs.replace(well, verdict=Verdict.SILENTLY_WRONG)
        other = msgspec.structs.replace(well, kinship=Kinship.APART)
        assert all(row.met for row in measure.rows_of("b", [a_finding(), well, other]))
        for bad in (wrong, a_finding(verdict=Verdict.NO_EFFECT), a_finding(verdict=Verdict.NOT_JUDGED)):
            assert not all(row.met for row in measure.rows_of("b", [a_finding(), well, other, bad]))
        assert not all(row.met for row in measure.rows_of("b", [a_finding(), other, wrong]))


# --- what is wrong on purpose ---


class Blind(ObjectGraph):
    """Says of each step that it is back, whatever it did."""

    def observe(self, step: PastStep) -> Snapshot | None:
        seen = super().observe(step)
        return step.before_snapshot if self.restored and seen is not None else seen

    restored = False


class Forgetful(Blind):
    """Forgets one cell when it restores."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop)
        self._shop = shop

    def restore(self, step: PastStep) -> None:
        views = self._shop.views
        super().restore(step)
        self._shop.views, self.restored = views, True


class WholeSnapshot(Blind):
    """Puts the whole state back as it was before the first step."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop)
        self._shop, self._first = shop, copy.deepcopy(vars(shop))

    def restore(self, step: PastStep) -> None:
        vars(self._shop).update(copy.deepcopy(self._first))
        self.restored = True


class Unaliased(Forgetful):
    """Puts equal objects back in place of the same ones."""

    def restore(self, step: PastStep) -> None:
        ObjectGraph.restore(self, step)
        self._shop.recent, self.restored = list(self._shop.recent), True


@pytest.mark.parametrize("mode", ["solo", "killed", "killed in a call", "answer lost", "redo"])
@pytest.mark.parametrize("effect", [Forgetful, Unaliased])
def test_a_restore_that_forgets_a_cell_or_an_alias_is_silently_wrong(mode: str, effect: Callable[[Any], Any]) -> None:
    calls = [call("look"), *[call("add", "ann", article) for article in ("tea", "milk", "rice")]]
    assert Scorer(effect=effect).modes()[mode](task_of(calls)).verdict is Verdict.SILENTLY_WRONG


def test_a_snapshot_of_the_whole_state_is_exact_alone_and_takes_the_other_run_with_it() -> None:
    assert Scorer(effect=WholeSnapshot).solo(task_of(ALL)).verdict is Verdict.EXACT
    tea, rice = [call("add", "ann", "tea")], [call("add", "bob", "rice")]
    assert paired(tea, rice, effect=WholeSnapshot) == (Kinship.APART, Verdict.SILENTLY_WRONG)
    assert Scorer().pair(task_of(tea, rice), undone=0).by_snapshot is Verdict.SILENTLY_WRONG


def test_a_call_without_its_full_effect_does_not_count_and_is_not_transparent() -> None:
    made = itertools.count()

    def fresh() -> World:
        shop, number = Shop(), next(made)

        def own(who: str) -> str:
            shop.owner = f"{who} {number}"
            return shop.owner

        return World(shop, {"own": own}, ([call("own", "bob")],))

    assert Scorer().solo(Task("shop", fresh)).verdict is Verdict.NO_EFFECT
    assert Scorer().transparent(Task("shop", fresh)).verdict is Verdict.SILENTLY_WRONG


def test_a_hash_sees_values_types_order_aliases_and_generators() -> None:
    shared: list[int] = []
    one, other = random.Random(1), random.Random(1)
    assert hash_of(one) == hash_of(other)
    one.random()
    different = [
        (one, other), ([shared, shared], [[], []]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (1, True), (0.0, -0.0),
        ((1,), [1]), ({1}, {2}),
    ]  # fmt: skip
    for left, right in different:
        assert hash_of(left) != hash_of(right), (left, right)
    assert hash_of({"x", "y", "z"}) == hash_of({"z", "y", "x"})


def test_what_must_be_there_without_one_of_two_is_known_of_every_kind_of_cell() -> None:
    state: dict[str, Any] = {"list": [1, 2], "set": {1}, "left": 0, "both": 0, "gone": 0, "object": Shop()}
    ownership = Ownership(state)
    state["list"][0:1] = []
    state["list"].append("one's")
    state["set"].add(2)
    state["left"] = state["both"] = 1
    state["object"].owner = "one"
    del state["gone"]
    ownership.note("one")
    state["list"].append("two's")
    state["set"].add(3)
    state["both"] = 2
    state["object"].views = 9
    ownership.note("two")
    assert ownership.is_contended("one", "two")
    assert not ownership.is_contended("two", "one")
    ownership.take_out("one")
    assert list(state) == ["list", "set", "left", "both", "gone", "object"]
    assert (state["list"], state["set"]) == ([1, 2, "two's"], {1, 3})
    assert (state["left"], state["both"], state["gone"]) == (0, 2, 0)
    assert (state["object"].owner, state["object"].views) == ("ann", 9)


def test_a_key_that_one_run_took_away_stands_where_it_would_be_had_nobody_taken_it() -> None:
    state: dict[str, int] = {"plan": 1}
    ownership = Ownership(state)
    state["overview"] = state.pop("plan")
    ownership.note("one")
    state["usage"] = 2
    ownership.note("two")
    ownership.take_out("one")
    assert list(state.items()) == [("plan", 1), ("usage", 2)]
