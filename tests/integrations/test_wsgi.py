"""The fallback in front of a WSGI application, judged by the reference validator on both of its sides."""

import http.client
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from builders import a_guard, an_order
from rescind.errors import CallDenied, RunHalted
from rescind.guard.guard import Guard
from rescind.integrations.wsgi import App, Environ, FallbackMiddleware, StartResponse
from rescind.model.level import Level

TEXT = [("Content-Type", "text/plain")]
EVENTS = [("Content-Type", "text/event-stream")]


def halted_run() -> RunHalted:
    return RunHalted("run 1 is halted", fallback="Please call us.", run_id="run-1")


class Reply:
    """One request, served as a server would, and checked on the way."""

    def __init__(self, app: App, guard: Guard, **options: Any) -> None:
        environ: Environ = {key: options.pop(key) for key in list(options) if key.isupper()}
        setup_testing_defaults(environ)
        environ = {"QUERY_STRING": "", "SCRIPT_NAME": ""} | environ
        inner: Any = validator(app)
        self.app: Any = validator(FallbackMiddleware(inner, guard, **({"agent": "billing-agent@2.4.0"} | options)))
        self.environ, self.status, self.headers, self.chunks = environ, "", dict[str, str](), list[bytes]()
        self.written = list[bytes]()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and self.chunks:
            raise exc_info[1]
        self.status, self.headers = status, {name.lower(): value for name, value in headers}
        return self.written.append

    def read(self, each: Callable[["Reply"], Any] = lambda reply: None) -> "Reply":
        chunks = self.app(self.environ, self.start_response)
        try:
            for chunk in chunks:
                self.chunks.append(chunk)
                each(self)
        finally:
            chunks.close()
        return self

    @property
    def body(self) -> bytes:
        return b"".join((*self.written, *self.chunks))


def answering(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"an answer"]


@pytest.mark.parametrize("level", Level)
def test_requests_are_refused_where_nothing_new_may_start(level: Level) -> None:
    guard = a_guard(fallback="Please call us.")
    if level:
        guard.orders.place(an_order(level=level))
    reply = Reply(answering, guard).read()

    if level < Level.PAUSED:
        assert (reply.status, reply.body) == ("200 OK", b"an answer")
    else:
        assert (reply.status, reply.headers["retry-after"]) == ("503 Service Unavailable", "30")
        assert json.loads(reply.body)["error"]["message"] == "Please call us."


def test_the_form_follows_accept_and_a_head_request_gets_no_body() -> None:
    guard = a_guard()
    guard.orders.place(an_order())

    page = Reply(answering, guard, HTTP_ACCEPT="text/html,*/*;q=0.8").read()
    assert (page.status[:3], page.headers["content-type"]) == ("503", "text/html; charset=utf-8")
    events = Reply(answering, guard, HTTP_ACCEPT="text/event-stream").read()
    assert (events.status, b"event: agent_paused" in events.body) == ("200 OK", True)
    head = Reply(answering, guard, REQUEST_METHOD="HEAD").read()
    assert (head.status[:3], head.body) == ("503", b"")


def test_health_preflights_and_the_paths_of_others_are_left_alone() -> None:
    guard = a_guard()
    guard.orders.place(an_order())

    assert Reply(answering, guard, PATH_INFO="/healthz").read().status == "200 OK"
    assert Reply(answering, guard, PATH_INFO="/about", paths=("/chat",)).read().status == "200 OK"
    assert (
        Reply(answering, guard, PATH_INFO="/chät".encode().decode("latin-1"), paths=("/chät",)).read().status[:3]
        == "503"
    )
    asks = {"REQUEST_METHOD": "OPTIONS", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}
    assert Reply(answering, guard, **asks).read().status == "200 OK"


def test_only_the_tenant_that_is_held_is_refused() -> None:
    guard = a_guard()
    guard.orders.place(an_order(scope="tenant:acme"))

    def status(host: str) -> str:
        return Reply(answering, guard, tenant=lambda environ: environ["HTTP_HOST"], HTTP_HOST=host).read().status[:3]

    assert (status("acme"), status("globex")) == ("503", "200")


