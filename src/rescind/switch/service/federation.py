"""How switches exchange what they have. Each asks the others for what it lacks, and pushes what is new at once.

Records are united, so it does not matter who tells whom, how often, or in which order. What is kept per peer:

- `taken`: up to which place of *its* ledger we have taken over. Asked again from the start when it is another ledger,
  or one that ends before that place, such as one restored from a backup.
- `sent`: up to which place of *our* ledger it has been told.
- `given`: up to which place it is known to have everything, and since when: receipts need that. It stays behind `sent`
  if the peer could not understand a record, as one from a newer switch.
- the guards it spoke of last: when it does not answer, those that we do not see ourselves are unknown.

A peer that is gone costs one request per round; nothing waits for it.
"""

import asyncio
import contextlib
import enum
import logging
import random
import ssl
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import quote

import msgspec

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable
from rescind.switch.receipt import GuardReceipt, GuardState, Receipt, join_receipts
from rescind.switch.service.documents import Merged, PeerHealth, RecordPage
from rescind.switch.service.records import Record
from rescind.switch.service.switchboard import Switchboard
from rescind.web.answers import BODY_BYTES_MAX
from rescind.web.problems import Refused

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("rescind.switch")

T = TypeVar("T")

PAGE = 500
SYNC_S = 3.0
"""How often a peer is asked, when nothing happens. New records are pushed at once."""

TIMEOUT_S = 3.0
"""How long a peer may take to answer."""

RECEIPT_LATE_S = 1.0
"""How much longer than asked a peer may take over its receipt. Whoever asked us waits 2 s longer than asked, and must
hear what we know ourselves when packets to the peer are dropped."""

_GIVEN_MAX = 256

_PROBLEM_LENGTH_MAX = 500


class _Nobody(enum.Enum):
    """Why there is no receipt of a peer."""

    ANSWERS = enum.auto()
    LISTENS = enum.auto()


class PeerConfig(msgspec.Struct, frozen=True):
    """Another switch: where it is, and the token that it gave us."""

    url: str
    token: str = ""


class Peer:
    """What this switch knows of another one."""

    def __init__(self, config: PeerConfig) -> None:
        self.config = config
        self.switch_id = ""
        self.guards: dict[str, str] = {}
        self.begin_anew()
        self.problem = "not heard of yet"
        self.wake = asyncio.Event()

    def begin_anew(self) -> None:
        """What we took of its ledger and gave to it says nothing any more."""
        self.taken = self.sent = 0
        self.given: deque[tuple[int, float]] = deque(maxlen=_GIVEN_MAX)
        self.lacks = ""  # what it could not understand
        self.not_understood = ""  # what we could not

    def has_since_s(self, sequence: int) -> float | None:
        """Since when it is known to have everything up to a place of our ledger; None if it is not."""
        return next((at_s for given, at_s in self.given if given >= sequence), None)


