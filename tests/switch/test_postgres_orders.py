"""What only a database can do wrong, and the laws PO1 to PO4 of orders that several machines share."""

import functools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from builders import a_lift, an_order, at_once
from rescind.errors import OrdersUnavailable, StoreFormatError, UsageError
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.switch.postgres.store import CHANNEL, PostgresOrders
from rescind.switch.probes import Claim
from rescind.triggers.probing import ProbeRule
from servers import Postgres, free_port, postgres_server


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def store(url: str) -> Iterator[PostgresOrders]:
    store = PostgresOrders(url)
    yield store
    store.close()


def elsewhere(store: PostgresOrders) -> PostgresOrders:
    """The same store, as another machine opens it."""
    return PostgresOrders(store.address)


def run(store: PostgresOrders, *statements: str) -> None:
    with psycopg.connect(store.address.url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_s3_another_machine_reads_what_was_placed(store: PostgresOrders) -> None:
    other = elsewhere(store)
    assert other.standing().orders == ()

    store.place(an_order())

    assert other.standing().orders == (an_order(),)
    assert other.page[0] == store.page[0]
    other.close()


def test_po1_stamps_are_given_in_the_order_of_the_commits(store: PostgresOrders) -> None:
    stores = [store, elsewhere(store), elsewhere(store)]

    def place(thread: int) -> None:
        for number in range(8):
            stores[thread].place(an_order(f"ord-{thread}-{number}"))

    before = store.standing().stamp
    at_once(functools.partial(place, number) for number in range(3))

    assert [len(each.standing().orders) for each in stores] == [24, 24, 24]
    assert {each.standing().stamp for each in stores} == {before + 2 * 24}
    for each in stores[1:]:
        each.close()


def test_a_change_is_told_to_whoever_listens_and_only_once_it_is_committed(store: PostgresOrders) -> None:
    store.open()
    with psycopg.connect(store.address.url, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}".encode())
        with pytest.raises(UsageError):
            store.place(an_order("ord-2", reason="nul \0"))
        store.place(an_order("ord-1"))

        told = [each.payload for each in connection.notifies(timeout=5.0, stop_after=1)]
    assert told == [str(store.page[0])]
    assert store.standing().orders == (an_order("ord-1"),)


def test_without_a_store_an_operator_is_told_and_nothing_is_made(url: str) -> None:
    operators = PostgresOrders(url, create=False)

    with pytest.raises(UsageError, match="no store of rescind in postgresql://"):
        operators.place(an_order())
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regnamespace('rescind')").fetchone() == (None,)
    guards = PostgresOrders(url)
    guards.open()
    operators.place(an_order())
    assert guards.standing().orders == (an_order(),)
    operators.close()
    guards.close()


def test_a_store_of_a_newer_rescind_is_left_alone(store: PostgresOrders) -> None:
    store.open()
    run(store, "UPDATE rescind.orders_version SET version_num = '9999'")

    with pytest.raises(StoreFormatError, match="newer rescind"):
        elsewhere(store).open()


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM rescind.{table}" for table in ("orders", "lifts", "lifted", "probes", "probe_ends")),
        *(f"TRUNCATE rescind.{table}" for table in ("orders", "lifts", "lifted", "probes", "probe_ends")),
        "UPDATE rescind.orders SET level = 'supervised'",
        "UPDATE rescind.lifts SET reason = ''",
        "UPDATE rescind.lifted SET order_id = 'ord-2'",
        "UPDATE rescind.probes SET number = 9",
        "UPDATE rescind.probe_ends SET outcome = 'succeeded'",
        "DELETE FROM rescind.orders_state",
        "UPDATE rescind.orders_state SET stamp = stamp",
        "UPDATE rescind.orders_state SET stamp = stamp + 2, store_id = ''",
        "UPDATE rescind.orders_state SET stamp = stamp + 1",
        "INSERT INTO rescind.orders_state (stamp) VALUES (900)",
    ],
)
def test_no_row_is_ever_changed_or_removed(store: PostgresOrders, statement: str) -> None:
    store.place(an_order("ord-1", measure=Measure.TRIP, level=Level.READ_ONLY))
    store.lift(a_lift("ord-1"))
    before = store.history(), store.standing()

    with pytest.raises(psycopg.IntegrityError):
        run(store, statement)

    assert (store.history(), store.standing()) == before


