"""The book against the definition in `model.order`, for any order of arrival (laws O1 to O5)."""

from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, an_order
from rescind.model.level import Level
from rescind.model.order import Consent, Lift, LiftRule, Order, OrderSet
from rescind.switch.service.book import LIFTED_TOLD_MAX, Book

Content = Order | Lift | Consent

IDS = ("o1", "o2", "o3", "o4")

orders = st.builds(
    an_order,
    st.sampled_from(IDS),
    st.sampled_from(("everything", "agent:x", "tenant:acme+agent:y")),
    st.sampled_from((Level.READ_ONLY, Level.HALTED)),
)
some_ids = st.frozensets(st.sampled_from(IDS), min_size=1, max_size=3)
lifts = st.builds(
    lambda lift_id, order_ids: Lift(lift_id=lift_id, order_ids=order_ids, reason="", actor="", lifted_at=NOON),
    st.sampled_from(("l1", "l2")),
    some_ids,
)
consents = st.builds(
    lambda lift_id, order_ids, switch, person, later: Consent(
        lift_id=lift_id,
        order_ids=order_ids,
        switch_id=switch,
        person=person,
        consented_at=NOON + timedelta(seconds=later),
    ),
    st.sampled_from(("l1", "l2")),
    some_ids,
    st.sampled_from(("sw_a", "sw_b")),
    st.sampled_from(("alice", "bob")),
    st.integers(0, 1),
)
rules = st.builds(LiftRule, st.integers(1, 2), st.integers(1, 2))


@st.composite
def histories(draw: st.DrawFn) -> list[Content]:
    """What may arrive: consents mostly to lifts that there are, and everything more than once."""
    placed = draw(st.lists(orders, max_size=6))
    lifted = draw(st.lists(lifts, max_size=3))
    given_to = [
        replaced(draw(consents), lift) if draw(st.booleans()) else draw(consents)
        for lift in lifted
        for _ in range(draw(st.integers(0, 3)))
    ]
    everything: list[Content] = [*placed, *lifted, *given_to]
    repeated = draw(st.lists(st.sampled_from(everything), max_size=5)) if everything else []
    return draw(st.permutations([*everything, *repeated]))


def replaced(consent: Consent, lift: Lift) -> Consent:
    return Consent(
        lift_id=lift.lift_id,
        order_ids=lift.order_ids,
        switch_id=consent.switch_id,
        person=consent.person,
        consented_at=consent.consented_at,
    )


def defined(history: list[Content], rule: LiftRule) -> tuple[Order, ...]:
    """What stands, by the definition."""
    given = [each for each in history if isinstance(each, Consent)]
    in_force = [each for each in history if isinstance(each, Lift) and rule.missing(each, given) == (0, 0)]
    return OrderSet.of((each for each in history if isinstance(each, Order)), in_force).standing


def filled(history: list[Content], rule: LiftRule) -> Book:
    book = Book(rule)
    for content in history:
        book.take_up(content)
    return book


@given(histories(), rules)
def test_what_stands_is_what_the_definition_says(history: list[Content], rule: LiftRule) -> None:
    assert filled(history, rule).standing == defined(history, rule)


@given(histories(), rules, st.randoms(use_true_random=False))
def test_o1_neither_order_nor_repetition_matters(history: list[Content], rule: LiftRule, chance: Random) -> None:
    shuffled = [*history, *history]
    chance.shuffle(shuffled)

    assert filled(shuffled, rule).standing == filled(history, rule).standing


@given(histories(), rules)
def test_the_changes_tell_a_guard_the_same_as_the_whole(history: list[Content], rule: LiftRule) -> None:
    book, heard, lifted = Book(rule), dict[Order, None](), set[str]()
    for content in history:
        change = book.take_up(content)
        lifted |= set(change.lifted)
        if change.placed is not None:
            heard[change.placed] = None
        assert {order for order in heard if order.order_id not in lifted} == set(book.standing)
        assert bool(change) == (change.placed is not None or bool(change.lifted))


@given(histories(), rules, histories())
def test_o3_and_o5_what_is_lifted_stays_lifted_whatever_else_arrives(
    history: list[Content], rule: LiftRule, later: list[Content]
) -> None:
    book = filled(history, rule)
    before = {order_id for order_id in IDS if book.is_lifted(order_id)}
    for content in later:
        book.take_up(content)
        assert before <= {order_id for order_id in IDS if book.is_lifted(order_id)}


@given(histories(), rules)
def test_o2_an_order_that_no_lift_names_survives_all_of_them(history: list[Content], rule: LiftRule) -> None:
    concurrent = an_order("o-unseen")
    book = Book(rule)
    for content in history[: len(history) // 2]:
        book.take_up(content)
    book.take_up(concurrent)
    for content in history[len(history) // 2 :]:
        book.take_up(content)

    assert concurrent in book.standing


def consent_to(lift: Lift, person: str, switch: str = "sw_a") -> Consent:
    return Consent(lift_id=lift.lift_id, order_ids=lift.order_ids, switch_id=switch, person=person, consented_at=NOON)


def a_lift_of(*order_ids: str) -> Lift:
    return Lift(lift_id="l1", order_ids=frozenset(order_ids), reason="", actor="", lifted_at=NOON)


def test_o5_consents_to_two_lifts_of_one_id_are_not_counted_together() -> None:
    one, other = a_lift_of("o1"), a_lift_of("o2")
    history: list[Content] = [an_order("o1"), an_order("o2"), one, other]
    book = filled([*history, consent_to(one, "alice"), consent_to(other, "bob")], LiftRule(1, 2))

    assert [order.order_id for order in book.standing] == ["o1", "o2"]
    assert set(book.waiting) == {one, other}
    book.take_up(consent_to(one, "bob"))
    assert [order.order_id for order in book.standing] == ["o2"]


def test_o5_one_person_at_two_switches_is_one_person_and_two_switches() -> None:
    lift = a_lift_of("o1")
    book = filled([an_order("o1"), lift, consent_to(lift, "alice"), consent_to(lift, "alice", "sw_b")], LiftRule(2, 2))

    assert book.missing(lift) == (0, 1)
    assert book.waiting == (lift,)


def test_a_lift_of_what_is_lifted_already_waits_for_nobody() -> None:
    first, second = (
        a_lift_of("o1"),
        Lift(lift_id="l2", order_ids=frozenset({"o1"}), reason="", actor="", lifted_at=NOON),
    )
    book = filled([an_order("o1"), first, second, consent_to(first, "alice")], LiftRule())

    assert book.waiting == ()


def test_lifted_ids_are_told_newest_first_and_within_bounds() -> None:
    book = Book(LiftRule())
    for number in range(LIFTED_TOLD_MAX + 5):
        lift = Lift(lift_id=f"l{number}", order_ids=frozenset({f"o{number}"}), reason="", actor="", lifted_at=NOON)
        book.take_up(lift)
        book.take_up(consent_to(lift, "alice"))

    told = book.lifted_lately
    assert len(told) == LIFTED_TOLD_MAX
    assert told[0] == f"o{LIFTED_TOLD_MAX + 4}"
