"""One switch as a process: its settings, its start, and its end."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.errors import UsageError
from rescind.model.order import LiftRule
from rescind.switch.alerts import Alerts, channels_of
from rescind.switch.service.app import SwitchApp
from rescind.switch.service.connection import IDLE_S, SwitchProtocol, watch_dawdlers
from rescind.switch.service.federation import SYNC_S, Federation, PeerConfig
from rescind.switch.service.ledger import Ledger, restrict, sole_use
from rescind.switch.service.signals import Signals
from rescind.switch.service.streams import STREAMS_MAX
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.service.writer import Writer
from rescind.triggers.fleet import FleetConfig

logger = logging.getLogger("rescind.switch")

PORT_DEFAULT = 7443

BACKLOG = 8_192
"""Connections that may wait to be accepted. After a restart every guard knocks within the same second."""

FILES_WANTED = 65_536

FILES_OF_OURS = 128
"""For the ledger, other switches, alerts, and connections that were accepted and not yet counted."""

CLOSE_WITHIN_S = 2.0


class SwitchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one switch runs.

    Attributes:
        data: Its folder.
        host, port: Where it listens; port 0 lets the system choose.
        cert_file, key_file: For HTTPS; None for HTTP.
        behind_proxy: A reverse proxy in front does TLS.
        open_to_anyone: Listen beyond loopback without any token.
        rule: How many consents a lift needs.
        beat_s: How often guards are told that it lives.
        sync_s: How often other switches are asked.
        peers: The other switches.
        peer_ca_file: Whom to believe about them, if not the system's authorities.
        alert_urls, webhook_secret: Who is told; see `switch.alerts`.
        fleet: How far it acts by itself.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    cert_file: str | None = None
    key_file: str | None = None
    behind_proxy: bool = False
    open_to_anyone: bool = False
    rule: LiftRule = LiftRule()
    beat_s: float = 2.0
    sync_s: float = SYNC_S
    peers: tuple[PeerConfig, ...] = ()
    peer_ca_file: str | None = None
    alert_urls: tuple[str, ...] = ()
    webhook_secret: str = ""
    fleet: FleetConfig = FleetConfig()


class Started(msgspec.Struct, frozen=True):
    """A switch that listens: its id, and the URL it can be reached by from here."""

    switch_id: str
    url: str
    has_tokens: bool


def serve(settings: SwitchSettings, *, on_start: Callable[[Started], None]) -> None:
    """Run a switch until SIGTERM or SIGINT.

    Raises: UsageError, if it may not listen there, or cannot; StoreFormatError, OrdersUnavailable.
    """
    asyncio.run(_serve(settings, on_start, SystemClock(), SystemIds()))


async def _serve(settings: SwitchSettings, on_start: Callable[[Started], None], clock: Clock, ids: IdSource) -> None:
    restrict(settings.data)
    with contextlib.ExitStack() as closing:
        closing.enter_context(sole_use(settings.data))
        ledger = Ledger(settings.data, clock=clock)
        closing.callback(ledger.close)
        has_tokens = bool(ledger.tokens())
        refuse_unsafe(settings, has_tokens=has_tokens)
        alerts = Alerts(channels_of(settings.alert_urls, settings.webhook_secret), clock=clock)
        peers_tls = _peers_tls(settings)
        listening = closing.enter_context(_listen(settings))
        writer = Writer(clock)
        board = Switchboard(
            ledger, writer, rule=settings.rule, beat_s=settings.beat_s, clock=clock, ids=ids, alert=alerts.put
        )
        upkeep = Upkeep(board, ledger, writer, beat_s=settings.beat_s, clock=clock, alert=alerts.put)
        federation = Federation(board, settings.peers, clock=clock, sync_s=settings.sync_s, tls=peers_tls)
        signals = Signals(board, settings.fleet, clock=clock, ids=ids, alert=alerts.put)
        app = SwitchApp(board, upkeep, federation, alerts, signals, clock, _bound_connections())
        SwitchProtocol.acknowledge = (app.acknowledge,)
        config = _uvicorn_config(settings, app)
        await board.load()
        _collect_rarely()
        alerts.start()
        server = _Server(
            config, board, lambda: on_start(Started(board.switch_id, _url(settings, listening), has_tokens))
        )
        try:
            await _live(server, listening, [upkeep.live(), federation.live(), signals.live(), watch_dawdlers()])
        finally:
            alerts.close(CLOSE_WITHIN_S)
            if not writer.close(CLOSE_WITHIN_S):
                closing.pop_all()  # its thread hangs in the ledger, and would hold up whoever closes that


async def _live(server: "_Server", listening: socket.socket, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Serve until told to leave, and do the work beside it. Work that fails ends the switch: half of one is worse."""
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


