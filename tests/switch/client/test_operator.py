"""An operator's requests to several switches at once, over real sockets."""

import threading
from datetime import UTC, datetime

import pytest

from rescind.clock import SystemClock
from rescind.errors import ConfigError
from rescind.model.level import Level
from rescind.model.order import Lift, Order
from rescind.model.scope import Scope
from rescind.switch.client.asking import Reply, Switches
from rescind.switch.client.http import Trouble
from rescind.switch.client.operator import get_standing, post_consent, post_lift, post_order
from rescind.switch.wire import Placed
from switch.client.scripted import Asked, answer, nobody, placed, problem, saying, serving

CLOCK = SystemClock()
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORDER = Order(
    order_id="ord_1", scope=Scope.parse("agent:x"), level=Level.HALTED, reason="r", actor="ana", placed_at=NOON
)
LIFT = Lift(lift_id="lift_1", order_ids=frozenset({"ord_1"}), reason="fine", actor="ana", lifted_at=NOON)
FULL = problem(507, "the disk is full")


def replies(*urls: str, within_s: float = 0.4, token: str = "") -> dict[str, Reply[Placed]]:
    asking = post_order(Switches(urls=urls, token=token), ORDER, within_s=within_s, clock=CLOCK)
    return {reply.url: reply for reply in asking.every()}


def test_the_first_durable_answer_comes_before_the_slow_one_and_the_slow_one_comes_too() -> None:
    heard = threading.Event()

    def slow(connection: object, asked: Asked) -> None:
        assert heard.wait(5.0)
        saying(placed)(connection, asked)  # type: ignore[arg-type]

    with serving(slow) as late, serving(saying(placed)) as early:
        asking = iter(post_order(Switches(urls=(late.url, early.url)), ORDER, within_s=5.0, clock=CLOCK))
        first = next(asking)
        heard.set()
        rest = list(asking)

    assert (first.url, [reply.url for reply in rest]) == (early.url, [late.url])
    assert rest[0].answer is not None


def test_every_switch_is_sent_the_same_order_however_often() -> None:
    with serving(saying(FULL, placed)) as full_at_first, serving(saying(placed)) as other:
        found = replies(full_at_first.url, other.url, within_s=3.0)

    assert all(reply.answer is not None for reply in found.values())
    bodies = [*full_at_first.bodies(), *other.bodies()]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]
    assert (bodies[0]["order_id"], bodies[0]["actor"], bodies[0]["placed_at"]) == (
        "ord_1",
        "ana",
        "2026-11-21T12:00:00Z",
    )


def test_one_of_two_switches_is_down_and_is_tried_until_time_is_up() -> None:
    down = nobody()
    with serving(saying(placed)) as up:
        began_s = CLOCK.monotonic_s()
        found = replies(down, up.url)
        took_s = CLOCK.monotonic_s() - began_s

    assert found[up.url].answer is not None
    assert (found[down].answer, found[down].trouble) == (None, Trouble.DOWN)
    assert 0.05 < took_s < 2.0


def test_a_switch_that_does_not_answer_may_have_the_order_all_the_same() -> None:
    def silent(connection: object, _: Asked) -> None:
        connection.recv(1)  # type: ignore[attr-defined]

    with serving(silent) as switch:
        reply = replies(switch.url)[switch.url]

    assert reply.trouble is Trouble.SLOW
    assert reply.detail == "did not answer within 0.4 s; it may have it all the same"


