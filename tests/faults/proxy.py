"""Stands between guards and a switch, and rewrites what the switch says: event by event, answer by answer."""

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from faults.machine import PATIENCE_S

Rewrite = Callable[[bytes], Iterable[tuple[float, bytes]]]
"""From one event to those that are sent instead, each so many seconds later. What comes later overtakes nothing."""


def unchanged(event: bytes) -> Iterable[tuple[float, bytes]]:
    return [(0.0, event)]


class Proxy:
    """Listens on loopback, in a thread of its own. `with` ends it.

    Attributes:
        url: Where guards find it.
        events: How many it has sent.
    """

    def __init__(
        self, switch_url: str, rewrite: Rewrite = unchanged, answer: Callable[[Any], Any] | None = None
    ) -> None:
        parts = urlsplit(switch_url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._rewrite, self._answer = rewrite, answer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._connections: set[asyncio.Task[None]] = set()
        self.url, self.events = "", 0

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE_S)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._server = server
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        for each in list(self._connections):
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        try:
            said = asyncio.create_task(_copy(reader, back))
            told = asyncio.create_task(self._tell(there, writer))
            try:
                await asyncio.wait([said, told], return_when=asyncio.FIRST_COMPLETED)
            finally:
                said.cancel()
                told.cancel()
                await asyncio.gather(said, told, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _tell(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await there.readuntil(b"\r\n\r\n")
            if b"text/event-stream" in head.lower():
                writer.write(head)
                await self._tell_events(there, writer)
                return
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
            body = await there.readexactly(length)
            writer.write(b"".join(self._answered(head, body, length)))
            await writer.drain()

    def _answered(self, head: bytes, body: bytes, length: int) -> tuple[bytes, bytes]:
        if self._answer is None:
            return head, body
        other = json.dumps(self._answer(json.loads(body))).encode()
        lines = [
            b"content-length: %d" % len(other) if b"content-length" in each.lower() else each
            for each in head.split(b"\r\n")
        ]
        return b"\r\n".join(lines), other

    async def _tell_events(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due: deque[tuple[float, bytes]] = deque()
        news = asyncio.Event()
        sender = asyncio.create_task(self._send(due, news, writer))
        rest, last_s = b"", 0.0
        try:
            while size := int((await there.readuntil(b"\r\n")).strip(), 16):
                rest += (await there.readexactly(size + 2))[:-2]
                *events, rest = rest.split(b"\n\n")
                for event in events:
                    for delay_s, told in self._rewrite(event + b"\n\n"):
                        last_s = max(last_s, self._loop.time() + delay_s)
                        due.append((last_s, told))
                news.set()
        finally:
            sender.cancel()

    async def _send(self, due: deque[tuple[float, bytes]], news: asyncio.Event, writer: asyncio.StreamWriter) -> None:
        while True:
            while due:
                at_s, event = due.popleft()
                await asyncio.sleep(max(0.0, at_s - self._loop.time()))
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                self.events += 1
            news.clear()
            await news.wait()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


def name_and_data(event: bytes) -> tuple[str, Any]:
    """An event's name, and what it says."""
    fields = dict(line.split(b": ", 1) for line in event.strip().split(b"\n"))
    return fields[b"event"].decode(), json.loads(fields[b"data"])


def an_event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
