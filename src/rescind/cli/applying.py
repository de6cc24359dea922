"""The options that say how a plan is shown and applied: the same for every command that makes one."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from rescind.cli.app import APP_VARIABLE
from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, given_store
from rescind.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

DIGITS_MIN = 8
"""Digits of a digest that are enough to mean it."""


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    """The options as they were typed. See `UndoRequest`."""

    app: str | None
    apply: bool
    shown: str | None
    stop_first: bool
    sure: bool
    within_s: float | None
    parallel: int | None
    workers: bool | None
    no_wait: bool
    tree: bool
    every: bool
    actor: str | None
    reason: str

    def fields(self) -> dict[str, Any]:
        """What they mean, as fields of an `UndoRequest`. Raises: UsageError, for what means nothing together."""
        only_applied: dict[str, object] = {
            "--plan": self.shown,
            "--stop-first": self.stop_first,
            "--yes": self.sure,
            "--within": self.within_s,
            "--workers": self.workers and self.app is not None,  # without the tools here, they plan as well
            "--no-wait": self.no_wait,
        }
        refuse_without_apply(self.apply, only_applied)
        if self.no_wait and self.workers is False:
            raise UsageError("--no-wait leaves it to the workers, and --here does it here; give one of them")
        refuse_no_digest("--plan", self.shown)
        fields = msgspec.structs.asdict(self)
        del fields["no_wait"]
        return fields | {
            "shown": None if self.shown is None else self.shown.lower(),
            "wait": not self.no_wait,
            "actor": self.actor or whoami(),
            "store": given_store(),
        }


def refuse_no_digest(name: str, text: str | None) -> None:
    """Refuse what was given under this name, if it cannot be the beginning of a digest. Raises: UsageError."""
    if text is not None and (len(text) < DIGITS_MIN or not set(text.lower()) <= set("0123456789abcdef")):
        raise UsageError(f"{name} {text!r} is no digest; give {DIGITS_MIN} or more of the digits that were shown")


def refuse_without_apply(apply: bool, options: dict[str, object]) -> None:
    """Refuse options that say how to apply, without `--apply`. Raises: UsageError."""
    given = [name for name, value in options.items() if value]
    if given and not apply:
        raise UsageError(f"{' and '.join(given)} only mean something with --apply; add it, or leave them out")


def _read_within(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """The time that `--within` names, in seconds; None if it was not given."""
    from rescind.cli.durations import parse_duration

    try:
        return None if text is None else parse_duration(text, least_s=1.0, most_s=604_800.0)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.option(
        "--app",
        envvar=APP_VARIABLE,
        metavar="MODULE[:GUARD]",
        help=f"Where your tools are declared, or {APP_VARIABLE}.",
    ),
    click.option("--apply", "apply", is_flag=True, help="Do it. See above."),
    click.option("--plan", "shown", metavar="DIGEST", help="With --apply: only this plan, or the rest of it."),
    click.option("--stop-first", is_flag=True, help="With --apply: hold runs that may still write at read_only."),
    click.option("--yes", "-y", "sure", is_flag=True, help="With --apply: do not ask."),
    click.option(
        "--within",
        "within_s",
        callback=_read_within,
        metavar="TIME",
        help="With --apply: begin no step after so long, such as 10m; the rest is left for later.",
    ),
    click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Steps at once; 8 by default."),
    click.option("--workers/--here", default=None, help="Leave it to `rescind worker`, or do it here."),
    click.option("--no-wait", is_flag=True, help="With --workers: do not wait for its end."),
    click.option("--tree", is_flag=True, help="Show the plan by dependency."),
    click.option("--all", "every", is_flag=True, help="Show every step of a long plan."),
    click.option("--actor", metavar="NAME", help=ACTOR_HELP),
    click.option("--reason", default="", metavar="TEXT", help="Why; kept in the journal."),
)


def applying(function: F) -> F:
    """Give a command the options that show and apply a plan; it takes them as `how`."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        how = Applying(**{name: given.pop(name) for name in Applying.__struct_fields__})
        return function(how=how, **given)

    wrapped: Any = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]  # it is called as the function was
