"""One request to several switches at once, each tried again until it answers or time is up.

Replies come as they are known, so that whoever waits for the first durable one can say so at once and hear the others
afterwards. Each switch is asked by a thread of its own, which the end of the process does not wait for: a name server
or a handshake that hangs holds nobody up.
"""

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import msgspec

from rescind.clock import Clock
from rescind.switch.client.http import Address, Response, Trouble, Unreachable, fetch
from rescind.switch.client.tokens import token_for, tokens_by_url
from rescind.web.problems import Problem

T = TypeVar("T")

WITHIN_S = 3.0
"""How long switches that do not answer are tried. A lost packet is sent again twice within it."""

ANSWER_BYTES_MAX = 1024 * 1024
"""An answer's body: a thousand standing orders take about 300 KiB."""

_HANG_S = 0.2
"""Beyond the time that all have, for a reply that was given at its very end."""

_BACK_OFF_S, _BACK_OFF_MAX_S = 0.1, 1.0

_DETAIL_LENGTH_MAX = 500
"""Of what a switch says of itself; it may be broken."""


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """The switches that a command speaks to.

    Attributes:
        urls: `http://HOST:PORT` or `https://HOST:PORT`, each once; may be empty.
        token: What to show them: one token for all, or lines of `URL TOKEN`; empty for nothing.
        ca_file: Whom to believe with https; None for the system's authorities.
    """

    urls: tuple[str, ...] = ()
    token: str = ""
    ca_file: str | None = None

    def __post_init__(self) -> None:
        for url in self.urls:
            Address.parse(url)
        tokens_by_url(self.token)

    def __repr__(self) -> str:  # whatever prints this must not print the token
        return f"Switches({', '.join(self.urls)})"

    def token_of(self, url: str) -> str:
        """What to show to this switch."""
        return token_for(url, self.token)