LOSSES = {
    "an earlier backup": ["UPDATE rescind.orders_state SET stamp = 2"],
    "another change under the same stamp": ["UPDATE rescind.orders_state SET change = 'another'"],
    "another store": ["UPDATE rescind.orders_state SET store_id = 'another', stamp = stamp + 2"],
    "no row": ["DELETE FROM rescind.orders_state"],
    "no tables": ["DROP SCHEMA rescind CASCADE"],
}


@pytest.mark.parametrize("loss", LOSSES)
def test_po3_s4_a_store_that_has_lost_changes_is_not_believed_again(store: PostgresOrders, loss: str) -> None:
    store.place(an_order("ord-1"))
    assert store.standing().orders
    run(store, "SET session_replication_role = replica", *LOSSES[loss])

    for _ in range(2):
        with pytest.raises(OrdersUnavailable):
            store.standing()
        with pytest.raises(OrdersUnavailable):
            store.place(an_order("ord-2"))


@pytest.mark.parametrize(
    "row",
    ["'everything', 'vaporised', 'level'", "'galaxy:milky-way', 'halted', 'level'", "'everything', 'halted', 'melt'"],
)
def test_s4_an_order_that_cannot_be_understood_holds_everybody_and_keeps_no_stop_from_being_placed(
    store: PostgresOrders, row: str
) -> None:
    store.open()
    run(
        store,
        "INSERT INTO rescind.orders (order_id, stamp, reason, actor, placed_at_us, scope, level, measure)"
        f" VALUES ('ord-9', 4, '', '', 0, {row})",
        "UPDATE rescind.orders_state SET stamp = stamp + 2, change = 'by a newer rescind'",
    )
    for _ in range(2):
        with pytest.raises(OrdersUnavailable, match="cannot be understood"):
            store.standing()
    store.place(an_order("ord-1"))


@pytest.mark.parametrize("text", ["\udcff", "a\0b"])
def test_what_is_no_text_is_refused_and_leaves_the_set_alone(store: PostgresOrders, text: str) -> None:
    with pytest.raises(UsageError, match="no text"):
        store.place(an_order("ord-2", reason=text))
    assert store.standing().orders == ()


def test_s4_a_server_that_is_not_there_is_named_with_a_remedy(tmp_path: Path) -> None:
    store = PostgresOrders(f"postgresql://test:hunter2@127.0.0.1:{free_port()}/agents")

    for _ in range(2):
        with pytest.raises(OrdersUnavailable, match="see that the server runs") as caught:
            store.standing()
        assert "hunter2" not in str(caught.value)
    store.close()


def test_s4_a_closed_store_knows_nothing(store: PostgresOrders) -> None:
    store.place(an_order())
    store.close()
    with pytest.raises(OrdersUnavailable, match="closed"):
        store.standing()


def test_s4_a_lock_that_somebody_holds_ends_the_waiting(url: str) -> None:
    store = PostgresOrders(url, timeout_s=0.2)
    store.open()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT * FROM rescind.orders_state FOR UPDATE")
        with pytest.raises(OrdersUnavailable, match="holds its lock"):
            store.place(an_order())
        assert store.standing().settled  # who reads waits for nobody
    store.place(an_order())
    store.close()


@pytest.mark.slow
def test_po4_orders_survive_a_server_that_crashes_and_is_started_anew_under_its_clients() -> None:
    with postgres_server(fsync="on") as server:
        store = PostgresOrders(server.url())
        trip = an_order("ord-1", measure=Measure.TRIP, level=Level.READ_ONLY)
        store.place(trip)
        server.crash()
        with pytest.raises(OrdersUnavailable):
            store.place(an_order("ord-2"))
        server.start()

        store.place(an_order("ord-2"))
        server.restart()
        rule = ProbeRule.of(cooldown_s=600, probes=3, timeout_s=120)
        claim = store.claim_probe([trip], by="guard", now_us=2**60, rule=rule)

        assert isinstance(claim, Claim)
        assert {order.order_id for order in store.standing().orders} == {"ord-1", "ord-2"}
        store.close()
