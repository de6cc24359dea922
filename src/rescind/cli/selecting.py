"""The options that choose steps: the same for every command that is about some."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from rescind.cli.moments import parse_moment
from rescind.errors import UsageError

if TYPE_CHECKING:
    from rescind.compensation.planning.selection import Selection

F = TypeVar("F", bound=Callable[..., Any])


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The options as they were typed. See `Selection`."""

    run_ids: tuple[str, ...] = ()
    trace_id: str | None = None
    agent: str | None = None
    tenant: str | None = None
    since: str | None = None
    until: str | None = None
    actions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    to_checkpoint: str | None = None

    def selection(self, *, to: str, **further: Any) -> "Selection":
        """What they choose; `to` is the verb for messages, such as `undo`. Raises: UsageError."""
        from rescind.compensation.planning.selection import Selection

        given = msgspec.structs.asdict(self)
        if not any(value for name, value in given.items() if name != "exclude"):
            raise UsageError(
                f"say what to {to}: --run, --trace, --agent, --tenant, --since, --until, --action, --target, "
                "--to-checkpoint, or several of them"
            )
        for name in ("since", "until"):
            given[name] = None if given[name] is None else parse_moment(given[name], option=f"--{name}")
        return Selection(**given, **further)


_OPTIONS = (
    click.option("--run", "run_ids", multiple=True, metavar="ID", help="This run; may be repeated."),
    click.option("--trace", "trace_id", metavar="ID", help="This trace; the beginning of an id will do."),
    click.option("--agent", metavar="NAME[@VERSION]", help="What this agent did."),
    click.option("--tenant", metavar="NAME", help="What was done for this tenant."),
    click.option("--since", metavar="TIME", help="What was begun from this moment on."),
    click.option("--until", metavar="TIME", help="What was begun before this moment."),
    click.option("--action", "actions", multiple=True, metavar="NAME", help="Only this action; may be repeated."),
    click.option(
        "--target", "targets", multiple=True, metavar="SYSTEM[/KIND[/ID]]", help="Only what touched it; repeatable."
    ),
    click.option(
        "--exclude", multiple=True, metavar="WHAT", help="Not this: RUN/STEP, an action or a target; repeatable."
    ),
    click.option(
        "--to-checkpoint", metavar="ID", help="What was done since: a checkpoint of a run, or of LangGraph (THREAD/ID)."
    ),
)


def selecting(function: F) -> F:
    """Give a command the options that choose steps; it takes them as `chosen`."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        chosen = Chosen(**{name: given.pop(name) for name in Chosen.__struct_fields__})
        return function(chosen=chosen, **given)

    wrapped: Any = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]  # it is called as the function was
