"""The fallback on a real server: what browsers and programs see on the wire."""

import asyncio
import itertools
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager

import httpx
import pytest

from builders import a_guard, an_order
from rescind.errors import RunHalted
from rescind.integrations.asgi import FallbackMiddleware
from rescind.integrations.exchange import App, Receive, Scope, Send

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from starlette.applications import Starlette  # noqa: E402  # after the question whether there is one
from starlette.background import BackgroundTask  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse  # noqa: E402
from starlette.routing import Route, WebSocketRoute  # noqa: E402
from starlette.websockets import WebSocket  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

DEADLINE_S = 5.0


@contextmanager
def served(app: App, http: str = "httptools") -> Generator[str]:
    """The application on a server in a thread; gives HOST:PORT."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=http, ws="websockets-sansio", lifespan="on", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield "{}:{}".format(*listening.getsockname())
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        listening.close()
        assert not thread.is_alive()


class Desk:
    """A small Starlette application with an agent in it."""

    def __init__(self) -> None:
        self.guard = a_guard(fallback="Please call us.")
        self.left = threading.Event()
        self.in_background = threading.Event()
        self.bare = Starlette(
            routes=[
                Route("/chat", self.chat, methods=["GET", "POST"]),
                Route("/stream", self.stream),
                Route("/half", self.half),
                Route("/halted", self.halted),
                Route("/bug", self.bug),
                Route("/health", self.health),
                WebSocketRoute("/ws", self.socket),
            ]
        )

    async def chat(self, request: Request) -> Response:
        size = len(await request.body())
        return JSONResponse({"size": size}, background=BackgroundTask(self.afterwards))

    async def afterwards(self) -> None:
        self.in_background.set()

    async def stream(self, request: Request) -> Response:
        async def numbers() -> AsyncGenerator[str]:
            for number in itertools.count():
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.005)

        desk = self

        class Watched(StreamingResponse):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                try:
                    await super().__call__(scope, receive, send)
                finally:
                    desk.left.set()

        return Watched(numbers(), media_type="text/event-stream")

    async def half(self, request: Request) -> Response:
        async def parts() -> AsyncGenerator[bytes]:
            yield b"12345"
            raise RunHalted("halted", fallback="Please call us.", run_id="run-1")

        return StreamingResponse(parts(), headers={"content-length": "10"})

    async def halted(self, request: Request) -> Response:
        raise RunHalted("halted", fallback="Please call us.", run_id="run-1")

    async def bug(self, request: Request) -> Response:
        raise ValueError("a bug")

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("fine")

    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    def around(self) -> App:
        return FallbackMiddleware(self.bare, self.guard, agent="billing-agent@2.4.0")

    def inside(self) -> App:
        self.bare.add_middleware(FallbackMiddleware, guard=self.guard, agent="billing-agent@2.4.0")
        return self.bare


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("place", [Desk.around, Desk.inside], ids=["around", "inside"])
def test_a_day_of_a_desk(http: str, place: Callable[[Desk], App]) -> None:
    desk = Desk()
    with served(place(desk), http) as at, httpx.Client(base_url=f"http://{at}", timeout=DEADLINE_S) as client:
        assert client.post("/chat", content=b"x" * 300_000).json() == {"size": 300_000}
        assert desk.in_background.wait(DEADLINE_S)
        refusal = client.get("/halted")
        assert (refusal.status_code, refusal.json()["error"]["message"]) == (503, "Please call us.")
        assert httpx.get(f"http://{at}/bug", timeout=DEADLINE_S).status_code == 500

        with client.stream("GET", "/stream") as response:
            events = response.iter_text()
            assert next(events).startswith("data: 0")
            desk.guard.orders.place(an_order())
            rest = "".join(events)
        assert rest.count("event: agent_paused\nretry: 30000\ndata: {") == 1
        assert rest.endswith("}\n\n")
        assert desk.left.wait(DEADLINE_S)

        large = client.post("/chat", content=b"x" * 3_000_000)
        assert (large.status_code, large.headers["retry-after"]) == (503, "30")
        page = client.get("/chat", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
        again = client.get("/stream", headers={"accept": "text/event-stream"})
        assert (again.status_code, "event: agent_paused" in again.text) == (200, True)
        assert client.get("/health").text == "fine"
        assert client.head("/chat").status_code == 503


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_response_with_a_length_that_cannot_be_completed_is_seen_to_be_cut(http: str) -> None:
    with served(Desk().around(), http) as at, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{at}/half", timeout=DEADLINE_S)


def test_websockets_are_closed_with_1013_and_refused_before_they_are_opened() -> None:
    desk = Desk()
    with served(desk.around()) as at:
        with connect(f"ws://{at}/ws") as socket_:
            socket_.send("hello")
            assert socket_.recv(DEADLINE_S) == "hello"
            desk.guard.orders.place(an_order())
            with pytest.raises(ConnectionClosed) as closed:
                socket_.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "Please call us.")
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{at}/ws")
        assert refused.value.response.status_code == 403  # what servers make of a close before the handshake


def test_a_client_that_goes_away_in_mid_stream_ends_its_application_alone() -> None:
    desk = Desk()
    with served(desk.around()) as at:
        with httpx.stream("GET", f"http://{at}/stream", timeout=DEADLINE_S) as response:
            next(response.iter_text())
        assert desk.left.wait(DEADLINE_S)
        assert httpx.get(f"http://{at}/health", timeout=DEADLINE_S).text == "fine"


def test_a_client_that_does_not_read_keeps_nobody_from_stopping_and_is_told_when_it_does() -> None:
    stopped = threading.Event()
    guard = a_guard(fallback="Please call us.")

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        finally:
            stopped.set()

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await (desk.bare if scope["type"] == "lifespan" else flood)(scope, receive, send)

    desk = Desk()
    with served(FallbackMiddleware(with_lifespan, guard, end_within_s=0.5)) as at:
        host, port = at.split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as client:
            client.sendall(b"GET /chat HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            guard.orders.place(an_order())
            assert stopped.wait(DEADLINE_S)
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received = received[-200:] + client.recv(1_000_000)
            assert b"\n\nPlease call us.\n\r\n0" in received
