"""Guards of several machines over one PostgreSQL: what a stop means there, and a silent database (HG1-HG4)."""

import contextlib
import contextvars
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from builders import a_lift, an_order
from rescind import Guard
from rescind.clock import SystemClock
from rescind.config import SwitchConfig
from rescind.errors import CallDenied, OrdersUnavailable, RunHalted, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.model.level import Level
from rescind.model.order import Lift
from rescind.switch.desk import place_order
from rescind.switch.postgres.register import DatabaseRegister, sight_once
from rescind.switch.postgres.store import PostgresOrders
from rescind.switch.receipt import GuardState, Receipt, await_receipt
from servers import Postgres, postgres_server

PATIENCE_S = 20.0


class Machine:
    """A guard with a tool that writes and one that reads, as a machine of its own would have them."""

    def __init__(self, url: str, *, ttl_s: float = 10.0) -> None:
        self.guard = guard = Guard.at(url, switch=SwitchConfig(lease_ttl_s=ttl_s))
        self.done: list[int] = []
        self.during: Callable[[], None] = lambda: None

        @guard.write("thing.add", irreversible="a test")
        def add(number: int) -> None:
            self.during()
            self.done.append(number)

        @guard.read("thing.count")
        def count() -> int:
            return len(self.done)

        self._add, self._count = add, count
        self._context = contextvars.Context()  # the run of another machine is not the current one here

    @contextlib.contextmanager
    def run(self) -> Generator[None]:
        run = self.guard.run(agent="billing-agent@1.0.0")
        self._context.run(run.__enter__)
        try:
            yield
        finally:
            self._context.run(run.__exit__, None, None, None)

    def add(self, number: int) -> None:
        self._context.run(self._add, number)

    def count(self) -> int:
        return self._context.run(self._count)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def machines(url: str) -> Iterator[list[Machine]]:
    machines = [Machine(url), Machine(url)]
    yield machines
    for machine in machines:
        machine.guard.close()


@pytest.fixture
def operator(url: str) -> Iterator[PostgresOrders]:
    orders = PostgresOrders(url)
    yield orders
    orders.close()


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


def refuses(machine: Machine) -> bool:
    try:
        machine.add(0)
    except CallDenied:
        return True
    return False


def receipt_for(operator: PostgresOrders, order: Any, *, timeout_s: float = PATIENCE_S) -> Receipt:
    clock = SystemClock()
    placed = place_order(operator, order, clock=clock)
    register = DatabaseRegister(operator.address, clock)
    try:
        return await_receipt(register, placed, timeout_s=timeout_s, clock=clock)
    finally:
        register.close()


def test_a_stop_binds_the_guards_of_every_machine_and_each_acknowledges_it(
    machines: list[Machine], operator: PostgresOrders
) -> None:
    one, two = machines
    with one.run(), two.run():
        one.add(1)
        receipt = receipt_for(operator, an_order("ord-1", level=Level.READ_ONLY))

        assert receipt.all_drained
        assert [guard.state for guard in receipt.guards] == [GuardState.DRAINED] * 2
        assert {guard.guard_id for guard in receipt.guards} == {one.guard.guard_id, two.guard.guard_id}
        assert all(guard.host and guard.bound_ms is not None and guard.bound_ms < 5_000 for guard in receipt.guards)
        for machine in machines:
            with pytest.raises(CallDenied, match="changes are paused"):
                machine.add(2)
            assert machine.count() == len(machine.done)

        operator.lift(Lift(lift_id="l", order_ids=frozenset({"ord-1"}), reason="r", actor="a", lifted_at=_now()))
        for machine in machines:
            until(lambda machine=machine: not refuses(machine))  # type: ignore[misc]  # a default argument


def test_an_order_that_a_guard_has_placed_itself_holds_it_when_placing_returns(machines: list[Machine]) -> None:
    one, two = machines
    with one.run(), two.run():
        one.guard.orders.place(an_order("ord-1", level=Level.HALTED))
        with pytest.raises(RunHalted):
            one.add(1)
        with pytest.raises(RunHalted):
            until(lambda: refuses(two))


def test_a_call_in_flight_is_named_until_it_has_ended(machines: list[Machine], operator: PostgresOrders) -> None:
    one, _ = machines
    seen: list[Receipt] = []
    one.during = lambda: seen.append(receipt_for(operator, an_order("ord-1", level=Level.READ_ONLY), timeout_s=0.5))
    with one.run():
        one.add(1)

    (guard,) = seen[0].guards
    assert guard.state is GuardState.BOUND
    assert len(guard.in_flight) == 1
    assert not seen[0].all_drained


