"""A worker: a process that holds the tools and their credentials, and carries out undos that were left to it.

ring, or once in a second ─▶ say that it lives ─▶ one round of keeping (`keeper`)
─▶ the engine looks for jobs ─▶ `coordinator`
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Container, Mapping
from typing import Any

import msgspec

from rescind.clock import Clock, IdSource
from rescind.compensation.port import Compensator
from rescind.compensation.sharing.coordinator import PLAN_QUEUE, Coordinator
from rescind.compensation.sharing.keeper import Keeper
from rescind.config import SystemLimits
from rescind.errors import EngineUnavailable, JournalUnavailable, StoreFormatError
from rescind.journal.port import Journal
from rescind.recovery.engine import Engine, Job
from rescind.recovery.locks import Locks
from rescind.recovery.toolset import tool_infos
from rescind.recovery.workers import BEAT_S, KNOWS, WorkerInfo, Workers, working

PLANS_AT_ONCE, SHARES_AT_ONCE = 16, 1
"""Jobs of a worker at once. Who looks after a plan mostly waits; who carries out a share has threads of its own."""

_log = logging.getLogger("rescind.worker")


class UndoWorker:
    """See above. Made, started, and closed in one thread.

    Args:
        register: Where workers of the store register.
        locks: What keeps its undos apart.
        journal: Its journal.
        compensators: The tools, by action.
        engine: Makes the engine for a worker of this id.
        module: Where the tools are declared, for people.
        version: Of what distribution; empty if nobody knows.
        clock: The time.
        ids: Where its id comes from.
        systems: What may be asked of each target system by all workers together.
        live_runs: Looks which runs a living process acts for: see `make_plan`.
    """

    def __init__(
        self,
        register: Workers,
        locks: Locks,
        journal: Journal,
        compensators: Mapping[str, Compensator],
        engine: Callable[[str], Engine],
        *,
        module: str,
        version: str = "",
        clock: Clock,
        ids: IdSource,
        systems: Mapping[str, SystemLimits],
        live_runs: Callable[[], Container[str]] = tuple,
    ) -> None:
        self._journal, self._clock = journal, clock
        self.info = WorkerInfo(
            worker_id=ids.new_id("worker"),
            host=socket.gethostname(),
            pid=os.getpid(),
            module=module,
            version=version,
            since_us=clock.now_us(),
            tools=tool_infos(compensators),
            knows=KNOWS,
        )
        self._register = register
        self._wanted = threading.Event()
        self._leaving = threading.Event()
        self._idle = threading.Condition()
        self._under_way = 0
        self._engine = engine(self.info.worker_id)
        self._coordinator = Coordinator(
            journal,
            compensators,
            self._engine,
            self._live_workers,
            locks,
            clock,
            ids,
            self._leaving.is_set,
            systems,
            live_runs,
            worker_id=self.info.worker_id,
            ring=self._register.ring,
        )
        self._upkeep = Keeper(self.info.worker_id, journal, self._engine, self._register, clock, self._leaving.is_set)
        self._keeper = threading.Thread(target=self._keep, name="rescind-keeper", daemon=True)

    def start(self) -> None:
        """Appear in the register, and take jobs. Raises: EngineUnavailable."""
        self._entry = self._register.enter(self.info, self._on_ring)
        self._engine.listen({PLAN_QUEUE: PLANS_AT_ONCE, self.info.queue: SHARES_AT_ONCE}, self._perform)
        self._keeper.start()
        self._wanted.set()

    def close(self) -> None:
        """Take nothing further, let the steps under way come to their end, leave the rest to others, and go."""
        self._leaving.set()
        with contextlib.suppress(OSError, EngineUnavailable):
            self._entry.say(msgspec.structs.replace(self.info, leaving=True))
        self._engine.leave()
        self._engine.wake()
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0)
        self._wanted.set()
        self._keeper.join()
        self._engine.close()
        self._entry.close()
        self._register.ring()
        self._register.close()

    def living(self) -> list[WorkerInfo]:
        """The workers that take jobs now. Raises: EngineUnavailable."""
        return self._live_workers()

    def ring(self) -> None:
        """Wake every worker."""
        self._register.ring()

    # --- jobs ---

    def _perform(self, job: Job) -> dict[str, Any]:
        with self._idle:
            self._under_way += 1
        try:
            return self._coordinator.perform(job)
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()
            self._register.ring()

    def _live_workers(self) -> list[WorkerInfo]:
        return working(self._register.look(now_us=self._clock.now_us()))

    # --- keeping ---

    def _on_ring(self) -> None:
        self._engine.wake()
        self._wanted.set()

    def _keep(self) -> None:
        while not self._leaving.is_set():
            self._wanted.wait(BEAT_S)
            self._wanted.clear()
            try:
                self._entry.beat(now_us=self._clock.now_us())
                self._upkeep.keep()
            except (JournalUnavailable, EngineUnavailable, StoreFormatError, OSError) as error:
                _log.warning("the worker goes on, and tries again: %s", error)
            except Exception:  # noqa: BLE001  # whatever it is: without its beat it would be taken for stuck, for ever
                _log.exception("the worker goes on, and tries again")
