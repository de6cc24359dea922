"""Many guards in one process, for measurements: real connections, the guard's own reading of them, no threads.

Each has a stream and a connection for its acknowledgements, as a guard in a process of its own has. What it does with
an event is what a guard does: it is decoded, taken into the set, and only then acknowledged.
"""

import random
import resource
import select
import socket
import time
from collections.abc import Callable, Iterable

import msgspec

from rescind.switch.client.line import Line, Malformed
from rescind.switch.wire import OrderEvent, Report, SetEvent

PATIENCE_S = 60.0
SPARE_FILES = 600


def raise_file_limit() -> None:
    """Two connections for each of ten thousand guards are more than the usual limit. The switch inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class BenchGuard:
    """One guard: its stream, its acknowledgements, and what it has heard."""

    __slots__ = ("_has_head", "_rest", "bound_at_s", "guard_id", "line", "stream", "tries", "try_at_s")

    def __init__(self, number: int) -> None:
        self.guard_id = f"bench-{number}"
        self.line = Line(lease_ttl_s=10.0)
        self.stream: socket.socket | None = None
        self.bound_at_s = 0.0
        self.try_at_s, self.tries = 0.0, 0
        self._rest, self._has_head = b"", False

    def asks(self) -> None:
        """A new connection."""
        self.line.begin(asked_s=time.perf_counter())
        self._rest, self._has_head = b"", False

    def unchunk(self, data: bytes) -> bytes:
        """The events in what was read, without HTTP's head and the lengths of its chunks."""
        rest = self._rest + data
        if not self._has_head:
            head, blank, rest = rest.partition(b"\r\n\r\n")
            if not blank:
                self._rest = head
                return b""
            self._has_head = True
        found = b""
        while (line := rest.find(b"\r\n")) >= 0:
            end = line + 2 + int(rest[:line], 16)
            if len(rest) < end + 2:
                break
            found += rest[line + 2 : end]
            rest = rest[end + 2 :]
        self._rest = rest
        return found


