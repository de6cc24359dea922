"""The laws of probes (P1 to P5), over every store; and over threads, processes and restarts."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from builders import NOON_US, a_lift, an_order, at_once
from rescind.errors import OrdersUnavailable
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.switch.probes import ACTOR, Claim
from rescind.switch.store import SqliteOrders
from rescind.triggers.probing import ASK_AGAIN_S, US, Probe, ProbeRule, Round, Wait
from switch.stores import STORES, Store, a_store

RULE = ProbeRule.of(cooldown_s=600, probes=3, timeout_s=120)
COOLED_US = NOON_US + 600 * US


@pytest.fixture(params=STORES)
def orders(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with a_store(request, tmp_path) as store:
        yield store


def a_trip(order_id: str = "ord-1", scope: str = "action:invoice.void") -> Order:
    return an_order(order_id, scope, Level.READ_ONLY, measure=Measure.TRIP)


def a_placed_trip(orders: Store, order_id: str = "ord-1") -> Order:
    orders.place(a_trip(order_id))
    return a_trip(order_id)


def ask(orders: Store, *trips: Order, at_us: int = COOLED_US, rule: ProbeRule = RULE) -> Claim | Wait:
    return orders.claim_probe(trips, by="guard-1", now_us=at_us, rule=rule)


def claimed(orders: Store, *trips: Order, at_us: int = COOLED_US, rule: ProbeRule = RULE) -> Claim:
    claim = ask(orders, *trips, at_us=at_us, rule=rule)
    assert isinstance(claim, Claim), claim
    return claim


def test_p1_nothing_is_admitted_before_the_cooldown_is_over(orders: Store) -> None:
    trip = a_placed_trip(orders)

    assert ask(orders, trip, at_us=NOON_US) == Wait(600.0)
    assert ask(orders, trip, at_us=COOLED_US - US) == Wait(1.0)
    claimed(orders, trip)


def test_p1_a_round_has_so_many_probes_and_no_more(orders: Store) -> None:
    trip = a_placed_trip(orders)

    numbers = [claimed(orders, trip).parts[0].number for _ in range(3)]

    assert numbers == [1, 2, 3]
    assert ask(orders, trip) == Wait(ASK_AGAIN_S)


def test_p1_a_probe_whose_call_was_not_made_gives_its_place_to_another(orders: Store) -> None:
    trip = a_placed_trip(orders)
    first, *_ = [claimed(orders, trip) for _ in range(3)]

    assert orders.end_probe(first, succeeded=None, now_us=COOLED_US) == ()

    assert claimed(orders, trip).parts[0].number == 4
    assert ask(orders, trip) == Wait(ASK_AGAIN_S)


def test_p2_a_claim_is_for_all_trips_or_for_none(orders: Store) -> None:
    ready, cooling = a_placed_trip(orders, "ord-1"), a_trip("ord-2", "agent:billing-agent")
    late = an_order(
        "ord-3",
        level=Level.READ_ONLY,
        measure=Measure.TRIP,
        placed_at=cooling.placed_at + timedelta(seconds=60),
    )
    orders.place(cooling)
    orders.place(late)

    assert ask(orders, ready, cooling, late) == Wait(60.0)
    numbers = [part.number for part in claimed(orders, ready, cooling).parts]
    assert numbers == [1, 1]  # the one that was refused has taken none


def test_p3_the_last_success_lifts_the_trip_by_the_breaker_itself(orders: Store) -> None:
    trip = a_placed_trip(orders)
    claims = [claimed(orders, trip) for _ in range(3)]
    stamp = orders.page[0]

    assert [orders.end_probe(claim, succeeded=True, now_us=COOLED_US + 1) for claim in claims[:2]] == [(), ()]
    assert orders.standing().orders == (trip,)
    (lift,) = orders.end_probe(claims[2], succeeded=True, now_us=COOLED_US + 1)

    assert orders.standing().orders == ()
    assert orders.page[0] > stamp
    assert (lift.actor, lift.order_ids) == (ACTOR, frozenset({"ord-1"}))
    assert lift in orders.history().lifts
    assert orders.probing("ord-1") is None


def test_p3_saying_it_twice_changes_nothing_and_what_was_said_first_stays(orders: Store) -> None:
    trip = a_placed_trip(orders)
    claims = [claimed(orders, trip) for _ in range(3)]
    for claim in claims:
        orders.end_probe(claim, succeeded=True, now_us=COOLED_US + 1)

    assert orders.end_probe(claims[2], succeeded=False, now_us=COOLED_US + 2) == ()
    assert len(orders.history().lifts) == 1


def test_p3_a_failure_begins_the_next_round_with_a_cooldown_of_its_own(orders: Store) -> None:
    trip = a_placed_trip(orders)
    first, second, third = [claimed(orders, trip) for _ in range(3)]
    orders.end_probe(first, succeeded=True, now_us=COOLED_US + 1 * US)
    orders.end_probe(second, succeeded=False, now_us=COOLED_US + 2 * US)

    assert orders.end_probe(third, succeeded=True, now_us=COOLED_US + 3 * US) == ()
    assert ask(orders, trip, at_us=COOLED_US + 3 * US) == Wait(599.0)
    again = claimed(orders, trip, at_us=COOLED_US + 602 * US)
    assert (again.parts[0].round, again.parts[0].number) == (2, 1)


def test_what_is_shown_of_a_trip_is_its_latest_round(orders: Store) -> None:
    trip = a_placed_trip(orders)
    assert orders.probing("ord-1") == Round(1, NOON_US)
    orders.end_probe(claimed(orders, trip), succeeded=False, now_us=COOLED_US)
    again_us = COOLED_US + 600 * US
    claimed(orders, trip, at_us=again_us)

    latest = orders.probing("ord-1")
    assert latest is not None
    assert (latest.number, latest.probes) == (2, (Probe(1, "guard-1", again_us),))


def test_p4_a_prober_of_whom_nobody_hears_has_failed_whatever_it_says_later(orders: Store) -> None:
    trip = a_placed_trip(orders)
    claims = [claimed(orders, trip) for _ in range(3)]
    for claim in claims[:2]:
        orders.end_probe(claim, succeeded=True, now_us=COOLED_US)

    assert ask(orders, trip, at_us=COOLED_US + 119 * US) == Wait(ASK_AGAIN_S)
    assert ask(orders, trip, at_us=COOLED_US + 120 * US) == Wait(600.0)
    assert orders.end_probe(claims[2], succeeded=True, now_us=COOLED_US + 121 * US) == ()
    assert orders.standing().orders == (trip,)
    assert claimed(orders, trip, at_us=COOLED_US + 720 * US).parts[0].round == 2


def test_p5_a_trip_that_was_never_placed_here_is_not_taken_for_closed(orders: Store) -> None:
    a_placed_trip(orders, "ord-1")

    assert ask(orders, a_trip("ord-1"), a_trip("ord-of-a-switch")) == Wait(None)


def test_p5_an_order_that_is_no_trip_is_not_probed(orders: Store) -> None:
    forced = an_order("ord-1", level=Level.READ_ONLY, measure=Measure.FORCED_OPEN)
    orders.place(forced)

    assert ask(orders, forced) == Wait(None)
    assert orders.probing("ord-1") is None


def test_who_comes_after_the_lift_is_told_to_look_again(orders: Store) -> None:
    trip = a_placed_trip(orders)
    orders.lift(a_lift("ord-1"))

    assert ask(orders, trip) == Wait(0.0)


def test_a_person_who_lifts_a_half_open_breaker_ends_its_probing(orders: Store) -> None:
    trip = a_placed_trip(orders)
    claims = [claimed(orders, trip) for _ in range(3)]
    orders.lift(a_lift("ord-1"))

    assert [orders.end_probe(claim, succeeded=True, now_us=COOLED_US) for claim in claims] == [(), (), ()]
    assert len(orders.history().lifts) == 1


def test_a_breaker_that_has_recovered_by_a_rule_of_fewer_probes_is_closed_by_whoever_asks(orders: Store) -> None:
    trip = a_placed_trip(orders)
    for _ in range(2):
        orders.end_probe(claimed(orders, trip), succeeded=True, now_us=COOLED_US)

    assert ask(orders, trip, rule=RULE._replace(probes=2)) == Wait(0.0)
    assert orders.standing().orders == ()


def test_a_clock_that_jumps_forward_ends_the_cooldown_early_and_admits_probes_and_not_traffic(orders: Store) -> None:
    trip = a_placed_trip(orders)
    jumped_us = NOON_US + 86_400 * US

    assert [type(ask(orders, trip, at_us=jumped_us)) for _ in range(4)] == [Claim, Claim, Claim, Wait]
    assert orders.standing().orders == (trip,)


def test_a_clock_that_jumps_back_keeps_it_open_and_says_no_more_than_a_cooldown(orders: Store) -> None:
    trip = a_placed_trip(orders)

    assert ask(orders, trip, at_us=NOON_US - 86_400 * US) == Wait(600.0)


def test_p1_exactly_so_many_probes_under_sixteen_threads(orders: Store) -> None:
    trip = a_placed_trip(orders)
    answers: list[Claim | Wait] = []
    together = threading.Barrier(16)

    def prober() -> None:
        together.wait()
        answers.extend(ask(orders, trip) for _ in range(5))

    at_once(prober for _ in range(16))

    numbers = sorted(answer.parts[0].number for answer in answers if isinstance(answer, Claim))
    assert numbers == [1, 2, 3]
    assert len(answers) == 80


# --- the file ---

PROBER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_probes import RULE, COOLED_US, a_trip
from rescind.switch.probes import Claim
from rescind.switch.store import SqliteOrders

orders = SqliteOrders(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    claim = orders.claim_probe([a_trip()], by="guard", now_us=COOLED_US, rule=RULE)
    if isinstance(claim, Claim):
        print(claim.parts[0].number, flush=True)
print("done", flush=True)
"""


