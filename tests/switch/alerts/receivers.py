"""Receivers of alerts: real servers on loopback, well and badly behaved."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rescind.switch.alerts import Alert, Undelivered

PATIENCE_S = 10.0


def eventually(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Whether the condition came to hold in time."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.005)
    return condition()


class Receiver:
    """Answers each POST with the next of `answers` (status, headers); the last one repeats. Keeps what it was sent."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self._answers = list(answers) or [(204, {})]
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status, headers = receiver.next_answer()
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # the library's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01))
        self._thread.start()

    def next_answer(self) -> tuple[int, dict[str, str]]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def a_receiver(*answers: tuple[int, dict[str, str]]) -> Iterator[Receiver]:
    receiver = Receiver(*answers)
    try:
        yield receiver
    finally:
        receiver.close()


class BadReceiver:
    """Accepts connections and hands each to `behave`, in a thread of its own, until it is closed."""

    def __init__(self, behave: Callable[[socket.socket, threading.Event], None]) -> None:
        self.accepted = 0
        self.closed = threading.Event()
        self._behave = behave
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        self._socket.settimeout(0.02)
        while not self.closed.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                self.accepted += 1
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE_S)
            self._behave(connection, self.closed)

    def close(self) -> None:
        self.closed.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()


@contextlib.contextmanager
def a_bad_receiver(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[BadReceiver]:
    receiver = BadReceiver(behave)
    try:
        yield receiver
    finally:
        receiver.close()


def read_request(connection: socket.socket) -> None:
    """Read all of it: who closes with something unread makes the other side lose the answer."""
    with connection.makefile("rb") as file:
        length = 0
        while line := file.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        file.read(length)


def hangs(_connection: socket.socket, closed: threading.Event) -> None:
    """Never answers."""
    closed.wait()


def trickles(connection: socket.socket, closed: threading.Event) -> None:
    """Always sends one more byte of a header that never ends, soon enough for any timeout of one read."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not closed.wait(0.02):
        connection.sendall(b"x")


def floods(connection: socket.socket, closed: threading.Event) -> None:
    """Takes the alert, and answers with a body that never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not closed.is_set():
        connection.sendall(b"x" * 65536)


def babbles(connection: socket.socket, closed: threading.Event) -> None:
    """Speaks something else."""
    connection.sendall(b"\x00\xff\x00 this is no HTTP\r\n\r\n")
    closed.wait()


def hangs_up(connection: socket.socket, _closed: threading.Event) -> None:
    """Reads the request, and closes without an answer."""
    read_request(connection)


class Listed:
    """A channel in memory: it keeps what it was sent, after it failed with each of `problems`; None is a success."""

    def __init__(self, *problems: Exception | None, name: str = "listed") -> None:
        self.name = name
        self.sent: list[Alert] = []
        self.attempts = 0
        self._problems = list(problems)

    def prepare(self) -> None:
        pass

    def send(self, alert: Alert, *, timeout_s: float) -> None:
        assert timeout_s > 0
        self.attempts += 1
        problem = self._problems.pop(0) if self._problems else None
        if problem is not None:
            raise problem
        self.sent.append(alert)


class Held(Listed):
    """A channel that hangs in `send` until it is let go."""

    def __init__(self, name: str = "held") -> None:
        super().__init__(name=name)
        self.hanging, self.let_go = threading.Event(), threading.Event()

    def send(self, alert: Alert, *, timeout_s: float) -> None:
        self.hanging.set()
        self.let_go.wait()
        super().send(alert, timeout_s=timeout_s)


def unavailable(after_s: float | None = None) -> Undelivered:
    return Undelivered("the receiver answered 503", again=True, after_s=after_s)
