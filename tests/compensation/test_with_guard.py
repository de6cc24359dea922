"""The same with a real guard: what its tools record is what an undo needs."""

import asyncio
from typing import Any

import pytest

from builders import a_guard, steps_of
from rescind.clock import SystemIds
from rescind.compensation.effects import MappingKey
from rescind.compensation.execute import apply_plan
from rescind.compensation.result import UndoResult
from rescind.compensation.selection import Selection
from rescind.compensation.survey import make_plan
from rescind.errors import RescindError
from rescind.guard.effect import PastStep
from rescind.guard.guard import Guard
from rescind.testing import ManualClock
from rescind.testing.world import SimulatedWorld


def undo(guard: Guard, **selection: Any) -> UndoResult:
    clock = ManualClock()
    plan = make_plan(guard.journal, Selection(**selection), guard.compensators, clock)
    return apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="ops")


def test_what_a_guarded_run_did_is_undone() -> None:
    guard, rows, refunds = a_guard(), {"tea": 3}, list[tuple[str, int]]()

    @guard.write("price.set", effect=MappingKey(rows, key=lambda name: name))
    def set_price(name: str, price: int) -> None:
        rows[name] = price

    @guard.write("card.charge")
    def charge(amount: int) -> int:
        return amount

    @charge.compensate
    def _(step: PastStep) -> None:
        refunds.append((step.idempotency_key, step.arguments["amount"]))

    with guard.run("shop@1") as run:
        set_price("tea", 4)
        set_price("tea", 5)
        set_price("jam", 9)
        charge(12)

    result = undo(guard, run_ids=(run.run_id,))
    assert result.counts == {"compensated": 1, "restored": 3}
    assert rows == {"tea": 3}
    charge_step = steps_of(guard.journal, run.run_id)[-1].step.step_id
    assert refunds == [(f"undo:{run.run_id}:{charge_step}", 12)]


def test_asynchronous_tools_are_undone_too() -> None:
    guard, status = a_guard(), {"inv_1": "open"}

    @guard.write("invoice.set", target=lambda invoice: ("erp", "invoice", invoice))
    async def set_status(invoice: str, value: str) -> None:
        status[invoice] = value

    @set_status.snapshot
    async def _(invoice: str) -> str:
        return status[invoice]

    @set_status.restore
    async def _(step: PastStep) -> None:
        status[step.arguments["invoice"]] = step.before

    async def act() -> None:
        with guard.run("billing@1"):
            await set_status("inv_1", "void")
            await set_status("inv_1", "paid")

    asyncio.run(act())
    assert undo(guard, agent="billing").counts == {"restored": 2}
    assert status == {"inv_1": "open"}


@pytest.mark.parametrize("seed", range(40))
def test_an_undo_accounts_for_everything_in_a_broken_world(seed: int) -> None:
    world = SimulatedWorld(seed).run(calls=40, halt_at=35)
    guard = world.new_process()
    for _ in range(50):  # its disk is full now and then
        try:
            result = undo(guard, tenant="acme")
        except RescindError:
            continue
        break
    assert result.is_complete
    assert all(count == 1 for count in world.compensations.values())
    in_review = {str(step.step) for step in result.steps if step.word == "review"}
    restored = {str(step.step) for step in result.steps}
    assert set(world.effects) <= restored
    if not in_review:
        assert world.rows == {f"row-{number}": 0 for number in range(8)}
