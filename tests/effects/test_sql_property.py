"""Random rows, changed in random ways: a restore is exact, and a change by somebody else is never lost."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine

from effects.harness import perform, version_now
from effects.worlds import content_of
from rescind.compensation.effects import SqlRows
from rescind.errors import Conflict

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),  # SQLite stores NaN as NULL
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
)
KEYS = st.tuples(st.sampled_from(["a", "B", "ü"]), st.integers(0, 2) | st.just(2**60))
ROWS = st.dictionaries(KEYS, st.tuples(VALUES, VALUES), max_size=6)
Table = dict[tuple[str, int], tuple[Any, Any]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("property")
    engine = sa.create_engine(f"sqlite:///{folder / 'any.db'}")
    with engine.begin() as connection:
        # No type on `loose`: SQLite then keeps any storage class; on `exact` it converts.
        connection.exec_driver_sql(
            "CREATE TABLE things (part TEXT, number INTEGER, loose, exact NUMERIC, PRIMARY KEY (part, number))"
        )
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
    yield engine
    engine.dispose()


def replace(connection: Connection, rows: Table) -> None:
    connection.exec_driver_sql("DELETE FROM things")
    for key, values in rows.items():
        connection.exec_driver_sql("INSERT INTO things VALUES (?, ?, ?, ?)", (*key, *values))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(first=ROWS, second=ROWS, meddled=st.none() | st.tuples(KEYS, VALUES))
def test_whatever_happens_to_the_rows(
    engine: Engine, first: Table, second: Table, meddled: tuple[tuple[str, int], Any] | None
) -> None:
    effect = SqlRows(engine, "things", rows=lambda keys: [{"part": part, "number": number} for part, number in keys])
    with engine.begin() as connection:
        replace(connection, first)
    before = content_of(engine)
    step = perform(effect, lambda keys: replace(effect.connection(), second), keys=sorted(first.keys() | second.keys()))
    after = content_of(engine)
    if meddled is not None:
        with engine.begin() as connection:
            key, value = meddled
            connection.exec_driver_sql("INSERT OR REPLACE INTO things VALUES (?, ?, ?, 1)", (*key, value))
    now = content_of(engine)
    try:
        effect.restore(step)
    except Conflict:
        assert now != after
        assert content_of(engine) == now
    else:
        assert step.before_snapshot
        assert version_now(effect, step) == step.before_snapshot.version
        if meddled is None:
            assert content_of(engine) == before
        effect.restore(step)
