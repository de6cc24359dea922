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


def targets_matching(patterns: Iterable[str]) -> Callable[[Target], bool]:
    """Whether a target matches one of these patterns: `SYSTEM`, `SYSTEM/KIND` or `SYSTEM/KIND/ID`.

    The parts are matched one by one, so that an id with slashes is never taken for a kind. Parts that a pattern leaves
    out may be anything. A target that climbs (`../`) matches only patterns that leave its id open altogether: nobody
    can tell from its name where it is.
    """
    tests = [_target_test(pattern) for pattern in patterns]
    return lambda target: any(test(target) for test in tests)


def _target_test(pattern: str) -> Callable[[Target], bool]:
    parts = [*pattern.split("/", 2), "*", "*"][:3]
    system, kind, identifier = (_compiled([part]) for part in parts)
    is_open = parts[2] == "*"

    def test(target: Target) -> bool:
        name, what, which = str(target.system), str(target.kind), str(target.id)
        if max(len(name), len(what), len(which)) > NAME_LENGTH_MAX:
            return False
        if not is_open and _UP.search(which):
            return False
        return system(name) and kind(what) and identifier(which)

    return test


def _compiled(patterns: Iterable[str]) -> Callable[[str], bool]:
    # fnmatch's own translation: its stars are atomic, so that a name which nearly matches takes no time that grows with
    # a power of its length. It knows sets in brackets besides; here a bracket is one.
    alternatives = [fnmatch.translate(pattern.replace("[", "[[]")) for pattern in patterns]
    if not alternatives:
        return lambda _: False
    match = re.compile("|".join(alternatives)).match
    return lambda name: match(name) is not None
