"""The fallback in front of an ASGI application: refused, ended and translated, and never an error of our own."""

import asyncio
import contextlib
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from builders import NOON, a_guard, a_lift, an_order, steps_of
from integrations.asgi_client import Client, chunk, run, start, until
from rescind.config import FallbackConfig, FallbackTemplate
from rescind.errors import CallDenied, OrdersUnavailable, RunHalted, UsageError
from rescind.guard.fallback import Fallbacks
from rescind.guard.guard import Guard
from rescind.integrations.asgi import FallbackMiddleware
from rescind.integrations.exchange import App, Receive, Scope, Send
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.outcome import Completed
from rescind.model.scope import Scope as OrderScope
from rescind.switch.store import SqliteOrders

AGENT = "billing-agent@2.4.0"
EVENTS = "text/event-stream"


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, content_type="text/plain")
    await chunk(send, b"an answer", more=False)


def raising(error: BaseException) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


def halted_run(text: str = "Please call us.", **fields: Any) -> RunHalted:
    return RunHalted("run 1 is halted", fallback=text, run_id="run-1", **fields)


def in_front_of(app: App, guard: Guard, **options: Any) -> FallbackMiddleware:
    return FallbackMiddleware(app, guard, **({"agent": AGENT} | options))


class Streaming:
    """An application that streams until it is cancelled."""

    def __init__(self, kind: str = EVENTS, **headers: str) -> None:
        self.headers = {"content_type": kind} | headers
        self.cancelled = self.left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await start(send, **self.headers)
            for number in itertools.count():
                await chunk(send, b"data: %d\n\n" % number)
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.left = True


# --- new requests ---


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("scope", ["everything", "agent:billing-agent", f"agent:{AGENT}"])
def test_requests_are_refused_where_nothing_new_may_start_and_go_on_where_reading_works(
    level: Level, scope: str
) -> None:
    async def story() -> None:
        guard = a_guard(fallback="Please call us.")
        if level:
            guard.orders.place(an_order(scope=scope, level=level))
        client = await Client(in_front_of(answering, guard)).exchange()

        if level < Level.PAUSED:
            assert (client.status, client.body) == (200, b"an answer")
        else:
            assert (client.status, client.headers["retry-after"]) == (503, "30")
            assert json.loads(client.body)["error"]["message"] == "Please call us."
            assert client.headers["content-length"] == str(len(client.body))
        assert client.is_complete

    run(story())


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("", 503, "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", 503, "text/html; charset=utf-8"),
        (EVENTS, 200, "text/event-stream; charset=utf-8"),
        ("application/json, text/event-stream", 503, "application/json"),
    ],
)
def test_a_refusal_is_written_as_the_client_wants_it(accept: str, status: int, kind: str) -> None:
    async def story() -> None:
        guard = a_guard(fallback='<b>"Call" us</b>')
        guard.orders.place(an_order())
        client = await Client(in_front_of(answering, guard), headers={"accept": accept}).exchange()

        assert (client.status, client.headers["content-type"]) == (status, kind)
        if status == 200:
            assert client.body.startswith(b"\n\nevent: agent_paused\nretry: 30000\ndata: {")
            assert client.body.endswith(b"}\n\n")
        if "html" in kind:
            assert b"&lt;b&gt;&quot;Call&quot; us&lt;/b&gt;" in client.body
            assert b"<b>" not in client.body

    run(story())


def test_templates_of_the_configuration_are_shown_with_the_reason_for_users() -> None:
    async def story() -> None:
        templates = (
            FallbackTemplate(agent="billing-agent", workflow="refunds", text="Refunds are paused: {reason}"),
            FallbackTemplate(text="another"),
        )
        fallbacks = Fallbacks.of(FallbackConfig(templates=templates))
        guard = a_guard()
        reason = "INC-7 || users: prices are being corrected"
        scope = OrderScope.parse("workflow:refunds")
        guard.orders.place(
            Order(order_id="1", scope=scope, level=Level.PAUSED, reason=reason, actor="ops", placed_at=NOON)
        )
        app = in_front_of(answering, guard, workflow="refunds", fallbacks=fallbacks)
        client = await Client(app).exchange()

        assert json.loads(client.body)["error"]["message"] == "Refunds are paused: prices are being corrected"
        assert json.loads(client.body)["error"]["level"] == "paused"

    run(story())


