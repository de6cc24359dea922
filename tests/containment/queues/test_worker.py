"""A real Celery worker on a real Redis: it begins nothing that is paused, wherever the job is at that moment."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import redis

from containment.queues.worlds import BILLING, MAILING, CeleryWorld
from rescind.containment.queues.celery_redis import CeleryQueue
from rescind.containment.queues.port import JobOwner
from rescind.model.scope import Scope
from servers import PATIENCE_S

PROGRAM = """
import os, time
import redis
from celery import Celery
from rescind.containment.queues.celery_redis import CeleryQueue
from rescind.integrations.celery import hold_jobs, stamp_jobs

URL = os.environ["BROKER"]
app = Celery("shop", broker=URL)
app.conf.update(task_acks_late=os.environ.get("LATE") == "1", worker_prefetch_multiplier=8,
                broker_connection_retry_on_startup=True, task_queue_max_priority=None)
stamp_jobs()
if os.environ.get("ASKS", "1") == "1":
    hold_jobs(app, CeleryQueue(URL))
marks = redis.Redis.from_url(URL)

@app.task(name="work")
def work(name):
    marks.rpush("began", name)
    if name.startswith("slow"):
        deadline = time.monotonic() + 30
        while not marks.exists("go") and time.monotonic() < deadline:
            time.sleep(0.02)
    if name.startswith("parent"):
        work.apply_async(("child of " + name,), countdown=1)

@app.task(name="weak", bind=True, max_retries=3)
def weak(self, name):
    marks.rpush("began", name)
    if not marks.exists("well"):
        raise self.retry(countdown=0.2)
