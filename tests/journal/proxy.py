"""A line to a server that a test can cut: between a request and its answer, before it, or long after it was sent."""

import contextlib
import socket
import threading
from collections.abc import Generator


class Line:
    """Forwards connections to a port.

    `mishap` says what happens to the next request that holds `needle`: `answer lost` (the server does it, and its
    answer is lost), `request lost`, or `request late` (the client loses its connection; the server gets the request
    when `deliver` is called). With `closed`, no further connections come about, and those that are there break.
    `journeys` counts what clients have sent, in one piece each.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.needle, self.mishap, self.closed = b"append_batch(", "", False
        self.mishaps = self.journeys = 0
        self.answered = threading.Event()  # The server has answered what was late.
        self.late: list[tuple[socket.socket, bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def deliver(self) -> None:
        """Let the server have what is late, and wait until it has answered or closed."""
        for upstream, data in self.late:
            upstream.sendall(data)
            assert self.answered.wait(10)
            upstream.close()

    def shut(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.closed:
                    client.close()
                    continue
                upstream = socket.create_connection(("127.0.0.1", self._server))
                pair = _Pair(self, client, upstream)
                threading.Thread(target=pair.requests, daemon=True).start()
                threading.Thread(target=pair.answers, daemon=True).start()


class _Pair:
    def __init__(self, line: Line, client: socket.socket, upstream: socket.socket) -> None:
        self._line, self._client, self._upstream = line, client, upstream
        self._lose_answer = False

    def requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 20):
                self._line.journeys += 1
                mishap = self._line.mishap if self._line.needle in data or self._line.needle == b"" else ""
                if mishap:
                    self._line.mishap = ""
                    self._line.mishaps += 1
                if mishap == "request late":
                    self._line.late.append((self._upstream, data))
                    self._client.close()
                    return
                if mishap == "request lost":
                    break
                self._lose_answer = mishap == "answer lost"
                self._upstream.sendall(data)
            self._break()

    def answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._upstream.recv(1 << 20):
                if self._is_late():
                    self._line.answered.set()
                    return
                if self._lose_answer or self._line.closed:
                    break
                self._client.sendall(data)
        if not self._is_late():
            self._break()

    def _is_late(self) -> bool:
        return any(self._upstream is late for late, _ in self._line.late)

    def _break(self) -> None:
        for end in (self._client, self._upstream):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def line_to(port: int) -> Generator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.shut()