@pytest.mark.parametrize(
    ("path", "root_path", "refused"),
    [
        ("/chat", "", True),
        ("/chat/42", "", True),
        ("/chatter", "", False),
        ("/", "", False),
        ("/chat/health", "", False),
        ("/api/chat", "/api", True),
        ("/api", "/api", False),
        ("/apichat", "/api", False),
    ],
)
def test_only_the_agents_paths_are_refused(path: str, root_path: str, refused: bool) -> None:
    async def story() -> None:
        guard = a_guard()
        guard.orders.place(an_order())
        app = in_front_of(answering, guard, paths=("/chat",), exempt=("/chat/health",))
        client = await Client(app, path=path, root_path=root_path).exchange()

        assert (client.status == 503) is refused

    run(story())


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez", "/readyz", "/metrics", "/health/db"])
def test_health_is_left_alone_and_so_is_the_lifespan(path: str) -> None:
    async def story() -> None:
        guard = a_guard()
        guard.orders.place(an_order())
        client = await Client(in_front_of(answering, guard), path=path).exchange()
        assert client.status == 200

        async def starting(scope: Scope, receive: Receive, send: Send) -> None:
            assert await receive() == {"type": "lifespan.startup"}
            await send({"type": "lifespan.startup.complete"})

        client = Client(in_front_of(starting, guard), "lifespan")
        client.says.put_nowait({"type": "lifespan.startup"})
        assert (await client.exchange()).told == [{"type": "lifespan.startup.complete"}]

    run(story())


def test_a_preflight_goes_on_and_a_head_request_gets_no_body() -> None:
    async def story() -> None:
        guard = a_guard()
        guard.orders.place(an_order())
        app = in_front_of(answering, guard)
        asks = {"origin": "https://x", "access-control-request-method": "POST"}
        assert (await Client(app, method="OPTIONS", headers=asks).exchange()).status == 200
        head = await Client(app, method="HEAD").exchange()
        assert (head.status, head.body) == (503, b"")
        assert int(head.headers["content-length"]) > 0

    run(story())


def test_only_the_tenant_that_is_held_is_refused_and_a_failing_tenant_is_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        guard = a_guard()
        guard.orders.place(an_order(scope="tenant:acme+agent:billing-agent"))
        app = in_front_of(answering, guard, tenant=lambda scope: dict(scope["headers"])[b"tenant"].decode())

        assert (await Client(app, headers={"tenant": "acme"}).exchange()).status == 503
        assert (await Client(app, headers={"tenant": "globex"}).exchange()).status == 200
        assert (await Client(app).exchange()).status == 200

    run(story())
    assert "tenant= failed" in caplog.text


def test_orders_that_cannot_be_read_are_said_once_and_what_stood_goes_on_standing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    standing = [an_order()]
    broken = False

    def stands() -> tuple[Order, ...]:
        if broken:
            raise OrdersUnavailable("the disk is gone")
        return tuple(standing)

    async def story() -> None:
        nonlocal broken
        app = in_front_of(answering, a_guard(), standing=stands)
        assert (await Client(app).exchange()).status == 503
        broken = True
        assert [(await Client(app).exchange()).status for _ in range(3)] == [503] * 3
        broken = False
        standing.clear()
        assert (await Client(app).exchange()).status == 200

    run(story())
    assert caplog.text.count("the disk is gone") == 1


def test_an_order_that_another_process_placed_on_this_machine_is_seen(tmp_path: Path) -> None:
    async def story() -> None:
        guard, app = Guard.at(tmp_path / "store"), Streaming()
        client = Client(in_front_of(app, guard))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            with contextlib.closing(SqliteOrders(tmp_path / "store")) as elsewhere:
                elsewhere.place(an_order())
            await exchange
        assert client.is_complete
        assert (await Client(in_front_of(answering, guard)).exchange()).status == 503
        guard.close()

    run(story())


@pytest.mark.parametrize("options", [{"agent": "a b"}, {"paths": ("chat",)}, {"exempt": ("health",)}])
def test_a_mistake_in_the_declaration_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        in_front_of(answering, a_guard(), **options)


# --- errors of the application ---


def caused() -> Exception:
    error = ValueError("a framework's own")
    error.__cause__ = halted_run()
    return error