"""

ACME = Scope.parse("tenant:acme")


class Shop:
    """The program that sends jobs, and what its workers did."""

    def __init__(self, url: str, folder: Path) -> None:
        CeleryWorld(url).close()  # an empty Redis
        self.url, self.folder = url, folder
        self.marks: Any = redis.Redis.from_url(url)
        self.app: Any = importlib.import_module("celery").Celery("shop", broker=url)
        self.port = CeleryQueue(url)
        (folder / "shop.py").write_text(PROGRAM)

    def send(self, *names: str, owner: JobOwner = BILLING, task: str = "work", **options: Any) -> None:
        header = {"run_id": owner.run_id, "agent": owner.agent, "tenant": owner.tenant, "workflow": owner.workflow}
        for name in names:
            self.app.send_task(task, (name,), headers={"rescind": header}, **options)

    def began(self) -> list[str]:
        return [name.decode() for name in self.marks.lrange("began", 0, -1)]

    def unacked(self) -> int:
        return int(self.marks.hlen("unacked"))

    @contextlib.contextmanager
    def worker(self, *options: str, pool: str = "prefork", **variables: str) -> "Generator[subprocess.Popen[bytes]]":
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool", pool, "-c", "1", "-l", "WARNING"]
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--without-gossip", "--without-mingle", "--without-heartbeat", *options],
                cwd=self.folder,
                env={**os.environ, "BROKER": self.url, "C_FORCE_ROOT": "1", **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(PATIENCE_S)
                    raise


@pytest.fixture
def shop(redis_url: str, tmp_path: Path) -> Shop:
    return Shop(redis_url, tmp_path)


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_qu1_what_a_worker_has_taken_and_not_begun_is_held_too_and_runs_once_in_order_after_the_release(
    shop: Shop, pool: str
) -> None:
    with shop.worker(pool=pool):
        shop.send("slow", owner=MAILING)
        until(lambda: shop.began() == ["slow"])
        shop.send(*(f"job-{number}" for number in range(20)))
        in_memory = 0
        if pool != "solo":  # which takes none as long as it works
            until(lambda: shop.unacked() >= 7)
            in_memory = shop.unacked()
        assert shop.port.hold(ACME, "ord-1") == 20 - in_memory
        shop.marks.set("go", 1)
        until(lambda: shop.port.held() == {"ord-1": 20})
        time.sleep(0.3)
        assert shop.began() == ["slow"]
        assert shop.unacked() == 0

        assert shop.port.release("ord-1") == 20
        until(lambda: len(shop.began()) == 21)
        time.sleep(0.2)

    assert shop.began() == ["slow", *(f"job-{number}" for number in range(20))]
    assert shop.port.held() == {}


@pytest.mark.parametrize("late", ["0", "1"])
def test_qu2_what_is_sent_after_the_pause_is_never_begun_though_no_keeper_looks(shop: Shop, late: str) -> None:
    shop.port.hold(ACME, "ord-1")
    with shop.worker(LATE=late):
        shop.send("a", "b")
        shop.send("of somebody else", owner=MAILING)
        until(lambda: shop.began() == ["of somebody else"] and shop.port.held() == {"ord-1": 2})
        shop.port.release("ord-1")
        until(lambda: len(shop.began()) == 3)

    assert shop.began() == ["of somebody else", "a", "b"]


def test_qu2_a_worker_that_does_not_ask_is_held_by_the_next_look_of_the_keeper(shop: Shop) -> None:
    shop.send(*(f"job-{number}" for number in range(5)))
    assert shop.port.hold(ACME, "ord-1") == 5
    with shop.worker(ASKS="0"):
        shop.send("of somebody else", owner=MAILING)
        until(lambda: shop.began() == ["of somebody else"])
        shop.port.release("ord-1")
        until(lambda: len(shop.began()) == 6)


def test_a_job_with_a_countdown_that_comes_due_during_the_pause_waits(shop: Shop) -> None:
    with shop.worker():
        shop.send("ready", owner=MAILING)
        until(lambda: shop.began() == ["ready"])
        shop.send("later", countdown=2.0)
        until(lambda: shop.unacked() == 1)  # it is in the memory of the worker until then
        shop.port.hold(ACME, "ord-1")
        until(lambda: shop.port.held() == {"ord-1": 1})
        assert shop.began() == ["ready"]
        shop.port.release("ord-1")
        until(lambda: shop.began() == ["ready", "later"])


def test_a_retry_of_a_job_belongs_to_the_same_run_and_waits(shop: Shop) -> None:
    with shop.worker():
        shop.send("weak", task="weak")
        until(lambda: shop.began() == ["weak"])
        shop.port.hold(Scope.parse("run:run-1"), "ord-1")
        until(lambda: shop.port.held() == {"ord-1": 1})
        began = len(shop.began())
        time.sleep(0.5)
        assert len(shop.began()) == began
        shop.marks.set("well", 1)
        shop.port.release("ord-1")
        until(lambda: len(shop.began()) == began + 1)


def test_a_job_that_a_job_sends_belongs_to_the_same_run(shop: Shop) -> None:
    with shop.worker():
        shop.send("parent")
        shop.send("parent of others", owner=MAILING)
        until(lambda: shop.began() == ["parent", "parent of others"])
        shop.port.hold(Scope.parse("run:run-1"), "ord-1")
        until(lambda: shop.began()[2:] == ["child of parent of others"])
        until(lambda: shop.port.held() == {"ord-1": 1})
        shop.port.release("ord-1")
        until(lambda: shop.began()[3:] == ["child of parent"])


def test_qu3_a_worker_that_is_killed_with_jobs_in_its_memory_gives_them_back_and_each_runs_once(shop: Shop) -> None:
    names = [f"job-{number}" for number in range(12)]
    with shop.worker(LATE="1") as first:
        shop.send("slow", owner=MAILING)
        until(lambda: shop.began() == ["slow"])
        shop.send(*names)
        until(lambda: shop.unacked() >= 7)
        shop.port.hold(ACME, "ord-1")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(PATIENCE_S)
    shop.marks.set("go", 1)
    # What Celery does after its visibility timeout, an hour by default: what nobody finished goes back to the queue.
    channel = shop.app.connection().default_channel
    channel.qos.visibility_timeout = 0
    channel.qos.restore_visible(num=100, interval=1)
    with shop.worker(LATE="1"):
        until(lambda: shop.port.held() == {"ord-1": len(names)})
        shop.port.release("ord-1")
        until(lambda: len(shop.began()) >= 2 + len(names))
        time.sleep(0.3)

    assert shop.began().count("slow") == 2  # it had begun: that it runs again is what `acks_late` asks for
    assert sorted(name for name in shop.began() if name != "slow") == sorted(names)


def test_a_run_stamps_the_jobs_that_it_sends(shop: Shop, tmp_path: Path) -> None:
    program = """
import rescind, shop
guard = rescind.Guard.at("store")
with guard.run("billing-agent@2.4.0", run_id="run-7", tenant="acme", workflow="dunning") as run:
    shop.work.delay("a")
    with run.spawn(agent="mail-agent@1.0.0", run_id="run-8", workflow="news"):
        shop.work.delay("b")
shop.work.delay("nobody's")
guard.close()
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "BROKER": shop.url}, check=True, timeout=60
    )

    shop.port.hold(Scope.parse("run:run-8+agent:mail-agent"), "by run and agent")
    shop.port.hold(Scope.parse("tenant:acme+workflow:dunning"), "by tenant and workflow")
    shop.port.hold(Scope.parse("tree:run-7"), "by tree")
    shop.port.hold(Scope(), "everything")
    assert shop.port.held() == {"by run and agent": 1, "by tenant and workflow": 1, "by tree": 2, "everything": 3}
