"""The built-in channel: what it sends can be verified, and nothing that a receiver does holds it for long."""

import base64
import email.utils
import hashlib
import hmac
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from builders import NOON, an_order
from rescind.clock import SystemClock
from rescind.errors import UsageError
from rescind.switch.alerts import Alert, Undelivered, WebhookChannel, alert_of_order, new_webhook_secret
from rescind.testing import ManualClock
from switch.alerts.receivers import a_bad_receiver, a_receiver, babbles, floods, hangs, hangs_up, read_request, trickles

DOCS = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")
SECRET = new_webhook_secret()
ALERT = alert_of_order(an_order("ord-1", "agent:billing-agent"), "sw/1")


def refused(channel: WebhookChannel, timeout_s: float = 5.0) -> Undelivered:
    with pytest.raises(Undelivered) as caught:
        channel.send(ALERT, timeout_s=timeout_s)
    return caught.value


def test_an_alert_is_a_cloud_event_that_the_official_library_reads() -> None:
    with a_receiver() as receiver:
        WebhookChannel(f"http://127.0.0.1:{receiver.port}/hook?a=b", SECRET).send(ALERT, timeout_s=5)
    ((headers, body),) = receiver.requests
    event = from_structured_event(HTTPMessage(headers, body))

    assert headers["content-type"] == "application/cloudevents+json"
    assert event.get_specversion() == "1.0"
    assert event.get_id() == headers["webhook-id"] == "order-placed_ord-1"
    assert event.get_source() == "/rescind/switch/sw%2F1"
    assert event.get_type() == "dev.rescind.order.placed.v1"
    assert event.get_subject() == "order/ord-1"
    assert event.get_time() == NOON
    assert event.get_datacontenttype() == "application/json"
    data: Any = event.get_data()
    assert data["order"]["scope"] == "agent:billing-agent"
    assert data["title"] == "STOP halted agent:billing-agent"


def verifier_of_the_docs() -> Callable[[str, dict[str, str], bytes], bool]:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    found: Callable[[str, dict[str, str], bytes], bool] = namespace["is_from_our_switch"]
    return found


def test_the_code_in_the_docs_believes_our_switch_and_nobody_else() -> None:
    is_ours = verifier_of_the_docs()
    with a_receiver() as receiver:
        WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET).send(ALERT, timeout_s=5)
    ((headers, body),) = receiver.requests
    old = str(int(headers["webhook-timestamp"]) - 301)

    assert is_ours(SECRET, headers, body)
    assert not is_ours(SECRET, headers, body + b" ")
    assert not is_ours(SECRET, headers | {"webhook-id": "another"}, body)
    assert not is_ours(SECRET, headers | {"webhook-timestamp": old}, body)
    assert not is_ours(new_webhook_secret(), headers, body)


def test_two_secrets_sign_twice_so_that_a_receiver_may_move_from_one_to_the_other() -> None:
    is_ours, second = verifier_of_the_docs(), new_webhook_secret()
    with a_receiver() as receiver:
        WebhookChannel(f"http://127.0.0.1:{receiver.port}/", f"{SECRET} {second}").send(ALERT, timeout_s=5)
    ((headers, body),) = receiver.requests

    assert is_ours(SECRET, headers, body)
    assert is_ours(second, headers, body)


def test_a_signature_is_what_the_convention_says() -> None:
    """Computed here by the words of the specification, from a key and a time that are known."""
    key = b"0123456789abcdef0123456789abcdef"
    clock = ManualClock()
    with a_receiver() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        WebhookChannel(url, "whsec_" + base64.b64encode(key).decode(), clock=clock).send(ALERT, timeout_s=5)
    ((headers, body),) = receiver.requests
    signed = b"order-placed_ord-1.1795262400." + body

    assert headers["webhook-timestamp"] == "1795262400"
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def test_every_attempt_is_the_same_event_with_the_same_id() -> None:
    with a_receiver((500, {}), (200, {})) as receiver:
        channel = WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET)
        assert refused(channel).again
        channel.send(ALERT, timeout_s=5)
    first, second = receiver.requests

    assert first[1] == second[1]
    assert first[0]["webhook-id"] == second[0]["webhook-id"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_worth_another_attempt(status: int) -> None:
    with a_receiver((status, {})) as receiver:
        problem = refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET))

    assert (problem.again, problem.gone) == (True, False)
    assert str(status) in str(problem)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_what_will_not_pass_is_given_up_at_once(status: int) -> None:
    with a_receiver((status, {})) as receiver:
        problem = refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET))

    assert (problem.again, problem.gone) == (False, False)
    assert str(status) in str(problem)


def test_gone_is_for_good_and_says_what_to_do() -> None:
    with a_receiver((410, {})) as receiver:
        problem = refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET))

    assert problem.gone
    assert "take it out" in str(problem)