@pytest.mark.parametrize(
    "error",
    [
        halted_run(),
        ExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("more", [halted_run()])]),
        caused(),
        CallDenied("price.set was not run", action="price.set", level=Level.READ_ONLY),
    ],
    ids=["halt", "group", "cause", "denied"],
)
def test_a_refusal_that_gets_out_of_the_application_is_the_fallback(error: Exception) -> None:
    async def story() -> None:
        client = await Client(in_front_of(raising(error), a_guard(fallback="Please call us."))).exchange()

        assert client.status == 503
        assert json.loads(client.body)["error"]["message"] == "Please call us."
        assert client.is_complete

    run(story())


def test_what_the_guard_says_of_a_halted_run_is_what_is_shown() -> None:
    async def story() -> None:
        error = halted_run(fallback_json={"code": "paused"}, retry_after_s=7)
        client = await Client(in_front_of(raising(error), a_guard())).exchange()

        assert (json.loads(client.body), client.headers["retry-after"]) == ({"code": "paused"}, "7")
        error = halted_run(fallback_json={"code": object()})
        client = await Client(in_front_of(raising(error), a_guard())).exchange()
        assert json.loads(client.body)["error"]["message"] == "Please call us."

    run(story())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        ExceptionGroup("tasks", [ValueError("a bug")]),
        CallDenied("calls are used up", action="price.set"),
        asyncio.CancelledError(),
    ],
    ids=["bug", "group", "spent", "cancelled"],
)
def test_any_other_error_is_the_applications_own(error: BaseException) -> None:
    async def story() -> None:
        client = Client(in_front_of(raising(error), a_guard()))
        with pytest.raises(type(error)) as caught:
            await client.exchange()
        assert caught.value is error or isinstance(error, asyncio.CancelledError)
        assert client.told == []

    run(story())


@pytest.mark.parametrize(
    ("headers", "sent", "tail"),
    [
        ({"content_type": EVENTS}, b"data: 1\n\n", b"\n\nevent: agent_paused\nretry: 30000\ndata: {"),
        ({"content_type": "text/plain; charset=utf-8"}, b"I shall", b"\n\nPlease call us.\n"),
        ({"content_type": "text/plain; charset=latin-1"}, b"I shall", b""),
        ({"content_type": "application/x-ndjson"}, b"{}\n", b""),
        ({"content_type": EVENTS, "content_encoding": "gzip"}, b"\x1f\x8b", b""),
        ({}, b"?", b""),
    ],
)
def test_a_response_that_has_begun_is_ended_as_its_kind_allows(
    headers: dict[str, str], sent: bytes, tail: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, **headers)
        await chunk(send, sent)
        raise halted_run()

    async def story() -> None:
        client = await Client(in_front_of(app, a_guard())).exchange()

        assert client.status == 200
        assert client.body.startswith(sent + tail)
        assert client.body == sent + tail or headers["content_type"] == EVENTS
        assert client.is_complete

    run(story())


@pytest.mark.parametrize(("sent", "complete"), [(b"12345", True), (b"123", False)])
def test_nothing_is_added_to_a_response_with_a_length(sent: bytes, complete: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, content_type=EVENTS, content_length="5")
        await chunk(send, sent)
        raise halted_run()

    async def story() -> None:
        client = await Client(in_front_of(app, a_guard())).exchange()

        assert (client.body, client.is_complete) == (sent, complete)

    run(story())


def test_a_refusal_after_a_complete_response_changes_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(scope, receive, send)
        raise halted_run()

    async def story() -> None:
        client = await Client(in_front_of(app, a_guard())).exchange()

        assert (client.body, client.is_complete) == (b"an answer", True)

    run(story())


def error_page(*, then: BaseException | None) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 500, content_type="text/plain", content_length="5")
        await chunk(send, b"Oops!", more=False)
        if then is not None:
            raise then

    return app


def test_an_error_page_that_a_framework_sends_before_it_lets_the_refusal_out_is_replaced() -> None:
    async def story() -> None:
        client = await Client(in_front_of(error_page(then=halted_run()), a_guard())).exchange()
        assert (client.status, client.is_complete) == (503, True)

    run(story())


