"""One receipt from several switches and the local store, watched while it comes in."""

import json
from typing import Any

from rescind.clock import SystemClock
from rescind.errors import OrdersUnavailable
from rescind.switch.client.asking import Switches
from rescind.switch.client.receipts import HERE, Progress, await_receipts, is_complete
from rescind.switch.receipt import GuardReceipt, GuardState, Receipt
from switch.client.scripted import answer, nobody, problem, saying, serving

CLOCK = SystemClock()


def said(*guards: dict[str, Any], **more: Any) -> bytes:
    states = {guard["state"] for guard in guards}
    return answer(
        200,
        {
            "order_id": "ord_1",
            "stamp": 3,
            "waited_ms": 1.0,
            "all_bound": "unknown" not in states,
            "all_drained": not states & {"unknown", "bound"},
            "guards": guards,
            "newer": True,
            **more,
        },
    )


def a_guard(guard_id: str, state: str, **more: Any) -> dict[str, Any]:
    return {"guard_id": guard_id, "state": state, **more}


def wait(*urls: str, timeout_s: float = 0.3, **more: Any) -> Receipt:
    return await_receipts(Switches(urls=urls), "ord_1", timeout_s=timeout_s, clock=CLOCK, **more)


def states(receipt: Receipt) -> dict[str, str]:
    return {guard.guard_id: str(guard.state) for guard in receipt.guards}


def test_what_two_switches_know_is_joined_and_ends_the_wait() -> None:
    one_says = said(a_guard("g1", "drained"), a_guard("g2", "unknown"))
    with serving(saying(one_says)) as one, serving(saying(said(a_guard("g2", "drained")))) as two:
        began_s = CLOCK.monotonic_s()
        receipt = wait(one.url, two.url, timeout_s=30.0)

    assert states(receipt) == {"g1": "drained", "g2": "drained"}
    assert is_complete(receipt)
    assert CLOCK.monotonic_s() - began_s < 10.0
    assert one.asked[0][1].startswith("/v1/orders/ord_1/receipt?here=false&wait_s=0.")


def test_a_receipt_grows_and_each_step_is_shown() -> None:
    shown: list[dict[str, str]] = []
    grows = saying(
        problem(404, "no order is known here"),  # it has not heard of the order yet
        said(a_guard("g1", "unknown")),
        said(a_guard("g1", "bound")),
        said(a_guard("g1", "drained")),
    )
    with serving(grows) as switch:
        receipt = wait(switch.url, timeout_s=30.0, progress=lambda receipt: shown.append(states(receipt)))

    assert shown == [{"g1": "unknown"}, {"g1": "bound"}, {"g1": "drained"}]
    assert receipt.all_drained


def test_time_is_up_and_what_is_unknown_stays_so() -> None:
    with serving(saying(said(a_guard("g1", "unknown", until="2026-11-21T12:00:07Z")))) as switch:
        receipt = wait(switch.url)

    assert states(receipt) == {"g1": "unknown"}
    assert not is_complete(receipt)
    assert receipt.waited_ms >= 300


def test_a_switch_that_does_not_answer_is_unheard_unless_another_one_answers_for_it() -> None:
    down = nobody()
    with serving(saying(said(a_guard("g1", "drained")))) as up:
        alone = wait(down, up.url)
    assert alone.unheard == (down,)
    assert not is_complete(alone)

    with serving(saying(said(a_guard("g1", "drained"), heard=["sw_2", down]))) as up:
        together = wait(down, up.url, timeout_s=30.0)
    assert is_complete(together)


def test_switches_that_name_each_other_by_id_are_known_by_it() -> None:
    with serving(saying(said(unheard=["sw_2"]))) as one, serving(saying(said())) as two:
        receipt = wait(one.url, two.url, timeout_s=30.0, ids={one.url: "sw_1", two.url: "sw_2"})

    assert receipt.unheard == ()
    assert is_complete(receipt)


def test_garbage_is_no_receipt() -> None:
    for garbage in (
        answer(
            200, {"order_id": "ord_2", "stamp": 1, "waited_ms": 1, "all_bound": True, "all_drained": True, "guards": []}
        ),
        answer(200, b"not json"),
        said(a_guard("g1", "enlightened")),
        b"\x00",
    ):
        with serving(saying(garbage)) as switch:
            receipt = wait(switch.url, timeout_s=0.05)
        assert receipt.guards == ()
        assert receipt.unheard == (switch.url,)


def test_a_lie_about_the_whole_does_not_hide_an_unknown_guard() -> None:
    lie = json.loads(said(a_guard("g1", "unknown")).partition(b"\r\n\r\n")[2]) | {
        "all_bound": True,
        "all_drained": True,
    }
    with serving(saying(answer(200, lie))) as switch:
        receipt = wait(switch.url)

    assert not receipt.all_bound
    assert not receipt.all_drained


def local(*found: Receipt) -> Any:
    def here(progress: Progress) -> Receipt:
        for receipt in found:
            progress(receipt)
        return found[-1]

    return here


def test_the_local_store_is_one_more_source() -> None:
    mine = Receipt(
        order_id="ord_1",
        stamp=9,
        waited_ms=2.0,
        all_bound=True,
        all_drained=True,
        guards=(GuardReceipt(guard_id="g2", state=GuardState.DRAINED),),
    )
    with serving(saying(said(a_guard("g1", "drained")))) as switch:
        receipt = wait(switch.url, timeout_s=30.0, here=local(mine))

    assert states(receipt) == {"g1": "drained", "g2": "drained"}


def test_a_local_store_that_cannot_be_read_is_unheard() -> None:
    def unreadable(_: Progress) -> Receipt:
        raise OrdersUnavailable("the disk is gone")

    with serving(saying(said(a_guard("g1", "drained")))) as switch:
        receipt = wait(switch.url, here=unreadable)

    assert receipt.unheard == (HERE,)
