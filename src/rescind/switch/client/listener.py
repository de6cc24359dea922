"""One switch, followed: its stream is heard in one task, and reports are sent to it from another.

    stream    connect ─▶ set ─▶ bind ─▶ event ─▶ bind … ─▶ it breaks, or is silent for 3 beats ─▶ back-off ─▶ connect
    reports   bound? drained? a minute over? ─▶ PUT ─▶ its answer sets the switch's clock against ours

The two are apart so that a switch which is slow to answer a report is heard all the same. Nothing that a switch does
ends either task: what went wrong stands in `trouble`, and is tried again.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncGenerator, Callable

import msgspec

from rescind.clock import Clock
from rescind.errors import RescindError
from rescind.model.order import Order
from rescind.switch.client.exchange import Exchange, LineDown, Origin
from rescind.switch.client.line import NOTHING_BOUND, Line
from rescind.switch.client.merge import Merged
from rescind.switch.client.tokens import token_for
from rescind.switch.wire import STEPS_REPORTED_MAX, BeatEvent, Heard, Report, SetEvent
from rescind.web.answers import BODY_BYTES_MAX
from rescind.web.problems import Problem

BACKOFF_S, BACKOFF_MAX_S = 0.05, 5.0
"""The first and the longest pause before the next attempt. Each is drawn at random from nothing up to its length, or
10,000 guards of a switch that restarts would come back as one."""

REFUSED_S = (5.0, 10.0)
"""The pause after a refusal. A token that is wrong is so for minutes, and each attempt stands in the switch's log."""

ANSWER_S = 5.0
"""How long a switch may take to accept a connection and to begin, or to answer a report."""

REPORT_S = (45.0, 75.0)
"""How often a report is sent although there is no news: a round trip keeps the bound on the switch's clock narrow."""

DRAIN_POLL_S = (0.01, 0.25)
"""How often it is looked whether the steps in flight have ended: often at first, for most end at once."""

_DETAIL_LENGTH_MAX = 200


_News = tuple[int, int, bool, int]
"""Connection, bound, drained, requests: what makes a report worth sending once one of them has changed."""


class _Refused(RescindError):
    """The switch has answered, and said no."""


class Common(msgspec.Struct, frozen=True):
    """What the listeners of one guard share.

    Attributes:
        path: Of this guard at every switch.
        token: What to show them.
        clock: The time.
        merged: What stands, of all lines.
        sockets: The open connections.
        take_up: Bind these orders; what is in flight from before.
        in_flight: What is in flight now.
        describe: What the guard says of itself.
        heard: A line has renewed its lease, or has been heard for the first time.
    """

    path: str
    token: str
    clock: Clock
    merged: Merged
    sockets: set[socket.socket]
    take_up: Callable[[tuple[Order, ...]], frozenset[str]]
    in_flight: Callable[[], frozenset[str]]
    describe: Callable[[], Report]
    heard: Callable[[Line], None]

    def __repr__(self) -> str:
        return f"Common({self.path})"  # whatever prints this must not print the token