def test_a_redirect_is_not_followed() -> None:
    with a_receiver() as elsewhere, a_receiver((307, {"Location": f"http://127.0.0.1:{elsewhere.port}/"})) as receiver:
        problem = refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET))

    assert not problem.again
    assert not elsewhere.requests


HTTP_DATE = email.utils.format_datetime(datetime(2026, 11, 21, 12, 1, 30, tzinfo=UTC), usegmt=True)


@pytest.mark.parametrize(
    ("said", "after_s"),
    [
        ("7", 7.0),
        (HTTP_DATE, 90.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 400, None),
        ("", None),
    ],
)
def test_retry_after_is_understood_or_left_alone(said: str, after_s: float | None) -> None:
    with a_receiver((503, {"Retry-After": said})) as receiver:
        problem = refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET, clock=ManualClock()))

    assert problem.after_s == after_s


@pytest.mark.parametrize("behave", [hangs, trickles])
def test_a_receiver_that_does_not_come_to_an_end_is_left_in_time(
    behave: Callable[[socket.socket, threading.Event], None],
) -> None:
    with a_bad_receiver(behave) as receiver:
        begun = time.monotonic()
        problem = refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET), timeout_s=0.3)
        took_s = time.monotonic() - begun

    assert (str(problem), problem.again) == ("no answer within 0.3 s", True)
    assert took_s < 5  # a trickle would hold it for ever


def test_a_handshake_that_hangs_is_left_in_time() -> None:
    with a_bad_receiver(hangs) as receiver:
        problem = refused(WebhookChannel(f"https://127.0.0.1:{receiver.port}/", SECRET), timeout_s=0.3)

    assert str(problem) == "no answer within 0.3 s"


def test_an_endless_answer_is_not_read() -> None:
    with a_bad_receiver(floods) as receiver:
        WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET).send(ALERT, timeout_s=5)


def test_other_protocols_and_closed_doors_are_told_apart() -> None:
    with a_bad_receiver(babbles) as receiver:
        assert "not HTTP" in str(refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET)))
        assert "TLS failed" in str(refused(WebhookChannel(f"https://127.0.0.1:{receiver.port}/", SECRET)))
    with a_bad_receiver(hangs_up) as receiver:
        assert "without an answer" in str(refused(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET)))
        port = receiver.port
    problem = refused(WebhookChannel(f"http://127.0.0.1:{port}/", SECRET))
    assert str(problem) == "it cannot be reached: Connection refused"
    assert problem.again


def tls_server_context(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a fresh certificate for 127.0.0.1, and the file of the certificate."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    pem.write_bytes(private + public)
    authority = folder / "ca.pem"
    authority.write_bytes(public)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, authority


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    context, authority = tls_server_context(tmp_path)

    def answer(connection: socket.socket, _closed: threading.Event) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            read_request(secured)
            secured.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with a_bad_receiver(answer) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/"
        WebhookChannel(url, SECRET, tls=ssl.create_default_context(cafile=authority)).send(ALERT, timeout_s=5)
        assert "not to be trusted" in str(refused(WebhookChannel(url, SECRET)))


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///path-only",
        "https://host:99999/",
        "https://host/a b",
        "https://host/\x1b",
        "https://höst/",
        "https://[::1/",
        f"https://{'x' * 64}.example/",
        "ftp://host/",
        "https://user:hunter2@host/",
        "https://hooks.slack.com/services/T0/B0/hunter2",
        "https://discord.com/api/webhooks/1/hunter2",
    ],
)
def test_a_url_that_cannot_work_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(UsageError, match=r"write|leave them out") as caught:
        WebhookChannel(url, SECRET)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "  ",
        "hunter2",
        "whsec_hunter2",
        "whsec_" + "QUFB" * 40,
        pytest.param(f"{SECRET} hunter2", id="a second one"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(UsageError, match="make one with") as caught:
        WebhookChannel("https://hooks.example/", secret)
    assert "hunter2" not in str(caught.value)


def test_ipv6_and_default_ports_are_named_as_people_write_them() -> None:
    assert WebhookChannel("https://[::1]:8443/x", SECRET).name == "webhook https://[::1]:8443"
    assert WebhookChannel("https://hooks.example:443/x", SECRET).name == "webhook https://hooks.example"


def test_data_is_as_it_was_typed_for_programs_that_encode_it_themselves() -> None:
    alert = Alert(
        alert_id="a", kind="k", severity="info", title="t", body="b", subject="s", switch_id="sw", at=NOON,
        data={"reason": "<script>\n"},
    )  # fmt: skip
    with a_receiver() as receiver:
        WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET, clock=SystemClock()).send(alert, timeout_s=5)

    assert json.loads(receiver.requests[0][1])["data"]["reason"] == "<script>\n"
