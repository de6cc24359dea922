"""The laws of `Orders`, one test per law, over every store; and what only files can do wrong."""

import functools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import NOON_US, a_lift, an_order, at_once
from rescind.errors import OrdersUnavailable, StoreFormatError, UsageError
from rescind.model.level import Level
from rescind.model.order import Order, OrderSet
from rescind.switch import database
from rescind.switch.port import Orders, Standing
from rescind.switch.store import SqliteOrders, Write
from rescind.testing.clock import ManualClock
from switch.stores import STORES, a_store


@pytest.fixture(params=STORES)
def orders(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Orders]:
    with a_store(request, tmp_path) as store:
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteOrders]:
    store = SqliteOrders(tmp_path / "store")
    yield store
    store.close()


def reopened(store: SqliteOrders) -> SqliteOrders:
    """The same store as a second process would open it."""
    return SqliteOrders(store.directory)


# --- every store ---


def test_s1_the_stamp_is_even_at_rest_and_has_moved_after_every_change(orders: Orders) -> None:
    page = orders.page
    stamps = [page[0]]
    orders.place(an_order("ord-1"))
    stamps.append(page[0])
    orders.place(an_order("ord-2"))
    stamps.append(page[0])
    orders.lift(a_lift("ord-1"))
    stamps.append(page[0])

    assert stamps == sorted(set(stamps))
    assert all(stamp % 2 == 0 for stamp in stamps)


def test_s1_the_stamp_stands_still_while_orders_are_only_read(orders: Orders) -> None:
    orders.place(an_order())
    before = orders.page[0]

    assert orders.standing().stamp == before
    orders.history()
    assert orders.page[0] == before


def test_s1_the_stamp_moves_for_a_refused_change_too_or_not_at_all_but_is_even(orders: Orders) -> None:
    orders.place(an_order("ord-1"))
    with pytest.raises(UsageError, match="used for another order"):
        orders.place(an_order("ord-1", level=Level.PAUSED))
    assert orders.page[0] % 2 == 0
    assert orders.standing().settled


def test_s2_a_set_read_at_rest_is_settled(orders: Orders) -> None:
    assert orders.standing().settled
    orders.place(an_order())
    assert orders.standing().settled


def test_s3_what_was_placed_stands_until_it_is_lifted(orders: Orders) -> None:
    orders.place(an_order("ord-1"))
    assert orders.standing().orders == (an_order("ord-1"),)
    orders.lift(a_lift("ord-1"))
    assert orders.standing().orders == ()


def test_s3_standing_orders_come_most_severe_first(orders: Orders) -> None:
    for order_id, level in (("ord-1", Level.READ_ONLY), ("ord-3", Level.HALTED), ("ord-2", Level.HALTED)):
        orders.place(an_order(order_id, level=level))
    assert [order.order_id for order in orders.standing().orders] == ["ord-2", "ord-3", "ord-1"]


def test_s3_history_keeps_everything_and_agrees_with_what_stands(orders: Orders) -> None:
    orders.place(an_order("ord-1", "tenant:acme+agent:billing-agent@2.4.0"))
    orders.place(an_order("ord-2"))
    orders.lift(a_lift("ord-1", "ord-9"))

    history = orders.history()
    assert history == OrderSet.of(
        [an_order("ord-1", "tenant:acme+agent:billing-agent@2.4.0"), an_order("ord-2")], [a_lift("ord-1", "ord-9")]
    )
    assert history.standing == orders.standing().orders


def test_o3_a_lift_that_arrives_before_its_order_holds(orders: Orders) -> None:
    orders.lift(a_lift("ord-1"))
    orders.place(an_order("ord-1"))
    assert orders.standing().orders == ()


def test_o1_the_same_order_or_lift_twice_is_once(orders: Orders) -> None:
    for _ in range(2):
        orders.place(an_order("ord-1"))
        orders.lift(a_lift("ord-1", "ord-2"))
    assert orders.history() == OrderSet.of([an_order("ord-1")], [a_lift("ord-1", "ord-2")])


