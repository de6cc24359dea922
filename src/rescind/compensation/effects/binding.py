"""Gives a small function of a declaration those of the tool's arguments that it names, as pytest gives fixtures."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rescind.errors import DeclarationError, UsageError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY,)


class MissingArgument(UsageError):
    """A declaration asks for an argument that the call does not have, or that was left out of the journal."""


class Binding:
    """A function of some of the tool's arguments.

        path_of = Binding(lambda name: f"{name}.txt", role="path")
        path_of({"name": "report", "body": "…"})    # "report.txt"

    A parameter with a default may be missing; one declared as `**rest` receives every argument not named before it.
    """

    def __init__(self, function: Callable[..., Any], *, role: str) -> None:
        """Bind `function`; `role` is what messages call it, such as `rows`.

        Raises: DeclarationError, if it is no function, or takes `*args`, which have no names.
        """
        try:
            self._parameters = tuple(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise DeclarationError(f"{role} must be a function of the tool's arguments, not {function!r}") from error
        if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in self._parameters):
            raise DeclarationError(f"{role} must name the arguments that it takes; `*args` have no names")
        self._function, self._role = function, role

    @property
    def parameters(self) -> frozenset[str]:
        """The arguments that it cannot do without."""
        return frozenset(
            parameter.name
            for parameter in self._parameters
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        )

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """What the function says of these arguments.

        Raises: MissingArgument, or whatever the function raises.
        """
        missing = sorted(self.parameters - arguments.keys())
        if missing:
            raise MissingArgument(
                f"{self._role} takes {', '.join(missing)}, and the call has only {', '.join(arguments) or 'none'}; "
                "use the names of the tool's parameters"
            )
        named = [p for p in self._parameters if p.name in arguments and p.kind is not p.VAR_KEYWORD]
        positional = [arguments[p.name] for p in named if p.kind in _POSITIONAL]
        keyword = {p.name: arguments[p.name] for p in named if p.kind not in _POSITIONAL}
        if any(p.kind is p.VAR_KEYWORD for p in self._parameters):
            keyword |= {name: value for name, value in arguments.items() if name not in {p.name for p in named}}
        return self._function(*positional, **keyword)
