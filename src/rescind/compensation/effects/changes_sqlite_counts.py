"""How many rows the changesets of a step insert, update and delete: what its entry in the journal says of them.

A changeset tells that only to who reads it from end to end, which takes a third of a millisecond for 1,000 rows. So it
is read while the commit waits for the disk, which takes longer.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from operator import attrgetter

import apsw

from rescind.compensation.effects.changes_sqlite_rows import changes_in

Counts = dict[str, dict[str, int]]
"""Rows by table, then by what became of them."""

_ASIDE_BYTES_MIN = 16_384  # some 200 rows; fewer are counted before a thread has started
_kind_of = attrgetter("opcode")


def counts_of(changesets: Mapping[str, bytes]) -> Counts:
    """Count the changes of each table's changeset."""
    found: Counts = {}
    for name, changeset in changesets.items():
        kinds = Counter(map(_kind_of, changes_in(changeset)))
        found[name] = {
            "inserted": kinds[apsw.SQLITE_INSERT],
            "updated": kinds[apsw.SQLITE_UPDATE],
            "deleted": kinds[apsw.SQLITE_DELETE],
        }
    return found


def counting(changesets: Mapping[str, bytes]) -> Callable[[], Counts]:
    """Begin to count, in a thread if that is worth one.

    Returns: what waits for the counts. Whoever does not call it leaves nothing behind but a thread that ends by itself.
    """
    if sum(map(len, changesets.values())) < _ASIDE_BYTES_MIN:
        return partial(counts_of, changesets)
    counts: Future[Counts] = Future()

    def count() -> None:
        try:
            counts.set_result(counts_of(changesets))
        except BaseException as error:  # noqa: BLE001  # raised where the counts are wanted
            counts.set_exception(error)

    try:
        threading.Thread(target=count, name="rescind-counts", daemon=True).start()
    except RuntimeError:  # there are as many threads as there may be, or the interpreter is about to end
        return partial(counts_of, changesets)
    return counts.result
