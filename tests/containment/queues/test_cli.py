"""`rescind queues`, from an order to a job that waits, with real processes; and keepers that die at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from containment.queues.worlds import MAILING, SqlWorld, take_all
from rescind.switch.store import SqliteOrders
from servers import PATIENCE_S
from switch.http.service import running

RESCIND = str(Path(sys.executable).with_name("rescind"))

JOBS = """
import sqlalchemy as sa
from rescind.containment.queues.sql_jobs import SqlJobs
from rescind.containment.queues.sql_tables import JobTable

engine = sa.create_engine("sqlite:///jobs.db", connect_args={"timeout": 20})
table = JobTable(name="work", id="nr", status="state", pending="new", held="on hold", run="run_ref", tenant="customer",
                 workflow="kind", agent="by_agent", lineage="above")
queues = [SqlJobs(engine, table)]
twice = [queues[0], SqlJobs(engine, table)]
nothing = 7
"""

Rescind = Callable[..., Any]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SqlWorld]:
    (tmp_path / "jobs.py").write_text(JOBS)
    SqliteOrders(tmp_path / ".rescind").close()
    world = SqlWorld(f"sqlite:///{tmp_path}/jobs.db")
    yield world
    world.close()


@pytest.fixture
def rescind(tmp_path: Path) -> Rescind:
    def run(*words: str, status: int = 0) -> Any:
        done = subprocess.run([RESCIND, *words, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    return run


def watching(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [RESCIND, "queues", "watch", "jobs:queues", "--every", "0.2s", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "watching work" in process.stdout.readline()
    return process


def ended(process: "subprocess.Popen[str]", number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    return process.returncode


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_an_order_makes_jobs_wait_and_its_lift_lets_them_run(world: SqlWorld, rescind: Rescind) -> None:
    world.put("a", "b")
    world.put("c", owner=MAILING)
    placed = rescind("contain", "tenant:acme+workflow:dunning", "--pause-queue", "--reason", "wrong letters")
    order_id = placed["orders"][0]["order"]["order_id"]

    kept = rescind("queues", "reconcile", "jobs:queues")
    assert kept["queues"][0]["held"] == 2
    assert rescind("queues", "list", "jobs:queues")["queues"][0]["holding"] == {order_id: 2}
    assert take_all(world) == ["c"]

    rescind("resume", order_id, "--reason", "mended")
    assert rescind("queues", "reconcile", "jobs:queues")["queues"][0]["freed"] == 2
    assert take_all(world) == ["a", "b"]


def test_a_keeper_follows_orders_and_holds_what_comes_in_later(
    world: SqlWorld, rescind: Rescind, tmp_path: Path
) -> None:
    keeper = watching(tmp_path)
    try:
        world.put("a")
        rescind("contain", "run:run-1", "--pause-queue")
        until(lambda: world.names_held() == ["a"])
        world.put("b")
        until(lambda: world.names_held() == ["a", "b"])
        rescind("resume", "run:run-1", "--reason", "mended")
        until(lambda: world.names_held() == [])
    finally:
        status = ended(keeper)
    assert status == 0
    assert take_all(world) == ["a", "b"]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_a_keeper_that_is_killed_at_any_moment_loses_nothing_and_the_next_one_goes_on(
    world: SqlWorld, rescind: Rescind, tmp_path: Path, seed: int
) -> None:
    names = [f"job-{number:04}" for number in range(3_000)]
    world.put(*names)
    rescind("contain", "tenant:acme", "--pause-queue")
    dice = random.Random(seed)
    keeper = watching(tmp_path)
    until(lambda: bool(world.names_held()))
    time.sleep(dice.random() * 0.1)  # six batches take about as long
    assert ended(keeper, signal.SIGKILL) == -signal.SIGKILL

    rescind("queues", "reconcile", "jobs:queues")
    assert world.take() is None
    assert world.names_held() == names

    rescind("resume", "tenant:acme", "--reason", "mended")
    keeper = watching(tmp_path)
    until(lambda: len(world.names_held()) < len(names))
    time.sleep(dice.random() * 0.1)
    assert ended(keeper, signal.SIGKILL) == -signal.SIGKILL

    rescind("queues", "reconcile", "jobs:queues")
    assert take_all(world) == names


def test_orders_of_a_switch_are_obeyed_and_what_it_held_stays_held_while_no_switch_says_that_it_was_lifted(
    world: SqlWorld, rescind: Rescind, tmp_path: Path
) -> None:
    world.put("a")
    token = tmp_path / "token"
    with running(tmp_path, roles=("operator", "approver", "viewer")) as switch:
        at = ["--switch", switch.url, "--token-file", str(token)]
        token.write_text(switch.tokens["approver"])
        rescind("contain", "tenant:acme", "--pause-queue", *at)
        rescind("queues", "reconcile", "jobs:queues", *at)
        assert world.names_held() == ["a"]

        told = rescind("queues", "reconcile", "jobs:queues", status=1)  # the local store has never heard of it
        assert "stay held until its lift is seen" in told["problems"][0]
        assert world.names_held() == ["a"]

        rescind("resume", "tenant:acme", "--reason", "mended", *at)
        rescind("queues", "reconcile", "jobs:queues", *at)
        assert world.names_held() == []


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("jobs", "names no queues"),
        ("jobs:", "names no queues"),
        ("nowhere:queues", "there is no module 'nowhere'"),
        ("jobs:other", "has no 'other'"),
        ("jobs:nothing", "holds a int, which is no QueuePort"),
        ("jobs:twice", "two queues of one name"),
    ],
)
def test_what_names_no_queues_is_met_with_a_remedy(world: SqlWorld, tmp_path: Path, module: str, says: str) -> None:
    done = subprocess.run(
        [RESCIND, "queues", "list", module], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=os.environ
    )

    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