class Federation:
    """The other switches, and how we stand with them."""

    def __init__(
        self,
        board: Switchboard,
        peers: Sequence[PeerConfig],
        *,
        clock: Clock,
        sync_s: float,
        tls: ssl.SSLContext | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        """A federation that has not begun: see `live`.

        Args:
            board: This switch.
            peers: The others.
            clock: The time.
            sync_s: How often each is asked.
            tls: For HTTPS, if not the system's authorities.
            transport: How to reach them, if not through the network.
        """
        self.peers = [Peer(config) for config in peers]
        self._board, self._clock, self._sync_s, self._tls, self._transport = board, clock, sync_s, tls, transport
        self._client: httpx.AsyncClient | None = None
        board.elsewhere = self._elsewhere
        board.on_records = self._wake

    async def live(self) -> None:
        """Exchange until cancelled; without others there is nothing to do."""
        if not self.peers:
            return
        import httpx

        # Not through a proxy that some variable names: a stop goes the way that was configured for it.
        async with httpx.AsyncClient(
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=True if self._tls is None else self._tls,
            transport=self._transport,
        ) as client:
            self._client = client
            async with asyncio.TaskGroup() as tasks:
                for peer in self.peers:
                    tasks.create_task(self._follow(peer))

    def health(self) -> tuple[PeerHealth, ...]:
        """How each peer is, seen from here."""
        return tuple(
            PeerHealth(url=peer.config.url, switch_id=peer.switch_id, reachable=not peer.problem, problem=peer.problem)
            for peer in self.peers
        )

    # --- receipts ---

    async def receipt(self, order_id: str, *, wait_s: float, here: bool) -> Receipt:
        """What is known of an order, here and, unless `here`, at the others. Raises: Refused (404)."""
        others = [] if here else self.peers
        asking = [asyncio.ensure_future(self._theirs(peer, order_id, wait_s)) for peer in others]
        try:
            mine = await self._mine(order_id, wait_s)
            theirs = await asyncio.gather(*asking)
        finally:
            for each in asking:  # nobody goes on asking for what nobody awaits any more
                each.cancel()
        said = [
            answer
            if isinstance(answer, Receipt)
            else self._in_place_of(peer, mine, has_ended=answer is _Nobody.LISTENS)
            for peer, answer in zip(others, theirs, strict=True)
        ]
        return join_receipts([mine, *said]) if said else mine

    async def _mine(self, order_id: str, wait_s: float) -> Receipt:
        board, registry = self._board, self._board.registry
        placement = board.placement(order_id)
        receipt = registry.receipt(placement)
        if receipt.all_drained or wait_s <= 0:
            return receipt
        woken = asyncio.Event()
        waiting = registry.await_drained(placement, woken.set)
        deadline_s = self._clock.boot_s() + wait_s
        try:
            while not receipt.all_drained and (left_s := deadline_s - self._clock.boot_s()) > 0:
                # A guard that stays silent settles by time alone, and one that a peer knows of by what the peer says.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, self._next_change_s(receipt))):
                        await woken.wait()
                woken.clear()
                receipt = registry.receipt(board.placement(order_id))
        finally:
            registry.forget(waiting)
        return receipt

    def _next_change_s(self, receipt: Receipt) -> float:
        now_us = self._clock.now_us()
        ends = (guard.until.timestamp() for guard in receipt.guards if guard.until is not None)
        ahead = [end - now_us / 1e6 for end in ends if end > now_us / 1e6]
        return min([1.0, *(each + 0.01 for each in ahead)])

    async def _theirs(self, peer: Peer, order_id: str, wait_s: float) -> "Receipt | _Nobody":
        if self._client is None:
            return _Nobody.ANSWERS
        try:
            async with asyncio.timeout(wait_s + RECEIPT_LATE_S):  # the client's own limit begins anew with each step
                answer = await self._client.get(
                    f"{peer.config.url}/v1/orders/{quote(order_id, safe='')}/receipt",
                    params={"here": "true", "wait_s": f"{wait_s:g}"},
                    headers=_headers(peer),
                    timeout=wait_s + RECEIPT_LATE_S,
                )
            receipt = msgspec.json.decode(answer.content, type=Receipt) if answer.status_code == 200 else None
            return receipt if receipt is not None and receipt.order_id == order_id else _Nobody.ANSWERS
        except _unanswered() as error:
            return _Nobody.LISTENS if _is_refusal(error) else _Nobody.ANSWERS

    def _in_place_of(self, peer: Peer, receipt: Receipt, *, has_ended: bool) -> Receipt:
        """The receipt of a peer that does not answer: whom it spoke of last and we do not see is unknown.

        If it has ended, that is all. If not, it may serve guards that nobody else has heard of, and is unheard itself.
        """
        answers_for_it = has_ended and bool(peer.switch_id)
        seen = {guard.guard_id for guard in receipt.guards}
        unseen = tuple(
            GuardReceipt(
                guard_id=guard_id,
                state=GuardState.UNKNOWN,
                detail=f"only {peer.config.url} reaches it, and that switch does not answer ({place})",
            )
            for guard_id, place in sorted(peer.guards.items())
            if guard_id not in seen
        )
        return Receipt(
            order_id=receipt.order_id,
            stamp=receipt.stamp,
            waited_ms=receipt.waited_ms,
            all_bound=not unseen,
            all_drained=not unseen,
            guards=unseen,
            # By its id, so that a receipt of its own makes up for it, under whichever URL somebody else knows it.
            unheard=() if answers_for_it else (peer.switch_id or peer.config.url,),
            heard=(peer.switch_id, peer.config.url) if answers_for_it else (),
        )

    # --- the exchange ---

    async def _follow(self, peer: Peer) -> None:
        while True:
            peer.wake.clear()
            try:
                await self._pull(peer)
                await self._push(peer)
                peer.problem = peer.lacks or peer.not_understood
            except _unanswered() as error:
                peer.problem = f"{type(error).__name__}: {error}"[:_PROBLEM_LENGTH_MAX]
            except Exception as error:  # a task that died in silence would never exchange a stop again
                logger.exception("the exchange with %s failed in a way that should not happen", peer.config.url)
                peer.problem = f"{type(error).__name__}: {error}"[:_PROBLEM_LENGTH_MAX]
            with contextlib.suppress(TimeoutError):
                # Python 3.11's `wait_for` loses a cancellation that comes together with a ring: no end would come.
                async with asyncio.timeout(self._sync_s * random.uniform(0.75, 1.25)):  # noqa: S311
                    await peer.wake.wait()

    async def _pull(self, peer: Peer) -> None:
        while True:
            page = await self._ask(peer, "GET", RecordPage, params={"after": peer.taken, "limit": PAGE})
            if page.switch_id == self._board.switch_id:
                raise ValueError(f"{peer.config.url} is this very switch; name the others only")
            if page.switch_id != peer.switch_id or page.sequence < peer.taken:
                was_cut_elsewhere = bool(peer.taken)
                peer.switch_id = page.switch_id
                peer.begin_anew()
                if was_cut_elsewhere:
                    continue  # the page was cut out of another ledger than we had in mind
            peer.guards = dict(page.guards)
            if not page.records or page.until <= peer.taken:
                return
            merged = await self._board.merge(page.records, peer.switch_id)
            if merged.not_understood:
                peer.not_understood = f"this switch cannot understand {merged.not_understood[0]}; upgrade it"
            peer.taken = page.until

    async def _push(self, peer: Peer) -> None:
        while peer.sent < self._board.sequence:
            records = await self._board.records(peer.sent, PAGE)
            if not records:
                return
            page, body = _page_that_fits(self._board.switch_id, self._board.sequence, records)
            merged = await self._ask(peer, "POST", Merged, body=body)
            if merged.switch_id != peer.switch_id:
                return  # another one answers there now; the next round begins anew
            peer.sent = page.until
            if merged.not_understood:
                peer.lacks = f"it cannot understand {merged.not_understood[0]}; upgrade it"
            if not peer.lacks:
                peer.given.append((page.until, self._clock.boot_s()))

    async def _ask(
        self, peer: Peer, method: str, kind: type[T], *, params: dict[str, int] | None = None, body: bytes | None = None
    ) -> T:
        assert self._client is not None
        answer = await self._client.request(
            method, f"{peer.config.url}/v1/peer/records", params=params, content=body, headers=_headers(peer)
        )
        if answer.status_code != 200:
            raise ValueError(f"{peer.config.url} answers {answer.status_code}: {answer.text[:200]}")
        return msgspec.json.decode(answer.content, type=kind)

    def _elsewhere(self, sequence: int) -> dict[str, float]:
        known = {peer.switch_id: peer.has_since_s(sequence) for peer in self.peers if peer.switch_id}
        return {switch_id: at_s for switch_id, at_s in known.items() if at_s is not None}

    def _wake(self) -> None:
        for peer in self.peers:
            peer.wake.set()


def _page_that_fits(switch_id: str, sequence: int, records: Sequence[tuple[int, Record]]) -> tuple[RecordPage, bytes]:
    """As many of these records as a request may hold; one at least, since each is far smaller than that."""
    while True:
        page = RecordPage(
            switch_id=switch_id,
            until=records[-1][0],
            sequence=sequence,
            records=tuple(record for _, record in records),
        )
        body = msgspec.json.encode(page)
        if len(body) <= BODY_BYTES_MAX or len(records) == 1:
            return page, body
        records = records[: len(records) // 2]


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the peer's machine has said that nothing listens there: then the peer has ended, and renews nothing."""
    if isinstance(error, ConnectionRefusedError):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(_is_refusal(each) for each in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return error is not None and _is_refusal(error.__cause__ or error.__context__)


def _headers(peer: Peer) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if peer.config.token:
        headers["authorization"] = f"Bearer {peer.config.token}"
    return headers


def _unanswered() -> tuple[type[Exception], ...]:
    import httpx

    return (OSError, ValueError, RecursionError, Refused, OrdersUnavailable, httpx.HTTPError, httpx.InvalidURL)
