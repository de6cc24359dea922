"""The operator's little HTTP: whatever is at the other end, it ends in time, in bounds, and never as a surprise."""

import contextlib
import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from rescind.clock import SystemClock
from rescind.errors import ConfigError
from rescind.switch.client.http import Address, Response, Trouble, Unreachable, fetch
from rescind.switch.client.tokens import token_for
from switch.client.scripted import Script, answer, nobody, saying, serving

CLOCK = SystemClock()


def ask(url: str, *, within_s: float = 5.0, bytes_max: int = 10_000, **more: str | None) -> Response:
    return fetch(
        Address.parse(url),
        "GET",
        "/health",
        deadline_s=CLOCK.monotonic_s() + within_s,
        bytes_max=bytes_max,
        clock=CLOCK,
        **more,  # type: ignore[arg-type]
    )


def trouble(url: str, *, within_s: float = 5.0, bytes_max: int = 10_000, **more: str | None) -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        ask(url, within_s=within_s, bytes_max=bytes_max, **more)
    return caught.value


def raw(data: bytes) -> Script:
    return lambda connection, _: connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (answer(200, b"{}"), b"{}"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"abc0123456789",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:  2 \r\n\r\n[]", b"[]"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_every_form_of_an_answer_is_read(data: bytes, body: bytes) -> None:
    with serving(raw(data)) as switch:
        assert ask(switch.url).body == body


def test_a_request_names_the_host_and_shows_the_token_to_it_alone() -> None:
    with serving(saying(answer(200, {}))) as switch:
        ask(switch.url, token="rsc_x")

    ((method, path, headers, body),) = switch.asked
    assert (method, path, body) == ("GET", "/health", b"")
    assert headers["authorization"] == "Bearer rsc_x"
    assert headers["host"] == f"127.0.0.1:{switch.port}"


def test_a_redirect_is_not_followed() -> None:
    with serving(saying(answer(200, {}))) as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/health\r\nContent-Length: 0\r\n\r\n"
        with serving(raw(moved.encode())) as switch:
            assert ask(switch.url, token="rsc_x").status == 307

    assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "closed the connection within its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed the connection within its answer"),
    ],
)
def test_an_answer_that_breaks_off_is_none_and_may_have_been_served(data: bytes, says: str) -> None:
    with serving(raw(data)) as switch:
        found = trouble(switch.url)

    assert (found.trouble, found.sent) == (Trouble.DOWN, True)
    assert says in found.detail


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not answer with HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x46" + b"x" * 100, "does not answer with HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "does not answer with HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, "does not answer with HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "Content-Length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n", "more than 10,000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_001, "more than 10,000 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n", "no length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "more than 10,000 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"9" * 400, "does not answer with HTTP"),
    ],
)
def test_what_is_no_answer_of_a_switch_is_told_apart_and_bounded(data: bytes, says: str) -> None:
    def script(connection: socket.socket, _: object) -> None:
        connection.sendall(data)
        connection.recv(1)  # hold it open: the client must not wait for more

    with serving(script) as switch:
        found = trouble(switch.url)

    assert found.trouble is Trouble.NO_SWITCH
    assert says in found.detail


@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
)
def test_no_bytes_whatever_are_a_surprise(noise: bytes, before: bytes) -> None:
    with serving(raw(before + noise)) as switch, contextlib.suppress(Unreachable):
        assert 100 <= ask(switch.url).status <= 999


def test_an_answer_that_drips_in_is_not_waited_for_beyond_the_deadline() -> None:
    def drip(connection: socket.socket, _: object) -> None:
        connection.settimeout(0.02)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            try:
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue

    with serving(drip) as switch:
        began_s = CLOCK.monotonic_s()
        found = trouble(switch.url, within_s=0.3)

    assert (found.trouble, found.sent) == (Trouble.SLOW, True)
    assert CLOCK.monotonic_s() - began_s < 2.0


def test_a_port_where_nothing_listens_and_a_name_that_nobody_has_are_told_apart() -> None:
    down = trouble(nobody())

    assert (down.trouble, down.sent, down.detail) == (Trouble.DOWN, False, "nothing listens there")
    assert trouble("http://no-such-host.invalid:7443").trouble is Trouble.NO_HOST


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:7443", "ftp://a:1", "http://", "http://a:b", "http://a:0", "http://a:65536", "http://u@a:1",
     "http://a:1/path", "http://a b:1", "http://a:1?x", "http://ä:1", "http://a\r\nX:1"],
)  # fmt: skip
def test_what_is_no_url_of_a_switch_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no switch"):
        Address.parse(url)


def test_urls_of_switches_are_read() -> None:
    assert Address.parse("http://[::1]:7443/") == Address("[::1]:7443", "::1", 7443, tls=False)
    assert Address.parse("https://stop.example") == Address("stop.example", "stop.example", 443, tls=True)


# --- TLS ---


def a_certificate(folder: Path, *, host: str = "127.0.0.1") -> Path:
    """A file with a key and a certificate that vouches for itself."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a switch")])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def with_tls(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_a_certificate_is_believed_if_its_file_is_named_and_not_otherwise(tmp_path: Path) -> None:
    certificate = a_certificate(tmp_path)
    with serving(saying(answer(200, {})), context=with_tls(certificate)) as switch:
        assert ask(switch.url, ca_file=str(certificate)).status == 200
        untrusted = trouble(switch.url)

    assert untrusted.trouble is Trouble.UNTRUSTED
    assert "certificate is not trusted" in untrusted.detail
    assert len(switch.asked) == 1


def test_a_certificate_of_another_host_is_not_believed(tmp_path: Path) -> None:
    certificate = a_certificate(tmp_path, host="elsewhere.example")
    with serving(saying(answer(200, {})), context=with_tls(certificate)) as switch:
        assert trouble(switch.url, ca_file=str(certificate)).trouble is Trouble.UNTRUSTED


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_used_is_said(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with serving(saying(answer(200, {})), context=with_tls(a_certificate(tmp_path))) as switch:
        found = trouble(switch.url, ca_file=str(path))

    assert found.trouble is Trouble.UNTRUSTED
    assert "ca_file" in found.detail


def test_a_server_with_tls_that_is_called_without_is_no_switch(tmp_path: Path) -> None:
    with serving(saying(b""), context=with_tls(a_certificate(tmp_path))) as secure:
        found = trouble(secure.url.replace("https://", "http://"))
    assert found.trouble in (Trouble.NO_SWITCH, Trouble.DOWN)


def test_a_server_without_tls_is_told_apart() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def speak_plainly() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=speak_plainly)
    thread.start()
    with listener:
        found = trouble(f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()

    assert found.trouble is Trouble.NO_TLS


# --- tokens ---

A, B = "http://a:1", "https://b:2"


@pytest.mark.parametrize(
    ("text", "for_a", "for_b"),
    [
        ("", "", ""),
        ("rsc_x", "rsc_x", "rsc_x"),
        (f"{A} rsc_a\n{B}/ rsc_b\n", "rsc_a", "rsc_b"),
        (f"\n{A}\trsc_a\r\nrsc_x\n", "rsc_a", "rsc_x"),
        (f"{A} rsc_a", "rsc_a", ""),
    ],
)
def test_each_switch_is_shown_its_token(text: str, for_a: str, for_b: str) -> None:
    assert (token_for(A, text), token_for(B, text)) == (for_a, for_b)


@pytest.mark.parametrize(
    "text", ["a secret sentence", f"{A} x secret", "sécret", f"{A} secret\n{A} secret", "se\x00cret"]
)
def test_a_file_that_is_no_token_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        token_for(A, text)

    assert "secret" not in str(caught.value)
