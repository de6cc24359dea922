"""Column values survive the journal, type and all."""

import math
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.compensation.effects.exact import Inexact, decode, encode
from rescind.model.step import canonical_json

ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(),
    st.times(timezones=ZONES),
    st.timedeltas(),
    st.uuids(),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == other.as_tuple())
    return (
        bool(one == other) and getattr(one, "utcoffset", lambda: None)() == getattr(other, "utcoffset", lambda: None)()
    )


@given(VALUES)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    through_the_journal = msgspec.json.decode(canonical_json(encode(value)))
    assert canonical_json(through_the_journal) == canonical_json(encode(value))
    assert alike(decode(msgspec.json.decode(msgspec.json.encode(encode(value)))), value)


@given(VALUES, VALUES)
def test_different_values_have_different_forms(one: Any, other: Any) -> None:
    assert alike(one, other) <= (canonical_json(encode(one)) == canonical_json(encode(other)))
    if canonical_json(encode(one)) == canonical_json(encode(other)):
        assert type(one) is type(other)


def test_data_cannot_forge_a_tag() -> None:
    value = {"$bytes": "AA=="}
    assert decode(encode(value)) == value


@pytest.mark.parametrize("value", [object(), {1: "a"}, (1, 2), {"a": {1, 2}}, 1j])
def test_what_cannot_be_kept_exactly_is_refused(value: Any) -> None:
    with pytest.raises(Inexact, match="cannot be kept exactly"):
        encode(value)
