"""A switchboard over a real ledger and a real writer, without sockets, for the length of a coroutine."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from rescind.clock import SystemClock, SystemIds
from rescind.model.order import LiftRule
from rescind.model.scope import Scope
from rescind.switch.service.ledger import Ledger
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.service.writer import Writer
from rescind.web.tokens import Caller, Role

if TYPE_CHECKING:
    from rescind.switch.alerts import Alert

PATIENCE_S = 20.0

ALICE, BOB = (Caller(name=name, role=Role.APPROVER, origin="10.0.0.1") for name in ("alice", "bob"))
OLGA = Caller(name="olga", role=Role.OPERATOR, origin="10.0.0.2")
AGENT = Caller(name="billing", role=Role.AGENT, identity=Scope.parse("agent:billing-agent"), origin="10.0.0.3")


class Running:
    """A switch in this process: its parts, and the alerts that went out."""

    def __init__(self, folder: Path, rule: LiftRule, beat_s: float) -> None:
        clock = SystemClock()
        self.alerts: list[Alert] = []
        self.ledger = Ledger(folder, clock=clock)
        self.writer = Writer(clock)
        self.board = Switchboard(
            self.ledger, self.writer, rule=rule, beat_s=beat_s, clock=clock, ids=SystemIds(), alert=self.alerts.append
        )
        self.upkeep = Upkeep(self.board, self.ledger, self.writer, beat_s=beat_s, clock=clock, alert=self.alerts.append)

    @contextlib.contextmanager
    def hung_disk(self) -> Generator[None]:
        """A job that does not come back before the block is left."""
        go_on = threading.Event()
        self.writer.write(lambda: go_on.wait(PATIENCE_S))
        try:
            yield
        finally:
            go_on.set()


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, rule: LiftRule | None = None, beat_s: float = 0.05, lives: bool = False
) -> AsyncGenerator[Running]:
    """A switch on this folder; `lives` if it also looks after itself."""
    switch = Running(folder, rule or LiftRule(), beat_s)
    life = None
    try:
        await switch.board.load()
        if lives:
            life = asyncio.create_task(switch.upkeep.live())
        yield switch
    finally:
        if life is not None:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
        assert switch.writer.close(PATIENCE_S)
        switch.ledger.close()


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Let the loop turn until it holds."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


def told(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story in a loop of its own."""

    async def tell() -> None:
        await asyncio.wait_for(story(), 3 * PATIENCE_S)

    asyncio.run(tell())