@pytest.mark.parametrize(
    "error",
    [
        halted_run(),
        ExceptionGroup("tasks", [ValueError("x"), halted_run()]),
        CallDenied("not run", action="a", level=Level.READ_ONLY),
    ],
)
@pytest.mark.parametrize("moment", ["called", "started", "iterated"])
def test_a_refusal_before_the_first_chunk_is_the_fallback(error: Exception, moment: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if moment == "called":
            raise error
        start_response("200 OK", TEXT)
        if moment == "started":
            raise error
        return iterated()

    def iterated() -> Iterator[bytes]:
        raise error
        yield b""

    reply = Reply(app, a_guard(fallback="Please call us.")).read()
    assert reply.status == "503 Service Unavailable"
    assert json.loads(reply.body)["error"]["message"] == "Please call us."


def test_an_error_of_the_applications_own_gets_through() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        Reply(app, a_guard()).read()


@pytest.mark.parametrize(
    ("headers", "tail"),
    [(EVENTS, b"\n\nevent: agent_paused\n"), (TEXT, b"\n\nPlease call us.\n"), ([("Content-Type", "image/png")], b"")],
)
def test_a_refusal_in_mid_stream_ends_it_as_its_kind_allows(headers: list[tuple[str, str]], tail: bytes) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", headers)
        yield b"begun"
        raise halted_run()

    reply = Reply(app, a_guard()).read()
    assert reply.status == "200 OK"
    assert reply.body.startswith(b"begun" + tail)
    assert tail or reply.body == b"begun"


def test_of_a_response_that_is_cut_short_the_server_hears() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "10")])
        yield b"12345"
        raise halted_run()

    with pytest.raises(RunHalted):
        Reply(app, a_guard()).read()


def test_an_error_page_is_replaced_while_the_agent_is_halted_and_only_then() -> None:
    guard = a_guard()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            if environ["PATH_INFO"] == "/stop":
                guard.orders.place(an_order())
            raise ValueError("what a framework makes of it")
        except ValueError:
            import sys

            start_response("500 Internal Server Error", TEXT, sys.exc_info())
        return [b"Oops!"]

    assert Reply(app, guard, PATH_INFO="/").read().body == b"Oops!"
    assert Reply(app, guard, PATH_INFO="/stop").read().status[:3] == "503"


def test_an_empty_response_is_started_all_the_same() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("204 No Content", [])
        return []

    reply = Reply(app, a_guard()).read()
    assert (reply.status, reply.body) == ("204 No Content", b"")


def test_what_is_written_instead_of_returned_gets_through() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"one ")
        write(b"two ")
        raise halted_run()

    reply = Reply(app, a_guard()).read()
    assert (reply.status, reply.body) == ("200 OK", b"one two \n\nPlease call us.\n")


class Streaming:
    def __init__(self, *headers: tuple[str, str], length: int = 1_000) -> None:
        self.headers, self.length, self.closed = list(headers), length, 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> "Streaming":
        start_response("200 OK", self.headers)
        return self

    def __iter__(self) -> Iterator[bytes]:
        return (b"data: %d\n\n" % (number % 10) for number in range(self.length))

    def close(self) -> None:
        self.closed += 1


def test_a_stop_ends_a_stream_at_its_next_chunk_and_closes_it() -> None:
    guard, app = a_guard(), Streaming(*EVENTS)

    def stop(reply: Reply) -> None:
        if len(reply.chunks) == 3:
            guard.orders.place(an_order())

    reply = Reply(app, guard).read(stop)
    assert b"".join(reply.chunks[:3]) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert len(reply.chunks) == 4
    assert b"event: agent_paused" in reply.chunks[3]
    assert app.closed == 1


def test_a_pause_and_a_length_let_a_stream_run_out() -> None:
    guard, app = a_guard(), Streaming(*EVENTS, length=9)
    Reply(app, guard).read(lambda reply: guard.orders.place(an_order(level=Level.PAUSED)))
    assert app.closed == 1

    app = Streaming(*TEXT, ("Content-Length", "81"), length=9)
    guard = a_guard()
    reply = Reply(app, guard).read(lambda reply: guard.orders.place(an_order()))
    assert len(reply.body) == 81


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_real_server_streams_stops_and_refuses() -> None:
    guard, reached = a_guard(fallback="Please call us."), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", EVENTS)
        for number in itertools.count():
            if number == 2:
                reached.wait(5)
            yield b"data: %d\n\n" % number

    server: WSGIServer = make_server(
        "127.0.0.1", 0, FallbackMiddleware(app, guard, paths=("/chat",)), handler_class=Quiet
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
        client.request("GET", "/chat")
        with client.getresponse() as response:
            assert response.read(9) == b"data: 0\n\n"
            guard.orders.place(an_order())
            reached.set()
            rest = response.read()
        assert rest.count(b"event: agent_paused") == 1
        assert rest.endswith(b"}\n\n")
        client.request("POST", "/chat", body=b"x" * 1_000)
        with client.getresponse() as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "30")
        client.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
