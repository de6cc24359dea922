"""What every command takes: where the store is, whether to answer in JSON, whether to show tracebacks."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rescind.cli.out import Out

F = TypeVar("F", bound=Callable[..., Any])

STORE_HELP = "Folder with journal and standing orders."
JSON_HELP = "Answer with one JSON object."
DEBUG_HELP = "Show tracebacks."
ACTOR_HELP = "On whose behalf; you by default."

_STORE_KEY = "rescind.store"


def remember_store(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Keep `--store` for the command, wherever on the line it was given; the last one counts."""
    if value is not None:
        ctx.meta[_STORE_KEY] = Path(value).absolute()
    return value


def common(function: F) -> F:
    """Give a command `--store`, `--json` and `--debug`; it is called with `out` in place of `json`."""

    @click.option(
        "--store", type=click.Path(), metavar="DIR", help=STORE_HELP, callback=remember_store, expose_value=False
    )
    @click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
    @click.option("--debug", is_flag=True, expose_value=False, help=DEBUG_HELP)
    @functools.wraps(function)
    def with_out(*args: Any, as_json: bool, **kwargs: Any) -> Any:
        return function(*args, out=Out(json=as_json), **kwargs)

    return with_out  # type: ignore[return-value]  # click replaces it by a command anyway


def given_store() -> Path | None:
    """The folder that `--store` named, absolute; None if it was not given."""
    store: Path | None = click.get_current_context().meta.get(_STORE_KEY)
    return store