def test_one_id_names_one_order_and_one_lift(orders: Orders) -> None:
    orders.place(an_order("ord-1"))
    orders.lift(a_lift("ord-1"))
    with pytest.raises(UsageError, match="choose a new id"):
        orders.place(an_order("ord-1", "tenant:acme"))
    with pytest.raises(UsageError, match="choose a new id"):
        orders.lift(a_lift("ord-1", "ord-2"))
    assert orders.history() == OrderSet.of([an_order("ord-1")], [a_lift("ord-1")])


def test_many_threads_lose_no_order(orders: Orders) -> None:
    def place(thread: int) -> None:
        for number in range(10):
            orders.place(an_order(f"ord-{thread}-{number}"))

    at_once(functools.partial(place, number) for number in range(4))
    assert len(orders.standing().orders) == 40
    assert orders.standing().settled


# --- the file ---


def test_s3_another_opener_reads_what_was_placed(store: SqliteOrders) -> None:
    other = reopened(store)
    store.place(an_order())
    assert other.standing().orders == (an_order(),)
    assert other.page[0] == store.page[0]
    other.close()


def test_s3_orders_survive_the_end_of_their_process(store: SqliteOrders) -> None:
    store.place(an_order())
    store.close()
    again = reopened(store)
    assert again.standing().orders == (an_order(),)
    again.close()


def test_s2_a_dead_writer_leaves_an_odd_stamp_and_the_next_one_moves_on(store: SqliteOrders) -> None:
    leave_odd(store)
    odd = store.page[0]
    assert not store.standing().settled

    store.place(an_order())
    assert store.page[0] > odd
    assert store.standing().settled


def test_s2_opening_the_store_repairs_what_a_dead_writer_left(store: SqliteOrders) -> None:
    leave_odd(store)
    odd = store.page[0]
    reopened(store).close()
    assert store.page[0] == odd + 1


def test_files_are_for_their_owner_only(store: SqliteOrders) -> None:
    store.place(an_order())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()}
    assert set(modes) == {"orders.db", "orders.db-wal", "orders.db-shm", "orders.stamp"}
    assert set(modes.values()) == {0o600}


_OTHER = "SELECT {}, order_id, stamp, scope, 'supervised', '', '', 0, 'level', '', '' FROM orders"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET level = 'supervised'",
        "DELETE FROM orders",
        f"INSERT OR REPLACE INTO orders {_OTHER.format('sequence')}",
        f"INSERT OR REPLACE INTO orders {_OTHER.format('99')}",
        "UPDATE lifts SET reason = ''",
        "DELETE FROM lifts",
        "INSERT OR REPLACE INTO lifts SELECT sequence, lift_id, stamp, 'other', '', 0 FROM lifts",
        "UPDATE lifted SET order_id = 'ord-2'",
        "DELETE FROM lifted",
        "UPDATE store SET store_id = ''",
        "DELETE FROM store",
        "INSERT OR REPLACE INTO store SELECT store_id FROM store",
    ],
)
def test_no_row_is_ever_changed_or_removed(store: SqliteOrders, statement: str) -> None:
    store.place(an_order("ord-1"))
    store.lift(a_lift("ord-1"))
    before = store.history()
    connection = sqlite3.connect(store.directory / "orders.db")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()
    assert store.history() == before


# --- S4: what cannot be read, raises ---


def leave_odd(store: SqliteOrders) -> None:
    path = store.directory / "orders.stamp"
    with path.open("r+b") as file:
        number = int.from_bytes(file.read(8), "little")
        file.seek(0)
        file.write((number + 1).to_bytes(8, "little"))


def delete_database(directory: Path) -> None:
    (directory / "orders.db").unlink()


def delete_log(directory: Path) -> None:
    (directory / "orders.db-wal").unlink()


