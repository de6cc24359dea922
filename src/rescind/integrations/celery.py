"""Celery: whose job a message is, and workers that do not begin what is paused.

    app = Celery("shop", broker="redis://localhost:6379/0")
    stamp_jobs()                                          # where jobs are sent: the program with the agent
    hold_jobs(app, CeleryQueue(app.conf.broker_url))      # where they run: the workers

`stamp_jobs` writes run, agent, tenant, workflow and ancestors of the current run into the header `rescind` of each job
that is sent within it; a job that a job sends belongs to the same run. `hold_jobs` lets a worker ask, at the last
moment before a job begins, whether an order in force covers it. It costs one look at Redis for each job.

Jobs have to be sent to a queue by its name, as Celery does by default: exchange and routing key of another name hide
from us to which list a job belongs.
"""

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.containment.queues.celery_redis import HEADER, owner_of
from rescind.containment.queues.port import JobOwner
from rescind.guard.run import current_run

if TYPE_CHECKING:
    from rescind.containment.queues.celery_redis import CeleryQueue


def _of_celery(module: str) -> Any:  # it has no types
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("this needs Celery: pip install 'rescind[celery]'", name=missing.name) from missing


_STAMP_UID = "rescind.stamp_jobs"


def owner_now() -> JobOwner | None:
    """Whose job one is that is sent now: the current run's, else that of the job that runs now; None if nobody's."""
    run = current_run.get()
    if run is not None:
        info = run.info
        return JobOwner(
            run_id=info.run_id,
            agent=info.agent,
            tenant=info.tenant,
            workflow=info.workflow,
            ancestors=info.ancestors,
        )
    task = _of_celery("celery").current_task
    said = task.request.get(HEADER) if task else None
    return owner_of({HEADER: said}) if said else None


def stamp_jobs(owner: Callable[[], JobOwner | None] = owner_now) -> None:
    """From now on, say in the header of each job that this process sends whose it is.

    Args:
        owner: Whose a job is that is sent now; None for nobody's.
    """

    def stamp(headers: dict[str, Any] | None = None, **_: Any) -> None:
        if headers is not None and HEADER not in headers and (found := owner()) is not None:
            headers[HEADER] = msgspec.to_builtins(found)

    _of_celery("celery.signals").before_task_publish.connect(stamp, weak=False, dispatch_uid=_STAMP_UID)


def hold_jobs(app: Any, *ports: "CeleryQueue") -> None:
    """From now on, workers of this application hold back what the ports say, before they begin it.

    Args:
        app: The application; workers that start later in this process or a child of it.
        ports: The queues; each knows its own.
    """

    def set_up(**_: Any) -> None:
        for task in app.tasks.values():
            task.Request = _holding_request(task.Request, ports)

    _of_celery("celery.signals").celeryd_after_setup.connect(
        set_up, weak=False, dispatch_uid=f"rescind.hold_jobs.{id(app)}"
    )


def _holding_request(wanted: Any, ports: "tuple[CeleryQueue, ...]") -> type:
    """The class of a job in a worker, as the task wants it, and with a look at the ports before it begins."""
    base: Any = _of_celery("celery.utils.imports").symbol_by_name(wanted)
    revoked: type[Exception] = _of_celery("celery.exceptions").TaskRevokedError
    task_ready: Callable[[Any], None] = _of_celery("celery.worker.state").task_ready

    def refuse_if_held(request: Any) -> None:
        if _is_held(request, ports):
            # Redis does not have it any more as one that this worker has; the worker has to learn that too.
            request.acknowledge()
            task_ready(request)
            raise revoked(request.id)

    class Holding:
        """Celery derives a faster class for each task, which overrides the methods; so they are wrapped in each.

        The last moment before a job begins is another one in each pool. Processes take a job from the worker when they
        are free, and there is no way back after that. Threads, greenlets and the worker's own thread say so when they
        begin, and then it is the worker that they ask: what is raised there keeps the job from running.
        """

        def __init_subclass__(cls) -> None:
            kind: Any = cls
            execute: Callable[..., Any] = kind.execute_using_pool
            accept: Callable[..., Any] = kind.on_accepted

            @functools.wraps(execute)
            def execute_unless_held(self: Any, pool: Any, **options: Any) -> Any:
                self.rescind_asks_late = not type(pool).__module__.endswith(".prefork")
                if not self.rescind_asks_late:
                    refuse_if_held(self)
                return execute(self, pool, **options)

            @functools.wraps(accept)
            def accept_unless_held(self: Any, *when: Any) -> Any:
                if self.rescind_asks_late:
                    refuse_if_held(self)
                return accept(self, *when)

            kind.execute_using_pool, kind.on_accepted = execute_unless_held, accept_unless_held

    return type("HoldingRequest", (Holding, base), {})


def _is_held(request: Any, ports: "tuple[CeleryQueue, ...]") -> bool:
    message: Any = request.message
    delivered: dict[str, Any] = message.delivery_info or {}
    owner = owner_of(message.headers or {})
    channel = message.channel
    return any(
        port.hold_taken(
            owner,
            str(delivered.get("routing_key", "")),
            message.delivery_tag,
            unacked=channel.unacked_key,
            unacked_index=channel.unacked_index_key,
        )
        for port in ports
    )
