"""Patterns of names and of targets, as policies use them: `payment.*`, `erp/invoice/*`.

`*` stands for any text, `?` for one character; everything else stands for itself, in this case of letters.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from rescind.model.step import Target
from rescind.triggers.bounds import NAME_LENGTH_MAX

REMEMBERED_MAX = 1_024
"""Answers that one set of patterns remembers. An agent that makes up names pushes out others, and nothing else."""

_UP = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)")


def names_matching(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name matches one of these patterns. Remembers its answers; threads may share it."""
    is_match = _compiled(patterns)
    remembered = lru_cache(REMEMBERED_MAX)(is_match)
    return lambda name: len(name) <= NAME_LENGTH_MAX and remembered(name)


@lru_cache(REMEMBERED_MAX)
def first_match(patterns: tuple[str, ...], name: str) -> str:
    """The first of these patterns that a name matches, however long it is; empty if none does."""
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, _shell(pattern))), "")


def targets_matching(patterns: Iterable[str]) -> Callable[[Target], bool]:
    """Whether a target matches one of these patterns: `SYSTEM`, `SYSTEM/KIND` or `SYSTEM/KIND/ID`.

    The parts are matched one by one, so that an id with slashes is never taken for a kind. Parts that a pattern leaves
    out may be anything. A target that climbs (`../`) matches only patterns that leave its id open altogether: nobody
    can tell from its name where it is.
    """
    tests = tuple(tuple(_part_test(part) for part in [*pattern.split("/", 2), "*", "*"][:3]) for pattern in patterns)

    def is_match(target: Target) -> bool:
        name, what, which = str(target.system), str(target.kind), str(target.id)
        if len(name) + len(what) + len(which) > NAME_LENGTH_MAX:
            return False
        for system, kind, identifier in tests:
            if (system is not None and not system(name)) or (kind is not None and not kind(what)):
                continue
            if identifier is None or (identifier(which) and not (".." in which and _UP.search(which))):
                return True
        return False

    return is_match


def _part_test(part: str) -> Callable[[str], bool] | None:
    """Whether a part of a target matches; None if any does."""
    if part == "*":
        return None
    return _compiled([part]) if "*" in part or "?" in part else part.__eq__


def _compiled(patterns: Iterable[str]) -> Callable[[str], bool]:
    # fnmatch's own translation: its stars are atomic, so that a name which nearly matches takes no time that grows with
    # a power of its length.
    alternatives = [fnmatch.translate(_shell(pattern)) for pattern in patterns]
    if not alternatives:
        return lambda _: False
    match = re.compile("|".join(alternatives)).match
    return lambda name: match(name) is not None


def _shell(pattern: str) -> str:
    """The pattern as a shell would write it, which knows sets in brackets besides; here a bracket is one."""
    return pattern.replace("[", "[[]")
