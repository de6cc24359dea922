"""The tables of ours beside a job table, and what of the user's table we have to know."""

import msgspec
import sqlalchemy as sa

from rescind.errors import UsageError

_NAME = sa.String(200)

KINDS = ("run", "tenant", "workflow", "agent", "version", "tree")
"""What a pause may name, each at most once. `agent` is a bare name, `version` one with its version."""


class JobTable(msgspec.Struct, frozen=True, kw_only=True):
    """The job table that the user has: what its columns are called.

    Attributes:
        name: The table.
        id: Its primary key, one column.
        status: The column that says whether a job waits, runs or is done.
        pending: The status of a job that waits; workers take no others.
        held: A status that workers do not take and that nobody else gives; the column must be allowed to have it.
        run: The column with the run of a job; None where there is none, and then no order for a run can be obeyed.
        tenant: As `run`, of the tenant.
        workflow: As `run`, of the class of task.
        agent: A column with `name@version` or the bare name.
        lineage: A column with the ids of the run's ancestors, joined by commas; with it, orders for a `tree` are
            obeyed, and without it those for `run` only.
        schema: The schema of the table; None for the connection's.
    """

    name: str
    id: str = "id"
    status: str = "status"
    pending: str = "pending"
    held: str = "held"
    run: str | None = None
    tenant: str | None = None
    workflow: str | None = None
    agent: str | None = None
    lineage: str | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.pending == self.held:
            raise UsageError(f"job table {self.name}: pending and held are both {self.held!r}; name two statuses")
        if not any((self.run, self.tenant, self.workflow, self.agent)):
            raise UsageError(
                f"job table {self.name}: name at least one column of run, tenant, workflow and agent, or no order but "
                "one for everything could be obeyed"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that we use, each once."""
        more = (self.run, self.tenant, self.workflow, self.agent, self.lineage)
        return tuple(dict.fromkeys([self.id, self.status, *filter(None, more)]))


class OurTables:
    """`rescind_paused_queues`: the orders in force at a queue. `rescind_held_jobs`: which of them holds which job."""

    def __init__(self, schema: str | None) -> None:
        self.metadata = sa.MetaData(schema=schema)
        self.pauses = sa.Table(
            "rescind_paused_queues",
            self.metadata,
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("order_id", _NAME, primary_key=True),
            sa.Column("scope", sa.Text, nullable=False),
            # One column a term, empty where the scope has none of its kind: so a worker's query can ask.
            *(sa.Column(kind, sa.Text, nullable=False) for kind in KINDS),
        )
        self.held = sa.Table(
            "rescind_held_jobs",
            self.metadata,
            sa.Column("queue", _NAME, primary_key=True),
            # The job before the order: "is it held by another one?" is asked of every job that is given free.
            sa.Column("job_id", _NAME, primary_key=True),  # as text, whatever the user's key is
            sa.Column("order_id", _NAME, primary_key=True),
            sa.Index("rescind_held_jobs_by_order", "queue", "order_id", "job_id"),
        )
        self.locks = sa.Table(
            "rescind_queue_locks",
            self.metadata,
            sa.Column("queue", _NAME, primary_key=True),
            sa.Column("turns", sa.BigInteger, nullable=False),
        )
