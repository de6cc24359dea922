"""An order to an undo waits for nobody who only looks."""

import asyncio
import os
import threading
import warnings
from pathlib import Path

import httpx
import pytest

from compensation.undo_world import Shop
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.paperwork import Paperwork
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import PAGE_LIMIT, Query
from rescind.model.entry import Entry
from rescind.plane.jobs import Jobs
from rescind.plane.plane import Plane
from rescind.plane.progress import Progress
from rescind.web.limits import Limit
from rescind.web.tokens import Role, TokenBook, new_token

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the framework's, about a name that its older releases lack
    from rescind.plane.app import PlaneApp

PATIENCE_S = 20.0


class SlowJournal(MemoryJournal):
    """Takes as long over review tasks as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on, self.waiting = threading.Event(), 0
        self.may_go_on.set()

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        if query.reviews:
            self.waiting += 1
            self.may_go_on.wait(PATIENCE_S)
        return super().entries(query, after=after, limit=limit)


async def ask_beside_many_slow_ones(journal: SlowJournal, digest: str, folder: Path) -> list[int]:
    """The statuses of a pause and a resume, given while more people look than there are threads for that."""
    journal.may_go_on.clear()
    journal.waiting = 0
    clock = SystemClock()
    plane = Plane(journal, folder, Jobs(folder), Limit(rate=1e3, burst=1e3, clock=clock), clock, SystemIds())
    secret, kept = new_token(Role.OPERATOR, "ops", "", clock=clock, ids=SystemIds())
    plane.tokens = TokenBook([kept])
    transport = httpx.ASGITransport(app=PlaneApp(plane, Progress(journal)))
    headers = {"authorization": f"Bearer {secret}"}
    threads = min(32, (os.cpu_count() or 1) + 4)
    async with httpx.AsyncClient(transport=transport, base_url="http://plane", headers=headers) as client:
        looks = [asyncio.create_task(client.get("/v1/reviews")) for _ in range(2 * threads)]
        try:
            async with asyncio.timeout(PATIENCE_S / 2):
                while journal.waiting < threads:  # noqa: ASYNC110  # nobody sets an event for it
                    await asyncio.sleep(0.01)
                return [
                    (await client.post(f"/v1/undos/{digest}/{what}", json={"reason": "wait"})).status_code
                    for what in ("pause", "resume")
                ]
        finally:
            journal.may_go_on.set()
            await asyncio.gather(*looks)


def begun(shop: Shop) -> str:
    """The digest of a plan that was begun."""
    plan = shop.plan()
    Paperwork(plan, shop.journal, shop.clock).open("undo_1", "ops", "", pending=len(plan.items))
    return plan.digest


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
def test_a_pause_does_not_wait_for_those_who_look(tmp_path: Path) -> None:
    journal = SlowJournal()
    shop = Shop(journal)
    for _ in range(3):
        shop.charge()
    assert asyncio.run(ask_beside_many_slow_ones(journal, begun(shop), tmp_path)) == [200, 200]