class Fleet:
    """All of them, and the loop that serves them."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self._address = address
        self.guards = [BenchGuard(number) for number in range(count)]
        self._poll = select.epoll()
        self._streams: dict[int, BenchGuard] = {}
        self._acks: dict[int, socket.socket] = {}
        self._unanswered = 0
        self.lost = 0

    def connect(self) -> None:
        """Open both connections of every guard, and wait for every set."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        for guard in self.guards[: files - len(self.guards) - SPARE_FILES]:  # the last few share, if files run out
            self._open_ack(guard)
            self._open_stream(guard)
        self._unanswered = len(self._acks)
        for guard in self.guards[len(self._acks) :]:
            self._open_stream(guard)
        self._until(lambda: self._unanswered <= 0 and all(guard.line.switch_id for guard in self.guards))

    def close(self) -> None:
        self.drop()
        self._poll.close()

    def bind_order(self, place: Callable[[], Callable[[], str]]) -> tuple[str, list[float]]:
        """Place an order, and serve until every guard has bound it: its id, and how long each took, sorted."""
        for guard in self.guards:
            guard.bound_at_s = 0.0
        began_s = time.perf_counter()
        answer = place()
        waiting = set(self.guards)
        deadline_s = began_s + PATIENCE_S
        while waiting and time.perf_counter() < deadline_s:
            waiting.difference_update(self._serve(1.0))
        assert not waiting, f"{len(waiting)} guards did not bind the order"
        return answer(), sorted(guard.bound_at_s - began_s for guard in self.guards)

    def acknowledge(self) -> None:
        """Every guard says that it has bound and drained what it knows; returns when all have been answered."""
        for begin in range(0, len(self.guards), len(self._acks)):
            some = self.guards[begin : begin + len(self._acks)]
            for guard, connection in zip(some, self._acks.values(), strict=False):
                report = Report(pid=1, bound=guard.line.sequence)
                connection.send(_request("PUT", f"/v1/guards/{guard.guard_id}", report))
            self._unanswered = len(some)
            self._until(lambda: self._unanswered == 0)

    def reconnect(self) -> float:
        """After a restart of the switch: back off with jitter as guards do. Seconds until all are current again."""
        began_s = time.perf_counter()
        for guard in self.guards:
            guard.line.switch_id = ""
            guard.tries = 0
            self._back_off(guard)
        while not all(guard.line.switch_id for guard in self.guards):
            now_s = time.perf_counter()
            assert now_s < began_s + PATIENCE_S, "some guards never came back"
            for guard in self.guards:
                if guard.stream is None and guard.try_at_s <= now_s:
                    try:
                        self._open_stream(guard)
                    except OSError:
                        self._back_off(guard)
            self._serve(0.005)
        return time.perf_counter() - began_s

    def drop(self) -> None:
        """The switch is gone: every connection has ended."""
        for guard in self.guards:
            if guard.stream is not None:
                guard.stream.close()
                guard.stream = None
        for connection in self._acks.values():
            connection.close()
        self._streams.clear()
        self._acks.clear()
        self._poll.close()
        self._poll = select.epoll()

    def _serve(self, timeout_s: float) -> Iterable[BenchGuard]:
        bound: list[BenchGuard] = []
        for descriptor, _ in self._poll.poll(timeout_s):
            guard = self._streams.get(descriptor)
            if guard is None:
                self._read_answer(self._acks[descriptor])
            elif self._read_stream(guard):
                bound.append(guard)
        return bound

    def _read_stream(self, guard: BenchGuard) -> bool:
        assert guard.stream is not None
        data = _received(guard.stream)
        if data is None:
            return False
        if not data:
            self._lose(guard)
            return False
        is_bound = False
        try:
            for event in guard.line.feed(guard.unchunk(data), received_s=time.perf_counter()):
                if isinstance(event, OrderEvent):
                    guard.bound_at_s = time.perf_counter()
                    is_bound = True
                elif isinstance(event, SetEvent):
                    guard.tries = 0
        except Malformed:
            self._lose(guard)
        return is_bound

    def _read_answer(self, connection: socket.socket) -> None:
        data = _received(connection)
        if data == b"":
            self._poll.unregister(connection.fileno())
        elif data is not None and data.endswith(b"}"):  # the body, which may come after the head
            self._unanswered -= 1

    def _lose(self, guard: BenchGuard) -> None:
        assert guard.stream is not None
        self.lost += 1
        self._poll.unregister(guard.stream.fileno())
        del self._streams[guard.stream.fileno()]
        guard.stream.close()
        guard.stream = None
        self._back_off(guard)

    def _back_off(self, guard: BenchGuard) -> None:
        guard.tries += 1
        guard.try_at_s = time.perf_counter() + random.uniform(0, min(5.0, 0.05 * 2**guard.tries))

    def _open_stream(self, guard: BenchGuard) -> None:
        guard.asks()
        guard.stream = self._open()
        self._streams[guard.stream.fileno()] = guard
        guard.stream.send(_request("POST", f"/v1/guards/{guard.guard_id}/stream", Report(pid=1)))

    def _open_ack(self, guard: BenchGuard) -> None:
        # Who connects and says nothing is cut off, and rightly so.
        connection = self._open()
        connection.send(_request("PUT", f"/v1/guards/{guard.guard_id}", Report(pid=1)))
        self._unanswered += 1
        self._acks[connection.fileno()] = connection

    def _open(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._poll.register(connection.fileno(), select.EPOLLIN)
        return connection

    def _until(self, done: Callable[[], bool]) -> None:
        deadline_s = time.perf_counter() + PATIENCE_S
        while not done():
            assert time.perf_counter() < deadline_s, "the switch does not answer everybody"
            self._serve(0.5)


def _received(connection: socket.socket) -> bytes | None:
    """What is there; empty at the end, None if there is nothing yet."""
    try:
        return connection.recv(65_536)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def _request(method: str, path: str, report: Report) -> bytes:
    body = msgspec.json.encode(report)
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body
