"""`kill -9` of a redo, in the command and of a worker in mid-share; and of a worker that overwrites a later change.

The price list's own table `trail` says what was put there, how often and under which key: rescind knows nothing of it.
"""

import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from acceptance.test_workers import Till, outcome, until

pytest.importorskip("dbos")

PRICES = 120
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

TOOLS = """
import os, sqlite3, time
import rescind

guard = rescind.Guard.at(os.environ["RESCIND_STORE"])

def prices():
    connection = sqlite3.connect("till.db", timeout=20.0, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")  # the list's own durability is not what is tested here
    return connection

@guard.write("price.set", target=lambda name, price: ("shop", "price", name), on_conflict="force")
def set_price(name: str, price: int) -> None:
    with prices() as connection:
        connection.execute("UPDATE prices SET price = ? WHERE name = ?", (price, name))

@set_price.snapshot
def _(name):
    with prices() as connection:
        return connection.execute("SELECT price FROM prices WHERE name = ?", (name,)).fetchone()[0]

@set_price.restore(parallel=True)
def _(step):
    time.sleep(0.01)
    name = step.arguments["name"]
    with prices() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE prices SET price = ? WHERE name = ?", (step.before, name))
        connection.execute("INSERT INTO trail VALUES (?, ?, ?)", (name, step.before, step.idempotency_key))
        connection.execute("COMMIT")
    time.sleep(0.01)
"""

AGENT = f"""
from list_tools import guard, set_price

for run in range({PRICES} // 4):
    with guard.run(agent="pricing-agent@1.0.0", run_id=f"run-{{run}}", trace_id="{TRACE}", tenant="acme"):
        for number in range(4):
            set_price(f"tea-{{run * 4 + number}}", 500)
"""

UNDO = ("undo", "--trace", TRACE, "--app", "list_tools", "--apply", "--parallel", "2")


class PriceList(Till):
    """A list whose agent has set every price from 100 to 500."""

    files: ClassVar = {"list_tools.py": TOOLS, "agent.py": AGENT}
    schema = (
        "CREATE TABLE prices (name TEXT PRIMARY KEY, price INTEGER);"
        "CREATE TABLE trail (name TEXT, price INTEGER, key TEXT);"
        f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {PRICES - 1})"
        "INSERT INTO prices SELECT 'tea-' || i, 100 FROM n"
    )

    def start_worker(self, module: str = "list_tools") -> subprocess.Popen[str]:
        return super().start_worker(module)

    def undo(self) -> str:
        """Undo all that the agent did; the plan's digest."""
        digest: str = self.answer(*UNDO, "--here")["digest"]
        assert self.prices() == Counter({100: PRICES})
        return digest

    def prices(self) -> Counter[int]:
        """How many tea is to be had at each price."""
        with self.till() as till:
            return Counter(price for (price,) in till.execute("SELECT price FROM prices"))

    def put(self, prefix: str) -> Counter[str]:
        """How often something was put under each key that begins so."""
        with self.till() as till:
            rows = till.execute("SELECT key FROM trail WHERE key LIKE ?", (prefix + "%",))
            return Counter(key for (key,) in rows)

    def has_put(self, enough: int) -> bool:
        """Whether a redo has put back more than so many."""
        return len(self.put("redo:")) > enough

    def set(self, name: str, price: int) -> None:
        """As somebody else does, past every guard."""
        with self.till() as till:
            till.execute("UPDATE prices SET price = ? WHERE name = ?", (price, name))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PriceList]:
    made = PriceList(tmp_path)
    yield made
    made.end_all()


def test_a_redo_that_is_killed_in_the_command_goes_on_and_puts_nothing_twice(shop: PriceList) -> None:
    redo = ("redo", shop.undo(), "--app", "list_tools", "--apply", "--parallel", "2", "--here")
    for enough in (10, 60):
        begun = shop.start(*redo)
        until(partial(shop.has_put, enough), "the redo is under way")
        begun.kill()
        begun.wait()
        assert len(shop.put("redo:")) < PRICES
    shop.set("tea-119", 7)  # the last of all, which a redo comes to last

    last = shop.answer(*redo)
    assert last["complete"]
    assert last["counts"].get("review") == 1
    assert shop.prices() == Counter({500: PRICES - 1, 7: 1})
    put = shop.put("redo:")
    assert len(put) == PRICES - 1
    assert set(put.values()) == {1}, "what was put there before the kill was seen to be there"
    assert shop.answer(*redo)["settled_before"]
    assert shop.rescind("audit", "verify").returncode == 0


def test_a_redo_on_two_workers_goes_on_when_one_of_them_is_killed_in_mid_share(shop: PriceList) -> None:
    digest = shop.undo()
    first, second = shop.start_worker(), shop.start_worker()
    redo = shop.start("redo", digest, "--app", "list_tools", "--apply", "--parallel", "2", "--workers", "--json")
    until(lambda: len(shop.put("redo:")) > 30, "the redo is under way")
    first.kill()
    result = outcome(redo)

    assert result["complete"]
    assert result["counts"] == {"restored": PRICES}
    assert shop.prices() == Counter({500: PRICES})
    assert set(shop.put("redo:").values()) == {1}
    assert shop.rescind("audit", "verify").returncode == 0
    second.terminate()
    assert second.wait(40.0) == 0


@pytest.mark.slow
def test_what_was_shown_is_overwritten_by_whoever_goes_on_and_nothing_newer(shop: PriceList) -> None:
    """CF2 and SH5, over a `kill -9` of both workers and of whoever asked for it."""
    for number in range(0, PRICES, 2):
        shop.set(f"tea-{number}", 300)
    first, second = shop.start_worker(), shop.start_worker()
    undo = shop.start(*UNDO, "--workers", "--force", "--reason", "the list is ours", "--json")
    until(lambda: len(shop.put("undo:")) > 30, "the undo is under way")
    for process in (undo, first, second):
        process.kill()
        process.wait()
    plan_run = shop.answer("worker", "--list")["plans"][0]["plan_run"]
    with shop.till() as till:
        (newer,) = till.execute("SELECT count(*) FROM prices WHERE price = 300").fetchone()
        till.execute("UPDATE prices SET price = 301 WHERE price = 300")
    assert newer > 0
    shop.start_worker()
    ended = shop.answer("worker", "--follow", plan_run)

    assert ended["complete"]
    assert shop.prices() == Counter({100: PRICES - newer, 301: newer})
    assert set(shop.put("undo:").values()) == {1}
    tasks = shop.answer("review", "list")["tasks"]
    assert sum(len(task["steps"]) for task in tasks if task["reason"] == "conflict") == newer
