"""`rescind token`: who may do what at a switch. Works on the switch's own folder, on its own machine."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rescind.cli.identity import whoami
from rescind.cli.moments import ago
from rescind.cli.options import DEBUG_HELP, JSON_HELP
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.clock import SystemClock, SystemIds, from_us
from rescind.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator

    from rescind.switch.service.ledger import Ledger
    from rescind.web.tokens import Token

_DATA = click.option(
    "--data",
    type=click.Path(),
    default=".rescind-switch",
    show_default=True,
    envvar="RESCIND_SWITCH_DATA",
    metavar="DIR",
    help="The switch's folder.",
)
_MANY_DATA = click.option(
    "--data",
    type=click.Path(),
    default=[".rescind-switch"],
    multiple=True,
    show_default=True,
    envvar="RESCIND_SWITCH_DATA",
    metavar="DIR",
    help="The switch's folder; may be repeated.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
_DEBUG = click.option("--debug", is_flag=True, expose_value=False, help=DEBUG_HELP)

ROLES = ("agent", "viewer", "operator", "approver", "peer", "verifier")


_HELP = """Who may do what at a switch.

\b
agent     subscribe and acknowledge; stop itself, and lift nothing
viewer    look
operator  look and stop
approver  look, stop and lift
peer      another switch of the federation
verifier  post verdicts, and look at nothing
"""


@click.group(no_args_is_help=True, help=_HELP)
def token() -> None:
    """See `_HELP`."""


@token.command(
    epilog="""\b
Examples:
  rescind token create --role operator --name alice
  rescind token create --role agent --name b --identity agent:b > b.token
  rescind token create --data switch-a --data switch-b --role peer --name peer
"""
)
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it is good for.")
@click.option("--name", required=True, metavar="NAME", help="The person or program that will hold it.")
@click.option("--identity", default="", metavar="SCOPE", help="Of an agent: what it is, such as agent:billing-agent.")
@_MANY_DATA
@_JSON
@_DEBUG
def create(*, role: str, name: str, identity: str, data: tuple[str, ...], as_json: bool) -> int:
    """Make a token and show it once; only its hash is kept.

    With several --data, one token is good at several switches. A running switch knows it within two seconds.
    """
    from rescind.web.tokens import Role, new_token

    out = Out(json=as_json)
    secret, kept = new_token(Role(role), name, identity, clock=SystemClock(), ids=SystemIds())
    _keep(kept, data)
    out.note(f"{role} {safe(kept.name)}, {kept.token_id}. This is the only time it is shown:")
    if not as_json:
        out.say(secret)
    out.emit({"token_id": kept.token_id, "role": role, "name": kept.name, "identity": kept.identity, "token": secret})
    return 0


@token.command(
    epilog="""\b
Example, on another switch's machine:
  rescind token add --role operator --name alice < alice.token
"""
)
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it is good for.")
@click.option("--name", required=True, metavar="NAME", help="The person or program that holds it.")
@click.option("--identity", default="", metavar="SCOPE", help="Of an agent: what it is, such as agent:billing-agent.")
@_MANY_DATA
@_JSON
@_DEBUG
def add(*, role: str, name: str, identity: str, data: tuple[str, ...], as_json: bool) -> int:
    """Make a token of another switch good here too. It is read from standard input."""
    from rescind.web.tokens import Role, known_token

    out = Out(json=as_json)
    secret = sys.stdin.readline().strip()
    kept = known_token(secret, Role(role), name, identity, clock=SystemClock(), ids=SystemIds())
    _keep(kept, data)
    out.say(f"{role} {safe(kept.name)}, {kept.token_id}")
    out.emit({"token_id": kept.token_id, "role": role, "name": kept.name, "identity": kept.identity})
    return 0


@token.command("list")
@_DATA
@_JSON
@_DEBUG
def list_tokens(*, data: str, as_json: bool) -> int:
    """Who has tokens. The tokens themselves are not kept."""
    out = Out(json=as_json)
    with _ledger(data) as ledger:
        tokens = ledger.tokens()
    for each in tokens:
        out.say(_line(each), style="dim" if each.revoked_at_us is not None else "")
    if not tokens:
        out.say("no tokens")
    out.emit(
        {
            "tokens": [
                {
                    "token_id": each.token_id,
                    "role": each.role.value,
                    "name": each.name,
                    "identity": each.identity,
                    "created_at": from_us(each.created_at_us).isoformat(),
                    "revoked_at": None if each.revoked_at_us is None else from_us(each.revoked_at_us).isoformat(),
                }
                for each in tokens
            ]
        }
    )
    return 0


@token.command()
@click.argument("token_id")
@_DATA
@_JSON
@_DEBUG
def revoke(*, token_id: str, data: str, as_json: bool) -> int:
    """Make a token worthless, by its id. A running switch refuses it within two seconds."""
    from rescind.switch.service.ledger import Note

    out = Out(json=as_json)
    with _ledger(data) as ledger:
        found = next((each for each in ledger.tokens() if each.token_id == token_id), None)
        if found is None:
            raise UsageError(f"there is no token {token_id!r}; `rescind token list` names them")
        if found.revoked_at_us is None:
            ledger.revoke_token(token_id, Note(what="token.revoked", subject=found.name, actor=whoami()))
    out.say(f"{token_id} of {safe(found.name)} is worthless now")
    out.emit({"token_id": token_id, "revoked": True})
    return 0


def _keep(kept: "Token", folders: tuple[str, ...]) -> None:
    from rescind.switch.service.ledger import Note

    for data in dict.fromkeys(folders):
        with _ledger(data, make=True) as ledger:
            if any(known.hash == kept.hash for known in ledger.tokens()):
                raise UsageError(
                    f"this token is known in {Path(data).absolute()} already; `rescind token list` shows it"
                )
            note = Note(what="token.created", subject=kept.name, actor=whoami(), detail=kept.role.value)
            ledger.add_token(kept, note)


def _line(each: "Token") -> str:
    identity = f"  {safe(each.identity)}" if each.identity else ""
    since = f"made {ago(from_us(each.created_at_us))} ago"
    gone = "" if each.revoked_at_us is None else f", revoked {ago(from_us(each.revoked_at_us))} ago"
    return f"{each.token_id}  {each.role.value:<8}  {safe(each.name)}{identity}  {since}{gone}"


@contextmanager
def _ledger(data: str, *, make: bool = False) -> "Generator[Ledger]":
    from rescind.switch.service.ledger import LEDGER_NAME, Ledger, restrict

    folder = Path(data)
    if not make and not (folder / LEDGER_NAME).exists():
        raise UsageError(f"{folder.absolute()} is no folder of a switch; name it with --data")
    restrict(folder)
    ledger = Ledger(folder, clock=SystemClock())
    try:
        yield ledger
    finally:
        ledger.close()
