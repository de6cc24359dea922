"""Whose tokens are good here: read from the folder that `rescind token` keeps them in, and looked at each second."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator
from pathlib import Path

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable, UsageError
from rescind.switch.service.ledger import LEDGER_NAME, Ledger
from rescind.switch.service.writer import Writer
from rescind.web.tokens import TokenBook

LOOK_EVERY_S = 1.0

_log = logging.getLogger("rescind.plane")


@contextlib.contextmanager
def ledger_of(folder: Path, clock: Clock) -> Generator[Ledger]:
    """The file that holds the tokens: a switch's, or one that only this server has.

    Raises: UsageError, if there is none, or no token was ever made in it (PL1).
    """
    if not (folder / LEDGER_NAME).exists():
        raise UsageError(f"nobody has a token in {folder.absolute()}. {_remedy(folder)}")
    ledger = Ledger(folder, clock=clock)
    try:
        if not ledger.tokens():
            raise UsageError(f"nobody has a token in {folder.absolute()}. {_remedy(folder)}")
        yield ledger
    finally:
        ledger.close()


async def keep_tokens(ledger: Ledger, writer: Writer, take: Callable[[TokenBook], None]) -> None:
    """Hand over the tokens whenever they have changed, until cancelled."""
    known: int | None = None
    while True:
        try:
            version = await writer.read(ledger.tokens_changed)
            if version != known:
                take(TokenBook(await writer.read(ledger.tokens)))
                known = version
        except OrdersUnavailable as error:
            _log.warning("the tokens cannot be read, and those that were known stay good: %s", error)
        await asyncio.sleep(LOOK_EVERY_S)


def _remedy(folder: Path) -> str:
    make = f"rescind token create --data {folder} --role operator --name YOU"
    return f"Make one: `{make}`; or name another folder with --data"