def refuse_unsafe(settings: SwitchSettings, *, has_tokens: bool) -> None:
    """Raises: UsageError, if the switch would give power to people it does not know, or secrets to the wire."""
    if bool(settings.cert_file) != bool(settings.key_file):
        raise UsageError("--cert and --key go together")
    if _is_loopback(settings.host) and not settings.behind_proxy:
        return
    where = f"a proxy in front of {settings.host}" if _is_loopback(settings.host) else settings.host
    if not has_tokens and not settings.open_to_anyone:
        raise UsageError(
            f"{where} can be reached from other machines, and this switch has no tokens, so anybody there "
            "could stop your agents. Make tokens with `rescind token create`, listen on 127.0.0.1, or say "
            "--open-to-anyone"
        )
    if not settings.cert_file and not settings.behind_proxy and not settings.open_to_anyone:
        raise UsageError(
            f"{where} can be reached from other machines, and without TLS tokens can be read on the way. "
            "Give --cert and --key, or say --behind-proxy if a reverse proxy does TLS"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(settings: SwitchSettings) -> socket.socket:
    where = f"{settings.host} port {settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
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


def _url(settings: SwitchSettings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.cert_file else 'http'}://{host}:{listening.getsockname()[1]}"


def _peers_tls(settings: SwitchSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.peer_ca_file)
    except OSError as error:
        raise UsageError(
            f"--peer-ca-file {settings.peer_ca_file} cannot be used: {error.strerror or error}; it holds certificates "
            "as PEM"
        ) from error


def _uvicorn_config(settings: SwitchSettings, app: SwitchApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=SwitchProtocol,
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
        ssl_certfile=settings.cert_file,
        ssl_keyfile=settings.key_file,
        proxy_headers=settings.behind_proxy,
    )
    try:
        config.load()
    except OSError as error:  # of the system, or of TLS
        raise UsageError(
            f"--cert {settings.cert_file} and --key {settings.key_file} cannot be used: {error.strerror or error}; "
            "they hold a certificate with its chain, and its private key, as PEM"
        ) from error
    return config


class _Server(uvicorn.Server):
    """Ends the streams when it is asked to leave: they have no end of their own, and it waits for all requests."""

    def __init__(self, config: uvicorn.Config, board: Switchboard, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._board, self._on_start, self._loop = board, on_start, asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and only then say so."""
        await super().startup(sockets)
        self._on_start()

    def leave_if_failed(self, life: asyncio.Task[None]) -> None:
        """Without its work this is no switch any more."""
        if not life.cancelled() and life.exception() is not None:
            logger.critical("the switch ends, since a part of it has failed", exc_info=life.exception())
            self.should_exit = True
            self._board.hub.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave when asked. Unlike the library's own, it does not die of the signal before the ledger is closed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._leave, number)
        yield

    def _leave(self, number: int) -> None:
        self.handle_exit(number, None)
        self._board.hub.close()


def _collect_rarely() -> None:
    # Ten thousand connections are some 400,000 objects, none of them garbage. Looking through them as often as the
    # default asks for took two thirds of the time that as many acknowledgements take.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def _bound_connections() -> int:
    """Let so many files be open as the system allows, and set bounds by that; how many streams there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Never all of them: a stop must find a file for its connection, and the ledger one for its log.
    SwitchProtocol.connections_max = max(16, files - FILES_OF_OURS)
    return min(STREAMS_MAX, SwitchProtocol.connections_max * 3 // 4)
