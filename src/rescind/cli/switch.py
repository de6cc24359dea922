"""`rescind switch`: run a stop service. Each option may come from a variable, such as RESCIND_SWITCH_PORT."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.errors import UsageError

if TYPE_CHECKING:
    from rescind.switch.service.federation import PeerConfig
    from rescind.triggers.fleet import FleetConfig

DATA_DEFAULT = ".rescind-switch"

_ENVIRONMENT = "RESCIND_SWITCH"

_MISSING = "the switch needs the extra `server`: pip install 'rescind[server]'"


@click.command(
    context_settings={"auto_envvar_prefix": _ENVIRONMENT},
    epilog="""\b
Examples:
  rescind switch --data ./switch-a
  rescind switch --data /var/lib/rescind --host 0.0.0.0 \\
      --cert tls.pem --key tls.key --policy rescind.yaml --alert slack://… \\
      --peer https://b.example:7443 --peer-token-file b.token

Every option may come from a variable instead: --lift-persons 2 is RESCIND_SWITCH_LIFT_PERSONS=2. Alert URLs hold
secrets, and arguments can be seen by everybody on the machine: give them as RESCIND_SWITCH_ALERT, separated by blanks.
""",
)
@click.option("--data", type=click.Path(), default=DATA_DEFAULT, show_default=True, metavar="DIR", help="Its folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=7443, show_default=True, help="0 takes a free one.")
@click.option("--cert", type=click.Path(), metavar="FILE", help="Certificate for HTTPS, with its chain.")
@click.option("--key", type=click.Path(), metavar="FILE", help="Its private key.")
@click.option("--behind-proxy", is_flag=True, help="A reverse proxy in front does TLS.")
@click.option("--open-to-anyone", is_flag=True, help="Listen beyond loopback without tokens or TLS. Anybody may stop.")
@click.option("--lift-switches", type=click.IntRange(1, 20), default=1, help="Switches that must accept a lift.")
@click.option("--lift-persons", type=click.IntRange(1, 20), default=1, help="Persons who must consent to a lift.")
@click.option("--beat", type=click.FloatRange(0.05, 60), default=2.0, metavar="S", help="Between two beats.")
@click.option("--peer", multiple=True, metavar="URL", help="Another switch; may be repeated.")
@click.option("--peer-token-file", type=click.Path(), metavar="FILE", help="Its token; of several, lines of URL TOKEN.")
@click.option("--peer-ca-file", type=click.Path(), metavar="FILE", help="Whom to believe about their certificates.")
@click.option("--alert", multiple=True, metavar="URL", help="Whom to tell: https://… or a URL of Apprise.")
@click.option("--webhook-secret-file", type=click.Path(), metavar="FILE", help="What signs webhooks: whsec_….")
@click.option(
    "--policy",
    type=click.Path(),
    metavar="FILE",
    help="A policy or rescind.yaml: its `fleet:` says how far this switch acts by itself.",
)
@click.option("--json", "as_json", is_flag=True, help="Say where it listens in one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def switch(
    *,
    data: str,
    host: str,
    port: int,
    cert: str | None,
    key: str | None,
    behind_proxy: bool,
    open_to_anyone: bool,
    lift_switches: int,
    lift_persons: int,
    beat: float,
    peer: tuple[str, ...],
    peer_token_file: str | None,
    peer_ca_file: str | None,
    alert: tuple[str, ...],
    webhook_secret_file: str | None,
    policy: str | None,
    as_json: bool,
) -> int:
    """Run a switch: a small server that holds stop orders and tells every guard.

    It needs no other service. Stop it with Ctrl-C or SIGTERM; what it was told is on disk.
    """
    try:
        from rescind.model.order import LiftRule
        from rescind.switch.service.server import Started, SwitchSettings, serve
    except ModuleNotFoundError as error:
        raise UsageError(f"{_MISSING} ({error.name} is missing)") from error
    out = Out(json=as_json)
    settings = SwitchSettings(
        data=Path(data),
        host=host,
        port=port,
        cert_file=cert,
        key_file=key,
        behind_proxy=behind_proxy,
        open_to_anyone=open_to_anyone,
        rule=LiftRule(lift_switches, lift_persons),
        beat_s=beat,
        peers=_peers(peer, peer_token_file),
        peer_ca_file=peer_ca_file,
        alert_urls=alert,
        webhook_secret=_secret(webhook_secret_file, "--webhook-secret-file") if webhook_secret_file else "",
        fleet=_fleet(policy),
    )

    def started(found: Started) -> None:
        out.say(f"switch {found.switch_id} listens on {found.url}", style="bold")
        out.say(f"  its file   {safe(Path(data).absolute())}")
        if not found.has_tokens:
            out.say("  no tokens  everybody here may look and stop, nobody may lift; see `rescind token create --help`")
        out.emit({"switch_id": found.switch_id, "url": found.url, "data": str(Path(data).absolute())})

    serve(settings, on_start=started)
    return 0


def _fleet(policy: str | None) -> "FleetConfig":
    from rescind.triggers.fleet import FleetConfig

    if policy is None:
        return FleetConfig()
    from rescind.triggers.policy_file import load_policy  # a switch without one needs no YAML

    return load_policy(policy).fleet


def _peers(urls: tuple[str, ...], token_file: str | None) -> "tuple[PeerConfig, ...]":
    from rescind.switch.service.federation import PeerConfig

    lines = [line.split() for line in _lines(token_file, "--peer-token-file")] if token_file else []
    by_url = {words[0].rstrip("/"): words[1] for words in lines if len(words) > 1}
    for_all = next((words[0] for words in lines if len(words) == 1), "")
    found: list[PeerConfig] = []
    for url in (given.rstrip("/") for given in urls):
        if not url.startswith(("http://", "https://")) or not url.partition("://")[2]:
            raise UsageError(f"--peer {url!r} is no switch; write http://HOST:PORT or https://HOST:PORT")
        token = by_url.get(url, for_all)
        if not token:
            raise UsageError(
                f"there is no token for {url}: make one on that switch with `rescind token create --role peer`, and "
                "put it into a file for --peer-token-file"
            )
        found.append(PeerConfig(url, token))
    return tuple(found)


def _secret(path: str, option: str) -> str:
    lines = _lines(path, option)
    if not lines:
        raise UsageError(f"{option} {path} is empty")
    return lines[0]


def _lines(path: str, option: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
