"""The engine on DBOS Transact: the only module that knows its name.

What DBOS does well is kept: queues with claims by one worker, attempts counted, a file or a database that survives.
What it leaves to its users is done here:

- *It waits by polling.* Its own queue threads get an event to wait on that a bell can end early, so a job begins some
  ten milliseconds after the ring, and an idle worker looks once in some seconds. After a ring it looks a few times in
  quick succession: the ring may have come before the commit that it tells of, or while the worker's hands were full.
- *A dead worker's jobs stay its own* until somebody hands them over, and go on to fill the queue's bounds. So bounds
  are those of each worker, never of the whole queue, and `hand_over` is called by whoever sees a death.
- *It counts what it has begun a moment late*, so two quick looks may take one job too many: that one waits here.
- *It binds jobs to the application's version.* Here that is one constant: what a worker can carry out is decided by
  the signatures of its tools, and an upgrade of the user's program orphans no job.
- *It pickles.* Here everything is JSON: who can write into a store's folder must not thereby run code in a worker.
- *One object per process*, which logs to the console, and may be told by environment variables to report elsewhere.

A job is one workflow without steps: our journal is the checkpoint (EN5, EN6).
"""

import contextlib
import contextvars
import getpass
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.errors import EngineUnavailable, UsageError
from rescind.recovery.engine import Job, JobReport, JobState, Perform

try:
    import dbos._queue as dbos_queue
    from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer
    from psycopg.errors import UndefinedTable
    from sqlalchemy import URL
    from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
except ImportError as error:
    raise UsageError("workers need DBOS, which is not installed here: pip install 'rescind[workers]'") from error

if TYPE_CHECKING:
    from dbos import WorkflowStatus

_APPLICATION, _VERSION, _WORKFLOW = "rescind", "rescind-undo/1", "rescind-job"
_SCHEMA = "rescind_engine"  # in PostgreSQL; its tables are the library's own

_AFTER_END_S = (0.003, 0.007, 0.02, 0.07, 0.2)
"""When a job has ended here: the pauses between further looks for the next one. Its end is counted a moment later."""

_AFTER_RING_S = (0.02,)
"""After another ring: one further look, to be sure. Who lets jobs wait rings when that is committed."""

_REPORTS_S = (0.008, 0.04, 0.2)
"""After a ring: the pauses between further looks at the reports. The end of a job is committed after its ring."""

_IDLE_S = 2.0
"""Between two looks that nobody rang for. A lost ring costs so much; a look costs about a millisecond."""

_ATTEMPTS_MAX = 12
"""Workers that a job may have killed before it is given up: it is the job, then, and not the workers."""

_STATES = {
    "ENQUEUED": JobState.WAITING,
    "DELAYED": JobState.WAITING,
    "PENDING": JobState.RUNNING,
    "SUCCESS": JobState.ENDED,
    "ERROR": JobState.GIVEN_UP,
    "CANCELLED": JobState.CANCELLED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.GIVEN_UP,
}

_CarryOut = Callable[[str, str, dict[str, Any]], dict[str, Any]]

_log = logging.getLogger("rescind.engine")


class _Output(msgspec.Struct, frozen=True):
    """What a workflow of ours returns."""

    result: dict[str, Any] = {}
    problem: str = ""


class Places:
    """How many jobs of a queue a worker carries out at once. Used in a `with` by each of them."""

    def __init__(self, at_once: int) -> None:
        self._semaphore, self._free = threading.Semaphore(at_once), at_once
        self._counting = threading.Lock()

    def are_taken(self) -> bool:
        """Whether a further job would have to wait."""
        return self._free <= 0

    def __enter__(self) -> None:
        self._semaphore.acquire()
        with self._counting:
            self._free -= 1

    def __exit__(self, *_: object) -> None:
        with self._counting:
            self._free += 1
        self._semaphore.release()


