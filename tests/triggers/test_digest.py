"""People hear of a thing once, and then in digests that come more and more rarely."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rescind.triggers.digest import INTERVALS_S, SUBJECTS_MAX, Tally, Word, digest_text


def words_of(moments: list[float], tally: Tally | None = None) -> list[Word]:
    tally = tally or Tally()
    return [word for at_s in moments if (word := tally.heard("refunds", at_s)) is not None]


def test_the_first_signal_is_said_at_once_and_the_rest_in_growing_intervals() -> None:
    words = words_of([float(second) for second in range(12_000)])
    moments = [0, 60, 360, 2_160, 5_760, 9_360]
    assert [word.total for word in words] == [second + 1 for second in moments]
    assert [word.is_first for word in words] == [True, False, False, False, False, False]
    assert words[2].text == "300 more signals in 5 min, 361 in all"


def test_of_a_quiet_time_nothing_is_said_and_what_is_left_over_is_told_when_it_is_due() -> None:
    tally = Tally()
    assert len(words_of([0, 1, 2], tally)) == 1
    assert tally.due(59) == ()
    (word,) = tally.due(60)
    assert (word.more, word.total) == (2, 3)
    assert tally.due(10_000) == ()


def test_subjects_do_not_share_their_words() -> None:
    tally = Tally()
    assert tally.heard("refunds", 0) is not None
    assert tally.heard("mails", 0) is not None
    assert tally.heard("mails", 1) is None


def test_subjects_are_bounded_and_the_quietest_is_forgotten() -> None:
    tally = Tally()
    for number in range(SUBJECTS_MAX + 1):
        tally.heard(f"subject {number}", 0)
    assert tally.heard("subject 2", 1) is None
    again = tally.heard("subject 0", 1)
    assert again is not None
    assert again.is_first


@given(
    st.lists(st.floats(0, 50_000), min_size=1, max_size=200).map(sorted), st.lists(st.floats(0, 60_000), max_size=20)
)
def test_every_signal_is_counted_once_and_words_keep_their_distance(signals: list[float], looks: list[float]) -> None:
    tally, said = Tally(), list[tuple[float, Word]]()
    for at_s, is_signal in sorted([(at_s, True) for at_s in signals] + [(at_s, False) for at_s in looks]):
        words = [tally.heard("x", at_s)] if is_signal else tally.due(at_s)
        said += [(at_s, word) for word in words if word is not None]
    said += [(100_000, word) for word in tally.due(100_000)]
    assert sum(word.more for _, word in said) == len(signals) == said[-1][1].total
    for number, ((before_s, _), (after_s, _)) in enumerate(itertools.pairwise(said)):
        assert after_s - before_s >= INTERVALS_S[min(number, len(INTERVALS_S) - 1)]


def test_a_digest_speaks_of_one_signal_and_of_many_hours() -> None:
    assert digest_text(1, 2, 61) == "1 more signal in 61 s, 2 in all"
    assert digest_text(4_000, 5_000, 7_200) == "4,000 more signals in 2 h, 5,000 in all"
