"""The worlds that the contract suite runs over."""

import copy
import json
import random
import shutil
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

import rescind
from effects.harness import Tool, World
from effects.http_worlds import HTTP
from effects.s3_worlds import S3
from effects.servers_worlds import SERVERS
from rescind.compensation.effects import Files, MappingKey, ObjectGraph, SqlChanges, SqlRows
from servers import Postgres

Place = tuple[Path, Engine]
GONE = ...

SCHEMA = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT UNIQUE, plan TEXT, credit NUMERIC(12, 4), seen DATETIME,
                        photo BLOB, profile JSON, shout TEXT GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT REFERENCES customers (id) ON DELETE CASCADE, sum REAL);
CREATE TABLE stock (shop TEXT, article INTEGER, pieces INTEGER, PRIMARY KEY (shop, article));
CREATE TABLE notes (text TEXT);
CREATE TABLE folders (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES folders (id), name TEXT UNIQUE);
"""

ROWS = """
INSERT INTO customers (id, name, plan, credit, seen, photo, profile)
    VALUES ('c-1', 'Ann', 'gold', 12.5, '2026-11-21 12:00:00.000000', x'00ff', '{"b": 1, "a": [2]}'),
           ('c-2', 'Bob', NULL, NULL, NULL, NULL, 'null');
INSERT INTO orders VALUES (1, 'c-1', 9.5), (2, 'c-1', 0.1), (3, 'c-2', 7.0);
INSERT INTO stock VALUES ('north', 1, 10), ('north', 2, 20), ('south', 1, 30);
"""


def an_engine(path: Path) -> Engine:
    engine = sa.create_engine(f"sqlite:///{path / 'shop.db'}", connect_args={"timeout": 0})

    @sa.event.listens_for(engine, "connect")
    def enforce_foreign_keys(connection: Any, _: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    with engine.begin() as connection:
        for statement in (SCHEMA + ROWS).split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    return engine


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def content_of(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, with the storage class of every value."""
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return {table: _stored(connection, table) for table in tables}