def test_hg1_a_lost_notification_costs_a_second(machines: list[Machine], operator: PostgresOrders) -> None:
    one, _ = machines
    with one.run():
        one.add(1)
        operator.open()
        with psycopg.connect(operator.address.url) as silent:  # as `place` does it, but for the telling
            silent.execute(
                "INSERT INTO rescind.orders (order_id, stamp, scope, level, reason, actor, placed_at_us)"
                " VALUES ('ord-1', 4, 'everything', 'read_only', '', '', 0)"
            )
            silent.execute("UPDATE rescind.orders_state SET stamp = 4, change = 'x'")
        began_s = time.monotonic()
        until(lambda: refuses(one))
        assert time.monotonic() - began_s < 5.0


def test_a_guard_that_closes_is_gone_and_no_part_of_later_receipts(
    machines: list[Machine], operator: PostgresOrders
) -> None:
    one, two = machines
    with one.run(), two.run():
        pass
    one.guard.close()

    receipt = receipt_for(operator, an_order())
    assert [guard.guard_id for guard in receipt.guards] == [two.guard.guard_id]


def test_a_program_that_just_ends_is_gone_too(url: str, operator: PostgresOrders) -> None:
    program = (
        f"import rescind\nguard = rescind.Guard.at({url!r})\nwith guard.run('billing-agent@1.0.0') as run:\n"
        "    print(run.run_id)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert ended.stdout.startswith("run_")
    assert [sighting.living for sighting in sight_once(operator.address, SystemClock())] == [False]


def test_hg2_a_guard_that_does_not_beat_is_unknown_until_its_lease_has_run_out_and_silenced_then(
    url: str, operator: PostgresOrders
) -> None:
    operator.open()
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO rescind.guards (guard_id, host, lease_ttl_s, on_silence, beats, beat_at)"
            " VALUES ('guard-dead', 'far', 1, 'read_only', 7, now()), ('guard-old', 'far', 1, 'read_only', 7, now() - "
            "'10 minutes'::interval), ('guard-corpse', 'far', 1, 'read_only', 7, now() - '1 day'::interval)"
        )

    early = receipt_for(operator, an_order("ord-1"), timeout_s=0.0)
    late = receipt_for(operator, an_order("ord-2"))

    assert [(guard.guard_id, guard.state) for guard in early.guards] == [
        ("guard-dead", GuardState.UNKNOWN),
        ("guard-old", GuardState.SILENCED),
    ]
    assert all(guard.until is not None and guard.host == "far" for guard in early.guards)
    assert not early.all_bound
    assert {guard.state for guard in late.guards} == {GuardState.SILENCED}
    assert late.all_drained
    assert late.waited_ms > 1_000


@pytest.mark.parametrize("report", ["'nonsense'", '\'{"guard_id": "another"}\'', "NULL"])
def test_what_a_stranger_writes_into_the_register_makes_a_guard_unknown_and_never_absent(
    url: str, operator: PostgresOrders, report: str
) -> None:
    operator.open()
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO rescind.guards (guard_id, host, lease_ttl_s, on_silence, beats, beat_at, report)"
            f" VALUES ('guard-1', '', 'NaN', '', 7, now(), {report}), ('../1', '', 1, '', 7, now(), NULL)".encode()
        )
    (sighting,) = sight_once(operator.address, SystemClock())

    assert (sighting.guard_id, sighting.report, sighting.silent) == ("guard-1", None, False)
    assert sighting.problem


RIGHTS = """
CREATE ROLE obeyer LOGIN;
GRANT USAGE ON SCHEMA rescind TO obeyer;
GRANT SELECT ON ALL TABLES IN SCHEMA rescind TO obeyer;
GRANT EXECUTE ON FUNCTION rescind.lock_journal, rescind.append_batch, rescind.resolve_batch, rescind.make_partitions,
    rescind.seal_journal TO obeyer;
GRANT INSERT, UPDATE, DELETE ON rescind.guards TO obeyer;
GRANT INSERT ON rescind.orders, rescind.probes, rescind.probe_ends TO obeyer;
GRANT UPDATE ON rescind.orders_state TO obeyer;
"""


