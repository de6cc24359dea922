"""`rescind serve`: the control plane. Each option may come from a variable, such as RESCIND_SERVE_PORT."""

from pathlib import Path

import click

from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.errors import UsageError

_MISSING = "the control plane needs the extra `server`: pip install 'rescind[server]'"


@click.command(
    context_settings={"auto_envvar_prefix": "RESCIND_SERVE"},
    epilog="""\b
Examples:
  rescind token create --role operator --name ann
  rescind serve --store .rescind
  rescind serve --host 0.0.0.0 --cert tls.pem --key tls.key

Every option may come from a variable instead: --port 8000 is RESCIND_SERVE_PORT=8000.
""",
)
@click.option(
    "--data",
    type=click.Path(),
    default=".rescind-switch",
    show_default=True,
    metavar="DIR",
    help="Where `rescind token` keeps the tokens that are good here.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=7480, show_default=True, help="0 takes a free one.")
@click.option("--cert", type=click.Path(), metavar="FILE", help="Certificate for HTTPS, with its chain.")
@click.option("--key", type=click.Path(), metavar="FILE", help="Its private key.")
@click.option("--behind-proxy", is_flag=True, help="A reverse proxy in front does TLS.")
@common
def serve(*, data: str, host: str, port: int, cert: str | None, key: str | None, behind_proxy: bool, out: Out) -> int:
    """Serve undos, review tasks, incidents and impact of a store over HTTP: look, follow, pause, cancel, decide.

    Whoever asks shows a token: a viewer looks, an operator acts, an approver approves; an agent reaches nothing. A
    switch's folder will do for --data, so that one token is good for both. /openapi.json describes the requests.

    It keeps nothing of its own: stop it with Ctrl-C or SIGTERM, and start it again, whenever you like.
    """
    from rescind.cli.stores import find_store, journal_of

    try:
        from rescind.plane.server import ServeSettings, Started
        from rescind.plane.server import serve as serve_plane
    except ModuleNotFoundError as error:
        raise UsageError(f"{_MISSING} ({error.name} is missing)") from error
    store = find_store(given_store())
    settings = ServeSettings(
        data=Path(data), store=store, host=host, port=port, cert_file=cert, key_file=key, behind_proxy=behind_proxy
    )

    def started(found: Started) -> None:
        out.say(f"the control plane listens on {found.url}", style="bold")
        out.say(f"  its store   {safe(store)}")
        out.say(f"  its tokens  {safe(Path(data).absolute())}")
        out.emit({"url": found.url, "store": str(store), "data": str(Path(data).absolute())})

    with journal_of(store) as journal:
        serve_plane(settings, journal, on_start=started)
    return 0
