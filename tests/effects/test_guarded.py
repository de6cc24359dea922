"""A ready-made effect under a real guard: the transaction is open while the tool runs, and the outcome is the truth."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from builders import a_guard, steps_of
from effects.worlds import content_of
from rescind.compensation.effects import SqlRows
from rescind.guard.guard import Guard
from rescind.model.outcome import Completed, Failed, Unknown

SET_PLAN = sa.text("UPDATE customers SET plan = :plan WHERE id = :id")


def set_plan_of(guard: Guard, effect: SqlRows, *, is_async: bool) -> Callable[..., None]:
    """The tool as a plain function, declared as a plain or as a coroutine function."""

    def write(id: str, plan: str) -> str:
        effect.connection().execute(SET_PLAN, {"id": id, "plan": plan})
        if plan == "bad":
            raise ValueError(plan)
        return plan

    @guard.write("plan.set", effect=effect)
    def plain(id: str, plan: str) -> str:
        return write(id, plan)

    @guard.write("plan.set.async", effect=effect)
    async def coroutine(id: str, plan: str) -> str:
        await asyncio.sleep(0)
        return write(id, plan)

    def call(**arguments: Any) -> None:
        with guard.run(agent="billing-agent@2.4.0"):
            if is_async:
                asyncio.run(coroutine(**arguments))
            else:
                plain(**arguments)

    return call


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_guarded_write_is_undone_from_its_journal(engine: Engine, is_async: bool) -> None:
    content = content_of(engine)
    guard = a_guard()
    effect = SqlRows(engine, "customers", rows=lambda id: {"id": id})
    call = set_plan_of(guard, effect, is_async=is_async)

    call(id="c-1", plan="free")
    assert content_of(engine) != content
    with pytest.raises(ValueError, match="bad"):
        call(id="c-1", plan="bad")

    done, failed = steps_of(guard.journal)
    assert done.outcome == Completed("free")
    assert isinstance(failed.outcome, Failed)
    guard.compensators[done.step.action].undo(done, "undo-1")
    assert content_of(engine) == content


def test_a_row_that_moved_into_the_match_leaves_the_step_unknown_and_the_rows_alone(engine: Engine) -> None:
    content = content_of(engine)
    guard = a_guard()
    effect = SqlRows(engine, "customers", rows=lambda plan: {"plan": plan})
    with pytest.raises(Exception, match="may have been there before"):
        set_plan_of(guard, effect, is_async=False)(id="c-2", plan="gold")
    (step,) = steps_of(guard.journal)
    assert isinstance(step.outcome, Unknown)
    assert content_of(engine) == content
