"""One control plane as a process: its settings, its start, and its end."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from rescind.clock import SystemClock, SystemIds
from rescind.database.address import StoreAt
from rescind.journal.port import Journal
from rescind.plane.app import PlaneApp
from rescind.plane.jobs import Jobs
from rescind.plane.plane import Plane
from rescind.plane.progress import Progress
from rescind.plane.tokens import keep_tokens, ledger_of
from rescind.switch.service.writer import Writer
from rescind.web.connection import watch_dawdlers
from rescind.web.edge import REQUEST_BURST, REQUEST_RATE
from rescind.web.limits import Limit
from rescind.web.listening import Door, Server, bound_connections, config_of, listen, live, refuse_readable, url_of
from rescind.web.tokens import TokenBook

PORT_DEFAULT = 7480

CLOSE_WITHIN_S = 2.0


class ServeSettings(Door, frozen=True, kw_only=True):
    """How one control plane runs.

    Attributes:
        data: The folder of its tokens: see `tokens`.
        store: The store that it shows.
    """

    data: Path
    store: StoreAt
    port: int = PORT_DEFAULT


class Started(msgspec.Struct, frozen=True):
    """A server that listens: the URL by which it can be reached from here."""

    url: str


def serve(settings: ServeSettings, journal: Journal, *, on_start: Callable[[Started], None]) -> None:
    """Run a control plane until SIGTERM or SIGINT.

    Raises: UsageError, if it may not listen there or cannot, or nobody has a token.
    """
    asyncio.run(_serve(settings, journal, on_start))


async def _serve(settings: ServeSettings, journal: Journal, on_start: Callable[[Started], None]) -> None:
    clock = SystemClock()
    with contextlib.ExitStack() as closing:
        refuse_readable(settings)
        ledger = closing.enter_context(ledger_of(settings.data, clock))
        jobs = Jobs(settings.store)
        closing.callback(jobs.close)
        listening = closing.enter_context(listen(settings))
        limit = Limit(rate=REQUEST_RATE, burst=REQUEST_BURST, clock=clock)
        plane = Plane(journal, settings.store, jobs, limit, clock, SystemIds())
        plane.tokens = TokenBook(ledger.tokens())
        progress = Progress(journal)
        config = config_of(settings, PlaneApp(plane, progress))
        bound_connections()
        server = Server(
            config, end_streams=progress.close, on_start=lambda: on_start(Started(url_of(settings, listening)))
        )
        writer = Writer(clock)

        def take(tokens: TokenBook) -> None:
            plane.tokens = tokens

        try:
            await live(server, listening, [keep_tokens(ledger, writer, take), watch_dawdlers()])
        finally:
            if not writer.close(CLOSE_WITHIN_S):
                closing.pop_all()  # its thread hangs in the ledger, and would hold up whoever closes that
