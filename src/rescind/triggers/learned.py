"""The shapes of results, learned from those that came: which keys are always there, with values of which kind."""

from typing import Any

import msgspec

from rescind.triggers.bounds import NAME_LENGTH_MAX, check_whole, shown


class LearnedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How results' shapes are learned.

    Attributes:
        results_min: So many results of an action are looked at before one of them can differ.
        actions_max: Actions whose shapes are kept; further ones are not learned.
    """

    results_min: int = 20
    actions_max: int = 256

    def __post_init__(self) -> None:
        check_whole("results_min", self.results_min, 2, 1_000_000)
        check_whole("actions_max", self.actions_max, 1, 10_000)


KEYS_MAX = 64
"""Keys of one action's results that are looked at: those of its first result."""


class _Learned:
    """One action's results so far: by key that was always there, the kinds of its values."""

    __slots__ = ("kinds", "results")

    def __init__(self, first: object) -> None:
        self.results = 1
        self.kinds = {"": {_kind_of(first)}}  # the empty key is the result itself
        for name, value in _fields_of(first).items():
            if len(self.kinds) > KEYS_MAX:
                break
            if type(name) is str and name and len(name) <= NAME_LENGTH_MAX:
                self.kinds[name] = {_kind_of(value)}


class LearnedShapes:
    """What the results of actions have looked like, in one process.

    A difference is told once: what has come once may come again. Threads may share it; a result that comes while
    another one is looked at may then go uncounted.
    """

    def __init__(self, config: LearnedConfig | None = None) -> None:
        """Nothing is known yet."""
        self._config = config or LearnedConfig()
        self._actions: dict[str, _Learned] = {}

    def problem_with(self, action: str, result: object) -> str:
        """How a result differs from those before: a key is gone, or has a value of another kind. Never raises.

        Returns: empty, while fewer than `results_min` results are known.
        """
        try:
            return self._difference(action, result)
        except RuntimeError:  # another thread has changed the result, or what is known, while it was looked at
            return ""

    def _difference(self, action: str, result: object) -> str:
        learned = self._actions.get(action)
        if learned is None:
            if len(self._actions) < self._config.actions_max and len(action) <= NAME_LENGTH_MAX:
                self._actions[action] = _Learned(result)
            return ""
        before = learned.results
        learned.results += 1
        fields, problem = _fields_of(result), ""
        for name, known in list(learned.kinds.items()):
            if name and name not in fields:
                learned.kinds.pop(name, None)
                problem = problem or f"{_place(name)} was there in {before} results, and is gone"
                continue
            kind = _kind_of(fields[name] if name else result)
            if kind not in known:
                was = " or ".join(sorted(known))
                known.add(kind)
                problem = problem or f"{_place(name)} was {was} in {before} results, and is {kind}"
        return problem if before >= self._config.results_min else ""


def _place(name: str) -> str:
    return f"`{shown(name, 60)}`" if name else "the result"


def _fields_of(result: Any) -> dict[Any, Any]:
    """The fields of a result, of a list those of its first item; none, if it is no plain object."""
    first: Any = result
    if type(result) is list and result:
        first = first[0]
    fields: dict[Any, Any] = first
    return fields if type(first) is dict else {}


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return "something else"
