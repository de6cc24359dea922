"""Who looks at what is held again and again reads each entry once, and sees what somebody sees who looks anew."""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting import CountingJournal
from guard.test_held import Post
from rescind.errors import UsageError
from rescind.journal.port import Draft
from rescind.model.entry import Verified
from rescind.recovery.held import HeldWatch, drop_held, find_held, held_of_run
from rescind.recovery.release import release_due

RUNS = 40


@pytest.fixture
def journal() -> CountingJournal:
    return CountingJournal()


@pytest.fixture
def post(journal: CountingJournal) -> Post:
    return Post(journal)


def seen(post: Post, watch: HeldWatch) -> list[str]:
    return [str(held.ref) for held in watch.held(now=post.clock.now())]


def holding(post: Post, runs: int = RUNS) -> None:
    """Each of so many runs holds a payout."""
    for number in range(runs):
        with post.run(f"run-{number}"):
            post.pay(f"ann-{number}", 1)


def working(post: Post) -> Callable[[str], None]:
    """What does something in a run of this id that is not held."""

    @post.guard.write("note.add", irreversible="it was said")
    def note(text: str) -> None:
        pass

    def work(run_id: str) -> None:
        with post.run(run_id):
            note("x")

    return work


def spoil(journal: CountingJournal, run_id: str, *, last: bool = False) -> None:
    """An entry of this run is none that can be read."""
    found = [number for number, row in enumerate(journal._rows, 1) if row.run.run_id == run_id]
    sequence = found[-1 if last else 1]
    broken = msgspec.structs.replace(journal._rows[sequence - 1], body=b'{"type":"from_the_future"}')
    journal._rows[sequence - 1] = broken  # as on a damaged disk
    journal._read.pop(sequence, None)


def test_a_second_look_at_many_holding_runs_reads_nothing_and_asks_once(post: Post, journal: CountingJournal) -> None:
    holding(post)
    watch = HeldWatch(journal)
    assert len(seen(post, watch)) == RUNS
    journal.forget()

    assert len(seen(post, watch)) == RUNS
    assert (journal.pages, journal.given) == (1, [])


def test_what_was_released_elsewhere_is_all_that_is_read(post: Post, journal: CountingJournal) -> None:
    holding(post)
    watch = HeldWatch(journal)
    first, *rest = seen(post, watch)
    drop_held(journal, "run-0", {first.rpartition("/")[2]}, because="a test", actor="ann", clock=post.clock)
    journal.forget()

    assert seen(post, watch) == rest
    assert [entry.run.run_id for entry in journal.given] == ["run-0"]


def test_where_nothing_is_held_what_others_do_is_not_read(post: Post, journal: CountingJournal) -> None:
    watch = HeldWatch(journal)
    assert seen(post, watch) == []
    work = working(post)
    for number in range(RUNS):
        work(f"other-{number}")
    journal.forget()

    assert seen(post, watch) == []
    assert sum(1 for _ in journal.given) < RUNS  # a few looks for the journal's end, of one entry each


@given(st.lists(st.sampled_from(["hold", "hold twice", "release", "drop", "wait", "run without"]), max_size=14))
def test_it_sees_what_a_new_one_sees(story: list[str]) -> None:
    journal = CountingJournal()
    post, watch = Post(journal), HeldWatch(journal)
    work = working(post)
    for number, what in enumerate(story):
        match what:
            case "hold" | "hold twice":
                with post.run(f"run-{number % 3}"):
                    post.pay(f"ann-{number}", 1)
                    if what == "hold twice":
                        post.pay(f"bob-{number}", 1)
            case "release":
                post.clock.advance(600)
                release_due(post.guard)
            case "drop":
                for held in held_of_run(journal, f"run-{number % 3}")[:1]:
                    drop_held(
                        journal, held.ref.run_id, {held.ref.step_id}, because="a test", actor="ann", clock=post.clock
                    )
            case "wait":
                post.clock.advance(10)
            case _:
                work(f"other-{number}")
        now = post.clock.now()
        assert watch.held(now=now) == HeldWatch(journal).held(now=now)


@pytest.mark.parametrize("known", [True, False])
def test_he6_what_a_run_holds_that_cannot_be_read_is_told_at_each_look_and_the_others_go_on(
    post: Post, journal: CountingJournal, *, known: bool
) -> None:
    """Known: the watch has seen it hold something before."""
    holding(post, 2)
    watch = HeldWatch(journal)
    if known:
        seen(post, watch)
    post.guard.journal.append(
        [Draft(run_id="run-0", event=Verified(step_id="0", holds=True), recorded_at_us=post.clock.now_us())]
    )
    spoil(journal, "run-0", last=True)
    post.clock.advance(timedelta(minutes=10).total_seconds())

    for released in (1, 0):
        done = release_due(post.guard, watch)
        assert len(done.released) == released
        ((run_id, why),) = done.unread
        assert (run_id, "cannot be read" in why) == ("run-0", True)
    assert post.sent == ["ann-1:1"]
    with pytest.raises(UsageError, match="what run run-0 holds cannot be told, so nothing of it is done"):
        find_held(journal, "run-0/1", now=post.clock.now())


def test_he6_an_entry_that_cannot_be_read_in_the_list_of_what_is_held_hides_nothing(
    post: Post, journal: CountingJournal
) -> None:
    holding(post, 2)
    spoil(journal, "held_run-0", last=True)
    assert len(seen(post, HeldWatch(journal))) == 2


def test_what_cannot_be_read_of_a_run_that_holds_nothing_is_passed_over(post: Post, journal: CountingJournal) -> None:
    holding(post, 2)
    watch = HeldWatch(journal)
    seen(post, watch)
    working(post)("other")
    spoil(journal, "other")
    with post.run("run-2"):
        post.pay("cleo", 1)

    assert len(seen(post, watch)) == 3
