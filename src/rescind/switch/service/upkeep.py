"""What a switch does by itself: it beats, tries its disk, keeps the register of guards, and notices new tokens."""

import asyncio
import logging
from collections.abc import Callable

from rescind.clock import Clock, from_us
from rescind.errors import OrdersUnavailable
from rescind.switch.alerts import Alert, alert_of_cannot_store, alert_of_stores_again
from rescind.switch.service.ledger import Ledger
from rescind.switch.service.registry import Guard
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.writer import Writer
from rescind.web.tokens import TokenBook

logger = logging.getLogger("rescind.switch")

LOOK_S = 1.0
"""How often the disk is tried. A disk that hangs is found out `writer.HANGS_AFTER_S` later."""


class Upkeep:
    """Looks after a switch, in three tasks: none of them waits for what another one waits for."""

    def __init__(
        self,
        board: Switchboard,
        ledger: Ledger,
        writer: Writer,
        *,
        beat_s: float,
        clock: Clock,
        alert: Callable[[Alert], None],
    ) -> None:
        """Upkeep that has not begun: see `live`. Args: as for `Switchboard`."""
        self._board, self._ledger, self._writer = board, ledger, writer
        self._beat_s, self._clock, self._alert = beat_s, clock, alert
        self._told_trouble = False
        self._tokens_version = -1
        self._news = asyncio.Event()
        self._kept = asyncio.Event()  # a new one for each time that guards were written down
        board.registry.on_unsaved = self._news.set

    async def live(self) -> None:
        """Look after the switch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            tasks.create_task(self._look_after_disk())
            tasks.create_task(self._keep_guards())

    async def kept(self, guard: Guard) -> None:
        """Until the guard is on disk, so that it is remembered after any crash, or until no lease is renewed anyway.

        A lease must not be given to a guard that nobody would know of a moment later.
        """
        while not guard.is_kept and self._board.renews:
            try:
                async with asyncio.timeout(LOOK_S / 4):
                    await self._kept.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        while True:
            self._tell_trouble()
            self._board.beat()
            await asyncio.sleep(self._beat_s)

    def _tell_trouble(self) -> None:
        trouble = self._board.trouble
        if bool(trouble) == self._told_trouble:
            return
        self._told_trouble = bool(trouble)
        at = from_us(self._clock.now_us())
        if trouble:
            logger.error("a stop could not be taken now: %s", trouble)
            self._alert(alert_of_cannot_store(trouble, switch_id=self._board.switch_id, at=at))
        else:
            self._alert(alert_of_stores_again(switch_id=self._board.switch_id, at=at))

    async def _look_after_disk(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_S, self._beat_s))
            self._board.registry.tidy()
            try:
                await self._writer.write(self._ledger.beat_disk)
            except OrdersUnavailable:
                continue  # `trouble` says so, and the next turn tries again
            await self._look_at_tokens()

    async def _look_at_tokens(self) -> None:
        try:
            version = await self._writer.read(self._ledger.tokens_changed)
            if version != self._tokens_version:
                self._board.tokens = TokenBook(await self._writer.read(self._ledger.tokens))
                self._tokens_version = version
        except OrdersUnavailable as error:
            logger.warning("the tokens cannot be read: %s", error)

    async def _keep_guards(self) -> None:
        registry = self._board.registry
        while True:
            await self._news.wait()
            self._news.clear()
            seen, left = registry.unsaved()
            try:
                await self._writer.write(lambda seen=seen, left=left: self._ledger.save_guards(seen, left))  # type: ignore[misc]
            except OrdersUnavailable:
                registry.not_saved(seen, left)
                await asyncio.sleep(LOOK_S)
                continue
            registry.saved(seen)
            done, self._kept = self._kept, asyncio.Event()
            done.set()
