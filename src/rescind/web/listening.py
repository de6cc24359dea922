"""How a server of ours listens, and how it ends."""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any

import msgspec
import uvicorn

from rescind.errors import UsageError
from rescind.web.connection import IDLE_S, BoundedProtocol

BACKLOG = 8_192
"""Connections that may wait to be accepted. After a restart every guard knocks within the same second."""

FILES_WANTED = 65_536

FILES_OF_OURS = 128
"""For what a server keeps on disk, and for connections that it makes itself or has accepted and not yet counted."""

HANDSHAKE_WITHIN_S = 20.0
"""How long a TLS handshake may take. Until it is done `web.connection`, which bounds all else, knows of no connection,
and the loop would wait for a minute. Not less: after a restart all guards come at once, and each takes a millisecond.
"""

logger = logging.getLogger("rescind.web")


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server listens.

    Attributes:
        host, port: Where; port 0 lets the system choose.
        cert_file, key_file: For HTTPS; None for HTTP.
        behind_proxy: A reverse proxy in front does TLS.
    """

    host: str = "127.0.0.1"
    port: int
    cert_file: str | None = None
    key_file: str | None = None
    behind_proxy: bool = False

    @property
    def beyond_this_machine(self) -> str:
        """From where it can be reached by other machines, for people; empty if it cannot."""
        if not _is_loopback(self.host):
            return self.host
        return f"a proxy in front of {self.host}" if self.behind_proxy else ""


def refuse_readable(door: Door, *, open_to_anyone: bool = False) -> None:
    """Raises: UsageError, if tokens could be read on their way to this door, unless it is `open_to_anyone`."""
    if bool(door.cert_file) != bool(door.key_file):
        raise UsageError("--cert and --key go together")
    where = door.beyond_this_machine
    if where and not door.cert_file and not door.behind_proxy and not open_to_anyone:
        raise UsageError(
            f"{where} can be reached from other machines, and without TLS tokens can be read on the way. "
            "Give --cert and --key, or say --behind-proxy if a reverse proxy does TLS"
        )


def listen(door: Door) -> socket.socket:
    """The socket that waits there. Raises: UsageError."""
    where = f"{door.host} port {door.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            door.host, door.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {where}: {error.strerror or error}; name another with --host and --port"
        ) from error
    return listening


def url_of(door: Door, listening: socket.socket) -> str:
    """The URL by which it can be reached from here."""
    host = f"[{door.host}]" if ":" in door.host else door.host
    return f"{'https' if door.cert_file else 'http'}://{host}:{listening.getsockname()[1]}"


def config_of(door: Door, app: Any) -> uvicorn.Config:
    """The server's configuration for an ASGI application. Raises: UsageError, if the certificate cannot be used."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=1,
        ssl_certfile=door.cert_file,
        ssl_keyfile=door.key_file,
        proxy_headers=door.behind_proxy,
    )
    try:
        config.load()
    except OSError as error:  # of the system, or of TLS
        raise UsageError(
            f"--cert {door.cert_file} and --key {door.key_file} cannot be used: {error.strerror or error}; "
            "they hold a certificate with its chain, and its private key, as PEM"
        ) from error
    return config


class Server(uvicorn.Server):
    """Ends the streams when it is asked to leave: they have no end of their own, and it waits for all requests.

    Args:
        config: See `config_of`.
        end_streams: Ends them.
        on_start: Called once it serves.
    """

    def __init__(
        self, config: uvicorn.Config, *, end_streams: Callable[[], None], on_start: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._end_streams, self._on_start, self._loop = end_streams, on_start, asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and only then say so."""
        with _impatient(self._loop) if self.config.ssl else contextlib.nullcontext():
            await super().startup(sockets)
        self._on_start()

    def leave_if_failed(self, life: asyncio.Task[None]) -> None:
        """Without its work it is no server of ours any more."""
        if not life.cancelled() and life.exception() is not None:
            logger.critical("the server ends, since a part of it has failed", exc_info=life.exception())
            self.should_exit = True
            self._end_streams()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave when asked. Unlike the library's own, it does not die of the signal before its files are closed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._leave, number)
        yield

    def _leave(self, number: int) -> None:
        self.handle_exit(number, None)
        self._end_streams()


@contextlib.contextmanager
def _impatient(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Whoever listens in the block waits for a handshake no longer than we like: uvicorn has no setting for it."""
    any_loop: Any = loop
    any_loop.create_server = functools.partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE_WITHIN_S)
    try:
        yield
    finally:
        del any_loop.create_server


async def live(server: Server, listening: socket.socket, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Serve until told to leave, and do the work beside it. Work that fails ends the server: half of one is worse."""
    lives = [asyncio.create_task(each) for each in work]
    for life in lives:
        life.add_done_callback(server.leave_if_failed)
    try:
        await server.serve(sockets=[listening])
    finally:
        for life in lives:
            life.remove_done_callback(server.leave_if_failed)
            life.cancel()
        ends = await asyncio.gather(*lives, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


def bound_connections() -> int:
    """Let so many files be open as the system allows, and bound connections by that. Returns how many there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Never all of them: a stop must find a file for its connection, and the ledger one for its log.
    BoundedProtocol.connections_max = max(16, files - FILES_OF_OURS)
    return BoundedProtocol.connections_max


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