class Bell:
    """What a queue's thread waits on: an event that can be rung as well as set.

    Args:
        in_vain: Whether a look would be in vain now. Whoever ends that rings.
    """

    def __init__(self, in_vain: Callable[[], bool] = lambda: False) -> None:
        self._in_vain = in_vain
        self._changed = threading.Condition()
        self._pauses: tuple[float, ...] = ()
        self._stopped = False

    def ring(self, pauses: tuple[float, ...] = _AFTER_END_S) -> None:
        """Let the thread look now, and again after each of these pauses."""
        with self._changed:
            if self._in_vain():
                return
            if len(pauses) >= len(self._pauses):
                self._pauses = pauses
            self._changed.notify_all()

    def set(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def is_set(self) -> bool:
        """Whether the thread is to end."""
        return self._stopped

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring, the next of the quick looks, or so many seconds. Returns `is_set()`."""
        with self._changed:
            if not self._stopped:
                pauses = () if self._in_vain() else self._pauses
                self._changed.wait(pauses[0] if pauses else timeout)
                if pauses and self._pauses is pauses:
                    self._pauses = pauses[1:]
            return self._stopped


class DbosEngine:
    """See `Engine`. One per process.

    Args:
        url: `sqlite:///PATH` or `postgresql://…`.
        worker_id: Whose jobs these are.

    Raises: UsageError, if this process runs DBOS for somebody else; EngineUnavailable.
    """

    def __init__(self, url: str, worker_id: str) -> None:
        if _dbos_is_running():
            raise UsageError(
                "this program has made a DBOS object of its own, and there can be only one in a process; let the "
                "module of your tools not start DBOS when it is imported by `rescind worker`"
            )
        self.worker_id = worker_id
        self._url = _driver_url(url)
        self._bells: dict[str, Bell] = {}
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._perform: Perform | None = None
        self._places: dict[str, Places] = {}
        _quiet()
        if url.startswith("sqlite:///"):
            _prepare_file(Path(url.removeprefix("sqlite:///")))
        with _translated():
            self._dbos = _launch(self._url, worker_id, self._carry_out)
            self._client = _client(self._url)

    # --- jobs ---

    def start(self, jobs: Collection[Job]) -> None:
        """See `Engine`."""
        with _translated():
            for job in jobs:
                self._client.enqueue(
                    {
                        "workflow_name": _WORKFLOW,
                        "queue_name": job.queue,
                        "workflow_id": job.job_id,
                        "app_version": _VERSION,
                    },
                    job.kind,
                    job.queue,
                    job.payload,
                )
        self.wake()

    def reports(self, prefix: str) -> dict[str, JobReport]:
        """See `Engine`."""
        return _reports(self._client, prefix)

    def wait(self, prefix: str, seen: Mapping[str, JobState], *, timeout_s: float) -> dict[str, JobReport]:
        """See `Engine`. A ring ends the waiting early; what it tells of is looked for a few times."""
        left_s, looks = timeout_s, 0
        while True:
            reports = self.reports(prefix)
            if left_s <= 0 or {name: each.state for name, each in reports.items()} != dict(seen):
                return reports
            pause_s = min(left_s, _REPORTS_S[looks] if looks < len(_REPORTS_S) else _IDLE_S)
            with self._changed:
                rung = self._changed.wait(pause_s)
            looks = 0 if rung else looks + 1
            left_s -= pause_s

    def cancel(self, job_id: str) -> None:
        """See `Engine`."""
        with _translated():
            self._client.cancel_workflow(job_id)

    def hand_over(self, worker_id: str) -> int:
        """See `Engine`."""
        with _translated():
            # There is no public way, and a test says so if this one changes.
            handles = DBOS._recover_pending_workflows([worker_id])  # pyright: ignore[reportPrivateUsage]
        if handles:
            self.wake()
        return len(handles)

    # --- a worker's side ---

    def listen(self, queues: Mapping[str, int], perform: Perform) -> None:
        """See `Engine`."""
        self._perform = perform
        for name, at_once in queues.items():
            places = self._places[name] = Places(at_once)
            with _translated():
                DBOS.register_queue(
                    name, worker_concurrency=at_once, polling_interval_sec=_IDLE_S, on_conflict="always_update"
                )
                queue = DBOS.retrieve_queue(name)
            if queue is not None:
                queue.database_backed_queue = False  # or each look would read first whether its bounds have changed
            bell = Bell(in_vain=places.are_taken)
            thread = threading.Thread(
                target=dbos_queue.queue_worker_thread,
                args=(bell, self._dbos, queue),
                name=f"rescind-{name}",
                daemon=True,
            )
            self._bells[name] = bell
            self._threads.append(thread)
            thread.start()
            bell.ring()

    def wake(self) -> None:
        """See `Engine`."""
        for bell in self._bells.values():
            bell.ring(_AFTER_RING_S)
        with self._changed:
            self._changed.notify_all()

    def leave(self) -> None:
        """See `Engine`."""
        for bell in self._bells.values():
            bell.set()
        for thread in self._threads:
            thread.join(timeout=10.0)

    def close(self) -> None:
        """See `Engine`."""
        self.leave()
        with contextlib.suppress(Exception):  # whatever it is, this process ends
            self._client.destroy()
            DBOS.destroy(destroy_registry=True)

    def _carry_out(self, kind: str, queue: str, payload: dict[str, Any]) -> dict[str, Any]:
        job_id = DBOS.workflow_id
        assert job_id is not None, "only the engine calls this"
        assert self._perform is not None, "no queue is listened on before `listen`"
        job = Job(job_id=job_id, kind=kind, queue=queue, payload=payload)
        try:
            with self._places[queue]:
                # In a context of its own: what a tool does must not be taken for a step of this workflow.
                result = contextvars.Context().run(self._perform, job)
            return {"result": msgspec.to_builtins(result)}
        except Exception as error:  # noqa: BLE001  # it ends the job and not the worker; whoever waits for it decides
            _log.warning("job %s: %s: %s", job_id, type(error).__name__, error)
            return {"problem": f"{type(error).__name__}: {error}"}
        finally:
            self._bells[queue].ring(_AFTER_END_S)
            with self._changed:
                self._changed.notify_all()


class DbosReports:
    """Looks at the jobs of a store without carrying out any: see `Engine.reports`. It connects when it must.

    Args:
        url: As for `DbosEngine`.
    """

    def __init__(self, url: str) -> None:
        self._file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
        self._url = _driver_url(url)
        self._lock = threading.Lock()
        self._client: DBOSClient | None = None

    def reports(self, prefix: str) -> dict[str, JobReport]:
        """See `Engine`; none, if no worker has ever run here. Raises: EngineUnavailable."""
        if self._file is not None and not self._file.exists():
            return {}  # and looking makes none
        with self._lock, _translated():
            if self._client is None:
                _quiet()
                self._client = _client(self._url)
        try:
            return _reports(self._client, prefix)
        except EngineUnavailable as error:
            if isinstance(error.__cause__, ProgrammingError) and isinstance(error.__cause__.orig, UndefinedTable):
                return {}
            raise

    def close(self) -> None:
        """Let go of everything."""
        if self._client is not None:
            self._client.destroy()


def _client(url: str) -> DBOSClient:
    return DBOSClient(
        system_database_url=url,
        dbos_system_schema=_SCHEMA,
        application_name=_APPLICATION,
        serializer=DBOSPortableJSONSerializer(),
    )


def _reports(client: DBOSClient, prefix: str) -> dict[str, JobReport]:
    with _translated():
        found = client.list_workflows(workflow_id_prefix=prefix, load_input=False)
    return {status.workflow_id: _report_of(status) for status in found}


def _launch(url: str, worker_id: str, carry_out: _CarryOut) -> DBOS:
    config: DBOSConfig = {
        "name": _APPLICATION,
        "system_database_url": url,
        "application_version": _VERSION,
        "executor_id": worker_id,
        "log_level": "WARNING",
        "enable_otlp": False,
        "dbos_system_schema": _SCHEMA,
        "use_listen_notify": False,
        "serializer": DBOSPortableJSONSerializer(),
        "notification_listener_polling_interval_sec": 0.2,  # nothing is sent; closing waits for so long
        "scheduler_polling_interval_sec": 3_600.0,  # nor schedules anything
    }
    dbos = DBOS(config=config)

    def rescind_job(kind: str, queue: str, payload: dict[str, Any]) -> dict[str, Any]:
        return carry_out(kind, queue, payload)  # a plain function, since DBOS leaves its marks on what it is given

    DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=_ATTEMPTS_MAX)(rescind_job)
    DBOS.listen_queues([])  # its threads for them are started by `listen`, with a bell
    DBOS.launch()
    return dbos


def _dbos_is_running() -> bool:
    import dbos._dbos as module

    return module._dbos_global_instance is not None  # pyright: ignore[reportPrivateUsage]  # nobody else knows


def _quiet() -> None:
    """Let the library's log go where ours goes, and let no environment variable make it report anywhere."""
    library = logging.getLogger("dbos")
    if not library.handlers:
        library.addHandler(logging.NullHandler())  # or it adds one that writes to the terminal
    library.propagate = True
    for name in [name for name in os.environ if name.startswith("DBOS__")]:
        del os.environ[name]
    from dbos._utils import GlobalParams

    GlobalParams.dbos_cloud = False


def _prepare_file(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers and the one writer are in nobody's way
    except (OSError, sqlite3.Error) as error:
        raise EngineUnavailable(f"the workers' file {path} cannot be used ({error})") from error


def _driver_url(url: str) -> str:
    """The address as the library reads it: with one host, a database, and a password where it looks for one to hide."""
    if url.startswith("sqlite:///"):
        return url
    from psycopg.conninfo import conninfo_to_dict

    given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    user, password, host, port = (given.pop(name, None) for name in ("user", "password", "host", "port"))
    database = given.pop("dbname", None) or os.environ.get("PGDATABASE") or user or os.environ.get("PGUSER")
    is_plain = host is not None and not set(host) & set(",/@") and (port or "0").isdigit()
    if not is_plain:  # several hosts, a socket, or what an environment variable says: as the driver reads them
        given |= {name: value for name, value in (("host", host), ("port", port)) if value}
    made = URL.create(
        "postgresql+psycopg",
        username=user,
        password=password,
        host=host if is_plain else None,
        port=int(port) if is_plain and port else None,
        database=database or getpass.getuser(),
        query=given,
    )
    return made.render_as_string(hide_password=False)


@contextlib.contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        # The driver's own words, in one line: the library's are followed by whole statements with what is in them.
        words = " ".join(str(error.orig if isinstance(error, DBAPIError) and error.orig else error).split())
        raise EngineUnavailable(f"the workers' jobs cannot be read or written now: {words}") from error


def _output_of(value: Any) -> _Output:
    try:
        return msgspec.convert(value or {}, _Output)
    except msgspec.ValidationError:
        return _Output(problem="what it returned cannot be read")


def _report_of(status: "WorkflowStatus") -> JobReport:
    said = status.status or "unknown"  # whoever may write into the file may leave it out
    state = _STATES.get(said, JobState.GIVEN_UP)
    output = _output_of(status.output)
    problem = output.problem
    if state is JobState.GIVEN_UP and not problem:
        problem = f"the engine has given it up ({said.lower()})"
    return JobReport(
        job_id=status.workflow_id,
        state=state,
        queue=status.queue_name or "",
        worker_id="" if state is JobState.WAITING else status.executor_id or "",
        result=output.result,
        problem=problem,
    )
