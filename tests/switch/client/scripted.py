"""A server that says what a test tells it to, over real sockets: a switch that is slow, full, broken or hostile."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Asked = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers in lower case, body."""

Script = Callable[[socket.socket, Asked], None]


def answer(status: int, document: Any, *, kind: str = "application/json") -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def problem(status: int, detail: str) -> bytes:
    return answer(status, {"title": "No", "status": status, "detail": detail}, kind="application/problem+json")


def placed(asked: Asked, switch_id: str = "sw_1", **changes: Any) -> bytes:
    order = json.loads(asked[3]) | changes
    return answer(201, {"switch_id": switch_id, "order": order, "sequence": 7, "known_before": False, "newer": 1})


@dataclass
class Scripted:
    """What was asked, and where to ask."""

    port: int
    tls: bool = False
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, _, _, body in self.asked]


@contextmanager
def serving(script: Script, *, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Serve each connection in a thread of its own: read one request, then do as the script says."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = Scripted(listener.getsockname()[1], tls=context is not None)
    threads: list[threading.Thread] = []
    open_now: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        try:
            connection.settimeout(10.0)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
                open_now.append(connection)
            with connection:
                asked = _read(connection)
                if asked is not None:
                    found.asked.append(asked)
                    script(connection, asked)
        except OSError:  # the client has had enough
            return
        finally:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_now.append(connection)
            thread = threading.Thread(target=serve, args=(connection,))
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield found
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def saying(*answers: bytes | Callable[[Asked], bytes]) -> Script:
    """A script that gives one answer after the other, the last one for ever."""
    left = list(answers)

    def script(connection: socket.socket, asked: Asked) -> None:
        said = left.pop(0) if len(left) > 1 else left[0]
        connection.sendall(said if isinstance(said, bytes) else said(asked))

    return script


def nobody() -> str:
    """The URL of a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _read(connection: socket.socket) -> Asked | None:
    held = b""
    while b"\r\n\r\n" not in held:
        piece = connection.recv(65_536)
        if not piece:
            return None
        held += piece
    head, _, body = held.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65_536)
    method, path, _ = first.split(" ")
    return method, path, headers, body
