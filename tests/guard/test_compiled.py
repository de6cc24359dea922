"""Orders in pigeonholes: a run finds those that concern it, and looks at no others."""

import time

from hypothesis import given
from hypothesis import strategies as st

from builders import an_order
from rescind.guard.compiled import Compiled
from rescind.model.level import Level
from rescind.model.order import covering
from rescind.model.scope import Subject

values = st.sampled_from(["a", "b"])
subjects = st.builds(
    Subject,
    run_id=values,
    agent_name=values,
    agent_version=st.sampled_from(["", "1", "2"]),
    tenant=st.sampled_from(["", "a", "b"]),
    workflow=st.sampled_from(["", "a", "b"]),
    lineage=st.frozensets(st.sampled_from(["a", "b", "c"])),
)
terms = st.one_of(
    st.tuples(st.sampled_from(["tenant", "workflow", "run", "tree", "action"]), values).map(":".join),
    st.sampled_from(["agent:a", "agent:a@1", "agent:b@2"]),
)
scopes = st.one_of(st.just("everything"), st.lists(terms, min_size=1, max_size=4).map("+".join))
levels = st.sampled_from([Level.SUPERVISED, Level.READ_ONLY, Level.PAUSED, Level.HALTED])


@given(st.lists(st.tuples(scopes, levels), max_size=12), subjects, st.sampled_from([None, "", "a", "b"]))
def test_what_concerns_a_run_are_exactly_the_orders_that_cover_some_call_of_it(
    said: list[tuple[str, Level]], subject: Subject, action: str | None
) -> None:
    orders = [an_order(f"o-{number}", scope, level) for number, (scope, level) in enumerate(said)]
    compiled = Compiled([*orders, *orders])
    assert covering(compiled.concerning(subject), subject, action) == covering(compiled.orders, subject, action)
    assert [order.level for order in compiled.orders] == sorted((order.level for order in orders), reverse=True)


def test_thousands_of_runs_follow_thousands_of_orders_of_others_without_looking_at_each() -> None:
    orders = [an_order(f"o-{number}", f"tenant:acme+run:other-{number}") for number in range(3000)]
    subjects_ = [Subject(run_id=f"run-{number}", agent_name="a", tenant="acme") for number in range(3000)]
    compiled = Compiled(orders)
    began = time.process_time()
    assert not any(compiled.concerning(subject) for subject in subjects_)
    assert time.process_time() - began < 1.0  # nine million comparisons would take ten
