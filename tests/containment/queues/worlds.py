"""Queues as their users have them: somebody sends jobs, a worker takes them one by one. No worker knows of us."""

import importlib
import itertools
import json
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from rescind.containment.queues.celery_redis import CeleryQueue
from rescind.containment.queues.port import JobOwner, QueuePort
from rescind.containment.queues.sql_jobs import SqlJobs
from rescind.containment.queues.sql_tables import JobTable

kombu: Any = importlib.import_module("kombu")  # it has no types

BILLING = JobOwner(run_id="run-1", agent="billing-agent@2.4.0", tenant="acme", workflow="dunning", ancestors=("run-0",))
MAILING = JobOwner(run_id="run-2", agent="mail-agent@1.0.0", tenant="bank", workflow="news")


class World(Protocol):
    def port(self) -> QueuePort:
        """A port as another process would make it."""
        ...

    def put(self, *names: str, owner: JobOwner = BILLING) -> None: ...

    def take(self) -> str | None:
        """What a worker begins next; None if it finds nothing."""
        ...

    def names_held(self) -> list[str]:
        """What waits in the hold, as a look into the store shows it."""
        ...

    def close(self) -> None: ...


def take_all(world: World) -> list[str]:
    return list(iter(world.take, None))


class SqlWorld:
    """A job table with names of columns of its own."""

    TABLE = JobTable(
        name="work", id="nr", status="state", pending="new", held="on hold",
        run="run_ref", tenant="customer", workflow="kind", agent="by_agent", lineage="above",
    )  # fmt: skip

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, connect_args={"timeout": 20} if url.startswith("sqlite") else {})
        if url.startswith("sqlite"):  # no test pulls the plug, and a worker's thousand commits take a second then
            sa.event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
        with self.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS work"))
            for ours in ("rescind_held_jobs", "rescind_paused_queues", "rescind_queue_locks"):
                connection.execute(sa.text(f"DROP TABLE IF EXISTS {ours}"))
            connection.execute(
                sa.text(
                    "CREATE TABLE work (nr INTEGER PRIMARY KEY, title TEXT, state VARCHAR(20) NOT NULL, run_ref TEXT,"
                    " customer TEXT, kind TEXT, by_agent TEXT, above TEXT)"
                )
            )
        self._numbers = itertools.count(1)

    def port(self) -> SqlJobs:
        return SqlJobs(self.engine, self.TABLE)

    def put(self, *names: str, owner: JobOwner = BILLING) -> None:
        row = sa.text("INSERT INTO work VALUES (:nr, :title, 'new', :run, :tenant, :workflow, :agent, :above)")
        owned = msgspec.structs.asdict(owner)
        values = {"run": owned["run_id"], **{key: owned[key] for key in ("tenant", "workflow", "agent")}}
        values["above"] = ",".join(owner.ancestors)
        with self.engine.begin() as connection:
            for name in names:
                connection.execute(row, {"nr": next(self._numbers), "title": name, **values})

    def take(self, condition: Any = None) -> str | None:
        locked = "" if self.engine.dialect.name == "sqlite" else " FOR UPDATE SKIP LOCKED"
        taken = (
            f"UPDATE work SET state = 'running' WHERE nr = (SELECT nr FROM work WHERE state = 'new' ORDER BY nr LIMIT 1"
            f"{locked}) AND state = 'new' RETURNING title"
        )
        with self.engine.begin() as connection:
            return connection.execute(sa.text(taken)).scalar()

    def names_held(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(
                connection.execute(sa.text("SELECT title FROM work WHERE state = 'on hold' ORDER BY nr")).scalars()
            )

    def close(self) -> None:
        self.engine.dispose()


class CeleryWorld:
    """A queue on Redis, in the very format of Celery's transport."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.broker = kombu.Connection(url)
        self.channel = self.broker.channel()
        self.channel.client.flushdb()
        self.producer = self.broker.Producer()
        kombu.Queue("celery", channel=self.channel).declare()

    def port(self) -> CeleryQueue:
        return CeleryQueue(self.url)

    def put(self, *names: str, owner: JobOwner = BILLING, priority: int | None = None) -> None:
        for name in names:
            headers = {"task": "work", "id": name, "rescind": msgspec.to_builtins(owner)}
            self.producer.publish({"name": name}, routing_key="celery", headers=headers, priority=priority)

    def take(self) -> str | None:
        message = self.channel.basic_get("celery", no_ack=True)
        return None if message is None else str(message.headers["id"])

    def names_held(self) -> list[str]:
        client = self.channel.client
        tags = client.zrange("rescind:{celery}:order", 0, -1)
        held = [client.hget("rescind:{celery}:held", tag) for tag in tags]
        return [json.loads(each.partition(b"\n")[2])["headers"]["id"] for each in held]

    def close(self) -> None:
        self.broker.release()
