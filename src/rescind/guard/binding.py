"""Gives a small function of a declaration those of the tool's arguments that it names, as pytest gives fixtures."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rescind.errors import DeclarationError, UsageError


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
            parameters = tuple(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise DeclarationError(f"{role} must be a function of the tool's arguments, not {function!r}") from error
        if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
            raise DeclarationError(f"{role} must name the arguments that it takes; `*args` have no names")
        self.function, self._role = function, role
        self._takes_rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        named = tuple(parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)
        self._positional = tuple(each.name for each in named if each.kind is each.POSITIONAL_ONLY)
        self._keyword = tuple(each.name for each in named if each.kind is not each.POSITIONAL_ONLY)
        self.parameters = frozenset(each.name for each in named if each.default is each.empty)
        """The arguments that it cannot do without."""

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """What the function says of these arguments.

        Raises: MissingArgument, or whatever the function raises.
        """
        if not self.parameters <= arguments.keys():
            missing = sorted(self.parameters - arguments.keys())
            raise MissingArgument(
                f"{self._role} takes {', '.join(missing)}, and the call has only {', '.join(arguments) or 'none'}; "
                "use the names of the tool's parameters"
            )
        positional = [arguments[name] for name in self._positional if name in arguments]
        keyword = {name: arguments[name] for name in self._keyword if name in arguments}
        if self._takes_rest:
            named = {*self._positional, *self._keyword}
            keyword |= {name: value for name, value in arguments.items() if name not in named}
        return self.function(*positional, **keyword)
