"""How a program that an agent starts learns whose run it belongs to: through its environment.

It can only tighten: an ancestor makes more orders cover a run, and none fewer.
"""

import os

from rescind.errors import ConfigError
from rescind.model.scope import unnameable

PARENT_VARIABLE = "RESCIND_PARENT_RUN"
"""The runs that a program was started by, the nearest first, joined by `+`, which no run's id has."""

ANCESTORS_MAX = 64
"""Further ones are left out. Agents that start agents through so many programs have other troubles."""


def ancestors_of_environment() -> tuple[str, ...]:
    """The runs that this program was started by, the nearest first; empty if by none.

    Raises: ConfigError, if it names what can be no run.
    """
    said = os.environ.get(PARENT_VARIABLE, "")
    run_ids = tuple(said.split("+"))[:ANCESTORS_MAX] if said else ()
    for run_id in run_ids:
        problem = "is empty" if not run_id else unnameable(run_id)
        if problem:
            raise ConfigError(f"{PARENT_VARIABLE} names a run that {problem}: {said!r}; unset it, or name the run")
    return run_ids


def said_to_children(run_id: str, ancestors: tuple[str, ...]) -> str:
    """What the variable says to a program that this run starts."""
    return "+".join((run_id, *ancestors)[:ANCESTORS_MAX])
