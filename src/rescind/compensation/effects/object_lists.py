"""Taking one edit of a list out of it while later edits of others stay: a merge of three versions.

What the step left is the base; one side is the way back to what was there before, the other what has become of it
since. Where both sides touch the same elements, or it cannot be told on which side of a returning element a new one
belongs, that is a conflict, and never a guess.
"""

from difflib import SequenceMatcher
from typing import Any

from rescind.compensation.effects.object_parts import key_of, same

Hunk = tuple[int, int, list[Any]]
"""Elements from here to there are replaced by these."""

_COMPARED_MAX = 2_000  # elements; beyond it a stretch that differs counts as one edit, since finer costs a square


def hunks(old: list[Any], new: list[Any]) -> list[Hunk]:
    """The edits that make `new` of `old`, in order, not touching each other."""
    start, end_old, end_new = 0, len(old), len(new)
    while start < end_old and start < end_new and same(old[start], new[start]):
        start += 1
    while end_old > start and end_new > start and same(old[end_old - 1], new[end_new - 1]):
        end_old, end_new = end_old - 1, end_new - 1
    if start == end_old and start == end_new:
        return []
    if start in (end_old, end_new) or end_old - start + end_new - start > _COMPARED_MAX:
        return [(start, end_old, new[start:end_new])]
    matcher = SequenceMatcher(
        None, list(map(key_of, old[start:end_old])), list(map(key_of, new[start:end_new])), autojunk=False
    )
    return [
        (start + i1, start + i2, new[start + j1 : start + j2])
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    ]


def merged(base: list[Any], back: list[Any], now: list[Any]) -> list[Any] | None:
    """`now` with the edits from `base` to `back` made in it too; None if that is a conflict."""
    ours, theirs = hunks(base, back), hunks(base, now)
    if any(_touch(one, other) for one in ours for other in theirs):
        return None
    result = list(base)
    # At one place an edit that only inserts comes after one that ends there, so from behind it is made first.
    for start, end, elements in sorted([*ours, *theirs], key=lambda hunk: (hunk[0], hunk[1]), reverse=True):
        result[start:end] = elements
    return result


def _touch(ours: Hunk, theirs: Hunk) -> bool:
    (a1, a2, _), (b1, b2, _) = ours, theirs
    if a1 == a2:  # elements return between two others: whoever edited just there may have meant either side
        return b1 <= a1 <= b2
    return a1 < b1 < a2 if b1 == b2 else max(a1, b1) < min(a2, b2)