@pytest.mark.parametrize(
    ("said", "trouble", "asked", "detail"),
    [
        (FULL, Trouble.REFUSED, 2, "the disk is full"),
        (problem(400, "unknown level"), Trouble.REFUSED, 1, "unknown level"),
        (problem(401, "this token is not known here"), Trouble.NO_TOKEN, 1, "this token is not known here"),
        (problem(403, "it takes operator"), Trouble.WRONG_ROLE, 1, "it takes operator"),
        (answer(404, b"<html>nginx</html>", kind="text/html"), Trouble.NO_SWITCH, 1, "answers 404"),
        (answer(200, b"<html>hello</html>", kind="text/html"), Trouble.NO_SWITCH, 1, "none of a switch"),
        (answer(201, {"switch_id": "sw", "sequence": "x"}), Trouble.NO_SWITCH, 1, "none of a switch"),
        (answer(200, b'{"more":' + b"[" * 100_000), Trouble.NO_SWITCH, 1, "none of a switch"),
        (answer(400, b'{"more":' + b"[" * 100_000), Trouble.NO_SWITCH, 1, "answers 400"),
        (answer(200, b"[" * 100_000), Trouble.NO_SWITCH, 1, "none of a switch"),
        (answer(200, b"\xff\xfe"), Trouble.NO_SWITCH, 1, "none of a switch"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", Trouble.NO_SWITCH, 1, "answers 302"),
    ],
)
def test_a_refusal_is_told_apart_and_asked_again_only_if_that_may_help(
    said: bytes, trouble: Trouble, asked: int, detail: str
) -> None:
    with serving(saying(said)) as switch:
        reply = replies(switch.url, within_s=0.25)[switch.url]

    assert (reply.answer, reply.trouble) == (None, trouble)
    assert detail in reply.detail
    assert len(reply.detail) <= 500
    assert len(switch.asked) >= asked if asked > 1 else len(switch.asked) == 1


@pytest.mark.parametrize("change", [{"order_id": "ord_2"}, {"scope": "agent:y"}, {"level": "paused"}])
def test_an_answer_about_another_order_is_no_promise(change: dict[str, str]) -> None:
    with serving(saying(lambda asked: placed(asked, **change))) as switch:
        reply = replies(switch.url)[switch.url]

    assert reply.trouble is Trouble.NO_SWITCH
    assert "names another order" in reply.detail


def test_what_a_newer_switch_adds_to_its_answers_is_passed_over() -> None:
    with serving(saying(lambda asked: placed(asked, colour="red"))) as switch:
        assert replies(switch.url)[switch.url].answer is not None


def test_each_switch_is_shown_its_own_token() -> None:
    with serving(saying(placed)) as one, serving(saying(placed)) as two:
        replies(one.url, two.url, token=f"{one.url} rsc_one\n{two.url} rsc_two")

    assert one.asked[0][2]["authorization"] == "Bearer rsc_one"
    assert two.asked[0][2]["authorization"] == "Bearer rsc_two"


def test_a_token_is_neither_shown_nor_taken_if_it_could_not_be_sent() -> None:
    assert "secret" not in repr(Switches(urls=("http://a:1",), token="secret"))
    with pytest.raises(ConfigError, match="no token has"):
        Switches(urls=("http://a:1",), token="a\nb c d")


def test_a_lift_and_a_consent_say_whether_they_are_in_force() -> None:
    def lifted(asked: Asked, *, in_force: bool) -> bytes:
        lift = {"lift_id": "lift_1", "order_ids": ["ord_1"], "reason": "fine", "new": True}
        status = 201 if in_force else 202
        said = {
            "switch_id": "sw",
            "lift": lift,
            "in_force": in_force,
            "waits_for": "" if in_force else "one more person",
        }
        return answer(status, said)

    with serving(
        saying(lambda asked: lifted(asked, in_force=False), lambda asked: lifted(asked, in_force=True))
    ) as one:
        (first,) = post_lift(Switches(urls=(one.url,)), LIFT, within_s=1.0, clock=CLOCK)
        (second,) = post_consent(Switches(urls=(one.url,)), "lift_1", within_s=1.0, clock=CLOCK)

    assert first.answer is not None
    assert (first.answer.in_force, first.answer.waits_for) == (False, "one more person")
    assert second.answer is not None
    assert second.answer.in_force
    assert [asked[1] for asked in one.asked] == ["/v1/lifts", "/v1/lifts/lift_1/consents"]


def test_an_id_that_somebody_typed_stays_one_part_of_the_path() -> None:
    with serving(saying(problem(404, "no such lift"))) as switch:
        list(post_consent(Switches(urls=(switch.url,)), "../../x?y z", within_s=1.0, clock=CLOCK))

    assert switch.asked[0][1] == "/v1/lifts/..%2F..%2Fx%3Fy%20z/consents"


def test_who_only_looks_is_told_at_once_what_is_down() -> None:
    down = nobody()
    began_s = CLOCK.monotonic_s()

    (reply,) = get_standing(Switches(urls=(down,)), within_s=5.0, clock=CLOCK)

    assert reply.trouble is Trouble.DOWN
    assert CLOCK.monotonic_s() - began_s < 2.0


def test_no_switches_give_no_replies() -> None:
    assert replies() == {}
