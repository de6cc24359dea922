"""A guard's signals on their way to switches. No call ever waits for that: a small queue, and a thread that empties it.

Every switch is told of every signal, since each decides by itself: what guards told to different switches would meet
nowhere. A switch that is away misses what is noticed meanwhile; its federation passes on the orders that follow. When
more is noticed than can be sent, the oldest is dropped: the newest says most, and how many were lost is told with the
guard's report.
"""

import threading
from collections import deque
from typing import Protocol

import msgspec

from rescind.clock import Clock
from rescind.errors import RescindError
from rescind.model.order import Order
from rescind.model.signal import Signal
from rescind.switch.client.asking import Asking, Request, Switches
from rescind.switch.client.http import Response
from rescind.switch.signal_wire import ASKS_MAX, AskDoc, Noticed, SignalDoc, VerdictDoc, ask_doc, signal_doc

QUEUE_MAX = 256
"""Signals that wait. A run that is wrong makes one signal, not one for each of its calls."""

WITHIN_S = 5.0
"""How long switches that do not answer are tried, and so the longest that the next signal waits."""


def post_signal(switches: Switches, doc: SignalDoc, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Noticed]:
    """Tell all switches of a signal. An answer says what became of it there."""
    return _post(switches, "/v1/signals", doc, doc.signal_id, within_s=within_s, clock=clock)


def post_verdict(switches: Switches, doc: VerdictDoc, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Noticed]:
    """Tell all switches a verdict, which has its id already: one verdict at several switches is one."""
    return _post(switches, "/v1/verdicts", doc, doc.verdict_id, within_s=within_s, clock=clock)


def _post(
    switches: Switches, path: str, doc: SignalDoc | VerdictDoc, signal_id: str, *, within_s: float, clock: Clock
) -> Asking[Noticed]:
    def read(response: Response) -> Noticed:
        noticed = msgspec.json.decode(response.body, type=Noticed)
        if noticed.signal_id != signal_id:
            raise ValueError("it names another signal")
        return noticed

    request = Request(method="POST", path=path, body=msgspec.json.encode(doc), statuses=(200, 201), read=read)
    return Asking(switches, request, within_s=within_s, clock=clock)


class Belonging(Protocol):
    """An incident, as far as a switch hears of it."""

    @property
    def incident_id(self) -> str:
        """Its id."""
        ...


class SignalPoster:
    """Sends a guard's signals to its switches.

    A thread sends them; it is started by the first signal and ends when there is none left, so that an idle guard has
    none, and a child of a fork, which inherits no thread, starts its own. Thread-safe.
    """

    def __init__(self, switches: Switches, *, clock: Clock, queue_max: int = QUEUE_MAX) -> None:
        self._switches, self._clock = switches, clock
        self._queue: deque[SignalDoc] = deque(maxlen=queue_max)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropped = self._refused = 0
        self._problem = ""

    def notice(self) -> str:
        """How many signals no switch has heard of, and why the last one was not taken; empty if none was lost."""
        lost = [
            f"{self._dropped:,} dropped, since more were noticed than could be sent" if self._dropped else "",
            f"{self._refused:,} that no switch has taken" if self._refused else "",
        ]
        counts = " and ".join(filter(None, lost))
        reason = f"; the last one: {self._problem}" if self._problem else ""
        return f"signals lost: {counts}{reason}" if counts else ""

    def tell(
        self, signal: Signal, own: tuple[Order, ...], wide: tuple[Order, ...], incident: "Belonging | None"
    ) -> None:
        """Tell what was noticed and done here. Returns at once.

        Args:
            signal: What was noticed; its source is the guard's id.
            own: Orders about runs of this guard and what they have started. A switch places them under the same ids.
            wide: Orders that concern other guards too: a switch places them if there is evidence enough.
            incident: Where it belongs.
        """
        asks = (*(ask_doc(order, keeps_id=True) for order in own), *(ask_doc(order) for order in wide))[:ASKS_MAX]
        self.put(signal, asks=asks, incident="" if incident is None else incident.incident_id)

    def put(self, signal: Signal, *, asks: tuple[AskDoc, ...] = (), incident: str = "") -> None:
        """Send a signal as soon as may be. Returns at once.

        Args:
            signal: What was noticed; its source is the guard's id.
            asks: Orders that the policy wants of the switch, since they would hold other guards' runs too.
            incident: The incident that was opened or joined.
        """
        if not self._switches.urls:
            return
        doc = signal_doc(signal, asks=asks, incident=incident)
        with self._lock:
            self._dropped += len(self._queue) == self._queue.maxlen
            self._queue.append(doc)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._send_all, name="rescind-signals", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all are sent, for so long at most. Returns: whether they are."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def reset_after_fork(self) -> None:
        """In a child: what the parent has queued is the parent's to send, and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._queue.clear()
        self._thread = None
        self._dropped = self._refused = 0
        self._problem = ""

    def _send_all(self) -> None:
        while (doc := self._next()) is not None:
            try:
                replies = post_signal(self._switches, doc, clock=self._clock).every()
            except RescindError as error:  # a file of certificates that has gone, say
                self._note(str(error))
                continue
            troubles = [f"{reply.url} {reply.detail}" for reply in replies if reply.answer is None]
            self._note("; ".join(troubles) if len(troubles) == len(replies) else "")

    def _next(self) -> SignalDoc | None:
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            self._thread = None  # whoever puts the next one starts another
            return None

    def _note(self, problem: str) -> None:
        self._refused += bool(problem)
        self._problem = problem
