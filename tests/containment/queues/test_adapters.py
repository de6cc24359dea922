"""What each queue has of its own: columns of every type, workers that ask, priorities, and servers that are away."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from containment.queues.worlds import BILLING, MAILING, CeleryWorld, SqlWorld, take_all
from rescind.containment.queues.celery_redis import CeleryQueue
from rescind.containment.queues.port import CannotHold, JobOwner, QueueUnavailable
from rescind.containment.queues.sql_jobs import SqlJobs
from rescind.containment.queues.sql_tables import JobTable
from rescind.errors import UsageError
from rescind.model.scope import Scope
from servers import Postgres, free_port

ACME = Scope.parse("tenant:acme")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    return str(request.getfixturevalue("postgres").url(scheme="postgresql+psycopg"))


def test_qu2_a_worker_that_asks_never_begins_what_came_in_after_the_pause(url: str) -> None:
    world = SqlWorld(url)
    jobs = world.port()
    work = sa.Table("work", sa.MetaData(), autoload_with=world.engine).alias("w")
    mine = sa.select(work.c.title).where(work.c.state == "new", jobs.may_begin(work)).order_by(work.c.nr)
    for scope in ("tenant:acme+workflow:dunning", "agent:billing-agent@2.4.0", "tree:run-0", "run:run-1"):
        jobs.hold(Scope.parse(scope), scope)
    world.put("covered", owner=BILLING)  # and no keeper looks
    world.put("free", owner=MAILING)

    with world.engine.connect() as connection:
        assert list(connection.execute(mine).scalars()) == ["free"]
    for order_id in jobs.held():
        jobs.release(order_id)
    with world.engine.connect() as connection:
        assert list(connection.execute(mine).scalars()) == ["covered", "free"]
    world.close()


def test_qu3_of_a_worker_and_a_keeper_that_want_one_job_exactly_one_has_it(url: str) -> None:
    world = SqlWorld(url)
    names = [f"job-{number}" for number in range(120)]
    world.put(*names)
    ran: list[str] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        ran.extend(take_all(world))

    def keep() -> None:
        start.wait()
        world.port().hold(ACME, "ord-1")

    threads = [*(threading.Thread(target=work) for _ in range(3)), threading.Thread(target=keep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = world.names_held()

    assert sorted([*ran, *held]) == sorted(names)
    world.close()


def test_columns_that_are_no_text_and_keys_that_are_no_numbers_serve_too(url: str) -> None:
    engine = sa.create_engine(url)
    status = "VARCHAR(10)"
    with engine.begin() as connection:
        for name in ("rescind_held_jobs", "rescind_paused_queues", "rescind_queue_locks", "tasks"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("DROP TYPE IF EXISTS task_status"))
            connection.execute(sa.text("CREATE TYPE task_status AS ENUM ('pending', 'held', 'done')"))
            status = "task_status"
        connection.execute(sa.text(f"CREATE TABLE tasks (id VARCHAR(40) PRIMARY KEY, status {status}, tenant INTEGER)"))
        connection.execute(sa.text("INSERT INTO tasks VALUES ('x', 'pending', 7), ('y', 'pending', 77)"))
    jobs = SqlJobs(engine, JobTable(name="tasks", tenant="tenant"))

    assert jobs.hold(Scope.parse("tenant:7"), "ord-1") == 1
    with engine.connect() as connection:
        assert list(connection.execute(sa.text("SELECT id FROM tasks WHERE status = 'held'")).scalars()) == ["x"]
    assert jobs.release("ord-1") == 1
    engine.dispose()


def test_keys_of_a_type_of_the_database_alone_serve_too(postgres: Postgres) -> None:
    engine = sa.create_engine(postgres.url(scheme="postgresql+psycopg"))
    with engine.begin() as connection:
        for name in ("rescind_held_jobs", "rescind_paused_queues", "rescind_queue_locks", "letters"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
        connection.execute(
            sa.text("CREATE TABLE letters (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), status TEXT, tenant UUID)")
        )
        owner = connection.execute(sa.text("SELECT gen_random_uuid()::text")).scalar_one()
        connection.execute(sa.text("INSERT INTO letters (status, tenant) VALUES ('pending', :o)"), {"o": owner})
        connection.execute(sa.text("INSERT INTO letters (status) VALUES ('pending')"))
    letters = SqlJobs(engine, JobTable(name="letters", tenant="tenant"))

    assert letters.hold(Scope.parse(f"tenant:{owner}"), "ord-1") == 1
    assert letters.held() == {"ord-1": 1}
    assert letters.release("ord-1") == 1
    engine.dispose()


@pytest.mark.parametrize("run_id", ["run_1", "run%", "run_%", "r"])
def test_an_id_with_signs_of_a_pattern_is_only_itself(url: str, run_id: str) -> None:
    world = SqlWorld(url)
    world.put("a", owner=JobOwner(run_id="runX1", ancestors=("runs", "run-10")))
    world.put("b", owner=JobOwner(run_id="other", ancestors=(run_id,)))

    assert world.port().hold(Scope.parse(f"tree:{run_id}"), "ord-1") == 1
    assert world.names_held() == ["b"]
    world.close()


def test_what_a_table_has_no_column_for_is_refused_with_the_remedy(tmp_path: Path) -> None:
    world = SqlWorld(f"sqlite:///{tmp_path}/jobs.db")
    table = JobTable(name="work", id="nr", status="state", pending="new", held="on hold", tenant="customer")
    jobs = SqlJobs(world.engine, table)

    for scope, column in [("run:a", "run=…"), ("agent:a", "agent=…"), ("tree:a", "run=…, lineage=…")]:
        with pytest.raises(CannotHold, match="no column") as refused:
            jobs.hold(Scope.parse(scope), "ord-1")
        assert column in str(refused.value)
    assert jobs.held() == {}
    with pytest.raises(CannotHold, match="two of a kind"):
        jobs.hold(Scope.parse("tenant:a+tenant:b"), "ord-1")
    world.close()


def test_a_table_that_is_not_as_it_was_named_is_refused_with_what_there_is(tmp_path: Path) -> None:
    world = SqlWorld(f"sqlite:///{tmp_path}/jobs.db")

    with pytest.raises(UsageError, match="no table 'job'"):
        SqlJobs(world.engine, JobTable(name="job", tenant="customer"))
    with pytest.raises(UsageError, match="has no column 'id'; it has: above, by_agent"):
        SqlJobs(world.engine, JobTable(name="work", tenant="customer"))
    with pytest.raises(UsageError, match="name at least one column"):
        JobTable(name="work")
    with pytest.raises(UsageError, match="name two statuses"):
        JobTable(name="work", tenant="customer", held="pending")
    world.close()


def test_a_database_or_a_broker_that_is_away_says_so_and_holds_what_it_held() -> None:
    away = sa.create_engine(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing")

    with pytest.raises(QueueUnavailable, match="cannot be used"):
        SqlJobs(away, JobTable(name="jobs", tenant="tenant"))
    port = CeleryQueue(f"redis://127.0.0.1:{free_port()}/0")
    for act in (lambda: port.hold(ACME, "ord-1"), lambda: port.release("ord-1"), port.held):
        with pytest.raises(QueueUnavailable, match="queue celery cannot be used"):
            act()
    with pytest.raises(UsageError, match="does not understand"):
        CeleryQueue("amqp://localhost")


def test_jobs_of_every_priority_are_held_and_come_back_to_their_own(redis_url: str) -> None:
    world = CeleryWorld(redis_url)
    for priority in (0, 3, 6, 9):
        world.put(f"of {priority}", priority=priority)

    assert world.port().hold(ACME, "ord-1") == 4
    assert world.take() is None
    before = set(world.channel.client.keys("celery*"))
    assert world.port().release("ord-1") == 4

    assert not before
    assert sorted(take_all(world)) == ["of 0", "of 3", "of 6", "of 9"]
    world.close()


def test_a_message_that_is_none_of_celerys_stays_where_it_is(redis_url: str) -> None:
    world = CeleryWorld(redis_url)
    world.channel.client.lpush("celery", b"no json", b"[]", b'{"headers": {"rescind": {"run_id": 7}}}')

    assert world.port().hold(ACME, "ord-1") == 0

    assert world.channel.client.llen("celery") == 3
    world.close()


def test_a_long_queue_is_walked_to_its_end_while_workers_take_from_it(redis_url: str) -> None:
    world = CeleryWorld(redis_url)
    for number in range(1_500):
        world.put(f"{number}", owner=BILLING if number % 3 else MAILING)
    stop, ran = threading.Event(), list[str]()
    other = CeleryWorld.__new__(CeleryWorld)  # a worker's own connection
    other.channel = world.broker.clone().channel()

    def work() -> None:
        while not stop.is_set():
            name = other.take()
            if name is not None:
                ran.append(name)

    worker = threading.Thread(target=work)
    worker.start()
    world.port().hold(ACME, "ord-1")
    world.port().hold(ACME, "ord-1")
    stop.set()
    worker.join()
    left = take_all(world)

    assert all(int(name) % 3 == 0 for name in left)
    assert sorted([*ran, *left, *world.names_held()], key=int) == [str(number) for number in range(1_500)]
    world.close()
