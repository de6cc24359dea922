"""Workers over one shop, with the engine in memory, that die when a test wants it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compensation.dying import Died, Fuse, FusedJournal
from compensation.engines import Jobs, MemoryEngine
from compensation.undo_world import Shop
from rescind.clock import SystemIds
from rescind.compensation.decision import Plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.port import Compensator
from rescind.compensation.sharing.coordinator import PLAN_QUEUE, Coordinator
from rescind.compensation.sharing.keeper import Keeper
from rescind.compensation.sharing.submission import Submission, read_submission, submit
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.recovery.locks import UndoLocks
from rescind.recovery.toolset import tool_infos
from rescind.recovery.workers import KNOWS, Seen, WorkerEntry, WorkerInfo, Workers

RUN = Selection(run_ids=("run-1",))


class Crew:
    """Workers over one shop. One process at a time carries out jobs; another goes on when it has died."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop, self.folder = shop, folder
        self.kept = Jobs()
        self.fuse = Fuse()
        self.infos: dict[str, WorkerInfo] = {}
        self.dead: set[str] = set()
        self.live_runs: set[str] = set()

    def hire(
        self,
        compensators: Mapping[str, Compensator] | None = None,
        module: str = "shop:guard",
        knows: tuple[str, ...] = KNOWS,
        fuse: Fuse | None = None,
    ) -> "Hand":
        """A new process, with these tools, of a rescind that knows of so much; by default all share one fuse."""
        tools = self.shop.compensators if compensators is None else compensators
        worker_id = f"worker_{len(self.infos) + 1}"
        self.infos[worker_id] = WorkerInfo(
            worker_id=worker_id, host="here", pid=1, module=module, since_us=0, tools=tool_infos(tools), knows=knows
        )
        return Hand(self, worker_id, tools, fuse or self.fuse)

    def living(self) -> list[WorkerInfo]:
        return [info for name, info in self.infos.items() if name not in self.dead]

    def look_who_acts(self) -> set[str]:
        return self.live_runs

    # --- the register ---

    def look(self, *, now_us: int) -> list[Seen]:
        return [
            Seen(worker_id=name, living=name not in self.dead, silent_s=0.0, info=info)
            for name, info in self.infos.items()
        ]

    def remove(self, worker_id: str) -> None:
        pass

    def ring(self) -> None:
        pass

    # --- undoing ---

    def submit(self, selection: Selection = RUN, *, may_force: bool = False, **fields: Any) -> Submission:
        shop = self.shop
        how: dict[str, Any] = {"parallel": 1, "live_runs": self.live_runs, "may_force": may_force}
        return self.submit_plan(make_plan(shop.journal, selection, shop.compensators, shop.clock, **how), **fields)

    def submit_plan(self, plan: Plan, **fields: Any) -> Submission:
        shop = self.shop
        options: dict[str, Any] = {"parallel": 1, "retries": 0, "actor": "ops", "reason": "a test"} | fields
        return submit(plan, shop.journal, shop.compensators, self.living(), shop.clock, SystemIds(), **options)

    def there(self, submission: Submission) -> Submission:
        found = read_submission(self.shop.journal, submission.plan_run)
        assert found is not None
        return found

    def see_to_its_end(self, submission: Submission) -> Submission:
        """One worker after the other, each until it dies or the plan has ended."""
        for _ in range(50):
            hand = self.hire()
            try:
                hand.work(until=lambda: self.there(submission).is_over)
            except Died:
                self.dead.add(hand.worker_id)
                self.fuse.left = -1
            else:
                return self.there(submission)
        raise AssertionError("it does not end")


class FusedRegister(Workers):
    """The register as one process sees it, which may die at each call."""

    def __init__(self, crew: Crew, fuse: Fuse) -> None:
        self._crew, self._fuse = crew, fuse

    def enter(self, info: WorkerInfo, on_ring: Callable[[], None]) -> WorkerEntry:
        raise AssertionError("hands are hired")

    def look(self, *, now_us: int) -> list[Seen]:
        seen: list[Seen] = self._fuse.around(lambda: self._crew.look(now_us=now_us))
        return seen

    def remove(self, worker_id: str) -> None:
        self._fuse.around(lambda: self._crew.remove(worker_id))

    def ring(self) -> None:
        self._fuse.around(self._crew.ring)

    def close(self) -> None:
        pass


class Hand:
    """One process of a crew."""

    def __init__(self, crew: Crew, worker_id: str, tools: Mapping[str, Compensator], fuse: Fuse) -> None:
        self.crew, self.worker_id = crew, worker_id
        shop, self.fuse = crew.shop, fuse
        journal = FusedJournal(shop.journal, fuse)  # type: ignore[arg-type]  # it is one
        self.engine = MemoryEngine(crew.kept, worker_id, fuse.around)
        self.is_leaving = False
        locks = UndoLocks(crew.folder, shop.clock)
        leaving = lambda: self.is_leaving  # noqa: E731
        coordinator = Coordinator(
            journal,
            tools,
            self.engine,
            crew.living,
            locks,
            shop.clock,
            SystemIds(),
            leaving,
            {},
            lambda: crew.live_runs,
            worker_id=worker_id,
            ring=lambda: None,  # its hands look by themselves
        )
        self.engine.listen({PLAN_QUEUE: 1, crew.infos[worker_id].queue: 1}, coordinator.perform)
        register = FusedRegister(crew, fuse)
        self.keeper = Keeper(worker_id, journal, self.engine, register, shop.clock, leaving)

    def work(self, *, until: Callable[[], bool], rounds: int = 30) -> None:
        for _ in range(rounds):
            if until():
                return
            self.keeper.keep()
            while self.engine.run_next():
                pass


def events(journal: Journal, kind: type) -> list[Any]:
    return [entry.event for entry in every_entry(journal, Query()) if isinstance(entry.event, kind)]


def refunds(shop: Shop) -> set[int]:
    return set(shop.charging.refunds.values())