def test_an_error_page_of_a_framework_that_keeps_the_refusal_to_itself_is_replaced_while_the_agent_is_halted() -> None:
    async def story() -> None:
        guard = a_guard()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            guard.orders.place(an_order())
            await error_page(then=None)(scope, receive, send)

        client = await Client(in_front_of(app, guard)).exchange()
        assert (client.status, client.is_complete) == (503, True)

    run(story())


def test_the_applications_own_error_page_gets_through_with_and_without_its_error() -> None:
    async def story() -> None:
        client = Client(in_front_of(error_page(then=ValueError("a bug")), a_guard()))
        with pytest.raises(ValueError, match="a bug"):
            await client.exchange()
        assert (client.status, client.body, client.is_complete) == (500, b"Oops!", True)

        leave = asyncio.Event()

        async def lingering(scope: Scope, receive: Receive, send: Send) -> None:
            await error_page(then=None)(scope, receive, send)
            await leave.wait()

        client = Client(in_front_of(lingering, a_guard()))
        async with client.open() as exchange:
            await client.until(lambda client: client.is_complete)
            assert client.status == 500
            leave.set()
            await exchange

    run(story())


# --- stops while an application answers ---


@pytest.mark.parametrize(
    ("kind", "tail"),
    [(EVENTS, b"\n\nevent: agent_paused\n"), ("text/plain", b"\n\nPlease call us.\n"), ("application/x-ndjson", b"")],
)
def test_a_stop_ends_a_stream_that_is_under_way_and_cancels_the_application(kind: str, tail: bytes) -> None:
    async def story() -> None:
        guard, app = a_guard(fallback="Please call us."), Streaming(kind)
        client = Client(in_front_of(app, guard))
        async with client.open() as exchange:
            await client.until(lambda client: b"data: 3" in client.body)
            guard.orders.place(an_order(scope="agent:billing-agent"))
            await exchange

        before, _, last = client.body.rpartition(b"\n\n" + tail if tail else b"\n\n")
        assert before.startswith(b"data: 0\n\ndata: 1\n\n")
        assert b"data: {" in last if kind == EVENTS else last == b""
        assert client.is_complete
        assert app.cancelled

    run(story())


def test_a_stop_that_a_switch_has_pushed_ends_a_stream_and_a_silence_ends_none_and_admits_none() -> None:
    async def story() -> None:
        guard, app = a_guard(), Streaming()
        client = Client(in_front_of(app, guard))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            guard.lease.end()
            assert (await Client(in_front_of(answering, guard)).exchange()).status == 200  # on_silence is read_only
            guard.lease.on_silence = Level.HALTED
            assert (await Client(in_front_of(answering, guard)).exchange()).status == 503
            guard.take_up((an_order("1", "agent:mail-agent"),))
            seen = len(client.told)
            await client.until(lambda client: len(client.told) > seen + 30)  # 150 ms, and so three looks
            guard.take_up((an_order("2", "agent:billing-agent"),))
            await exchange
        assert client.is_complete

    run(story())


def test_a_stop_for_somebody_else_and_a_pause_let_a_stream_run_on() -> None:
    async def story() -> None:
        guard, app = a_guard(), Streaming()
        client = Client(in_front_of(app, guard))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            guard.orders.place(an_order("1", "agent:mail-agent"))
            guard.orders.place(an_order("2", "everything", Level.PAUSED))
            seen = len(client.told)
            await client.until(lambda client: len(client.told) > seen + 30)  # 150 ms, and so three looks
            assert not app.left
            guard.orders.place(an_order("3", "everything"))
            await exchange
        assert client.is_complete

    run(story())


