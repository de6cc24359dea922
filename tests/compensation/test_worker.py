"""A worker's rounds of keeping, with the engine in memory."""

import threading
from pathlib import Path

import pytest

from compensation.engines import Jobs, MemoryEngine
from compensation.undo_world import Shop
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.sharing.worker import UndoWorker
from rescind.recovery.locks import UndoLocks
from rescind.recovery.workers import Seen, WorkersFolder


class Odd(WorkersFolder):
    """Fails at its first looks in a way that nobody has thought of."""

    def __init__(self, store: Path) -> None:
        super().__init__(store)
        self.looks, self.went_on = 0, threading.Event()

    def look(self, *, now_us: int) -> list[Seen]:
        self.looks += 1
        if self.looks <= 2:
            raise KeyError("odd")
        self.went_on.set()
        return super().look(now_us=now_us)


def test_a_worker_goes_on_after_whatever_a_round_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop, register = Shop(), Odd(tmp_path)
    worker = UndoWorker(
        register,
        UndoLocks(tmp_path, SystemClock()),
        shop.journal,
        shop.compensators,
        lambda worker_id: MemoryEngine(Jobs(), worker_id),
        module="shop:guard",
        clock=SystemClock(),
        ids=SystemIds(),
        systems={},
    )
    worker.start()
    for _ in range(3):
        worker.ring()
    assert register.went_on.wait(20)
    worker.close()
    assert "the worker goes on, and tries again" in caplog.text
