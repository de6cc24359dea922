"""Appending right behind what was read: laws BH1-BH3."""

import threading

import pytest

from builders import NOON_US, opened
from rescind.errors import SequenceConflict, UsageError
from rescind.journal.behind import again, drafts_behind
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Query
from rescind.model.entry import Event, Verified

RUN, OTHER = "run-1", "run-2"


@pytest.fixture
def journal() -> MemoryJournal:
    made = MemoryJournal()
    made.append([opened(RUN), opened(OTHER)])
    return made


def told(number: int) -> Event:
    return Verified(step_id=str(number), holds=True)


def numbers(journal: MemoryJournal, run_id: str = RUN) -> list[int]:
    entries = journal.entries(Query(run_id=run_id), limit=10_000)
    return [int(entry.event.step_id) for entry in entries if isinstance(entry.event, Verified)]


def test_what_stands_beside_comes_with_it_or_not_at_all(journal: MemoryJournal) -> None:
    """BH1: only the positions of the run that was read are expected."""
    journal.append(drafts_behind(RUN, [(OTHER, told(0)), (RUN, told(1)), (RUN, told(2))], position=0, at_us=NOON_US))
    assert (numbers(journal), numbers(journal, OTHER)) == ([1, 2], [0])

    late = drafts_behind(RUN, [(OTHER, told(3)), (RUN, told(4))], position=0, at_us=NOON_US)
    with pytest.raises(SequenceConflict):
        journal.append(late)
    assert (numbers(journal), numbers(journal, OTHER)) == ([1, 2], [0])


def test_a_run_that_is_not_there_yet_is_opened_once(journal: MemoryJournal) -> None:
    opening = [("run-3", opened("run-3").event), ("run-3", told(0))]
    journal.append(drafts_behind("run-3", opening, position=-1, at_us=NOON_US))
    with pytest.raises(SequenceConflict):
        journal.append(drafts_behind("run-3", opening, position=-1, at_us=NOON_US))


def test_many_that_count_on_from_what_they_read_leave_no_gap_and_say_nothing_twice(journal: MemoryJournal) -> None:
    """BH2."""
    at_once = threading.Barrier(8)

    def count_on() -> None:
        at_once.wait()
        for _ in range(20):
            again(one_more, turns=1_000)

    def one_more() -> None:
        head = journal.head(RUN)
        assert head is not None
        number = len(numbers(journal))
        journal.append(drafts_behind(RUN, [(RUN, told(number))], position=head.position, at_us=NOON_US))

    threads = [threading.Thread(target=count_on) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert numbers(journal) == list(range(160))


def test_who_is_never_first_is_told_so_and_has_appended_nothing(journal: MemoryJournal) -> None:
    """BH3."""
    turns: list[int] = []

    def too_late() -> None:
        turns.append(len(turns))
        journal.append([Draft(run_id=RUN, event=told(len(turns)), recorded_at_us=NOON_US)])  # somebody else is first
        journal.append(drafts_behind(RUN, [(RUN, told(1_000))], position=0, at_us=NOON_US))

    with pytest.raises(UsageError, match="all the time") as said:
        again(too_late, busy=UsageError("others write there all the time"), turns=5)
    assert isinstance(said.value.__cause__, SequenceConflict)
    with pytest.raises(SequenceConflict):
        again(too_late, turns=1)

    assert len(turns) == 6
    assert 1_000 not in numbers(journal)


def test_what_else_a_turn_raises_is_raised_at_once() -> None:
    turns: list[int] = []

    def refuse() -> None:
        turns.append(1)
        raise UsageError("it is decided already")

    with pytest.raises(UsageError, match="decided already"):
        again(refuse)
    assert turns == [1]
