"""Runs of a journal, where it ends, and names that somebody may have meant."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rescind.errors import EntryUnreadable, NameUnknown, UsageError
from rescind.journal.port import Journal, Query
from rescind.model.entry import Entry
from rescind.model.step import RunInfo

PREFIX_MIN = 4
"""Characters of an id that are enough to mean it, if they fit only one. Fewer are too easily a slip."""

_NAMES_MAX = 100_000  # Names looked through for one that was meant. Enough for years; then the hint is left out.


def last_sequence(journal: Journal, *, at_least: int = 0) -> int:
    """The sequence of the journal's last entry, found by halving; `at_least` is one that there is, or 0."""
    step = 1
    while _reaches(journal, at_least + step):
        at_least, step = at_least + step, step * 2
    while step > 1:
        step //= 2
        if _reaches(journal, at_least + step):
            at_least += step
    return at_least


def last_entry(journal: Journal, query: Query, *, after: int) -> Entry | None:
    """The last entry that matches and can be read, of those after this sequence; None if there is none. By halving."""
    found: Entry | None = None
    low, high = after, last_sequence(journal, at_least=after)
    while low < high:
        middle = (low + high) // 2
        try:
            page = journal.entries(query, after=middle, limit=1)
        except EntryUnreadable as gap:
            low = max(middle + 1, gap.sequence)
            continue
        if page:
            found, low = page[0], page[0].sequence
        else:
            high = middle
    return found


def _reaches(journal: Journal, sequence: int) -> bool:
    try:
        return bool(journal.entries(Query(), after=sequence - 1, limit=1))
    except EntryUnreadable:  # it is there all the same
        return True


def every_run(journal: Journal, query: Query) -> Iterator[RunInfo]:
    """All runs with a matching entry, by run id."""
    after_run = ""
    while page := journal.runs(query, after_run=after_run):
        yield from page
        after_run = page[-1].run_id


def the_one_meant(text: str, known: Iterable[str], *, what: str) -> str:
    """The known name that is `text`, or the only one that begins with it.

    Raises: UsageError, which says which are possible, or which is nearest.
    """
    names = _some(known)
    if text in names:
        return text
    begin = [name for name in names if name.startswith(text)] if len(text) >= PREFIX_MIN else []
    if len(begin) == 1:
        return begin[0]
    if begin:
        shown = ", ".join(sorted(begin)[:5])
        raise UsageError(f"{what} {text!r} could be any of {len(begin)}: {shown}; write more of it")
    raise unknown_name(text, names, what=what)


def unknown_name(text: str, known: Iterable[str], *, what: str) -> NameUnknown:
    """The error that says that the journal does not know this name, and which one may have been meant."""
    names = _some(known)
    nearest = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {len(names)}" if names else "; there is none"
    return NameUnknown(f"the journal knows no {what} {text!r}{hint}")


def _some(names: Iterable[str]) -> Sequence[str]:
    return list(dict.fromkeys(islice(names, _NAMES_MAX)))
