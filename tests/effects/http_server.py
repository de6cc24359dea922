"""A real HTTP server in a thread: resources with ETags, conditions that are checked in one step, and bad manners."""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Kind = Literal["strong", "weak", "none"]
Misbehave = Callable[["Handler"], bool]


class HttpServer:
    """Resources by path: `(content type, body)`. What a test does to `resources` itself, somebody else does.

    Attributes:
        etags: Strong ones count the writes, so a restored body has another; weak ones are the content's.
        revises: Each write by HTTP sets `revision` in a JSON body.
        before_write: Called once, after a write has arrived and before its condition is looked at.
        misbehave: Called first; True says that it has answered.
        seen: Method, path and headers of each request.
    """

    def __init__(self, *, etags: Kind = "strong", revises: bool = False) -> None:
        self.etags, self.revises = etags, revises
        self.resources: dict[str, tuple[str, bytes]] = {}
        self.numbers: dict[str, int] = {}
        self.writes = 0
        self.lock = threading.RLock()
        self.before_write: Callable[[], object] | None = None
        self.misbehave: Misbehave | None = None
        self.connections: list[socket.socket] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"there": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.005})
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            for each in self.connections:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._server.server_close()

    def put(self, path: str, body: bytes, kind: str = "application/json") -> None:
        with self.lock:
            self.resources[path] = (kind, body)
            self.writes += 1
            self.numbers[path] = self.writes

    def delete(self, path: str) -> None:
        with self.lock:
            del self.resources[path]

    def etag(self, path: str) -> str:
        if path not in self.resources or self.etags == "none":
            return ""
        if self.etags == "strong":
            return f'"{self.numbers[path]}"'
        return f'W/"{hashlib.sha256(self.resources[path][1]).hexdigest()[:8]}"'

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.seen]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    there: HttpServer

    def setup(self) -> None:
        super().setup()
        self.there.connections.append(self.connection)

    def log_message(self, format: str, *args: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _first(self) -> bool:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.there.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        return self.there.misbehave is not None and self.there.misbehave(self)

    def do_GET(self) -> None:
        if self._first():
            return
        with self.there.lock:
            found, etag = self.there.resources.get(self.path), self.there.etag(self.path)
        if found is None:
            self.answer(404)
        else:
            self.answer(200, found[1], {"Content-Type": found[0], **({"ETag": etag} if etag else {})})

    def _write(self) -> None:
        if self._first():
            return
        meddle, self.there.before_write = self.there.before_write, None
        if meddle:
            meddle()
        with self.there.lock:
            status = self.write_if_allowed()
        self.answer(status)

    def write_if_allowed(self) -> int:
        there, path = self.there, self.path
        etag, wanted, unwanted = there.etag(path), self.headers.get("If-Match"), self.headers.get("If-None-Match")
        weak_or_other = wanted is not None and (wanted != etag or wanted.startswith("W/"))
        if weak_or_other or (unwanted == "*" and path in there.resources):
            return 412
        if self.command == "DELETE":
            if path not in there.resources:
                return 404
            there.delete(path)
            return 204
        body = self.body
        if self.command == "PATCH":
            body = json.dumps({**json.loads(there.resources[path][1]), **json.loads(body)}).encode()
        if there.revises:
            body = json.dumps({**json.loads(body), "revision": there.writes}).encode()
        there.put(path, body, self.headers.get("Content-Type", ""))
        return 200

    do_PUT = do_PATCH = do_DELETE = _write  # noqa: N815  # names of the standard library's


def drips(handler: Handler) -> bool:
    """A body that never ends, a byte at a time."""
    handler.send_response(200)
    handler.send_header("ETag", '"1"')
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        return True
