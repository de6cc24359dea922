"""One switch as a process: its settings, its start, and its end."""

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.errors import UsageError
from rescind.model.order import LiftRule
from rescind.switch.alerts import Alerts, channels_of
from rescind.switch.service.app import SwitchApp
from rescind.switch.service.federation import SYNC_S, Federation, PeerConfig
from rescind.switch.service.ledger import Ledger, restrict, sole_use
from rescind.switch.service.signals import Signals
from rescind.switch.service.streams import STREAMS_MAX
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.service.writer import Writer
from rescind.triggers.fleet import FleetConfig
from rescind.web.connection import BoundedProtocol, watch_dawdlers
from rescind.web.listening import Door, Server, bound_connections, config_of, listen, live, refuse_readable, url_of

PORT_DEFAULT = 7443

CLOSE_WITHIN_S = 2.0


class SwitchSettings(Door, frozen=True, kw_only=True):
    """How one switch runs.

    Attributes:
        data: Its folder.
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
    port: int = PORT_DEFAULT
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
        listening = closing.enter_context(listen(settings))
        writer = Writer(clock)
        board = Switchboard(
            ledger, writer, rule=settings.rule, beat_s=settings.beat_s, clock=clock, ids=ids, alert=alerts.put
        )
        upkeep = Upkeep(board, ledger, writer, beat_s=settings.beat_s, clock=clock, alert=alerts.put)
        federation = Federation(board, settings.peers, clock=clock, sync_s=settings.sync_s, tls=peers_tls)
        signals = Signals(board, settings.fleet, clock=clock, ids=ids, alert=alerts.put)
        streams_max = min(STREAMS_MAX, bound_connections() * 3 // 4)
        app = SwitchApp(board, upkeep, federation, alerts, signals, clock, streams_max)
        BoundedProtocol.acknowledge = (app.acknowledge,)
        config = config_of(settings, app)
        await board.load()
        _collect_rarely()
        alerts.start()
        server = Server(
            config,
            end_streams=board.hub.close,
            on_start=lambda: on_start(Started(board.switch_id, url_of(settings, listening), has_tokens)),
        )
        try:
            await live(server, listening, [upkeep.live(), federation.live(), signals.live(), watch_dawdlers()])
        finally:
            alerts.close(CLOSE_WITHIN_S)
            if not writer.close(CLOSE_WITHIN_S):
                closing.pop_all()  # its thread hangs in the ledger, and would hold up whoever closes that


def refuse_unsafe(settings: SwitchSettings, *, has_tokens: bool) -> None:
    """Raises: UsageError, if the switch would give power to people it does not know, or secrets to the wire."""
    where = settings.beyond_this_machine
    if where and not has_tokens and not settings.open_to_anyone:
        raise UsageError(
            f"{where} can be reached from other machines, and this switch has no tokens, so anybody there "
            "could stop your agents. Make tokens with `rescind token create`, listen on 127.0.0.1, or say "
            "--open-to-anyone"
        )
    refuse_readable(settings, open_to_anyone=settings.open_to_anyone)


def _peers_tls(settings: SwitchSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.peer_ca_file)
    except OSError as error:
        raise UsageError(
            f"--peer-ca-file {settings.peer_ca_file} cannot be used: {error.strerror or error}; it holds certificates "
            "as PEM"
        ) from error


def _collect_rarely() -> None:
    # Ten thousand connections are some 400,000 objects, none of them garbage. Looking through them as often as the
    # default asks for took two thirds of the time that as many acknowledgements take.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
