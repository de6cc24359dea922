"""The book against the definition of the set: whatever comes, how often and in which order."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, an_order
from rescind.model.level import Level
from rescind.model.order import Consent, Lift, LiftRule, Order, OrderSet
from rescind.switch.service.book import Book

IDS = ("ord-1", "ord-2", "ord-3")

orders = st.builds(an_order, st.sampled_from(IDS), level=st.sampled_from([Level.READ_ONLY, Level.HALTED]))
lifts = st.builds(
    lambda lift_id, ids: Lift(lift_id=lift_id, order_ids=frozenset(ids), reason="a test", actor="ops", lifted_at=NOON),
    st.sampled_from(["lift-1", "lift-2"]),
    st.sets(st.sampled_from(IDS), min_size=1),
)
consents = st.builds(
    lambda lift_id, ids, switch, person: Consent(
        lift_id=lift_id, order_ids=frozenset(ids), switch_id=switch, person=person, consented_at=NOON
    ),
    st.sampled_from(["lift-1", "lift-2"]),
    st.sets(st.sampled_from(IDS), min_size=1),
    st.sampled_from(["sw-a", "sw-b"]),
    st.sampled_from(["alice", "bob"]),
)
contents = st.lists(st.one_of(orders, lifts, consents), max_size=14)
rules = st.builds(LiftRule, st.integers(0, 2), st.integers(0, 2))

Content = Order | Lift | Consent


def book_of(rule: LiftRule, said: list[Content]) -> Book:
    book = Book(rule)
    for content in said:
        book.take_up(content)
    return book


def defined(rule: LiftRule, said: list[Content]) -> tuple[Order, ...]:
    given_consents = [content for content in said if isinstance(content, Consent)]
    in_force = [
        content for content in said if isinstance(content, Lift) and rule.missing(content, given_consents) == (0, 0)
    ]
    return OrderSet.of([content for content in said if isinstance(content, Order)], in_force).standing


@given(rules, contents)
def test_what_stands_is_what_the_definition_says(rule: LiftRule, said: list[Content]) -> None:
    assert set(book_of(rule, said).standing) == set(defined(rule, said))


@given(rules, contents, st.randoms(use_true_random=False), st.integers(0, 3))
def test_o1_neither_order_nor_repetition_of_arrival_changes_anything(
    rule: LiftRule, said: list[Content], random: "object", repeats: int
) -> None:
    again = said + said[:repeats]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert set(book_of(rule, again).standing) == set(book_of(rule, said).standing)


@given(rules, contents)
def test_o2_a_stop_that_no_lift_names_survives_them_all(rule: LiftRule, said: list[Content]) -> None:
    unseen = an_order("ord-unseen")
    for place in range(len(said) + 1):
        assert unseen in book_of(rule, [*said[:place], unseen, *said[place:]]).standing


@given(rules, contents)
def test_o3_what_was_lifted_once_never_stands_again(rule: LiftRule, said: list[Content]) -> None:
    book, lifted = Book(rule), set[str]()
    for content in said:
        lifted.update(book.take_up(content).lifted)
        assert not lifted & {order.order_id for order in book.standing}


@given(rules, contents)
def test_changes_told_to_a_stream_add_up_to_what_stands(rule: LiftRule, said: list[Content]) -> None:
    book, heard = Book(rule), list[Order]()
    for content in said:
        change = book.take_up(content)
        if change.placed is not None:
            heard.append(change.placed)
        heard = [order for order in heard if order.order_id not in change.lifted]
    assert sorted(heard, key=str) == sorted(book.standing, key=str)


def test_o5_a_lift_waits_until_two_persons_and_two_switches_have_consented() -> None:
    book, order = Book(LiftRule(switches=2, persons=2)), an_order()
    lift = Lift(lift_id="lift-1", order_ids=frozenset({"ord-1"}), reason="ok", actor="ops", lifted_at=NOON)

    def consent(switch: str, person: str) -> Consent:
        return Consent(
            lift_id="lift-1", order_ids=lift.order_ids, switch_id=switch, person=person,
            consented_at=NOON + timedelta(seconds=1),
        )  # fmt: skip

    for content in (order, lift, consent("sw-a", "alice"), consent("sw-b", "alice")):
        assert not book.take_up(content).lifted
    assert book.waiting == (lift,)
    assert book.missing(lift) == (0, 1)
    assert book.take_up(consent("sw-a", "bob")).lifted == ("ord-1",)
    assert book.standing == ()
