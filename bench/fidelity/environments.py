"""What the scorer knows of an environment: tasks that make worlds, and calls on them."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Tool = Callable[..., Any]
Tools = Mapping[str, Tool]
Invoke = Callable[[Tools], Any]
"""One call of a task: it calls one tool, or several that are nested, and returns what came back."""


@dataclass
class World:
    """A fresh environment.

    Attributes:
        state: Everything that a call may change, however it is nested.
        tools: The tools, by the names that calls use; bound to this state.
        calls: What each run does, in order.
    """

    state: Any
    tools: Tools
    calls: tuple[list[Invoke], ...]


@dataclass(frozen=True)
class Task:
    """Makes equal worlds, as often as it is asked.

    Attributes:
        name: Unique in its benchmark.
        fresh: Makes a world with one run, or with two in the case of a pair.
    """

    name: str
    fresh: Callable[[], World]


@dataclass
class Answers:
    """What came back in one run: each result as it was at once, and all of them in the end."""

    hashes: list[str] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)


Around = Callable[[str, int], contextlib.AbstractContextManager[Any]]
"""Makes time and chance logical inside of a tool: a function of the run and of the number of its call."""


def as_it_is(_run: str, _number: int) -> contextlib.AbstractContextManager[Any]:
    """For environments that look at no clock."""
    return contextlib.nullcontext()
