"""How a switch exchanges with others, over httpx's own stand-in for the network."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from builders import an_order
from rescind.clock import SystemClock
from rescind.switch.receipt import GuardReceipt, GuardState, Receipt
from rescind.switch.service.documents import Merged, RecordPage
from rescind.switch.service.federation import PAGE, Federation, PeerConfig
from rescind.switch.service.records import record_of
from rescind.switch.wire import OrderDoc, Report
from rescind.web.answers import BODY_BYTES_MAX
from switch.service.board import AGENT, OLGA, Running, told, until
from switch.service.board import running as run_switch

PEER = "http://peer:7443"


class ScriptedPeer:
    """Another switch: what it has, what it was given, and what is wrong with it."""

    def __init__(self, switch_id: str = "sw_peer") -> None:
        self.switch_id = switch_id
        self.records = [record_of(an_order(f"theirs-{number}")) for number in range(3)]
        self.guards: tuple[tuple[str, str], ...] = ()
        self.given: list[str] = []
        self.asked: list[int] = []
        self.bodies: list[int] = []
        self.not_understood: tuple[str, ...] = ()
        self.receipt: Receipt | None = None
        self.fault: Callable[[httpx.Request], httpx.Response] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.fault is not None:
            return self.fault(request)
        if request.url.path.endswith("/receipt"):
            return httpx.Response(404 if self.receipt is None else 200, content=msgspec.json.encode(self.receipt))
        assert request.headers["authorization"] == "Bearer rsc_peer"
        if request.method == "POST":
            self.bodies.append(len(request.content))
            page = msgspec.json.decode(request.content, type=RecordPage)
            self.given += [record.subject for record in page.records]
            merged = Merged(switch_id=self.switch_id, new=len(page.records), not_understood=self.not_understood)
            return httpx.Response(200, content=msgspec.json.encode(merged))
        after = int(request.url.params["after"])
        self.asked.append(after)
        records = tuple(self.records[after:])
        found = RecordPage(
            switch_id=self.switch_id,
            until=after + len(records),
            sequence=len(self.records),
            records=records,
            guards=self.guards,
        )
        return httpx.Response(200, content=msgspec.json.encode(found))


@contextlib.asynccontextmanager
async def federated(folder: Path, peer: ScriptedPeer) -> AsyncGenerator[tuple[Running, Federation]]:
    async with run_switch(folder) as switch:
        federation = Federation(
            switch.board,
            [PeerConfig(PEER, "rsc_peer")],
            clock=SystemClock(),
            sync_s=0.05,
            transport=httpx.MockTransport(peer),
        )
        life = asyncio.create_task(federation.live())
        try:
            yield switch, federation
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)


def an_ask(order_id: str, reason: str = "") -> OrderDoc:
    return OrderDoc(order_id=order_id, scope="agent:x", level="halted", reason=reason)


def test_each_gets_what_it_lacks_and_new_records_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with federated(tmp_path, peer) as (switch, federation):
            await until(lambda: switch.board.sequence == 3, "theirs")
            await switch.board.place(an_ask("ours"), OLGA)
            await until(lambda: "ours" in peer.given, "ours to be pushed")
            await until(lambda: list(switch.board.elsewhere(4)) == ["sw_peer"], "the peer to be known to have it")
            assert federation.health()[0].reachable
            assert peer.asked[-1] == 3

    told(story)


def test_a_push_is_cut_to_what_a_request_may_hold(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with run_switch(tmp_path) as switch:
            for number in range(300):
                await switch.board.place(an_ask(f"ord-{number}", reason="é" * 1_900), OLGA)
        assert PAGE > 300
        async with federated(tmp_path, peer) as (switch, _):
            await until(lambda: bool(switch.board.elsewhere(300)), "all to be given")
            assert len({order_id for order_id in peer.given if order_id.startswith("ord-")}) == 300
            assert max(peer.bodies) <= BODY_BYTES_MAX

    told(story)


@pytest.mark.parametrize(
    "fault",
    [
        lambda request: httpx.Response(200, content=b"{"),
        lambda request: httpx.Response(200, content=b"[" * 100_000),
        lambda request: httpx.Response(200, content=b"\xff"),
        lambda request: httpx.Response(200, content=b'{"switch_id": 1}'),
        lambda request: httpx.Response(500, text="no"),
        lambda request: httpx.Response(302, headers={"location": "http://evil/"}),
        lambda request: (_ for _ in ()).throw(httpx.ConnectError("refused", request=request)),
        lambda request: (_ for _ in ()).throw(httpx.ReadTimeout("late", request=request)),
        lambda request: (_ for _ in ()).throw(RuntimeError("a mistake")),
    ],
)
def test_whatever_a_peer_does_the_exchange_goes_on_afterwards(
    tmp_path: Path, fault: Callable[[httpx.Request], httpx.Response], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        peer.fault = fault
        async with federated(tmp_path, peer) as (switch, federation):
            await until(lambda: "not heard of yet" not in federation.health()[0].problem, "the fault")
            assert not federation.health()[0].reachable
            peer.fault = None
            await until(lambda: switch.board.sequence == 3 and federation.health()[0].reachable, "the exchange")

    told(story)


def test_a_peer_on_another_ledger_is_asked_and_told_from_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with federated(tmp_path, peer) as (switch, _):
            await switch.board.place(an_ask("ours"), OLGA)
            await until(lambda: switch.board.sequence == 4 and bool(switch.board.elsewhere(4)))
            peer.switch_id, peer.given = "sw_new", []
            peer.records = [record_of(an_order("new"))]
            await until(lambda: switch.board.sequence == 5, "the new one's")
            await until(lambda: "ours" in peer.given, "ours to be told to it")
            assert list(switch.board.elsewhere(4)) == ["sw_new"]

    told(story)


def test_a_peer_restored_from_a_backup_has_what_is_asked_of_it_anew(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with federated(tmp_path, peer) as (switch, _):
            await until(lambda: switch.board.sequence == 3 and bool(switch.board.elsewhere(3)))
            peer.given = []
            peer.records = [*peer.records[:1], record_of(an_order("after-the-backup"))]
            await until(lambda: bool(switch.board.book.orders("after-the-backup")), "what came after the backup")
            await until(lambda: "theirs-2" in peer.given, "what the backup lacks to be given back")

    told(story)


def test_what_a_peer_could_not_understand_it_does_not_have(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        peer.not_understood = ("ours: it is from a newer switch",)
        async with federated(tmp_path, peer) as (switch, federation):
            await switch.board.place(an_ask("ours"), OLGA)
            await until(lambda: "ours" in peer.given)
            peer.not_understood = ()
            await switch.board.place(an_ask("later"), OLGA)
            await until(lambda: "later" in peer.given, "what comes behind it to be given all the same")
            assert switch.board.elsewhere(switch.board.sequence) == {}
            await until(lambda: "newer switch" in federation.health()[0].problem, "people to see it")

    told(story)


def test_what_cannot_be_understood_here_is_said_and_the_rest_is_taken(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        peer.records.insert(1, msgspec.structs.replace(peer.records[0], body='{"order_id": "x", "newer": 1}'))
        async with federated(tmp_path, peer) as (switch, federation):
            await until(lambda: switch.board.sequence == 3, "the others")
            await until(lambda: "cannot understand" in federation.health()[0].problem, "people to see it")

    told(story)


def test_a_switch_that_is_its_own_peer_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with federated(tmp_path, peer) as (switch, federation):
            peer.switch_id = switch.board.switch_id
            await until(lambda: "this very switch" in federation.health()[0].problem, "it to be said")

    told(story)


# --- receipts ---


def a_receipt(order_id: str, **states: str) -> Receipt:
    guards = tuple(GuardReceipt(guard_id=name, state=GuardState(state)) for name, state in states.items())
    return Receipt(
        order_id=order_id,
        stamp=1,
        waited_ms=0.0,
        all_bound="unknown" not in states.values(),
        all_drained=not {"unknown", "bound"} & set(states.values()),
        guards=guards,
        heard=("sw_peer",),
    )


def nothing_listens(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request) from ConnectionRefusedError(111, "Connection refused")


def no_packet_comes_back(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectTimeout("late", request=request)


def test_a_receipt_is_joined_with_the_peer_s(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with federated(tmp_path, peer) as (switch, federation):
            await switch.board.place(an_ask("ours"), OLGA)
            switch.board.heard("g1", AGENT, Report())
            peer.receipt = a_receipt("ours", g1="drained", g2="bound")
            joined = await federation.receipt("ours", wait_s=0.0, here=False)
            mine = await federation.receipt("ours", wait_s=0.0, here=True)
            assert {guard.guard_id: guard.state.value for guard in joined.guards} == {"g1": "drained", "g2": "bound"}
            assert [guard.state.value for guard in mine.guards] == ["unknown"]
            assert joined.unheard == ()

            peer.receipt = a_receipt("another", g1="drained")
            assert (await federation.receipt("ours", wait_s=0.0, here=False)).unheard == ("sw_peer",)

    told(story)


@pytest.mark.parametrize(
    ("fault", "unheard"), [(nothing_listens, ()), (no_packet_comes_back, ("sw_peer",))], ids=["ended", "out of reach"]
)
def test_a_peer_that_has_ended_is_answered_for_and_one_out_of_reach_is_not(
    tmp_path: Path, fault: Callable[[httpx.Request], httpx.Response], unheard: tuple[str, ...]
) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        peer.guards = (("g1", "web-1 7 agent"), ("g2", "web-2 8 agent"))
        async with federated(tmp_path, peer) as (switch, federation):
            await until(lambda: len(federation.peers[0].guards) == 2, "its guards to be known")
            await switch.board.place(an_ask("ours"), OLGA)
            switch.board.heard("g1", AGENT, Report(bound=switch.board.sequence))
            peer.fault = fault
            joined = await federation.receipt("ours", wait_s=0.0, here=False)
            assert {guard.guard_id: guard.state.value for guard in joined.guards} == {"g1": "drained", "g2": "unknown"}
            assert joined.unheard == unheard

    told(story)


def test_a_peer_that_was_never_heard_is_unheard_by_its_url(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        peer.fault = nothing_listens
        async with federated(tmp_path, peer) as (switch, federation):
            await switch.board.place(an_ask("ours"), OLGA)
            assert (await federation.receipt("ours", wait_s=0.0, here=False)).unheard == (PEER,)

    told(story)


def test_a_receipt_waits_no_longer_than_until_the_last_one_has_drained(tmp_path: Path) -> None:
    async def story() -> None:
        peer = ScriptedPeer()
        async with federated(tmp_path, peer) as (switch, federation):
            await switch.board.place(an_ask("ours"), OLGA)
            switch.board.heard("g1", AGENT, Report())
            waiting = asyncio.create_task(federation.receipt("ours", wait_s=60.0, here=True))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            switch.board.heard("g1", AGENT, Report(bound=switch.board.sequence))
            assert (await asyncio.wait_for(waiting, 5.0)).all_drained

    told(story)