def replace_database(directory: Path) -> None:
    aside = SqliteOrders(directory.with_name("aside"))
    aside.place(an_order("ord-1"))
    aside.close()
    os.replace(directory.with_name("aside") / "orders.db", directory / "orders.db")


def remove_folder(directory: Path) -> None:
    directory.rename(directory.with_name("gone"))


def write_unknown_level(directory: Path) -> None:
    row("INSERT INTO orders VALUES (7, 'ord-7', 2, 'everything', 'vaporised', '', '', 0, 'level', '', '')")(directory)


def write_unknown_scope(directory: Path) -> None:
    row("INSERT INTO orders VALUES (7, 'ord-7', 2, 'galaxy:milky-way', 'halted', '', '', 0, 'level', '', '')")(
        directory
    )


def write_unknown_measure(directory: Path) -> None:
    row("INSERT INTO orders VALUES (7, 'ord-7', 2, 'everything', 'halted', '', '', 0, 'vaporise', '', '')")(directory)


def row(statement: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        connection = sqlite3.connect(directory / "orders.db")
        connection.execute(statement)
        connection.commit()
        connection.close()

    return write


def lose_rows(directory: Path) -> None:
    script = "DROP TRIGGER orders_delete; DELETE FROM orders"
    connection = sqlite3.connect(directory / "orders.db")
    connection.executescript(script)
    connection.close()


def drop_table(directory: Path) -> None:
    row("DROP TABLE orders")(directory)


DAMAGES = [
    delete_database,
    delete_log,
    replace_database,
    remove_folder,
    write_unknown_level,
    write_unknown_scope,
    write_unknown_measure,
    lose_rows,
    drop_table,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_s4_a_reader_fails_closed_when_the_files_change_under_it(
    store: SqliteOrders, damage: Callable[[Path], None]
) -> None:
    store.place(an_order("ord-1"))
    assert store.standing().orders
    damage(store.directory)

    for _ in range(2):
        with pytest.raises(OrdersUnavailable):
            store.standing()


@pytest.mark.parametrize("damage", [delete_database, delete_log, replace_database, remove_folder])
def test_s4_nothing_is_placed_where_others_would_not_find_it(
    store: SqliteOrders, damage: Callable[[Path], None]
) -> None:
    store.place(an_order("ord-1"))
    damage(store.directory)

    assert not store.is_current()
    with pytest.raises(OrdersUnavailable):
        store.place(an_order("ord-2"))
    with pytest.raises(OrdersUnavailable):
        store.lift(a_lift("ord-1"))


def test_s4_a_damaged_file_raises_when_it_is_opened_or_read(store: SqliteOrders) -> None:
    for number in range(50):
        store.place(an_order(f"ord-{number}"))
    store.close()
    path = store.directory / "orders.db"
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(path.stat().st_size - 4096))

    with pytest.raises(OrdersUnavailable):
        reopened(store).standing()


def test_s4_a_closed_store_knows_nothing(store: SqliteOrders) -> None:
    store.close()
    with pytest.raises(OrdersUnavailable, match="closed"):
        store.standing()


def test_s4_a_locked_database_cannot_be_written(store: SqliteOrders) -> None:
    connection = sqlite3.connect(store.directory / "orders.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(OrdersUnavailable, match="holds its lock"):
        store.place(an_order())
    connection.execute("ROLLBACK")
    connection.close()

    assert store.standing().settled
    store.place(an_order())


def test_a_store_whose_database_is_gone_is_not_begun_anew_in_silence(store: SqliteOrders) -> None:
    store.place(an_order())
    store.close()
    delete_database(store.directory)

    with pytest.raises(OrdersUnavailable, match="orders may be lost"):
        reopened(store)


@pytest.mark.parametrize("content", [b"", b"# rescind.yaml\n" * 100])
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orders.db").write_bytes(content)
    with pytest.raises(StoreFormatError, match="left alone"):
        SqliteOrders(tmp_path)
    assert (tmp_path / "orders.db").read_bytes() == content


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "orders.db")
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    with pytest.raises(StoreFormatError, match="something else"):
        SqliteOrders(tmp_path)


def test_a_store_of_a_newer_rescind_is_left_alone(store: SqliteOrders) -> None:
    store.close()
    connection = sqlite3.connect(store.directory / "orders.db")
    connection.execute(f"PRAGMA user_version = {database.ORDERS.format + 1}")
    connection.close()
    with pytest.raises(StoreFormatError, match="newer rescind"):
        reopened(store)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OrdersUnavailable):
        SqliteOrders(tmp_path / "file" / "store")


