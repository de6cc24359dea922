"""What a tool's results look like: as they are declared, or else as they have been so far."""

import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rescind.errors import DeclarationError

if TYPE_CHECKING:
    from rescind.triggers.learned import LearnedShapes
    from rescind.triggers.schema import Shape

_UNKNOWN: Any = object()


class Results:
    """The results of one tool. Nothing is looked at before somebody watches."""

    def __init__(self, function: Callable[..., Any], name: str, declared: Any = None) -> None:
        """Results of this function.

        Args:
            function: The tool. What its annotation says holds, if nothing else is declared.
            name: The action.
            declared: A type or a JSON Schema; None for the annotation.

        Raises: DeclarationError, if a schema cannot be understood.
        """
        self._function, self._name = function, name
        self._shape: Shape | None = _UNKNOWN
        if declared is not None:
            from rescind.triggers.schema import shape_of  # only who declares something needs it

            try:
                self._shape = shape_of(declared)
            except ValueError as error:
                raise DeclarationError(f"{name}: returns= cannot be understood: {error}") from error

    def problem_with(self, result: Any, learned: "LearnedShapes") -> str:
        """What is wrong with a result, for people; empty if nothing is. Never raises."""
        if self._shape is _UNKNOWN:
            self._shape = self._of_annotation()
        if self._shape is not None:
            return self._shape.problem_with(result)
        return "" if result is None else learned.problem_with(self._name, result)

    def _of_annotation(self) -> "Shape | None":
        from rescind.triggers.schema import shape_of

        try:
            hint = typing.get_type_hints(self._function, include_extras=True).get("return")
        except Exception:  # noqa: BLE001  # an annotation may name what only a type checker can find
            return None
        return shape_of(hint)