class Listener:
    """Follows one switch. Everything but `trouble` and `refusal` belongs to the thread of the subscription.

    Attributes:
        trouble: Why the switch is not heard; empty while it is.
        refusal: Why it does not let this guard follow; empty while it does.
    """

    def __init__(self, origin: Origin, line: Line, common: Common) -> None:
        """A listener that has not begun: see `listen` and `report`."""
        self.line, self.trouble, self.refusal = line, "it has not been heard yet", ""
        self._origin, self._common, self._token = origin, common, token_for(origin.url, common.token)
        self._connection = 0  # counts them, so that an answer is not held against another one's clock
        self._is_connected = False
        self._heard_s = 0.0
        self._bound = NOTHING_BOUND
        self._pending: frozenset[str] = frozenset()  # admitted before the last binding, and running still
        self._requests = 0
        self._said: _News | None = None
        self._news = asyncio.Event()
        self._reports: Exchange | None = None
        # Its own: a program that has seeded the common one wants to draw from it undisturbed.
        self._random = random.Random()  # noqa: S311  # to spread guards, not to keep a secret

    # --- the stream ---

    async def listen(self) -> None:
        """Follow the stream for ever."""
        attempts = 0
        while True:
            began_s = self._common.clock.boot_s()
            pause_s = (0.0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(attempts, 10)))
            try:
                await self._hear()
            except _Refused as error:
                self.trouble = self.refusal = str(error)
                pause_s = REFUSED_S
            except Exception as error:  # noqa: BLE001  # a task that died in silence would never hear a stop again
                self.trouble = self._safe(str(error) or type(error).__name__)
            self._is_connected = False
            # A connection that held for a while was a good one; one that broke at once counts as an attempt.
            attempts = 0 if self._common.clock.boot_s() - began_s > BACKOFF_MAX_S else attempts + 1
            await asyncio.sleep(self._random.uniform(*pause_s))

    async def _hear(self) -> None:
        exchange = Exchange(self._origin, self._common.sockets)
        try:
            async with _within(ANSWER_S):
                await exchange.open()
                self._begin()
                body = self._encoded(leaving=False)
                status = await exchange.ask("POST", f"{self._common.path}/stream", body, token=self._token)
                if status != 200:
                    raise self._refused(status, await exchange.body())
            while True:
                async with _within(self._patience_s()):
                    data = await exchange.piece()
                if data is None:
                    raise LineDown("it ended the stream")
                self._take(data)
        finally:
            exchange.close()

    def _begin(self) -> None:
        self._connection += 1
        self._heard_s = self._common.clock.boot_s()
        # What was bound on an earlier connection may have been another ledger, such as one restored from a backup.
        self._bound = NOTHING_BOUND
        self.line.begin(asked_s=self._heard_s)

    def _patience_s(self) -> float:
        patience_s = 3 * self.line.beat_s + 1 if self._is_connected else ANSWER_S
        return self._heard_s + patience_s - self._common.clock.boot_s()

    def _take(self, data: bytes) -> None:
        received_s = self._common.clock.boot_s()
        changed = False
        try:
            for event in self.line.feed(data, received_s=received_s):
                self._heard_s = received_s
                changed |= self._common.merged.take(self.line, event)
                if isinstance(event, SetEvent | BeatEvent):
                    # First the orders, then the lease: whatever came before this beat is bound when it renews.
                    self._bind(changed=changed)
                    changed = False
                    self._is_connected, self.trouble, self.refusal = True, "", ""
                    self._common.heard(self.line)
        finally:
            if changed:
                self._bind(changed=True)

    def _bind(self, *, changed: bool) -> None:
        if changed:
            self._pending = self._common.take_up(self._common.merged.orders)
            self._news.set()
        self._bound = self.line.sequence

    # --- reports ---

    async def report(self) -> None:
        """Send reports for ever."""
        due_s, poll_s, attempts = 0.0, DRAIN_POLL_S[0], 0
        while True:
            self._news.clear()
            self._pending &= self._common.in_flight() if self._pending else frozenset()
            now_s = self._common.clock.boot_s()
            news = (self._connection, self._bound, not self._pending, self._requests)
            wait_s = due_s - now_s
            if self._is_connected and (news != self._said or wait_s <= 0):
                if await self._send_report(news):
                    due_s, poll_s, attempts = now_s + self._random.uniform(*REPORT_S), DRAIN_POLL_S[0], 0
                    continue
                attempts += 1
                await asyncio.sleep(self._random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(attempts, 10))))
                continue
            if self._pending:
                wait_s, poll_s = poll_s, min(poll_s * 2, DRAIN_POLL_S[1])
            await self._await_news(wait_s if wait_s > 0 else BACKOFF_MAX_S)

    def speak(self) -> None:
        """Send a report soon, although nothing was ordered."""
        self._requests += 1
        self._news.set()

    async def leave(self) -> None:
        """Say that this guard admits nothing any more, unless steps are running. Raises: RescindError."""
        self.close()
        if self._common.in_flight():
            return  # who has left is asked for no acknowledgement of later orders, and these would not hold its steps
        self._pending = frozenset()
        await self._put(leaving=True)

    def close(self) -> None:
        """Break the connection of the reports."""
        if self._reports is not None:
            self._reports.close()
            self._reports = None

    async def _send_report(self, news: "_News") -> bool:
        try:
            async with _within(ANSWER_S):
                await self._put(leaving=False)
        except Exception as error:  # noqa: BLE001  # as in `listen`
            self.close()
            if isinstance(error, _Refused):
                self.refusal = str(error)
            return False
        self._said = news
        return True

    async def _put(self, *, leaving: bool) -> None:
        exchange = self._reports
        if exchange is None or not exchange.can_go_on:
            self.close()
            exchange = self._reports = Exchange(self._origin, self._common.sockets)
            await exchange.open()
        connection, asked_s = self._connection, self._common.clock.boot_s()
        status = await exchange.ask("PUT", self._common.path, self._encoded(leaving=leaving), token=self._token)
        received_s = self._common.clock.boot_s()
        body = await exchange.body()
        if not 200 <= status < 300:
            raise self._refused(status, body)
        if connection == self._connection:
            self.line.heard(_decoded(body), asked_s=asked_s, received_s=received_s)

    async def _await_news(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._news.wait()

    def _encoded(self, *, leaving: bool) -> bytes:
        report = msgspec.structs.replace(
            self._common.describe(),
            bound=self._bound,
            drained=not self._pending,
            in_flight=tuple(sorted(self._pending)[:STEPS_REPORTED_MAX]),
            in_flight_count=len(self._pending),
            leaving=leaving,
        )
        return encoded(report)

    def _refused(self, status: int, body: bytes) -> RescindError:
        detail = ""
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            problem = msgspec.json.decode(body, type=Problem)
            detail = f": {problem.detail or problem.title}"
        text = self._safe(f"it answers {status}{detail}")
        # What is wrong with us stays so until somebody mends it; what is wrong with the switch may pass in a moment.
        return _Refused(text) if 300 <= status < 500 and status not in (408, 425, 429) else LineDown(text)

    def _safe(self, text: str) -> str:
        # It may come from a broken or hostile switch, and ends in logs and on terminals.
        if self._token:
            text = text.replace(self._token, "(the token)")
        return "".join(letter if letter.isprintable() else "?" for letter in text)[:_DETAIL_LENGTH_MAX]


def encoded(report: Report) -> bytes:
    """The report as a body that a switch takes: with fewer of its runs and steps by name, if all would be too many."""
    body = msgspec.json.encode(report)
    while len(body) > BODY_BYTES_MAX and (report.runs or report.in_flight):
        fewer = report.runs[: len(report.runs) // 2], report.in_flight[: len(report.in_flight) // 2]
        report = msgspec.structs.replace(report, runs=fewer[0], in_flight=fewer[1])
        body = msgspec.json.encode(report)
    return body


def _decoded(body: bytes) -> Heard:
    try:
        return msgspec.json.decode(body, type=Heard)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LineDown("its answer to a report cannot be understood") from error


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise LineDown("it does not answer in time") from error