class Request(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What to ask, and how to read the answer.

    Attributes:
        read: Makes the value of an answer with one of the `statuses`; raises ValueError, if it is none.
        repeats: Whether to try again while there is time: a switch that cannot be reached, or that refuses for the
            moment, such as for a full disk. Who only looks wants to know at once.
    """

    method: str
    path: str
    read: Callable[[Response], T]
    body: bytes = b""
    statuses: tuple[int, ...] = (200,)
    bytes_max: int = ANSWER_BYTES_MAX
    repeats: bool = True


class Reply(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What came of asking one switch.

    Attributes:
        url: The switch.
        answer: What it answered; None if it did not do what it was asked.
        trouble: Why not; None if it did.
        detail: The same for people, one line of whatever was said, which may be hostile.
        status: Of its answer; 0 if there was none.
    """

    url: str
    answer: T | None = None
    trouble: Trouble | None = None
    detail: str = ""
    status: int = 0

    @property
    def is_refusal(self) -> bool:
        """Whether the switch understood and said no."""
        return self.trouble in (Trouble.REFUSED, Trouble.NO_TOKEN, Trouble.WRONG_ROLE)


class Asking(Generic[T]):
    """A request on its way to all switches. It is sent when this is made; iterate for the replies.

    Each switch gives exactly one reply, and the last one comes at most `within_s` after the beginning.
    """

    def __init__(self, switches: Switches, request: Request[T], *, within_s: float = WITHIN_S, clock: Clock) -> None:
        self._switches, self._request, self._clock = switches, request, clock
        self._deadline_s = clock.monotonic_s() + within_s
        self._replies: SimpleQueue[Reply[T]] = SimpleQueue()
        self._awaited = dict.fromkeys(switches.urls)
        self._within_s = within_s
        for url in self._awaited:
            threading.Thread(target=self._pursue, args=(url,), name=f"asks {url}", daemon=True).start()

    def __iter__(self) -> Iterator[Reply[T]]:
        while self._awaited:
            left_s = self._deadline_s + _HANG_S - self._clock.monotonic_s()
            # Its thread may hang where no timeout reaches, such as in a name server's library.
            reply = self._next(left_s) or Reply[T](
                url=next(iter(self._awaited)), trouble=Trouble.SLOW, detail=self._slow()
            )
            if reply.url in self._awaited:
                del self._awaited[reply.url]
                yield reply

    def within(self, timeout_s: float) -> Iterator[Reply[T]]:
        """The replies that come so soon. The others are left for later."""
        until_s = self._clock.monotonic_s() + timeout_s
        while self._awaited and (reply := self._next(until_s - self._clock.monotonic_s())) is not None:
            if reply.url in self._awaited:
                del self._awaited[reply.url]
                yield reply

    def every(self) -> list[Reply[T]]:
        """Wait for all replies; in the order of the URLs."""
        replies = {reply.url: reply for reply in self}
        return [replies[url] for url in dict.fromkeys(self._switches.urls)]

    def _next(self, timeout_s: float) -> Reply[T] | None:
        try:
            return self._replies.get(timeout=max(0.0, timeout_s))
        except Empty:
            return None

    def _pursue(self, url: str) -> None:
        pause_s = _BACK_OFF_S
        while True:
            reply = self._ask(url)
            left_s = self._deadline_s - self._clock.monotonic_s()
            if not self._may_change(reply) or left_s <= pause_s:
                break
            self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACK_OFF_MAX_S)
        self._replies.put(reply)

    def _ask(self, url: str) -> Reply[T]:
        request = self._request
        try:
            response = fetch(
                Address.parse(url),
                request.method,
                request.path,
                body=request.body,
                token=self._switches.token_of(url),
                ca_file=self._switches.ca_file,
                deadline_s=self._deadline_s,
                bytes_max=request.bytes_max,
                clock=self._clock,
            )
        except Unreachable as error:
            detail = self._slow() if error.trouble is Trouble.SLOW else error.detail
            # What is no switch has no order either; the others may have died between their disk and the answer.
            unsure = error.sent and request.method != "GET" and error.trouble is not Trouble.NO_SWITCH
            return Reply(url=url, trouble=error.trouble, detail=detail + (_PERHAPS if unsure else ""))
        return read_response(url, response, request)

    def _may_change(self, reply: Reply[T]) -> bool:
        if not self._request.repeats:
            return False
        unreachable = reply.trouble in (Trouble.DOWN, Trouble.NO_HOST, Trouble.SLOW)
        return unreachable or reply.status == 429 or reply.status >= 500

    def _slow(self) -> str:
        return f"did not answer within {self._within_s:g} s"


_PERHAPS = "; it may have it all the same"


_UNREADABLE = (ValueError, RecursionError)
"""What decoding raises: msgspec's errors and Unicode's are ValueErrors; something nested very deep is neither."""


def read_response(url: str, response: Response, request: Request[T]) -> Reply[T]:
    """The reply that a response is."""
    if response.status in request.statuses:
        try:
            return Reply(url=url, answer=request.read(response), status=response.status)
        except _UNREADABLE as error:
            return _no_switch(url, response, f"its answer is none of a switch: {error}")
    try:
        problem = msgspec.json.decode(response.body, type=Problem)
    except _UNREADABLE:
        return _no_switch(url, response, f"it answers {response.status} without a word that a switch would say")
    troubles = {401: Trouble.NO_TOKEN, 403: Trouble.WRONG_ROLE}
    trouble = troubles.get(response.status, Trouble.REFUSED)
    detail = (problem.detail or problem.title)[:_DETAIL_LENGTH_MAX]
    return Reply(url=url, trouble=trouble, detail=detail, status=response.status)


def _no_switch(url: str, response: Response, detail: str) -> Reply[Any]:
    return Reply(url=url, trouble=Trouble.NO_SWITCH, detail=detail[:_DETAIL_LENGTH_MAX], status=response.status)
