"""The same with a real guard: what its tools record is what an undo needs."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from builders import a_guard, steps_of
from rescind.clock import SystemIds
from rescind.compensation.decision import Review
from rescind.compensation.effects import MappingKey, SqlRows
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.result import UndoResult
from rescind.errors import RescindError
from rescind.guard.effect import PastStep
from rescind.guard.guard import Guard
from rescind.journal.port import Draft
from rescind.model.entry import CompensationEnded, Disposition
from rescind.testing import ManualClock
from rescind.testing.world import SimulatedWorld


def undo(guard: Guard, **selection: Any) -> UndoResult:
    clock = ManualClock()
    plan = make_plan(guard.journal, Selection(**selection), guard.compensators, clock)
    return apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="ops", parallel=8)


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


def test_handlers_that_share_a_file_do_not_lose_what_the_other_wrote(tmp_path: Path) -> None:
    """U14."""
    guard, book = a_guard(), tmp_path / "invoices.json"
    opened = {f"inv_{number}": "open" for number in range(30)}
    book.write_text(json.dumps(opened))

    def read() -> dict[str, str]:
        found: dict[str, str] = json.loads(book.read_text())
        time.sleep(0.001)  # long enough for another thread to read the same
        return found

    def declare(action: str) -> Any:
        @guard.write(action, target=lambda invoice: ("erp", action, invoice))
        def set_status(invoice: str, value: str) -> None:
            book.write_text(json.dumps(read() | {invoice: value}))

        @set_status.snapshot
        def _(invoice: str) -> str:
            return read()[invoice]

        @set_status.restore
        def _(step: PastStep) -> None:
            book.write_text(json.dumps(read() | {step.arguments["invoice"]: step.before}))

        return set_status

    tools = [declare("invoice.void"), declare("invoice.pay")]
    for run in range(3):
        with guard.run("billing@1"):
            for number in range(10):
                tools[number % 2](f"inv_{run * 10 + number}", "void")

    assert undo(guard, agent="billing").counts == {"restored": 30}
    assert json.loads(book.read_text()) == opened


def nested(guard: Guard, rows: dict[str, int]) -> Any:
    inner_effect = MappingKey(rows, key=lambda name: name)

    @guard.write("price.round", effect=inner_effect)
    def round_price(name: str) -> None:
        rows[name] = rows[name] // 10 * 10

    @guard.write("price.audit", effect=MappingKey(rows, key=lambda name: f"audit-{name}"))
    def audit(name: str) -> None:
        rows[f"audit-{name}"] = 1

    @guard.write("price.set", effect=MappingKey(rows, key=lambda name: name))
    def set_price(name: str, price: int) -> None:
        rows[name] = price
        round_price(name)
        audit(name)
        rows[name] += 1
        round_price(name)

    return set_price


def test_calls_made_inside_a_call_at_its_target_are_put_back_with_it() -> None:
    guard, rows = a_guard(), {"tea": 3}
    set_price = nested(guard, rows)
    with guard.run("shop@1") as run:
        set_price("tea", 57)
        set_price("tea", 68)
    assert rows == {"tea": 60, "audit-tea": 1}

    result = undo(guard, run_ids=(run.run_id,))
    assert result.counts == {"restored": 8}
    assert rows == {"tea": 3}
    first = steps_of(guard.journal, run.run_id)[0].step.step_id
    assert result.steps[-1].detail == f"put back with step {first}"


@pytest.mark.parametrize("recorded", [True, False])
def test_an_undo_killed_between_a_call_and_those_made_inside_it_goes_on(*, recorded: bool) -> None:
    guard, rows = a_guard(), {"tea": 3}
    set_price = nested(guard, rows)
    with guard.run("shop@1") as run:
        set_price("tea", 57)
    outer = steps_of(guard.journal, run.run_id)[0]
    guard.compensators["price.set"].undo(outer, "")
    if recorded:
        end = CompensationEnded(step_id=outer.step.step_id, disposition=Disposition.RESTORED, plan_digest="")
        guard.journal.append([Draft(run_id=run.run_id, event=end, recorded_at_us=0)])

    assert "review" not in undo(guard, run_ids=(run.run_id,)).counts
    assert rows == {"tea": 3}
    assert {record.disposition for record in steps_of(guard.journal, run.run_id)} == {Disposition.RESTORED}


def test_calls_made_inside_a_call_that_is_a_conflict_are_not_said_to_be_put_back() -> None:
    guard, rows = a_guard(), {"tea": 3}
    set_price = nested(guard, rows)
    with guard.run("shop@1") as run:
        set_price("tea", 57)
    clock, selection = ManualClock(), Selection(run_ids=(run.run_id,))
    plan = make_plan(guard.journal, selection, guard.compensators, clock)
    rows["tea"] = 99
    result = apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="ops")

    assert result.counts == {"restored": 1, "review": 3}
    assert {step.reason for step in result.steps} == {"", "conflict"}
    assert rows == {"tea": 99}


def test_calls_made_inside_a_call_at_another_part_of_its_target_are_restored_for_themselves() -> None:
    guard, rows = a_guard(), {"tea": 3, "jam": 5}

    @guard.write("price.set", target=lambda name: ("shop", "prices"))
    def set_price(name: str, price: int) -> None:
        rows[name] = price
        if name == "tea":
            set_price("jam", price + 1)

    @set_price.snapshot
    def _(name: str) -> int:
        return rows[name]

    @set_price.restore
    def _(step: PastStep) -> None:
        rows[step.arguments["name"]] = step.before

    with guard.run("shop@1"):
        set_price("tea", 4)

    assert undo(guard, agent="shop").counts == {"restored": 2}
    assert rows == {"tea": 3, "jam": 5}


def test_of_calls_that_overlap_the_one_that_ended_last_is_undone_first() -> None:
    guard, rows, goes_on = a_guard(), {"tea": 3}, asyncio.Event()

    @guard.write("price.set", effect=MappingKey(rows, key=lambda name: name))
    async def set_price(name: str, price: int, *, last: bool) -> None:
        rows[name] = price
        if last:
            await goes_on.wait()
            rows[name] = price + 10
        goes_on.set()

    async def act() -> None:
        with guard.run("shop@1"):
            await asyncio.gather(set_price("tea", 4, last=True), set_price("tea", 5, last=False))

    asyncio.run(act())
    result = undo(guard, agent="shop")
    assert [step.step.step_id for step in result.steps] == ["1", "2"]
    assert result.counts == {"restored": 2}
    assert rows == {"tea": 3}


def test_a_step_whose_parameters_were_renamed_since_goes_to_a_person_in_the_plan() -> None:
    guard, later = a_guard(), a_guard()

    @guard.write("card.charge", redact=["card"])
    def charge(c: str, card: str) -> None: ...

    @charge.compensate
    def _(step: PastStep) -> None: ...

    @later.write("card.charge", redact=["card"])
    def charge_now(cust: str, card: str, note: str = "") -> None: ...

    @charge_now.compensate
    def _(step: PastStep) -> None:
        raise AssertionError(step)

    with guard.run("shop@1"):
        charge("ada", "4242")

    plan = make_plan(guard.journal, Selection(agent="shop"), later.compensators, ManualClock())
    decision = plan.items[0].decision
    assert isinstance(decision, Review)
    assert decision.reason == "not_declared"
    assert decision.detail == "took (c, card) when it was made, takes (cust, card, note) now"
    assert later.compensators["card.charge"].accepts({"cust": "ada"}) == ""


def test_parents_and_children_of_different_runs_are_both_undone(tmp_path: Path) -> None:
    sa = pytest.importorskip("sqlalchemy")
    guard = a_guard()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers (id))"
        )
    customers = SqlRows(engine, "customers", rows=lambda number: {"id": number})
    orders = SqlRows(engine, "orders", rows=lambda number: {"id": number})

    @guard.write("customer.add", effect=customers)
    def add_customer(number: int) -> None:
        customers.connection().exec_driver_sql(f"INSERT INTO customers VALUES ({number})")

    @guard.write("order.add", effect=orders)
    def add_order(number: int) -> None:
        orders.connection().exec_driver_sql(f"INSERT INTO orders VALUES ({number}, {number})")

    def left() -> list[int]:
        with engine.connect() as connection:
            tables = ("customers", "orders")
            return [connection.exec_driver_sql(f"SELECT count(*) FROM {each}").scalar_one() for each in tables]

    with guard.run("importer@1"):
        for number in range(5):
            add_customer(number)
    with guard.run("importer@1"):
        for number in range(5):
            add_order(number)
    assert left() == [5, 5]

    assert undo(guard, agent="importer").counts == {"restored": 10}
    assert left() == [0, 0]
    engine.dispose()


@pytest.mark.parametrize("parallel", [True, False])
def test_handlers_run_at_once_only_if_they_were_declared_so(*, parallel: bool) -> None:
    guard, lock, most = a_guard(), threading.Lock(), [0, 0]

    @guard.write("card.charge")
    def charge(number: int) -> None: ...

    @charge.compensate(idempotent=True, parallel=parallel)
    def _(step: PastStep) -> None:
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.02)
        with lock:
            most[0] -= 1

    for number in range(4):
        with guard.run("shop@1"):
            charge(number)

    assert undo(guard, agent="shop").counts == {"compensated": 4}
    assert (most[1] > 1) is parallel


def test_an_effect_of_ones_own_says_itself_whether_it_may_run_at_once() -> None:
    guard = a_guard()

    class Own(MappingKey):
        pass

    class OwnInParallel(Own):
        parallel = True

    for number, (kind, parallel) in enumerate(((MappingKey, True), (Own, False), (OwnInParallel, True))):
        prices: dict[str, int] = {}

        @guard.write(f"price.set-{number}", effect=kind(prices, key=lambda name: name))
        def _(name: str) -> None: ...

        assert guard.compensators[f"price.set-{number}"].parallel is parallel


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