def _stored(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    names = [column["name"] for column in sa.inspect(connection).get_columns(table)]
    columns = ", ".join(f"quote({name}), typeof({name})" for name in names)
    return sorted(tuple(row) for row in connection.exec_driver_sql(f"SELECT {columns} FROM {table}"))


def tool_on(effect: SqlRows, *statements: str) -> Tool:
    """A tool that executes these statements, on the connection that the effect's mode wants."""

    def tool(**arguments: Any) -> None:
        if effect.transaction == "tool":
            with effect.engine.begin() as connection:
                _run(connection, arguments)
        else:
            _run(effect.connection(), arguments)

    def _run(connection: Connection, arguments: dict[str, Any]) -> None:
        for statement in statements:
            connection.execute(sa.text(statement), arguments)

    return tool


def _sql(
    table: str, *statements: str, rows: Any, meddle: str, mend: str, arguments: dict[str, Any]
) -> Callable[[Literal["effect", "tool"]], Callable[[Place], World]]:
    def in_transaction(transaction: Literal["effect", "tool"]) -> Callable[[Place], World]:
        def build(place: Place) -> World:
            engine = place[1]
            effect = SqlRows(engine, table, rows=rows, transaction=transaction)
            return World(
                effect=effect,
                tool=tool_on(effect, *statements),
                meddle=lambda: execute(engine, meddle),
                mend=lambda: execute(engine, mend),
                cut_off=lambda: _lose(engine),
                content=lambda: content_of(engine),
                arguments=arguments,
                rolls_back=transaction == "effect",
            )

        return build

    return in_transaction


def _lose(engine: Engine) -> None:
    """The database file is replaced by something that is none."""
    engine.dispose()
    Path(str(engine.url.database)).write_text("no database")


SQL = {
    "update": _sql(
        "customers",
        "UPDATE customers SET plan = 'free', credit = 1, photo = NULL, profile = '{}', seen = NULL WHERE id = :id",
        rows=lambda id: {"id": id},
        meddle="UPDATE customers SET name = 'Anna' WHERE id = 'c-1'",
        mend="UPDATE customers SET name = 'Ann' WHERE id = 'c-1'",
        arguments={"id": "c-1"},
    ),
    "insert": _sql(
        "customers",
        "INSERT INTO customers (id, name) VALUES (:id, 'Cid')",
        rows=lambda id: {"id": id},
        meddle="UPDATE customers SET plan = 'free' WHERE id = 'c-3'",
        mend="UPDATE customers SET plan = NULL WHERE id = 'c-3'",
        arguments={"id": "c-3"},
    ),
    "insert with a key of the database's": _sql(
        "orders",
        "INSERT INTO orders (customer, sum) VALUES (:customer, 3)",
        rows=lambda customer: {"customer": customer},
        meddle="UPDATE orders SET sum = 4 WHERE id = 4",
        mend="UPDATE orders SET sum = 3 WHERE id = 4",
        arguments={"customer": "c-2"},
    ),
    "delete": _sql(
        "orders",
        "DELETE FROM orders WHERE customer = :customer",
        rows=lambda customer: {"customer": customer},
        meddle="INSERT INTO orders VALUES (2, 'c-2', 1)",
        mend="DELETE FROM orders WHERE id = 2",
        arguments={"customer": "c-1"},
    ),
    "everything at once, composite key": _sql(
        "stock",
        "UPDATE stock SET pieces = pieces + 1 WHERE shop = :shop AND article = 1",
        "DELETE FROM stock WHERE shop = :shop AND article = 2",
        "INSERT INTO stock VALUES (:shop, 3, 5), (:shop, 4, NULL)",
        rows=lambda shop: [{"shop": shop, "article": article} for article in (1, 2, 3, 4)],
        meddle="DELETE FROM stock WHERE shop = 'north' AND article = 1",
        mend="INSERT INTO stock VALUES ('north', 1, 11)",
        arguments={"shop": "north"},
    ),
}


def _files(
    tool: Callable[[Path], Any], meddle: Callable[[Path], Any], mend: Callable[[Path], Any]
) -> Callable[[Place], World]:
    def build(place: Place) -> World:
        root = place[0] / "root"
        tree = root / "work"
        (tree / "sub" / "deep").mkdir(parents=True)
        (tree / "a.txt").write_text("a")
        (tree / "sub" / "b.bin").write_bytes(b"\x00\xff")
        (tree / "sub" / "b.bin").chmod(0o640)
        (tree / "link").symlink_to("/nowhere/at/all")
        (root / "others.txt").write_text("others")
        effect = Files(lambda path: path, root=root, keep=place[0] / "kept")
        return World(
            effect=effect,
            tool=lambda path: tool(tree),
            meddle=lambda: meddle(tree),
            mend=lambda: mend(tree),
            cut_off=lambda: shutil.move(root, place[0] / "elsewhere"),
            content=lambda: tree_content(root),
            arguments={"path": "work"},
        )

    return build


def tree_content(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (mode, content)
    return found


def _rewrite(tree: Path) -> None:
    (tree / "a.txt").write_text("changed")
    (tree / "sub" / "b.bin").chmod(0o600)
    (tree / "new").mkdir()
    (tree / "new" / "c.txt").write_text("c")
    (tree / "link").unlink()
    (tree / "link").symlink_to("a.txt")
    (tree / "sub" / "deep").rmdir()
    (tree / "sub").chmod(0o500)


def _swap_types(tree: Path) -> None:
    shutil.rmtree(tree / "sub")
    (tree / "sub").write_text("now a file")
    (tree / "a.txt").unlink()
    (tree / "a.txt").mkdir()
    (tree / "a.txt" / "inside").write_text("x")


FILES = {
    "a tree rewritten": _files(
        _rewrite,
        lambda tree: (tree / "a.txt").write_text("others"),
        lambda tree: (tree / "a.txt").write_text("changed"),
    ),
    "files and folders swapped": _files(
        _swap_types,
        lambda tree: (tree / "a.txt" / "inside").write_text("y"),
        lambda tree: (tree / "a.txt" / "inside").write_text("x"),
    ),
    "a tree deleted": _files(shutil.rmtree, lambda tree: tree.write_text("others"), lambda tree: tree.unlink()),
}


def _mapping(tool: Callable[[dict[str, Any]], Any], meddled: Any) -> Callable[[Place], World]:
    def build(_: Place) -> World:
        store: dict[str, Any] = {"plan:ann": {"name": "gold", "seats": [1, 2]}, "plan:bob": "free"}

        left: list[Any] = []

        def meddle() -> None:
            left.append(copy.deepcopy(store.get("plan:ann", GONE)))
            store["plan:ann"] = meddled

        def mend() -> None:
            if left[-1] is GONE:
                del store["plan:ann"]
            else:
                store["plan:ann"] = left[-1]

        return World(
            effect=MappingKey(store, key=lambda user: f"plan:{user}"),
            tool=lambda user: tool(store),
            meddle=meddle,
            mend=mend,
            cut_off=None,
            content=lambda: repr(sorted(store.items())),
            arguments={"user": "ann"},
        )

    return build


MAPPING = {
    "a value changed in place": _mapping(lambda store: store["plan:ann"]["seats"].append(3), "free"),
    "a value deleted": _mapping(lambda store: store.pop("plan:ann"), None),
}

POSTGRES_SCHEMA = """
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, profile json, credit real);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE, sum numeric);
INSERT INTO customers (name, profile, credit) SELECT 'n' || i, '{"k":  1}', i / 3.0 FROM generate_series(1, 9) i;
INSERT INTO orders SELECT i, i, 1.10 FROM generate_series(1, 9) i;
"""


_DATABASES: dict[Postgres, str] = {}  # one for each server: it is quicker to empty one than to make one


def _changes_on_postgres(place: Place, postgres: Postgres) -> World:
    url = _DATABASES.get(postgres) or _DATABASES.setdefault(postgres, postgres.new_database())
    name = url.rsplit("/", 1)[1]
    admin = sa.create_engine(
        postgres.url(scheme="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    empty = ("DROP SCHEMA IF EXISTS rescind_changes CASCADE", "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    execute(engine, *empty, *POSTGRES_SCHEMA.strip().split("\n"))
    effect = SqlChanges(engine, ["customers", "orders"])
    effect.install()

    def tool() -> None:
        for statement in (
            "UPDATE customers SET credit = credit + 1 WHERE id <= 5",
            "DELETE FROM customers WHERE id > 7",
            "INSERT INTO customers (name) VALUES ('n9')",
        ):
            effect.connection().exec_driver_sql(statement)

    def content() -> list[Any]:
        with engine.connect() as connection:
            # The numbers that the database gives out go on; everything else is compared.
            rows = "SELECT name, profile::text, credit, o::text FROM customers c LEFT JOIN orders o ON customer = c.id"
            return sorted(map(repr, connection.exec_driver_sql(rows)))

    return World(
        effect=effect,
        tool=tool,
        meddle=lambda: execute(engine, "UPDATE customers SET profile = '[]' WHERE id = 2"),
        mend=lambda: execute(engine, """UPDATE customers SET profile = '{"k":  1}' WHERE id = 2"""),
        cut_off=lambda: execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        content=content,
        sees_aba=True,
        rolls_back=True,
        goes_over=False,
    )


_changes_on_postgres.needs = ("postgres",)  # type: ignore[attr-defined]  # the fixtures that it is called with


def unpooled(engine: Engine) -> Engine:
    """For the same file, but it keeps none open that nobody uses: beside apsw, that is refused (OS1)."""
    engine.dispose()
    return sa.create_engine(engine.url, poolclass=sa.NullPool, connect_args={"timeout": 0})


def _changes_on_sqlite(place: Place) -> World:
    engine = unpooled(place[1])
    effect = SqlChanges(engine, ["customers", "orders", "stock"])
    effect.install()

    def tool() -> None:
        for statement in (
            "UPDATE customers SET plan = 'free', credit = 1, photo = NULL, profile = '{}' WHERE id = 'c-1'",
            "DELETE FROM customers WHERE id = 'c-2'",  # and an order in cascade
            "INSERT INTO stock VALUES ('north', 3, 5), ('north', 4, NULL)",
            "UPDATE stock SET article = 7 WHERE shop = 'south'",
        ):
            effect.connection().execute(statement)

    def content() -> dict[str, Any]:
        return {name: rows for name, rows in content_of(engine).items() if not name.startswith("rescind_")}

    return World(
        effect=effect,
        tool=tool,
        meddle=lambda: execute(engine, "UPDATE customers SET plan = 'gold' WHERE id = 'c-1'"),
        mend=lambda: execute(engine, "UPDATE customers SET plan = 'free' WHERE id = 'c-1'"),
        cut_off=lambda: _lose(engine),
        content=content,
        rolls_back=True,
        goes_over=False,
    )


class Account:
    """An object with everything in it that tools use."""

    __slots__ = ("__dict__", "limit")

    def __init__(self, owner: str) -> None:
        self.owner, self.balance = owner, Decimal("10.00")
        self.history: list[Any] = [{"text": "opened"}]
        self.limit = 100


class Bank:
    def __init__(self) -> None:
        self.accounts = {"ann": Account("ann"), "bob": Account("bob"), "cid": Account("cid")}
        self.tags = {"a", "b"}
        self.dice = random.Random(7)
        self.queue = deque([1, 2, 3])
        self.memory = bytearray(b"abc")
        self.favourite = self.accounts["ann"]
        self.next_id = 1


def bank_content(bank: Bank) -> str:
    ids = {id(account): name for name, account in bank.accounts.items()}
    accounts = [(name, vars(each), getattr(each, "limit", None)) for name, each in bank.accounts.items()]
    rest = {key: value for key, value in vars(bank).items() if key not in ("accounts", "favourite", "dice", "tags")}
    return repr((accounts, list(rest.items()), sorted(bank.tags), bank.dice.getstate(), ids.get(id(bank.favourite))))


def _bank(tool: Callable[[Bank], Any], meddle: Callable[[Bank], Any], mend: Callable[[Bank], Any]) -> Any:
    def build(_: Place) -> World:
        bank = Bank()
        return World(
            effect=ObjectGraph(bank),
            tool=lambda: tool(bank),
            meddle=lambda: meddle(bank),
            mend=lambda: mend(bank),
            content=lambda: bank_content(bank),
            cut_off=None,
            knows_its_calls=True,
            goes_over=False,
        )

    return build


def _change_everything(bank: Bank) -> None:
    ann = bank.accounts["ann"]
    ann.balance -= 3
    ann.limit += 1
    ann.history.insert(0, {"text": "paid", "items": [1, 2]})
    ann.history[1]["text"] = "changed"
    bank.accounts["dan"] = Account("dan")
    del bank.accounts["bob"]
    bank.tags.symmetric_difference_update({"a", "c"})
    bank.dice.random()
    bank.queue.rotate(1)
    bank.memory[0] = 0
    bank.favourite = bank.accounts["dan"]
    bank.next_id += 1
    bank.__dict__["new"] = {1: {2: 3}}


OBJECTS = {
    "everything at once": _bank(
        _change_everything,
        lambda bank: setattr(bank.accounts["ann"], "balance", Decimal(0)),
        lambda bank: setattr(bank.accounts["ann"], "balance", Decimal("7.00")),
    ),
    "what the call made is changed": _bank(
        _change_everything,
        lambda bank: setattr(bank.accounts["dan"], "owner", "eve"),
        lambda bank: setattr(bank.accounts["dan"], "owner", "dan"),
    ),
    "a list is edited at the same place": _bank(
        lambda bank: bank.queue.append(4),
        lambda bank: bank.queue.__setitem__(3, 5),
        lambda bank: bank.queue.__setitem__(3, 4),
    ),
    "keys change places": _bank(
        lambda bank: bank.accounts.update({"ann": bank.accounts.pop("ann")}),
        lambda bank: bank.accounts.update({"bob": bank.accounts.pop("bob")}),
        lambda bank: bank.accounts.update({"cid": bank.accounts.pop("cid"), "ann": bank.accounts.pop("ann")}),
    ),
}

PAGE = Path(__file__).parents[2] / "docs" / "effects.md"


def _of_the_page(tool: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Place], World]:
    """The effect that the page shows how to write."""

    def build(place: Place) -> World:
        text = PAGE.read_text(encoding="utf-8").partition("## An effect of your own in 40 lines")[2]
        code = text.partition("```python\n")[2].partition("\n@guard.write")[0]
        shown: dict[str, Any] = {"rescind": rescind, "__name__": "shown"}
        home = place[0] / "rescind" / "compensation" / "effects" / "shown.py"  # restores die at lines of such files
        home.parent.mkdir(parents=True)
        home.write_text(code, encoding="utf-8")
        exec(compile(code, str(home), "exec"), shown)  # our own page
        file = place[0] / "settings.json"
        file.write_text('{"theme": "light", "size": 12}')
        left: list[str] = []

        def meddle() -> None:
            left.append(file.read_text())
            file.write_text('{"theme": "others", "size": 12}')

        return World(
            effect=shown["Setting"](file, "theme"),
            tool=lambda: file.write_text(json.dumps(tool(json.loads(file.read_text())))),
            meddle=meddle,
            mend=lambda: file.write_text(left[-1]),
            content=lambda: sorted(json.loads(file.read_text()).items()),
            cut_off=lambda: file.write_text("no settings"),
        )

    return build


OWN = {
    "changed": _of_the_page(lambda settings: settings | {"theme": "dark"}),
    "deleted": _of_the_page(lambda settings: {"size": settings["size"]}),
}

WORLDS: dict[str, Callable[..., World]] = {
    **{f"sql, {name}, {mode}'s transaction": SQL[name](mode) for name in SQL for mode in ("effect", "tool")},
    "sql changes, postgres": _changes_on_postgres,
    "sql changes, sqlite": _changes_on_sqlite,
    **{f"files, {name}": build for name, build in FILES.items()},
    **{f"mapping, {name}": build for name, build in MAPPING.items()},
    **SERVERS,
    **{f"http, {name}": build for name, build in HTTP.items()},
    **{f"s3, {name}": build for name, build in S3.items()},
    **{f"own, {name}": build for name, build in OWN.items()},
    **{f"objects, {name}": build for name, build in OBJECTS.items()},
}