def test_the_role_of_an_agent_obeys_and_tightens_and_can_lift_nothing(
    machines: list[Machine], operator: PostgresOrders
) -> None:
    with machines[0].run():
        machines[0].add(1)
    with psycopg.connect(operator.address.url) as connection:
        connection.execute(RIGHTS.encode())
    try:
        agent = Machine(operator.address.url.replace("//test@", "//obeyer@"))
        with agent.run():
            agent.add(1)
            agent.guard.orders.place(an_order("ord-1", level=Level.READ_ONLY))
            assert refuses(agent)
            with pytest.raises(OrdersUnavailable, match="let its owner give this user the right"):
                agent.guard.orders.lift(a_lift("ord-1"))
            assert receipt_for(operator, an_order("ord-2", level=Level.READ_ONLY)).all_drained
        agent.guard.close()
        assert operator.history().lifts == frozenset()
    finally:
        with psycopg.connect(operator.address.url) as connection:
            connection.execute("DROP OWNED BY obeyer")
            connection.execute("DROP ROLE obeyer")


def test_orders_of_a_database_that_nobody_listens_to_are_refused_to_a_guard(operator: PostgresOrders) -> None:
    with pytest.raises(UsageError, match=r"Guard\.at"):
        Guard.over(MemoryJournal(), operator)


def test_without_a_server_reads_go_on_and_writes_are_refused_with_words_that_help(tmp_path: Path) -> None:
    machine = Machine("postgresql://test:hunter2@127.0.0.1:9/nowhere")
    with machine.run():
        assert machine.count() == 0
        with pytest.raises(CallDenied, match=r"orders cannot be read|not been heard"):
            machine.add(1)
        assert "see that the server runs" in machine.guard.fault()
        assert "hunter2" not in machine.guard.fault()
    machine.guard.close()


def test_a_store_of_a_newer_rescind_is_refused_at_the_first_run(url: str, operator: PostgresOrders) -> None:
    operator.open()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE rescind.orders_version SET version_num = '9999'")
    machine = Machine(url)
    with pytest.raises(UsageError, match="newer rescind"), machine.run():
        pass
    machine.guard.close()


@pytest.mark.slow
def test_hg3_a_database_that_is_away_lowers_every_guard_and_its_return_lets_them_go_on() -> None:
    with postgres_server(fsync="on") as server:
        machines = [Machine(server.url(), ttl_s=1.0), Machine(server.url(), ttl_s=1.0)]
        one, two = machines
        with one.run(), two.run():
            for how in (server.stop, server.crash):
                for machine in machines:
                    until(lambda machine=machine: not refuses(machine))  # type: ignore[misc]  # a default argument
                how()
                time.sleep(1.3)  # the lease
                for machine in machines:
                    began_s = time.monotonic()
                    with pytest.raises(CallDenied, match=r"orders cannot be read|not been heard"):
                        machine.add(2)
                    assert time.monotonic() - began_s < 4.0  # nobody waits for a network
                    assert machine.count() == len(machine.done)
                    with pytest.raises(OrdersUnavailable):
                        machine.guard.orders.standing()
                server.start()
            operator = PostgresOrders(server.url())
            receipt = receipt_for(operator, an_order("ord-1", level=Level.READ_ONLY))
            assert [guard.state for guard in receipt.guards] == [GuardState.DRAINED] * 2
            operator.close()
        for machine in machines:
            machine.guard.close()


@pytest.mark.slow
def test_hg3_a_database_that_hangs_lowers_a_guard_whose_ear_hangs_with_it() -> None:
    with postgres_server() as server:
        machine = Machine(server.url(), ttl_s=1.0)
        with machine.run():
            machine.add(1)
            server.hang()
            try:
                time.sleep(1.3)  # the lease
                began_s = time.monotonic()
                with pytest.raises(CallDenied, match="database of the orders has not been heard"):
                    machine.add(2)
                assert time.monotonic() - began_s < 4.0
                assert machine.count() == 1
            finally:
                server.wake()
            until(lambda: not refuses(machine))
        machine.guard.close()


@pytest.mark.slow
def test_a_forked_child_is_a_guard_of_its_own_and_leaves_the_parent_its_connections(
    machines: list[Machine], operator: PostgresOrders
) -> None:
    one, _ = machines
    with one.run():
        one.add(1)
        child = os.fork()
        if child == 0:
            try:
                one.add(2)
                receipt = receipt_for(operator, an_order("ord-1", level=Level.READ_ONLY))
                os._exit(0 if len(receipt.guards) == 2 and receipt.all_drained else 1)
            except BaseException:  # noqa: BLE001  # whatever it was, the parent must hear of it
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        until(lambda: refuses(one))


def _now() -> Any:
    return an_order().placed_at
