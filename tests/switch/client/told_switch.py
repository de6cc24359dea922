"""A switch that does as it is told: real sockets and the real documents, and nothing decided by itself."""

import contextlib
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.clock import SystemClock
from rescind.switch.wire import BeatEvent, Heard, LiftEvent, OrderEvent, Report, SetEvent, order_doc, sse

if TYPE_CHECKING:
    from rescind.model.order import Order

BEAT_S = 0.1
PATIENCE_S = 15.0

_boot_s = SystemClock().boot_s


def eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """What the condition says once it says something; fails if that does not come in time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.002)
    return answer


class ToldSwitch:
    """Listens on loopback. What it has been told and what it says are its attributes.

    Attributes:
        reports: `(guard_id, report)` of every PUT, in order.
        hellos: Those of every stream.
        tokens: What it was shown.
        status: What it answers instead of serving, if not 200.
        silent: It goes on accepting, and says nothing.
        renews: Whether it says that it may renew a lease.
        answer_s: How long it thinks about each report.
    """

    def __init__(
        self, *, switch_id: str = "switch-1", beat_s: float = BEAT_S, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.switch_id, self.beat_s = switch_id, beat_s
        self.reports: list[tuple[str, Report]] = []
        self.hellos: list[tuple[str, Report]] = []
        self.tokens: list[str] = []
        self.status, self.silent, self.renews, self.answer_s = 200, False, True, 0.0
        self.orders: dict[str, Order] = {}
        self.lifted: list[str] = []
        self.sequence = 0
        self._lock = threading.Lock()
        self._streams: list[queue.Queue[bytes | None]] = []
        self._closing = False
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    # --- what it does ---

    def place(self, order: "Order") -> int:
        with self._lock:
            self.sequence += 1
            self.orders[order.order_id] = order
            self._say(sse("order", OrderEvent(sequence=self.sequence, order=order_doc(order)), sequence=self.sequence))
            return self.sequence

    def lift(self, *order_ids: str) -> int:
        with self._lock:
            self.sequence += 1
            self.lifted += order_ids
            for order_id in order_ids:
                self.orders.pop(order_id, None)
            self._say(sse("lift", LiftEvent(sequence=self.sequence, order_ids=order_ids), sequence=self.sequence))
            return self.sequence

    def say(self, raw: bytes) -> None:
        """Anything, on every stream."""
        with self._lock:
            self._say(raw)

    def hang_up(self) -> None:
        """End every stream."""
        with self._lock:
            for each in self._streams:
                each.put(None)

    def close(self) -> None:
        self._closing = True
        self.hang_up()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "ToldSwitch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it was told ---

    def report_of(self, condition: Callable[[Report], Any]) -> Report:
        """The first report that meets the condition, once there is one."""
        found: Report = eventually(
            lambda: next((each for _, each in self.reports if condition(each)), None), "a report"
        )
        return found

    def bound(self, sequence: int) -> Report:
        return self.report_of(lambda report: report.bound >= sequence)

    @property
    def streams_open(self) -> int:
        return len(self._streams)

    # --- the server ---

    def _say(self, raw: bytes) -> None:
        for each in self._streams:
            each.put(raw)

    def _set(self) -> bytes:
        event = SetEvent(
            switch_id=self.switch_id,
            sequence=self.sequence,
            at_s=_boot_s(),
            renews=self.renews,
            beat_s=self.beat_s,
            orders=tuple(order_doc(order) for order in self.orders.values()),
            lifted=tuple(self.lifted),
        )
        return sse("set", event, sequence=self.sequence)

    def _beat(self) -> bytes:
        return sse("beat", BeatEvent(sequence=self.sequence, at_s=_boot_s(), renews=self.renews))

    def stream(self, write: Callable[[bytes], None]) -> None:
        events: queue.Queue[bytes | None] = queue.Queue()
        with self._lock:
            if not self.silent:
                events.put(self._set())
            self._streams.append(events)
        try:
            while not self._closing:
                try:
                    raw = events.get(timeout=self.beat_s)
                except queue.Empty:
                    with self._lock:
                        raw = b"" if self.silent or not events.empty() else self._beat()
                if raw is None:
                    return
                write(raw)
        finally:
            with self._lock:
                self._streams.remove(events)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Guards hang up as they please."""


def _handler_of(switch: ToldSwitch) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            switch.hellos.append((self._guard_id, self._heard()))
            if switch.status != 200:
                self._refuse()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            with contextlib.suppress(OSError):
                switch.stream(self._chunk)
                self.wfile.write(b"0\r\n\r\n")

        def do_PUT(self) -> None:
            report = self._heard()
            if switch.answer_s:
                time.sleep(switch.answer_s)
            switch.reports.append((self._guard_id, report))
            if switch.status != 200:
                self._refuse()
                return
            self._answer(200, msgspec.json.encode(Heard(at_s=_boot_s(), sequence=switch.sequence, renews=True)))

        def _heard(self) -> Report:
            switch.tokens.append(self.headers.get("Authorization", ""))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            return msgspec.json.decode(body, type=Report)

        @property
        def _guard_id(self) -> str:
            return self.path.split("/")[3]

        def _refuse(self) -> None:
            # The detail holds the token, as that of a careless switch might.
            token = switch.tokens[-1].removeprefix("Bearer ")
            problem = {"title": "no", "status": switch.status, "detail": f"the token {token} is unknown"}
            self._answer(switch.status, json.dumps(problem).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _chunk(self, raw: bytes) -> None:
            if raw:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    return Handler
