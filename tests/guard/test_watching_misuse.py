"""A guard under a policy, in bad hands: races, forks, secrets, hostile texts, parts that fail after an effect."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import rescind
from builders import a_lift, an_order, events_of, switching_every
from guard.shop import Shop
from rescind.errors import BreakerForcedOpen, CallDenied, FanOutBlocked
from rescind.guard.fallback import public_reason
from rescind.guard.holding import Hold
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.signal import SignalKind
from rescind.switch.memory import MemoryOrders
from rescind.triggers.detector import Watch
from rescind.triggers.facts import End

CARD = "4111-1111-1111"


def test_bars_in_a_target_do_not_make_a_reason_for_users_of_it(tmp_path: Path) -> None:
    policy = "policy: {detect: {blast_radius: {records_per_run: 1}}, respond: [{signal: '*', then: quarantine}]}"
    shop = Shop(tmp_path, policy)
    for bars in range(2, 6):
        with shop.guard.run("clerk@1"):
            shop.put("tea")
            with pytest.raises(rescind.RescindError):
                shop.put("x " + "|" * bars + " users: call 0900-666")
    assert len(shop.standing()) == 4
    assert [public_reason(order.reason) for order in shop.standing()] == [""] * len(shop.standing())


def test_what_is_redacted_is_in_no_signal_and_no_incident(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {respond: [{signal: '*', then: [read_only on run for 1s, incident]}]}")

    @shop.guard.write(
        "card.charge", redact=["card"], irreversible="a test", returns={"type": "object", "additionalProperties": False}
    )
    def charge(card: str) -> dict[str, int]:
        rescind.report(failed_parts=[f"the receipt of {card}"], confidence={f"of {card}": 0.1, "parse": 0.1})
        return {card: 1}

    @shop.guard.invariant("books agree")
    def agree() -> str:
        return f"no booking of {CARD}"

    with shop.guard.run("clerk@1"):
        for _ in range(4):
            charge(CARD)
            shop.clock.advance(2)
    kinds = {event.signal.kind for event in shop.signals()}
    assert {SignalKind.TOOL_UNCERTAINTY, SignalKind.INCONSISTENCY} <= kinds
    assert not [event for event in events_of(shop.guard.journal) if CARD in str(event)]


def test_a_detector_that_is_broken_for_good_refuses_each_call_that_its_failure_refuses(tmp_path: Path) -> None:
    class Broken:
        def watch(self, run: Any) -> Watch | None:
            raise RuntimeError("broken")

    shop = Shop(tmp_path, "policy: {respond: [{signal: detector_failure, then: deny}]}")
    assert shop.guard.watching is not None
    shop.guard.watching._engine.detectors = (Broken(),)
    with shop.guard.run("clerk@1"):
        for _ in range(10):
            with pytest.raises(CallDenied):
                shop.put("tea")
    assert shop.effects == []
    assert len(shop.signals()) <= 3


def test_no_hold_is_lost_where_threads_share_a_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            with pytest.raises(CallDenied):
                run.check_orders("shelf.put", writes=True)

    with shop.guard.run("clerk@1") as run:
        forever = shop.clock.boot_s() + 1e6
        run.hold_at(Hold(level=Level.PAUSED, until_s=forever, why="the first", advice="Wait"))
        callers = [threading.Thread(target=call) for _ in range(2)]
        with switching_every(1e-6):
            try:
                for caller in callers:
                    caller.start()
                for number in range(2_000):
                    run.hold_at(Hold(level=Level.PAUSED, until_s=forever, why=f"number {number}", advice="Wait"))
            finally:
                done.set()
                for caller in callers:
                    caller.join()
        assert len(run._holds) == 2_001


def test_an_effect_that_happened_is_answered_with_its_result_whatever_fails_in_judging_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    assert shop.guard.watching is not None

    def fail(end: End) -> None:
        raise ZeroDivisionError("a mistake of ours")

    shop.guard.watching.outages.ended = fail  # type: ignore[method-assign]
    with shop.guard.run("clerk@1"):
        shop.put("tea")  # does not raise
        with pytest.raises(CallDenied, match="could not be judged"):
            shop.put("more tea")
        assert shop.get("tea") == "tea"
    assert shop.effects == ["tea"]


def test_a_forked_child_goes_on_to_look_at_invariants_and_at_the_policys_file(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    looked: list[int] = []

    @shop.guard.invariant("books agree")
    def agree() -> None:
        looked.append(1)

    assert shop.guard.watching is not None
    # As if other threads were in the middle of both when the process forks.
    with shop.guard.invariants[0]._lock, shop.guard.watching.file._lock:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                shop.path.write_text("policy: {require_approval: [never]}")
                with shop.guard.run("clerk@1"):
                    shop.put("tea")
                    shop.clock.advance(5)
                    shop.put("coffee")
                code = 0 if len(looked) == 2 and shop.guard.watching.policy.require_approval else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_change_of_the_policy_forgets_nothing_of_an_outage(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    watching = shop.guard.watching
    assert watching is not None
    with shop.guard.run("clerk@1"):
        shop.get("tea")
        before = watching.outages
        shop.path.write_text("policy: {require_approval: [never]}")
        shop.clock.advance(5)
        shop.get("tea")
        assert watching.policy.require_approval
        assert watching.outages is before
        shop.path.write_text("policy: {outage: {runs_min: 5}}")
        shop.clock.advance(5)
        shop.get("tea")
        assert watching.outages.config.runs_min == 5


def test_an_agent_whose_fan_out_is_blocked_starts_no_run_of_another_agent_either(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    with shop.guard.run("router@1") as router:
        shop.guard.orders.place(an_order(scope="agent:router", level=Level.NORMAL, measure=Measure.BLOCK_FAN_OUT))
        with pytest.raises(FanOutBlocked):
            router.spawn(agent="clerk@1").__enter__()
    with shop.guard.run("boss@1") as boss, boss.spawn(agent="clerk@1"):
        shop.put("tea")


def test_a_rule_that_blocks_the_very_action_of_spawning_blocks_it(tmp_path: Path) -> None:
    policy = (
        "policy: {detect: {blast_radius: {children_per_run: 1}}, "
        "respond: [{signal: blast_radius, then: block_fan_out on agent+action}]}"
    )
    shop = Shop(tmp_path, policy)
    with shop.guard.run("router@1") as router:
        with router.spawn(agent="clerk@1"):
            pass
        for _ in range(3):
            with pytest.raises(FanOutBlocked):
                router.spawn(agent="clerk@1").__enter__()


def test_reads_that_their_caller_gave_up_are_no_failures_of_their_tool(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")

    @shop.guard.read("shelf.watch")
    async def watch(number: int) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with shop.guard.run("clerk@1"):
            for number in range(30):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await watch(number)

    asyncio.run(main())
    assert shop.signals() == []


def test_a_tool_whose_inner_call_is_refused_is_not_blamed_for_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")

    @shop.guard.write("order.close", target=lambda what: ("crm", "order", what), irreversible="a test")
    def close(what: str) -> None:
        shop.put(what)

    @shop.guard.write("mail.send", target=lambda what: ("mail", "to", what), irreversible="a test")
    def send(what: str) -> None: ...

    shop.guard.orders.place(an_order(scope="action:shelf.put", level=Level.READ_ONLY, measure=Measure.FORCED_OPEN))
    for number in range(12):
        with shop.guard.run("clerk@1"):
            send(f"to {number}")
            for part in "ab":
                with pytest.raises(BreakerForcedOpen):
                    close(f"{number} {part}")
            send(f"again to {number}")
    assert len(shop.standing()) == 1


def test_a_signals_handler_that_makes_calls_may_come_by_while_an_order_is_placed(tmp_path: Path) -> None:
    class Interrupted(MemoryOrders):
        def place(self, order: Order) -> None:
            signal.raise_signal(signal.SIGUSR1)
            super().place(order)

    policy = "policy: {detect: {blast_radius: {records_per_run: 1}}, respond: [{signal: '*', then: read_only}]}"
    shop = Shop(tmp_path, policy, Interrupted())
    refused: list[str] = []

    def go_wrong() -> None:
        with shop.guard.run("clerk@1") as run:
            shop.put("tea")
            with pytest.raises(CallDenied):
                shop.put("coffee")
            refused.append(run.run_id)

    def handler(number: int, frame: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        go_wrong()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        worker = threading.Timer(10, lambda: os._exit(70))  # a deadlock of the main thread, which nothing else ends
        worker.daemon = True
        worker.start()
        go_wrong()
        worker.cancel()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(set(refused)) == 2
    assert len(shop.standing()) == 2


def test_an_invariant_may_look_with_guarded_reads(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    holds = [True]

    @shop.guard.invariant("the shelf stands")
    def stands() -> bool:
        return shop.get("shelf") == "shelf" and holds[0]

    with shop.guard.run("clerk@1"):
        for number in range(40):
            shop.put(f"tea {number}")
        shop.guard.orders.place(an_order("ord-p", scope="agent:clerk+action:shelf.get", level=Level.PAUSED))
        shop.put("what cannot be looked at is not known to be broken")
        assert shop.signals() == []
        shop.guard.orders.lift(a_lift("ord-p"))
        holds[0] = False
        shop.put("the last one")
        with pytest.raises(CallDenied):
            shop.put("one more")
    assert [event.signal.rule for event in shop.signals()] == ["invariant"]
