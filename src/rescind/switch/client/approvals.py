"""A guard's approvals at its switches: asked there, and decided there and nowhere else.

A write that waits calls `decision` again and again, and that does no I/O: a thread asks the switches, and is there only
while something waits. It asks every switch that may let this guard go on, since any of them may be the one that people
can reach. One yes is enough, unless another of them says no.
"""

import functools
import logging
import math
import os
import threading
from collections.abc import Callable
from datetime import datetime
from urllib.parse import quote

import msgspec

from rescind.clock import Clock, from_us
from rescind.config import SwitchConfig
from rescind.model.approval import APPROVED, DENIED
from rescind.model.entry import ApprovalAsked, ApprovalDecided
from rescind.switch.approval_wire import ApprovalDoc, Asked, DecisionDoc
from rescind.switch.client.asking import WITHIN_S, Asking, Request, Switches
from rescind.switch.client.http import Response
from rescind.switch.client.operator import MANY_BYTES_MAX

logger = logging.getLogger("rescind")

POLL_S, SLOW_POLL_S = 1.0, 10.0
"""How often switches are asked, while a write waits and while none does. It is asked once for all that a guard wants
to know; what was asked for is followed until it expires, for a call that comes again later."""

WAITS_S = 5.0
"""How long ago a write asked for the last time, if it waits."""

WANTED_MAX = 1_000
"""Approvals that are followed at once; a switch keeps no more of one agent either."""


