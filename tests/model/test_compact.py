"""The compact form: import and export are inverse, field for field, and no result is mistaken for another."""

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.cli.exchange import export_steps, import_steps
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.compact import import_compact, parse_compact
from rescind.model.history import fold_steps
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.testing.clock import ManualClock

STEP: dict[str, Any] = {
    "run_id": "run_1",
    "agent_id": "billing-agent@2.4.0",
    "step_id": "7",
    "action": "invoice.status.update",
    "target": {"system": "erp", "kind": "invoice", "id": "inv_88421"},
    "before_ref": "snap_1",
    "after_ref": "snap_2",
    "idempotency_key": "k-7",
    "result": "success",
    "compensation": {"type": "restore", "allowed_until": "2026-12-01T00:00:00Z"},
}

NAMES = st.text(string.ascii_letters + "_$-é ", max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2))
RESERVED = st.sampled_from(["$unknown", "$failed", "$completed"])
RESULTS = st.just({"$unknown": None}) | st.recursive(
    JSON | st.sampled_from([{"$failed": "no"}, {"$unknown": "lost"}]),
    lambda inner: st.dictionaries(RESERVED, inner, min_size=1, max_size=2) | inner,
    max_leaves=4,
)
TIMES = st.sampled_from(
    ["2026-12-01T00:00:00Z", "2026-12-01T00:00Z", "2026-12-01T01:00:00+02:00", "2026-12-01T00:00:00.500Z", None]
)
COMPENSATIONS = st.none() | st.fixed_dictionaries(
    {"type": st.sampled_from(["restore", "compensate", "review", "own"])}, optional={"allowed_until": TIMES}
)
TARGETS = st.none() | st.builds(
    lambda more, target: more | target,
    st.dictionaries(NAMES, SCALARS, max_size=3),
    st.fixed_dictionaries({"system": NAMES.filter(bool)}, optional={"kind": SCALARS, "id": SCALARS}),
)
STEPS = st.fixed_dictionaries(
    {
        "run_id": st.just("run_1"),
        "agent_id": st.sampled_from(["a", "a@1", "a@1@2"]),
        "step_id": st.just("7"),
        "action": NAMES,
        "target": TARGETS,
        "before_ref": st.none() | NAMES,
        "after_ref": st.none() | NAMES,
        "idempotency_key": NAMES,
        "result": RESULTS,
    },
    optional={"compensation": COMPENSATIONS},
)


def through_a_journal(step: dict[str, Any]) -> dict[str, Any]:
    journal = MemoryJournal()
    import_steps(journal, [json.dumps(step).encode()], clock=ManualClock())
    (exported,) = export_steps(journal, [])
    return exported


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # As text: to Python, 1 and True are equal.


@given(STEPS)
def test_what_was_imported_is_exported_as_it_was(step: dict[str, Any]) -> None:
    assert canonical(through_a_journal(step)) == canonical(step)


@pytest.mark.parametrize(
    "fields",
    [
        {"target": {"system": "erp", "kind": ""}},
        {"target": {"system": "erp", "record_id": 88421}},
        {"target": {"system": "erp", "id": 88421, "live": True, "rate": 1.0, "shard": None}},
        {"target": None},
        {"compensation": None},
        {"compensation": {"type": "restore"}},
        {"compensation": {"type": "restore", "allowed_until": None}},
        {"compensation": {"type": "restore", "allowed_until": "2026-12-01T00:00:00+00:00"}},
        {"result": {"$unknown": None}},
        {"result": {"$failed": "no", "x": 1}},
        {"result": {"$completed": {"$failed": "no"}}},
    ],
)
def test_each_wording_comes_back(fields: dict[str, Any]) -> None:
    assert canonical(through_a_journal(STEP | fields)) == canonical(STEP | fields)


def test_a_missing_compensation_stays_missing() -> None:
    step = {name: value for name, value in STEP.items() if name != "compensation"}

    assert through_a_journal(step) == step


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ("success", Completed("success")),
        ({"$unknown": None}, None),
        ({"$unknown": "lost"}, Unknown("lost")),
        ({"$failed": "no"}, Failed("no")),
        ({"$failed": "no", "x": 1}, Completed({"$failed": "no", "x": 1})),
        ({"$unknown": None, "x": 1}, Completed({"$unknown": None, "x": 1})),
        ({"$failed": None}, Completed({"$failed": None})),
        ({"$completed": 5}, Completed({"$completed": 5})),
        ({"$completed": {"$failed": "no"}}, Completed({"$failed": "no"})),
        ({"$completed": {"$completed": {"$failed": "no"}}}, Completed({"$completed": {"$failed": "no"}})),
    ],
)
def test_only_an_exact_object_is_reserved(result: Any, outcome: Outcome | None) -> None:
    assert import_compact(parse_compact(json.dumps(STEP | {"result": result}))).outcome == outcome


def test_a_usual_step_keeps_nothing_beside_and_a_reworded_one_what_differs() -> None:
    journal = MemoryJournal()
    reworded = {"step_id": "8", "target": {"system": "erp", "kind": ""}}
    lines = [json.dumps(STEP).encode(), json.dumps(STEP | reworded).encode()]
    import_steps(journal, lines, clock=ManualClock())

    usual, other = fold_steps(journal.entries(Query()))

    assert not usual.step.imported
    assert other.step.imported
    assert (other.step.imported.given, other.step.imported.absent) == ({"target": reworded["target"]}, ())


@pytest.mark.parametrize("time", ["2026-12-01T00:00:00", "2026-12-01T00:00", "2026-12-01"])
def test_a_time_without_a_zone_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        parse_compact(json.dumps(STEP | {"compensation": {"type": "restore", "allowed_until": time}}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"compensation": {"type": "restore", "allowed_until": "soon"}}, "is not a time"),
        ({"target": {"kind": "invoice"}}, "target.system is missing"),
        ({"target": {"system": 7}}, "target.system is missing"),
        ({"target": {"system": "erp", "keys": [1]}}, "target"),
    ],
)
def test_what_cannot_be_read_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_compact(json.dumps(STEP | fields))
