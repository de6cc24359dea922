"""What `MappingKey` promises beyond the contract."""

import shelve
from collections import Counter, UserDict, defaultdict
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effects.harness import opened, perform
from rescind.compensation.effects import MappingKey
from rescind.errors import Conflict, UsageError
from rescind.model.step import Target

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Defaulting(UserDict[str, Any]):
    """Makes what is asked for."""

    def __missing__(self, key: str) -> Any:
        self[key] = []
        return self[key]


class Remote:
    """A store behind a network: no dictionary, and who knows what is still under way."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.values[key] = value

    def __delitem__(self, key: str) -> None:
        del self.values[key]


def test_a_shelf_keeps_what_was_put_back(tmp_path: Path) -> None:
    with shelve.open(str(tmp_path / "shelf")) as shelf:
        shelf["k"] = {"a": [1, 2.0, None]}
        effect = MappingKey(shelf, key=lambda: "k")
        step = perform(effect, lambda: shelf.__setitem__("k", 1))
        effect.restore(step)
    with shelve.open(str(tmp_path / "shelf")) as shelf:
        assert shelf["k"] == {"a": [1, 2.0, None]}


@pytest.mark.parametrize("kind", [lambda: defaultdict(list), Counter, Defaulting])
def test_looking_at_a_key_does_not_make_it(kind: Callable[[], Any]) -> None:
    store = kind()
    effect = MappingKey(store, key=lambda: "k")
    touch = opened(effect)
    assert touch.before
    assert touch.before.absent
    assert dict(store) == {}
    touch.abandon()
    step = perform(effect, lambda: store.__setitem__("k", 1))
    effect.restore(step)
    assert dict(store) == {}


def test_a_new_key_is_deleted_again() -> None:
    store: dict[str, Any] = {}
    effect = MappingKey(store, key=lambda name: name, system="settings")
    step = perform(effect, lambda name: store.update({name: None}), name="k")
    assert step.before_snapshot
    assert step.before_snapshot.absent
    effect.restore(step)
    assert store == {}
    assert effect.target({"name": "k"}) == Target("settings", "key", "k")


@pytest.mark.parametrize("value", [b"x", {1: 2}, (1,), date(2026, 1, 1), float("nan"), {"a": [{1}]}, "\ud800"])
def test_a_value_that_json_cannot_hold_is_refused_before_the_tool(value: Any) -> None:
    with pytest.raises(UsageError, match="value of key 'k' of mapping cannot be kept exactly"):
        opened(MappingKey({"k": value}, key=lambda: "k"))


def test_a_key_is_text_or_a_number() -> None:
    with pytest.raises(UsageError, match="text or an integer"):
        opened(MappingKey({}, key=lambda: 1.5))  # type: ignore[arg-type, return-value]  # the mistake itself


def test_of_a_store_that_may_be_remote_nothing_is_vouched_for() -> None:
    store = Remote()
    effect = MappingKey(store, key=lambda: "k")
    assert opened(effect).abandon() is False
    step = perform(effect, lambda: store.__setitem__("k", 1))
    effect.restore(step)
    assert store.values == {}


def test_what_cannot_be_looked_at_any_more_is_not_vouched_for() -> None:
    store: dict[str, Any] = {}
    touch = opened(MappingKey(store, key=lambda: "k"))
    store["k"] = object()
    assert touch.abandon() is False


def test_the_image_does_not_change_with_the_stores_own_object() -> None:
    store: dict[str, Any] = {"k": [1]}
    effect = MappingKey(store, key=lambda: "k")
    step = perform(effect, lambda: store["k"].append(2))
    effect.restore(step)
    store["k"].append(3)
    assert step.before["value"] == [1]


@given(old=JSON, new=JSON, later=st.none() | JSON)
def test_any_json_value_is_put_back_unless_somebody_changed_it(old: Any, new: Any, later: Any) -> None:
    store: dict[str, Any] = {"k": old}
    effect = MappingKey(store, key=lambda: "k")
    step = perform(effect, lambda: store.update(k=new))
    if later is not None:
        store["k"] = later
    kept = repr(store)
    try:
        effect.restore(step)
    except Conflict:
        assert later is not None
        assert repr(store) == kept
    else:
        assert repr(store["k"]) == repr(old) or store["k"] == old


def test_a_key_that_no_journal_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="half a character"):
        opened(MappingKey({}, key=lambda: "a\ud800"))