def test_p1_exactly_so_many_probes_over_several_processes(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    a_placed_trip(orders)
    here = Path(__file__).parent
    path = os.pathsep.join((str(here.parent), os.environ.get("PYTHONPATH", "")))
    probers = [
        subprocess.Popen(
            [sys.executable, "-c", PROBER, str(tmp_path), str(here)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        for _ in range(4)
    ]
    for prober in probers:
        assert prober.stdout is not None
        assert prober.stdout.readline() == "ready\n"
    said = []
    for prober in probers:
        assert prober.stdin is not None
        prober.stdin.write("go\n")
        prober.stdin.flush()
    for prober in probers:
        out, _ = prober.communicate(timeout=60)
        said += out.split()

    assert sorted(said) == ["1", "2", "3", "done", "done", "done", "done"]
    orders.close()


def test_an_open_breaker_and_its_probes_survive_a_restart(tmp_path: Path) -> None:
    before = SqliteOrders(tmp_path)
    trip = a_placed_trip(before)
    claims = [claimed(before, trip) for _ in range(2)]
    before.end_probe(claims[0], succeeded=True, now_us=COOLED_US)
    before.close()

    after = SqliteOrders(tmp_path)
    assert after.standing().orders == (trip,)
    third = claimed(after, trip)
    assert third.parts[0].number == 3
    assert ask(after, trip) == Wait(ASK_AGAIN_S)
    after.end_probe(claims[1], succeeded=True, now_us=COOLED_US)  # its process has lived on
    assert len(after.end_probe(third, succeeded=True, now_us=COOLED_US)) == 1
    after.close()


def test_p5_a_lost_store_never_turns_open_into_closed(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    trip = a_placed_trip(orders)
    claim = claimed(orders, trip)
    (tmp_path / "orders.db").unlink()

    with pytest.raises(OrdersUnavailable):
        orders.standing()
    with pytest.raises(OrdersUnavailable):
        ask(orders, trip)
    with pytest.raises(OrdersUnavailable):
        orders.end_probe(claim, succeeded=True, now_us=COOLED_US)
    with pytest.raises(OrdersUnavailable, match="orders may be lost"):
        SqliteOrders(tmp_path)  # nor does a restart begin with none


def test_p5_rows_that_are_gone_do_not_turn_open_into_closed(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    trip = a_placed_trip(orders)
    assert orders.standing().orders == (trip,)
    connection = sqlite3.connect(tmp_path / "orders.db")
    connection.executescript("DROP TRIGGER orders_delete; DELETE FROM orders")
    connection.close()

    assert ask(orders, trip) == Wait(None)
    with pytest.raises(OrdersUnavailable):
        orders.standing()
    orders.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE probes SET number = 9",
        "DELETE FROM probes",
        "INSERT OR REPLACE INTO probes SELECT order_id, round, number, 'thief', 0 FROM probes",
        "UPDATE probe_ends SET outcome = 'succeeded'",
        "DELETE FROM probe_ends",
        "INSERT OR REPLACE INTO probe_ends SELECT order_id, round, number, 'succeeded', 0 FROM probe_ends",
        "INSERT INTO probe_ends VALUES ('ord-1', 1, 2, 'perhaps', 0)",
    ],
)
def test_no_probe_is_ever_changed_or_removed(tmp_path: Path, statement: str) -> None:
    orders = SqliteOrders(tmp_path)
    trip = a_placed_trip(orders)
    orders.end_probe(claimed(orders, trip), succeeded=False, now_us=COOLED_US)
    before = orders.probing("ord-1")
    connection = sqlite3.connect(tmp_path / "orders.db")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()

    assert orders.probing("ord-1") == before
    orders.close()


def test_who_has_to_wait_keeps_no_stop_waiting(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    trip = a_placed_trip(orders)
    writer = sqlite3.connect(tmp_path / "orders.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    assert ask(orders, trip, at_us=NOON_US) == Wait(600.0)  # reads, though somebody writes

    writer.execute("ROLLBACK")
    writer.close()
    orders.close()