def test_a_stop_answers_a_request_whose_answer_has_not_begun() -> None:
    async def story() -> None:
        guard, thinking = a_guard(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            thinking.set()
            await asyncio.Event().wait()

        client = Client(in_front_of(app, guard), headers={"accept": "text/html"})
        async with client.open() as exchange:
            await thinking.wait()
            guard.orders.place(an_order())
            await exchange
        assert (client.status, client.is_complete) == (503, True)

    run(story())


def test_a_response_with_a_length_runs_out_after_a_stop() -> None:
    async def story() -> None:
        guard, go_on = a_guard(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, content_length="10")
            await chunk(send, b"12345")
            await go_on.wait()
            await chunk(send, b"67890", more=False)

        looks = 0

        def stands() -> tuple[Order, ...]:
            nonlocal looks
            looks += 1
            return guard.orders.standing().orders

        client = Client(in_front_of(app, guard, standing=stands))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            guard.orders.place(an_order())
            seen = looks
            await until(lambda: looks > seen + 3)
            go_on.set()
            await exchange
        assert (client.body, client.is_complete) == (b"1234567890", True)

    run(story())


def test_the_user_is_told_at_once_and_a_write_in_flight_may_end_before_the_application_is_cancelled() -> None:
    async def story() -> None:
        guard, begun, may_end = a_guard(), asyncio.Event(), asyncio.Event()
        cancelled = False

        @guard.write("price.set", irreversible="a test")
        async def put(item: str) -> str:
            begun.set()
            await may_end.wait()
            return "done"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal cancelled
            await start(send, content_type=EVENTS)
            await chunk(send, b": begun\n\n")
            try:
                async with guard.run(AGENT):
                    await put("a")
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

        client = Client(in_front_of(app, guard))
        async with client.open() as exchange:
            await begun.wait()
            guard.orders.place(an_order())
            await client.until(lambda client: client.is_complete)
            assert not cancelled
            may_end.set()
            await exchange
        assert cancelled
        assert [step.outcome for step in steps_of(guard.journal)] == [Completed("done")]
        guard.close()

    run(story())


def test_an_application_that_goes_on_after_it_was_cancelled_is_left_behind_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        guard, leave, errors = a_guard(), asyncio.Event(), list[str]()

        async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, content_type=EVENTS)
            while not leave.is_set():
                try:
                    await chunk(send, b": more\n\n")
                    await asyncio.sleep(0.002)
                except (asyncio.CancelledError, OSError) as error:
                    errors.append(type(error).__name__)

        client = Client(in_front_of(stubborn, guard, end_within_s=0.05))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            guard.orders.place(an_order())
            await exchange
        assert client.is_complete
        assert "OSError" in errors
        leave.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(story())
    assert "goes on although" in caplog.text


def test_an_application_that_has_been_ended_receives_that_its_client_has_gone() -> None:
    async def story() -> None:
        guard, received = a_guard(), list[Any]()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, content_type=EVENTS)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                received.append(await receive())
                raise

        client = Client(in_front_of(app, guard))
        async with client.open() as exchange:
            await client.until(lambda client: client.told)
            guard.orders.place(an_order())
            await exchange
        assert received == [{"type": "http.disconnect"}]

    run(story())


def test_a_client_that_does_not_read_keeps_nobody_from_stopping_the_application() -> None:
    async def story() -> None:
        guard, app = a_guard(), Streaming()
        client = Client(in_front_of(app, guard, end_within_s=0.05))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            client.reads.clear()
            guard.orders.place(an_order())
            await exchange
        assert app.cancelled
        assert not client.is_complete  # so the server closes the connection

    run(story())


def test_a_client_that_reads_late_is_told_all_the_same() -> None:
    async def story() -> None:
        guard, app = a_guard(), Streaming()
        client = Client(in_front_of(app, guard, end_within_s=0.5))
        async with client.open() as exchange:
            await client.until(lambda client: client.body)
            client.reads.clear()
            guard.orders.place(an_order())
            await until(lambda: app.cancelled)
            client.reads.set()
            await exchange
        assert client.is_complete
        assert b"agent_paused" in client.body

    run(story())


def test_whoever_gives_up_on_an_exchange_gives_up_on_the_application() -> None:
    async def story() -> None:
        app = Streaming()
        client = Client(in_front_of(app, a_guard()))
        async with client.open():
            await client.until(lambda client: client.body)
        assert app.cancelled

    run(story())


def test_a_client_that_leaves_is_the_applications_business() -> None:
    async def story() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, content_type=EVENTS)
            assert await receive() == {"type": "http.disconnect"}

        client = Client(in_front_of(app, a_guard()))
        client.says.put_nowait({"type": "http.disconnect"})
        await client.exchange()
        assert len(client.told) == 1

    run(story())


