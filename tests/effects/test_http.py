"""Resources of HTTP servers that meddle, stumble, or want to be fed credentials."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import pytest

from builders import a_guard, events_of, steps_of
from effects.harness import a_call, opened, perform, recorded, the_way_back, version_now
from effects.http_server import Handler, HttpServer, Misbehave, drips
from effects.http_worlds import NO_TLS
from rescind.compensation.effects import HttpResource
from rescind.compensation.effects.http_exchange import HttpFailed
from rescind.errors import Conflict, DeclarationError, Transient, UsageError
from rescind.guard.effect import PastStep, Probe

AT = "/api/customers/ann"
SECRET = "Bearer s3cr3t-t0ken"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    server = HttpServer()
    server.put(AT, b'{"plan": "gold"}')
    yield server
    server.close()


@pytest.fixture
def client(server: HttpServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": SECRET}, verify=NO_TLS) as client:
        yield client


def an_effect(server: HttpServer, client: httpx.Client, **options: Any) -> HttpResource:
    given: dict[str, Any] = {"path": lambda: "customers/ann", "client": client, "timeout_s": 5.0} | options
    return HttpResource(f"{server.url}/api", **given)


def a_patched_step(effect: HttpResource, client: httpx.Client) -> PastStep:
    return perform(effect, lambda: client.patch(AT, json={"plan": "free"}).raise_for_status())


def answering(status: int, headers: dict[str, str] | None = None) -> Misbehave:
    """To every write, without doing it."""

    def misbehave(handler: Handler) -> bool:
        if handler.command == "GET":
            return False
        handler.answer(status, headers=headers)
        return True

    return misbehave


# --- the condition ---


def test_a_write_between_the_look_and_the_restore_is_a_conflict_and_stays(
    server: HttpServer, client: httpx.Client
) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    server.before_write = lambda: server.put(AT, b'"theirs"')
    with pytest.raises(Conflict, match="changed just now"):
        effect.restore(step)
    assert server.resources[AT][1] == b'"theirs"'


def test_what_was_created_between_the_look_and_the_restore_is_a_conflict_and_stays(
    server: HttpServer, client: httpx.Client
) -> None:
    effect = an_effect(server, client)
    step = perform(effect, lambda: client.delete(AT).raise_for_status())
    server.before_write = lambda: server.put(AT, b'"theirs"')
    with pytest.raises(Conflict, match="changed just now"):
        effect.restore(step)
    assert server.resources[AT][1] == b'"theirs"'


def test_a_write_that_was_taken_back_in_that_moment_is_tried_again(server: HttpServer, client: httpx.Client) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    server.before_write = lambda: server.put(AT, b'{"plan": "free"}')  # another ETag
    with pytest.raises(Transient, match="written by others"):
        effect.restore(step)
    effect.restore(step)
    assert json.loads(server.resources[AT][1]) == {"plan": "gold"}


def test_a_server_that_wants_another_condition_has_changed_nothing(server: HttpServer, client: httpx.Client) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    server.misbehave = answering(428)
    with pytest.raises(Conflict, match="it answered 428; nothing was changed"):
        effect.restore(step)


@pytest.mark.parametrize("etags", ["none", "weak"])
def test_a_server_without_strong_etags_is_refused_before_the_tool_runs(client: httpx.Client, etags: Any) -> None:
    server = HttpServer(etags=etags)
    try:
        server.put(AT, b"{}")
        with pytest.raises(UsageError, match=r'no strong ETag.*the tool was not run\. without_etag="check"'):
            an_effect(server, client).open(a_call({}))
        step = perform(an_effect(server, client, path=lambda: "new"), lambda: server.put("/api/new", b"{}"))
        with pytest.raises(Conflict, match="no strong ETag any more"):
            an_effect(server, client).restore(step)
        assert "/api/new" in server.resources
    finally:
        server.close()


# --- answers that are none ---


def test_a_server_that_is_busy_says_when_to_ask_again(server: HttpServer, client: httpx.Client) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)  # of the real server
    a_late_year = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    for status, header, wait_s in (
        (503, "7", 7),
        (429, in_a_minute, 58),
        (429, "soon", 0),
        (429, "9" * 99, 3600),
        (429, a_late_year, 0),
    ):
        server.misbehave = answering(status, {"Retry-After": header})
        with pytest.raises(Transient) as raised:
            effect.restore(step)
        assert wait_s <= raised.value.retry_after_s <= wait_s + 2
    server.misbehave = None
    effect.restore(step)
    assert json.loads(server.resources[AT][1]) == {"plan": "gold"}


def test_a_restore_whose_answer_is_lost_may_have_happened_and_is_finished_by_the_next(
    server: HttpServer, client: httpx.Client
) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)

    def do_it_and_say_nothing(handler: Handler) -> bool:
        if handler.command == "GET":
            return False
        handler.write_if_allowed()
        handler.close_connection = True
        return True

    server.misbehave = do_it_and_say_nothing
    with pytest.raises(ConnectionError, match="the connection broke"):
        effect.restore(step)
    writes = server.writes
    effect.restore(step)
    assert server.writes == writes
    server.misbehave = answering(502)
    with pytest.raises(ConnectionError, match="502; it may have happened"):
        effect.restore(the_way_back(step))


@pytest.mark.parametrize("status", [401, 403, 400, 405])
def test_a_refusal_is_no_conflict_and_no_reason_to_try_again(
    server: HttpServer, client: httpx.Client, status: int
) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    server.misbehave = answering(status)
    with pytest.raises(HttpFailed, match=f"answered {status}"):
        effect.restore(step)


def test_where_nobody_listens_nothing_has_happened(server: HttpServer, client: httpx.Client) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    server.close()
    with pytest.raises(Transient, match="no connection"):
        effect.restore(step)


def test_a_silent_and_a_dripping_server_are_left_in_time(server: HttpServer, client: httpx.Client) -> None:
    enough = threading.Event()
    effect = an_effect(server, client, timeout_s=0.2)
    server.misbehave = lambda _: enough.wait(10)
    with pytest.raises(TimeoutError, match=r"no answer in 0\.2 s"):
        effect.open(a_call({}))
    enough.set()
    server.misbehave = drips
    with pytest.raises(TimeoutError, match=r"had not arrived after 0\.2 s"):
        effect.open(a_call({}))


def test_a_body_beyond_the_bound_is_refused_before_the_tool_runs(server: HttpServer, client: httpx.Client) -> None:
    server.put(AT, b"x" * 1001)
    with pytest.raises(UsageError, match="more than bytes_max=1,000"):
        an_effect(server, client, bytes_max=1000).open(a_call({}))
    assert opened(an_effect(server, client, bytes_max=1001)).before is not None
    with pytest.raises(UsageError, match="more than bytes_max"):
        server.misbehave = drips
        an_effect(server, client, bytes_max=3).open(a_call({}))


def test_no_redirect_is_followed_and_no_credentials_go_elsewhere(server: HttpServer, client: httpx.Client) -> None:
    elsewhere = HttpServer()
    try:
        effect = an_effect(server, httpx.Client(headers=client.headers, follow_redirects=True, verify=NO_TLS))
        step = a_patched_step(effect, client)

        def redirect(handler: Handler) -> bool:
            handler.answer(307, headers={"Location": f"{elsewhere.url}/?stolen"})
            return True

        server.misbehave = redirect
        with pytest.raises(HttpFailed, match="a redirect, and none is followed"):
            effect.open(a_call({}))
        server.misbehave = lambda handler: handler.command != "GET" and redirect(handler)
        with pytest.raises(HttpFailed, match=r"PUT .* answered 307"):
            effect.restore(step)
        assert elsewhere.seen == []
        effect.client.close()
    finally:
        elsewhere.close()


# --- addresses ---


@pytest.mark.parametrize(
    "path",
    [
        *("../admin", "a/../../admin", "a/%2e%2e/%2E%2E/x", "a/%252e%252e/x", "/admin", "//evil.example/x", "%2fadmin"),
        *("a\\..\\x", "a%5c..%5cx", "a#b", "a b", "a\r\nX: y", "a%0d%0aX:y", ".", "..?x", "a\ud800", 7, None),
    ],
)
def test_a_path_that_may_leave_the_base_is_refused(server: HttpServer, client: httpx.Client, path: Any) -> None:
    with pytest.raises(UsageError, match="path"):
        an_effect(server, client, path=lambda: path).open(a_call({}))
    assert server.seen == []


@pytest.mark.parametrize(
    "path", ["", "https://evil.example/x", "@evil.example", ":80", "a?next=//evil.example/../x", "a%2Fb", "ü"]
)
def test_every_other_path_stays_below_the_base(server: HttpServer, client: httpx.Client, path: str) -> None:
    assert opened(an_effect(server, client, path=lambda: path)).before is not None
    assert [at.startswith("/api") and (at == "/api" or at[4] == "/") for _, at, _ in server.seen] == [True]


def test_what_is_no_base_is_refused_and_no_credentials_are_repeated() -> None:
    nameless = ("crm.example", "https://", 7)
    for base in (*nameless, "ftp://crm.example", "https://crm.example/?key=s3cr3t", "https://a:port"):
        with pytest.raises(DeclarationError) as raised:
            HttpResource(base, path=lambda: "x")  # type: ignore[arg-type]  # the mistake itself
        assert "base_url" in str(raised.value)
        assert "s3cr3t" not in str(raised.value)
    with pytest.raises(DeclarationError, match="holds credentials") as raised:
        HttpResource("https://ann:s3cr3t@crm.example", path=lambda: "x")
    assert "s3cr3t" not in str(raised.value)
    with pytest.raises(DeclarationError, match="without_etag is 'maybe'"):
        HttpResource("https://crm.example", path=lambda: "x", without_etag="maybe")  # type: ignore[arg-type]  # dto.


def test_credentials_are_in_no_journal_no_error_and_no_log(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = httpx.Client(base_url=server.url, headers={"Authorization": SECRET}, verify=NO_TLS)
    guard = a_guard()
    effect = an_effect(server, client, path=lambda id: f"customers/{id}?key=s3cr3t-query")
    query = "/api/customers/ann?key=s3cr3t-query"
    server.put(query, b'{"plan": "gold"}')

    @guard.write("customer.update", effect=effect, target=lambda id: ("crm", "customer", id))
    def update(id: str) -> None:
        client.patch(query, json={"plan": "free"}).raise_for_status()

    with guard.run(agent="billing-agent@2.4.0"):
        update("ann")
    (done,) = steps_of(guard.journal)
    server.misbehave = answering(502)
    with pytest.raises(ConnectionError) as raised:
        guard.compensators[done.step.action].undo(done, "undo-1")
    assert SECRET not in repr(events_of(guard.journal))
    assert SECRET not in caplog.text
    assert "s3cr3t" not in str(raised.value)
    bad = httpx.Client(headers={"Authorization": f"{SECRET}\r\nX: y"}, verify=NO_TLS)
    with pytest.raises(HttpFailed) as failed:
        an_effect(server, bad).open(a_call({}))
    assert "s3cr3t" not in str(failed.value)
    assert failed.value.__suppress_context__
    server.misbehave = None
    guard.compensators[done.step.action].undo(done, "undo-1")
    assert json.loads(server.resources[query][1]) == {"plan": "gold"}
    assert {headers.get("authorization") for _, _, headers in server.seen} >= {SECRET}
    client.close()
    bad.close()


# --- what counts ---


def test_json_is_compared_as_values_and_everything_else_as_bytes(server: HttpServer, client: httpx.Client) -> None:
    def version_of(body: bytes, kind: str = "application/json", **options: Any) -> str:
        server.put(AT, body, kind)
        touch = opened(an_effect(server, client, **options))
        return recorded(touch.before).version

    assert version_of(b'{"a": 1.10, "b": [1]}') == version_of(b'{"b":[1],"a":1.1}')
    assert version_of(b'{"a": 0.1}') != version_of(b'{"a": 0.1000000000000000055}')  # equal as doubles
    assert version_of(b'{"a": 1, "a": 2}') != version_of(b'{"a": 2}')
    assert version_of(b"{} ", "text/plain") != version_of(b"{}", "text/plain")
    assert version_of(b"{}", "text/plain") != version_of(b"{}")
    for text in ('["float", "1.1"]', '{"float": "1.1"}', '{"object": 1.1}', '{"object": {"float": "1.1"}}'):
        assert version_of(b'{"a": 1.1}') != version_of(b'{"a": ' + text.encode() + b"}")
        assert version_of(b"1.1") != version_of(text.encode())
    assert version_of(b"{broken") != version_of(b"{broken ")
    assert version_of(b'{"a":1,"at":1}', ignore=["at"]) == version_of(b'{"at":2,"a":1}', ignore="at")
    assert version_of(b'{"x":{"at":1}}', ignore=["at"]) != version_of(b'{"x":{"at":2}}', ignore=["at"])


def test_a_merged_image_has_the_version_that_is_seen_once_it_is_there(server: HttpServer, client: httpx.Client) -> None:
    effect = an_effect(server, client)
    step = a_patched_step(effect, client)
    merged = effect.snapshot_of(step, {**step.after, "text": '{"plan":"merged"}'})
    now = recorded(effect.observe(step))
    effect.restore(msgspec.structs.replace(step, before_snapshot=merged, after_snapshot=now))
    assert version_now(effect, step) == merged.version
    assert effect.probe(step) is Probe.CANNOT_TELL


def test_a_client_of_the_effects_own_is_closed_by_it(server: HttpServer, client: httpx.Client) -> None:
    own = HttpResource(f"{server.url}/api/", path=lambda: "customers/ann")
    assert opened(own).before is not None
    own.close()
    assert own.client.is_closed
    given = an_effect(server, client)
    given.close()
    assert not client.is_closed
