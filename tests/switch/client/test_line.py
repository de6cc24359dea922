"""One switch as it is heard: bytes in, events one by one, and nothing that is not understood loosens anything."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import an_order
from rescind.model.level import Level
from rescind.switch.client.line import EVENT_BYTES_MAX, NOTHING_BOUND, SAME_ID_MAX, Line, Malformed
from rescind.switch.wire import BeatEvent, LiftEvent, OrderEvent, SetEvent, order_doc, sse


def a_set(*orders: str, sequence: int = 1, at_s: float = 50.0, renews: bool = True) -> bytes:
    docs = tuple(order_doc(an_order(order_id)) for order_id in orders)
    event = SetEvent(switch_id="a", sequence=sequence, at_s=at_s, renews=renews, beat_s=2.0, orders=docs)
    return sse("set", event, sequence=sequence)


def an_order_event(order_id: str, sequence: int) -> bytes:
    event = OrderEvent(sequence=sequence, order=order_doc(an_order(order_id, level=Level.PAUSED)))
    return sse("order", event, sequence=sequence)


def a_lift_event(*order_ids: str, sequence: int) -> bytes:
    return sse("lift", LiftEvent(sequence=sequence, order_ids=order_ids), sequence=sequence)


def a_beat(sequence: int, at_s: float, *, renews: bool = True) -> bytes:
    return sse("beat", BeatEvent(sequence=sequence, at_s=at_s, renews=renews))


def a_line() -> Line:
    line = Line(lease_ttl_s=10.0)
    line.begin(asked_s=100.0)
    return line


def feed(line: Line, *pieces: bytes) -> list[str]:
    return [type(taken).__name__ for piece in pieces for taken in line.feed(piece, received_s=101.0)]


STREAM = [
    a_set("o-1", "o-2", sequence=2),
    an_order_event("o-3", 3),
    b": a comment\n\n",
    a_lift_event("o-1", sequence=4),
    b"event: weather\ndata: {}\n\n",
    a_beat(5, 52.0),
]


@given(st.lists(st.integers(0, sum(map(len, STREAM))), max_size=20), st.booleans())
def test_it_does_not_matter_into_which_pieces_the_network_cuts_the_stream(cuts: list[int], crlf: bool) -> None:
    whole = b"".join(STREAM)
    if crlf:
        whole = whole.replace(b"\n", b"\r\n")
    line, places = a_line(), [0, *sorted(cuts), len(whole)]
    pieces = [whole[begin:end] for begin, end in itertools.pairwise(places)]
    pieces.append(whole[places[-1] :])
    feed(line, *pieces)
    assert set(line.orders) == {"o-2", "o-3"}
    assert (line.sequence, line.switch_id, line.beat_s) == (5, "a", 2.0)
    assert line.lease.until_s == 111.0  # the beat was heard at 101, and by the clocks not spoken before


def test_each_event_is_handed_over_before_the_next_is_taken_up() -> None:
    line = a_line()
    seen = [
        (sorted(line.orders), line.sequence, round(line.lease.until_s))
        for _ in line.feed(b"".join(STREAM), received_s=101.0)
    ]
    assert seen == [
        (["o-1", "o-2"], 2, 110),
        (["o-1", "o-2", "o-3"], 3, 110),
        (["o-2", "o-3"], 4, 110),
        (["o-2", "o-3"], 5, 111),  # spoken after 102, by the clocks, and heard at 101: so not after that
    ]


def test_a_set_replaces_and_what_stood_goes_on_until_it_comes() -> None:
    line = a_line()
    feed(line, a_set("o-1"))
    line.begin(asked_s=200.0)
    assert set(line.orders) == {"o-1"}
    feed(line, a_set("o-2"))
    assert set(line.orders) == {"o-2"}


def test_half_an_event_of_an_earlier_connection_is_forgotten() -> None:
    line = a_line()
    feed(line, a_set("o-1")[:-20])
    line.begin(asked_s=200.0)
    assert feed(line, a_set("o-2")) == ["_HeardSet"]


def test_a_switch_that_does_not_renew_is_heard_and_renews_nothing() -> None:
    line = a_line()
    feed(line, a_set("o-1", renews=False), a_beat(7, 51.0, renews=False))
    assert (set(line.orders), line.sequence) == ({"o-1"}, 7)
    assert line.lease.until_s < 0


@pytest.mark.parametrize(
    "nonsense",
    [
        b"event: order\ndata: {}\n\n",
        b"event: order\n\n",
        b"event: set\ndata: null\n\n",
        b"event: beat\ndata: {\n\n",
        b"event: lift\ndata: \xff\xff\n\n",
        b"event: beat\ndata: " + b"[" * 200_000 + b"\n\n",
        an_order_event("o-9", 9).replace(b'"paused"', b'"sleepy"'),
        an_order_event("o-9", 9).replace(b'"paused"', b'"normal"'),
        an_order_event("o-9", 9).replace(b'"everything"', b'"planet:earth"'),
        an_order_event("o-9", 9).replace(b"+00:00", b"").replace(b"00Z", b"00"),
        an_order_event("o-9", 9).replace(b'"o-9"', b'""'),
        a_set("o-8", "o-9").replace(b'"o-9"', b'""'),
    ],
)
def test_nonsense_is_malformed_and_changes_nothing(nonsense: bytes) -> None:
    line = a_line()
    feed(line, a_set("o-1", sequence=3))
    before = (dict(line.orders), line.sequence, line.lease.until_s)
    with pytest.raises(Malformed):
        feed(line, nonsense)
    assert (dict(line.orders), line.sequence, line.lease.until_s) == before


@given(st.binary(max_size=300))
def test_noise_never_raises_anything_else(noise: bytes) -> None:
    line = a_line()
    feed(line, a_set("o-1"))
    with contextlib.suppress(Malformed):
        feed(line, noise, b"\n\n")
    assert set(line.orders) == {"o-1"}


@pytest.mark.parametrize("event", [an_order_event("o-1", 1), a_lift_event("o-1", sequence=1), a_beat(1, 50.0)])
def test_nothing_is_believed_before_the_set(event: bytes) -> None:
    line = a_line()
    with pytest.raises(Malformed, match="before the set"):
        feed(line, event)
    assert line.sequence == NOTHING_BOUND


def test_an_event_without_end_is_given_up() -> None:
    line = a_line()
    with pytest.raises(Malformed, match="longer"):
        for _ in range(EVENT_BYTES_MAX // 65_536 + 2):
            feed(line, b"x" * 65_536)


@pytest.mark.parametrize("comes_in", ["a set", "events"])
def test_whoever_orders_little_under_the_id_of_a_stop_takes_nothing_of_it_away(comes_in: str) -> None:
    line, stop = a_line(), an_order("o-1", "everything")
    little = an_order("o-1", "run:elsewhere", Level.SUPERVISED)
    docs = tuple(order_doc(each) for each in (stop, little))
    if comes_in == "a set":
        event = SetEvent(switch_id="a", sequence=2, at_s=50.0, renews=True, beat_s=2.0, orders=docs)
        feed(line, sse("set", event))
    else:
        feed(line, a_set(), *(sse("order", OrderEvent(sequence=2, order=doc)) for doc in docs))
    assert line.orders == {"o-1": frozenset({stop, little})}
    feed(line, a_lift_event("o-1", sequence=3))
    assert line.orders == {}


def test_a_switch_that_gives_one_id_to_orders_without_end_is_not_believed() -> None:
    line = a_line()
    feed(line, a_set())
    with pytest.raises(Malformed, match="have one id"):
        for number in range(SAME_ID_MAX + 1):
            event = OrderEvent(sequence=2, order=order_doc(an_order("o-1", f"run:r-{number}")))
            feed(line, sse("order", event))