def test_what_client_and_application_say_gets_through_in_order() -> None:
    async def story() -> None:
        async def echo(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            more = True
            while more:
                message = await receive()
                more = message["more_body"]
                await chunk(send, message["body"], more=more)

        client = Client(in_front_of(echo, a_guard()))
        parts = [b"%d," % number for number in range(200)]
        for index, part in enumerate(parts):
            client.says.put_nowait({"type": "http.request", "body": part, "more_body": index < len(parts) - 1})
        await client.exchange()
        assert client.body == b"".join(parts)
        assert client.is_complete

    run(story())


def test_after_a_lift_requests_are_answered_again() -> None:
    async def story() -> None:
        guard = a_guard()
        app = in_front_of(answering, guard)
        guard.orders.place(an_order())
        assert (await Client(app).exchange()).status == 503
        guard.orders.lift(a_lift("ord-1"))
        assert (await Client(app).exchange()).status == 200

    run(story())


@pytest.mark.parametrize("seed", range(20))
def test_many_streams_are_all_ended_properly_at_whatever_moment_the_stop_comes(seed: int) -> None:
    async def story() -> None:
        guard = a_guard()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for _ in range(scope["client"] % 4):
                await asyncio.sleep(0)
            await start(send, content_type=EVENTS)
            while True:
                await chunk(send, b"data: x\n\n")
                await asyncio.sleep(0 if scope["client"] % 2 else 0.001)

        clients = [Client(in_front_of(app, guard), client=number) for number in range(10)]
        exchanges = [asyncio.create_task(client.exchange()) for client in clients]
        for _ in range(seed):
            await asyncio.sleep(0)
        guard.orders.place(an_order())
        await asyncio.gather(*exchanges)
        for client in clients:
            assert client.is_complete
            assert client.status == 503 or client.body.count(b"agent_paused\nretry") == 1

    run(story())


# --- WebSockets ---


async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def test_a_websocket_is_refused_without_being_accepted() -> None:
    async def story() -> None:
        guard = a_guard(fallback="Bitte rufen Sie uns an. " + "ü" * 100)
        guard.orders.place(an_order())
        client = Client(in_front_of(echoing, guard), "websocket")
        client.says.put_nowait({"type": "websocket.connect"})
        await client.exchange()

        assert [message["type"] for message in client.told] == ["websocket.close"]
        assert client.told[0]["code"] == 1013
        assert client.told[0]["reason"].startswith("Bitte rufen Sie uns an. ü")
        assert len(client.told[0]["reason"].encode()) <= 123
        assert client.says.empty()

    run(story())


def test_a_stop_closes_an_open_websocket() -> None:
    async def story() -> None:
        guard = a_guard(fallback="Please call us.")
        client = Client(in_front_of(echoing, guard), "websocket")
        client.says.put_nowait({"type": "websocket.connect"})
        async with client.open() as exchange:
            client.says.put_nowait({"type": "websocket.receive", "text": "hello"})
            await client.until(lambda client: len(client.told) == 2)
            guard.orders.place(an_order())
            await exchange
        assert client.told[1:] == [
            {"type": "websocket.send", "text": "hello"},
            {"type": "websocket.close", "code": 1013, "reason": "Please call us."},
        ]

    run(story())


@pytest.mark.parametrize("accepts", [False, True])
def test_a_refusal_that_gets_out_of_a_websocket_application_closes_it(accepts: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        raise halted_run()

    async def story() -> None:
        client = Client(in_front_of(app, a_guard()), "websocket")
        client.says.put_nowait({"type": "websocket.connect"})
        await client.exchange()
        assert client.told[-1] == {"type": "websocket.close", "code": 1013, "reason": "Please call us."}

    run(story())


@pytest.mark.parametrize("ends", ["websocket.close", "websocket.disconnect"])
def test_a_websocket_that_was_closed_by_either_side_is_not_closed_again(ends: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if ends == "websocket.close":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await receive()
        raise halted_run()

    async def story() -> None:
        client = Client(in_front_of(app, a_guard()), "websocket")
        client.says.put_nowait({"type": "websocket.connect"})
        client.says.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await client.exchange()
        assert [message.get("code") for message in client.told] == (
            [None, 1000] if ends == "websocket.close" else [None]
        )

    run(story())


def test_what_comes_with_a_refusal_in_a_group_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        group = ExceptionGroup("tasks", [ValueError("a bug beside it"), halted_run()])
        await Client(in_front_of(raising(group), a_guard())).exchange()

    with caplog.at_level(logging.ERROR):
        run(story())
    assert "a bug beside it" in caplog.text
