"""The shape that a result is declared to have."""

import collections
import dataclasses
import timeit
import types
import typing
from asyncio import Future
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest

from rescind.triggers.schema import Shape, shape_of


@dataclasses.dataclass
class Invoice:
    number: str
    total: int
    tags: list[str]


class Price(msgspec.Struct):
    amount: int


class Row(typing.TypedDict):
    id: int


class Opaque:
    pass


GOOD = {"number": "1", "total": 5, "tags": ["a"]}


def problem(declared: Any, result: Any) -> str:
    shape = shape_of(declared)
    assert shape is not None
    return shape.problem_with(result)


@pytest.mark.parametrize(
    ("declared", "result"),
    [
        (Invoice, GOOD),
        (Invoice, Invoice("1", 5, [])),
        (Invoice, GOOD | {"more": 1}),
        (Invoice | None, None),
        (list[Invoice], [Invoice("1", 5, []), GOOD]),
        (dict[str, Price], {"a": Price(1), "b": {"amount": 2}}),
        (Row, {"id": 1}),
        (float, 1),
        (datetime, "2026-11-21T12:00:00Z"),
        (Opaque, Opaque()),
        (Sequence[int], range(3)),
        (Mapping[str, int], types.MappingProxyType({"a": 1})),
        (dict[str, int], collections.OrderedDict(a=1)),
        (Row, dataclasses.make_dataclass("Made", [("id", int)])(1)),
    ],
)
def test_a_result_that_is_as_declared_has_no_problem(declared: Any, result: Any) -> None:
    assert problem(declared, result) == ""


@pytest.mark.parametrize(
    ("declared", "result", "says"),
    [
        (Invoice, {"number": "1", "tags": []}, "missing required field `total`"),
        (Invoice, GOOD | {"total": "5"}, "Expected `int`, got `str` - at `$.total`"),
        (Invoice, GOOD | {"total": None}, "got `null` - at `$.total`"),
        (list[Invoice], [GOOD, GOOD | {"tags": [1]}], "at `$[1].tags[0]`"),
        (Invoice, None, "Expected `object`, got `null`"),
        (Invoice, "sold out", "Expected `object`, got `str`"),
        (int, True, "got `bool`"),
        (Row, Invoice("1", 5, []), "missing required field `id`"),
        (Opaque, {"a": 1}, "got `dict`"),
        (Invoice, Opaque(), "it is a Opaque"),
    ],
)
def test_what_is_not_as_declared_is_said_with_its_place(declared: Any, result: Any, says: str) -> None:
    assert says in problem(declared, result)


@pytest.mark.parametrize(
    "declared",
    [
        None,
        type(None),
        Any,
        object,
        typing.NoReturn,
        Awaitable[int],
        Iterator[int],
        Future[int],
        "Invoice",
        Invoice | Price,
        7,
    ],
)
def test_an_annotation_that_says_nothing_that_could_be_checked_has_no_shape(declared: Any) -> None:
    assert shape_of(declared) is None


def endless() -> list[Any]:
    result: list[Any] = []
    result.append(result)
    return result


class Evil:
    def __iter__(self) -> Iterator[int]:
        raise KeyError("gotcha")

    def __str__(self) -> str:
        raise KeyError("gotcha")


@pytest.mark.parametrize(
    "result",
    [
        endless(),
        {"number": "\ud800"},
        {1: 2},
        {None: Opaque()},
        float("nan"),
        b"\xff",
        Evil(),
        [Evil()],
        10**5_000,
        Evil,
    ],
    ids=lambda result: type(result).__name__,
)
def test_no_result_makes_it_raise(result: Any) -> None:
    for declared in (Invoice, list[Invoice], dict[str, int], Opaque, {"type": "object", "required": ["a"]}):
        assert isinstance(problem(declared, result), str)


def test_a_problem_is_short_and_can_be_written_down() -> None:
    said = problem({"type": "object", "additionalProperties": False}, {"x" * 100_000 + "\ud800": 1})

    assert len(said) <= 200
    said.encode()


def test_of_long_lists_the_first_items_are_looked_at() -> None:
    assert "at `$[99]" in problem(list[int], [*range(99), "x", *range(10_000)])
    assert problem(list[int], [*range(10_000), "x"]) == ""
    assert "at `$.tags[0]`" in problem(Invoice, GOOD | {"tags": [0] * 10_000})
    assert problem(typing.Annotated[list[int], msgspec.Meta(min_length=200)], list(range(300))) == ""


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "An invoice",
    "type": "object",
    "properties": {
        "invoice-id": {"type": "string", "minLength": 1},
        "total": {"type": ["number", "null"], "minimum": 0},
        "state": {"enum": ["open", "paid", None]},
        "kind": {"const": "invoice"},
        "lines": {"type": "array", "items": {"properties": {"sku": {"type": "string"}}, "required": ["sku"]}},
        "extra": {"type": "object"},
    },
    "required": ["invoice-id", "total", "undeclared"],
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"total": None, "state": "paid", "kind": "invoice", "lines": [{"sku": "a"}], "extra": {"a": 1}, "z": 0}, ""),
        ({"total": 0.5}, ""),
        ({"total": -1}, "$.total"),
        ({"invoice-id": ""}, "$.invoice-id"),
        ({"state": "lost"}, "$.state"),
        ({"state": None}, ""),
        ({"kind": "order"}, "$.kind"),
        ({"lines": [{"sku": "a"}, {}]}, "$.lines[1]"),
        ({"extra": []}, "$.extra"),
    ],
)
def test_a_schema_of_json_is_understood(changed: dict[str, Any], says: str) -> None:
    said = problem(SCHEMA, {"invoice-id": "1", "total": 1, "undeclared": None} | changed)

    assert says in said
    assert bool(said) is bool(says)


def test_a_required_property_that_is_gone_is_a_problem() -> None:
    assert "undeclared" in problem(SCHEMA, {"invoice-id": "1", "total": 1})


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"oneOf": []}, "'oneOf', which is not understood here"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"type": "text"}, "type 'text'; known are string"),
        ({"type": "array", "items": {"type": "array", "items": {"$ref": "#"}}}, r"at \$\[…\]\[…\] has '\$ref'"),
        ({"properties": {"a": 7}}, r"at \$\.a is 7"),
        ({"properties": []}, "needs a mapping"),
        ({"type": "object", "required": "id"}, "a list of those required"),
        ({"type": "object", "additionalProperties": {}}, "true or false"),
        ({"type": "string", "minLength": -1}, "a bound that is none"),
        ({"type": "string", "minimum": 1}, "'minimum'"),
        ({"enum": []}, "a choice"),
        ({"enum": [1.5]}, "a choice of other values"),
        ({"enum": [True]}, "a choice of other values"),
        ({"properties": {str(number): {} for number in range(201)}}, "201 properties"),
    ],
)
def test_a_keyword_that_is_not_understood_is_refused_when_it_is_declared(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shape_of(schema)


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema

    with pytest.raises(ValueError, match="nested deeper than 16"):
        shape_of(schema)


@pytest.mark.parametrize("declared", [Invoice, {"properties": {"total": {"type": "integer"}}}])
def test_a_result_is_checked_in_microseconds(declared: Any) -> None:
    shape = shape_of(declared)
    assert isinstance(shape, Shape)

    assert (
        min(timeit.repeat(lambda: shape.problem_with(GOOD), number=1_000, repeat=5)) < 0.02
    )  # 20 µs, on a busy machine
