"""What every command takes: where the store is, whether to answer in JSON, whether to show tracebacks."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rescind.cli.durations import parse_duration
from rescind.cli.out import Out
from rescind.cli.places import Given

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

F = TypeVar("F", bound=Callable[..., Any])

STORE_HELP = "Folder, or postgresql://…, with journal and orders."
JSON_HELP = "Answer with one JSON object."
DEBUG_HELP = "Show tracebacks."
SWITCH_HELP = "Only this switch; may be repeated."
TOKEN_FILE_HELP = "Token for switches, or lines of URL TOKEN."  # noqa: S105  # words about it
ACTOR_HELP = "On whose behalf; you by default."

WAIT_DEFAULT = "10s"

_STORE_KEY = "rescind.store"
_SWITCH_KEY, _TOKEN_KEY = "rescind.switch", "rescind.token_file"


def remember_store(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Keep `--store` for the command, wherever on the line it was given; the last one counts."""
    if value is not None:
        from rescind.database.address import store_at

        ctx.meta[_STORE_KEY] = store_at(value)
    return value


def common(function: F) -> F:
    """Give a command `--store`, `--json` and `--debug`; it is called with `out` in place of `json`."""

    @click.option(
        "--store", type=click.Path(), metavar="STORE", help=STORE_HELP, callback=remember_store, expose_value=False
    )
    @click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
    @click.option("--debug", is_flag=True, expose_value=False, help=DEBUG_HELP)
    @functools.wraps(function)
    def with_out(*args: Any, as_json: bool, **kwargs: Any) -> Any:
        return function(*args, out=Out(json=as_json), **kwargs)

    return with_out  # type: ignore[return-value]  # click replaces it by a command anyway


def switches(function: F) -> F:
    """Give a command `--switch` and `--token-file`; `given_places` says what they named."""

    def remember(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
            ctx.meta[key] = value

        return callback

    with_token = click.option(
        "--token-file",
        type=click.Path(),
        metavar="FILE",
        help=TOKEN_FILE_HELP,
        callback=remember(_TOKEN_KEY),
        expose_value=False,
    )
    with_switch = click.option(
        "--switch", multiple=True, metavar="URL", help=SWITCH_HELP, callback=remember(_SWITCH_KEY), expose_value=False
    )
    return with_switch(with_token(function))


def _read_wait(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """The time that `--wait` names, in seconds; None if it was not given."""
    try:
        return None if text is None else parse_duration(text, least_s=0.05, most_s=3600.0)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def placing(function: F) -> F:
    """Give a command that places orders `--wait`, `--actor` and the switches."""
    with_actor = click.option("--actor", metavar="NAME", help=ACTOR_HELP)
    with_wait = click.option(
        "--wait",
        "wait_s",
        callback=_read_wait,
        is_flag=False,
        flag_value=WAIT_DEFAULT,
        metavar="[TIME]",
        help=f"Wait for the receipt: 500ms, 10s, 1m; {WAIT_DEFAULT} if no time is given.",
    )
    return with_wait(with_actor(switches(function)))


def given_places() -> Given:
    """What the command line said of places."""
    meta = click.get_current_context().meta
    return Given(store=given_store(), urls=tuple(meta.get(_SWITCH_KEY, ())), token_file=meta.get(_TOKEN_KEY))


def given_store() -> "StoreAt | None":
    """The folder that `--store` named, absolute; None if it was not given."""
    store: StoreAt | None = click.get_current_context().meta.get(_STORE_KEY)
    return store