def post_asked(switches: Switches, doc: Asked, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[ApprovalDoc]:
    """Ask at all switches. A reply with an answer means: it is on that switch's disk."""
    body = msgspec.json.encode(doc)
    read = _reader_of(doc.asked.approval_id)
    request = Request(method="POST", path="/v1/approvals", body=body, statuses=(200, 201), read=read, repeats=False)
    return Asking(switches, request, within_s=within_s, clock=clock)


def get_approvals(
    switches: Switches, *, every: bool = False, within_s: float = WITHIN_S, clock: Clock
) -> Asking[tuple[ApprovalDoc, ...]]:
    """What waits and what was decided, at each switch."""

    def read(response: Response) -> tuple[ApprovalDoc, ...]:
        return msgspec.json.decode(response.body, type=tuple[ApprovalDoc, ...])

    path = "/v1/approvals?every=true" if every else "/v1/approvals"
    request = Request(method="GET", path=path, read=read, bytes_max=MANY_BYTES_MAX, repeats=False)
    return Asking(switches, request, within_s=within_s, clock=clock)


def post_decision(
    switches: Switches, approval_id: str, doc: DecisionDoc, *, within_s: float = WITHIN_S, clock: Clock
) -> Asking[ApprovalDoc]:
    """Decide at all switches; the same decision, so that a federation has it once."""
    path = f"/v1/approvals/{quote(approval_id, safe='')}/decision"
    request = Request(method="POST", path=path, body=msgspec.json.encode(doc), read=_reader_of(approval_id))
    return Asking(switches, request, within_s=within_s, clock=clock)


class _Wanted:
    """An approval that a write waits for, and what is known of it."""

    def __init__(self, asked: ApprovalAsked, now_s: float) -> None:
        self.asked, self.wanted_s = asked, now_s
        self.asked_at: set[str] = set()  # the switches that have it
        self.is_told = False  # that a switch refuses it
        self.again_s = -math.inf  # when to ask the others again
        self.answers: dict[str, ApprovalDoc] = {}


class SwitchDecider:
    """Knows what was decided at the switches, as far as they were heard. Thread-safe; see `guard.asking.Decider`."""

    def __init__(self, config: SwitchConfig, token: str, clock: Clock) -> None:
        """A decider that has asked nothing yet.

        Args:
            config: The switches. Those among them that the agent's environment has added count for nothing: the agent
                may run them itself.
            token: What to show them.
            clock: The time.
        """
        self._config, self._token, self._clock = config, token, clock
        self._thread: threading.Thread | None = None
        self._begin_anew()

    def decision(self, asked: ApprovalAsked) -> ApprovalDecided | None:
        """What was decided, as far as it is known; see to it that the switches are asked."""
        if self._pid != os.getpid():  # after a fork: the thread, and whoever holds the lock, are the parent's
            self._begin_anew()
        now_s = self._clock.monotonic_s()
        with self._lock:
            wanted = self._wanted.get(asked.approval_id)
            if wanted is None:
                if len(self._wanted) >= WANTED_MAX:
                    del self._wanted[next(iter(self._wanted))]
                wanted = self._wanted[asked.approval_id] = _Wanted(asked, now_s)
            wanted.wanted_s = now_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rescind-approvals", daemon=True)
                self._thread.start()
            answers = list(wanted.answers.values())
        return _ruling(answers, asked, from_us(self._clock.now_us()))

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}
        self._thread = None

    @functools.cached_property
    def _switches(self) -> Switches:
        config = self._config
        trusted = tuple(url for url in config.urls if url not in config.further)
        return Switches(urls=trusted, token=self._token, ca_file=config.ca_file)

    # --- the thread ---

    def _work(self) -> None:
        looked_s = -math.inf
        try:
            while (wanted := self._still_wanted()) is not None:
                for each in wanted:
                    self._ask(each)
                now_s = self._clock.monotonic_s()
                waits = any(now_s - each.wanted_s < WAITS_S for each in wanted)
                if now_s - looked_s >= (POLL_S if waits else SLOW_POLL_S):
                    self._look(wanted)
                    looked_s = self._clock.monotonic_s()
                self._clock.sleep(POLL_S / 2)
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None  # the next question begins another one

    def _still_wanted(self) -> list[_Wanted] | None:
        """What could still be decided; None, and the thread is no more, if nothing could."""
        now = from_us(self._clock.now_us())
        with self._lock:
            for approval_id in [key for key, each in self._wanted.items() if each.asked.expires_at <= now]:
                del self._wanted[approval_id]
            if not self._wanted:
                self._thread = None
                return None
            return list(self._wanted.values())

    def _ask(self, wanted: _Wanted) -> None:
        missing = tuple(url for url in self._switches.urls if url not in wanted.asked_at)
        now_s = self._clock.monotonic_s()
        if not missing or now_s < wanted.again_s:
            return
        wanted.again_s = now_s + SLOW_POLL_S  # those that are away now, or have no place for it
        doc = Asked(asked=wanted.asked, asked_at=from_us(self._clock.now_us()))
        for reply in post_asked(msgspec.structs.replace(self._switches, urls=missing), doc, clock=self._clock):
            if reply.answer is not None:
                wanted.asked_at.add(reply.url)
                with self._lock:
                    wanted.answers[reply.url] = reply.answer
            elif reply.is_refusal and not wanted.is_told:
                wanted.is_told = True
                logger.warning("%s cannot be asked for at %s: %s", wanted.asked.approval_id, reply.url, reply.detail)

    def _look(self, wanted: list[_Wanted]) -> None:
        """Take up what the switches say now."""
        by_id = {each.asked.approval_id: each for each in wanted}
        for reply in get_approvals(self._switches, clock=self._clock):
            if reply.answer is None:
                continue
            with self._lock:
                for doc in reply.answer:
                    each = by_id.get(doc.asked.approval_id)
                    if each is not None:
                        each.answers[reply.url] = doc


def _ruling(answers: list[ApprovalDoc], asked: ApprovalAsked, now: datetime) -> ApprovalDecided | None:
    said = [
        doc.decided
        for doc in answers
        if doc.decided is not None
        and doc.decided.arguments_digest == asked.arguments_digest
        and now < doc.asked.expires_at  # by the switch's copy: the guard's is among the agent's files
    ]
    for decision in (DENIED, APPROVED):
        for decided in said:
            if decided.decision == decision:
                return decided
    return None


def _reader_of(approval_id: str) -> Callable[[Response], ApprovalDoc]:
    def read(response: Response) -> ApprovalDoc:
        doc = msgspec.json.decode(response.body, type=ApprovalDoc)
        if doc.asked.approval_id != approval_id:
            raise ValueError("it names another approval")
        return doc

    return read