def test_what_is_no_text_is_refused_and_leaves_the_set_alone(store: SqliteOrders) -> None:
    order = an_order()
    bad = Order(
        order_id="ord-2",
        scope=order.scope,
        level=order.level,
        reason="\udcff",
        actor="ops",
        placed_at=order.placed_at,
    )
    with pytest.raises(UsageError, match="no text"):
        store.place(bad)
    assert store.standing().orders == ()
    assert store.standing().settled


# --- the stamp file ---


@pytest.mark.parametrize("replace", [True, False])
def test_a_lost_stamp_file_is_made_again_and_never_goes_back(store: SqliteOrders, replace: bool) -> None:
    store.place(an_order("ord-1"))
    old_page, last = store.page, store.page[0]
    (store.directory / "orders.stamp").unlink()
    if replace:
        reopened(store).close()
    assert not store.is_current()

    store.place(an_order("ord-2"))

    assert store.is_current()
    assert store.page is not old_page
    assert old_page[0] == last
    assert store.page[0] > last
    assert len(store.standing().orders) == 2


def test_a_reader_follows_a_replaced_stamp_file_when_it_next_reads(store: SqliteOrders) -> None:
    other = reopened(store)
    (store.directory / "orders.stamp").unlink()
    store.place(an_order())

    assert not other.is_current()
    assert other.standing() == store.standing()
    assert other.is_current()
    assert other.page[0] == store.page[0]
    other.close()


def test_s1_a_stamp_file_that_is_replaced_in_the_middle_of_a_change_moves_too(tmp_path: Path) -> None:
    readers: list[SqliteOrders] = []
    seen: list[Standing] = []

    class Unlucky(SqliteOrders):
        def _commit(self, connection: sqlite3.Connection, write: Write, stamp: int) -> None:
            (tmp_path / "orders.stamp").unlink()
            readers.append(SqliteOrders(tmp_path))
            seen.append(readers[0].standing())
            super()._commit(connection, write, stamp)

    writer = Unlucky(tmp_path)
    writer.place(an_order())
    assert seen[0].orders == ()
    assert readers[0].page[0] != seen[0].stamp
    assert readers[0].page[0] == writer.page[0]
    readers[0].close()
    writer.close()


def test_a_new_stamp_file_is_above_the_last_one_even_if_the_wall_clock_went_back(tmp_path: Path) -> None:
    clock = ManualClock()
    first = SqliteOrders(tmp_path, clock=clock)
    assert first.page[0] >= NOON_US
    first.place(an_order())
    last = first.page[0]
    (tmp_path / "orders.stamp").unlink()

    class Yesterday(ManualClock):
        def now_us(self) -> int:
            return NOON_US - 86_400_000_000

    second = SqliteOrders(tmp_path, clock=Yesterday())
    assert second.page[0] > last
    assert second.page[0] % 2 == 0
    first.close()
    second.close()


def test_a_short_stamp_file_is_refused_instead_of_mapped(store: SqliteOrders) -> None:
    store.close()
    (store.directory / "orders.stamp").write_bytes(b"short")
    with pytest.raises(OrdersUnavailable, match="too short"):
        reopened(store)


def test_the_page_cannot_be_written_by_its_readers(store: SqliteOrders) -> None:
    with pytest.raises(TypeError):
        store.page[0] = 4  # type: ignore[index]  # that is the point
