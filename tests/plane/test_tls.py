"""The control plane over TLS, with a certificate of its own: who believes it, who does not, and who only knocks."""

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plane.served import DEADLINE_S, Served, events_of
from rescind.web.listening import HANDSHAKE_WITHIN_S
from switch.client.test_operator_http import a_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Served]:
    """A plane that speaks TLS, over a store with an undo that has begun."""
    served = Served(tmp_path_factory.mktemp("plane"))
    served.plane.terminate()
    served.plane.wait(DEADLINE_S)
    served.plane = served.start_plane("--cert", str(certificate), "--key", str(certificate))
    yield served
    served.end_all()


def client(served: Served, authority: Path | None) -> httpx.Client:
    """Somebody who believes what this authority vouches for, or what the system does."""
    verify = ssl.create_default_context(cafile=None if authority is None else str(authority))
    headers = {"authorization": f"Bearer {served.tokens['viewer']}"}
    return httpx.Client(base_url=served.url, headers=headers, verify=verify, timeout=DEADLINE_S)


def knock(served: Served) -> socket.socket:
    """A connection on which nothing was said yet."""
    url = httpx.URL(served.url)
    return socket.create_connection((url.host, url.port or 443), timeout=DEADLINE_S)


def test_whoever_believes_the_certificate_is_served_and_nobody_without_a_token(
    shared: Served, certificate: Path
) -> None:
    assert shared.url.startswith("https://127.0.0.1:")
    with client(shared, certificate) as believer:
        assert believer.get("/v1/caller").json()["name"] == "viewer-name"
        assert believer.get("/health").json() == {"readable": True, "trouble": ""}
        assert believer.get("/v1/caller", headers={"authorization": ""}).status_code == 401
        wrong = believer.get("/v1/caller", headers={"authorization": "Bearer rsc_" + "x" * 43})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")


def test_an_unknown_certificate_and_one_for_another_host_are_not_believed(
    shared: Served, certificate: Path, tmp_path: Path
) -> None:
    elsewhere = a_certificate(tmp_path, host="elsewhere.example")
    for authority in (None, elsewhere):
        with client(shared, authority) as doubter, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            doubter.get("/v1/caller")
    other = Served(tmp_path)
    other.start_plane("--cert", str(elsewhere), "--key", str(elsewhere))
    with client(other, elsewhere) as deceived, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        deceived.get("/v1/caller")
    other.end_all()
    with client(shared, certificate) as believer:
        assert believer.get("/v1/caller").status_code == 200, "who was not believed goes on serving"


def test_plain_http_is_not_answered(shared: Served) -> None:
    with knock(shared) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert plain.recv(1_000) in (b"", b"\x15\x03\x01\x00\x02\x02\x46"), "closed, or a TLS alert"


@pytest.mark.slow
def test_who_only_knocks_is_cut_off_like_any_dawdler(shared: Served) -> None:
    """Before the handshake no connection is known to the server, only to its loop, which would wait for a minute."""
    with knock(shared) as silent, knock(shared) as slow:
        slow.sendall(b"\x16\x03\x01")  # the beginning of a handshake
        for connection in (silent, slow):
            connection.settimeout(2 * HANDSHAKE_WITHIN_S)
            assert connection.recv(1_000) == b""


@pytest.mark.slow
def test_progress_is_streamed_over_tls_and_a_stream_holds_up_no_end(certificate: Path, tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.start_worker()
    digest = served.begin_undo()
    plane = served.start_plane("--cert", str(certificate), "--key", str(certificate))
    with client(served, certificate) as follower, follower.stream("GET", f"/v1/undos/{digest}/events") as stream:
        events = events_of(stream.iter_lines())
        name, _, data = next(events)
        assert (name, data["undo"]["plan_digest"]) == ("progress", digest)
        plane.send_signal(signal.SIGTERM)
        assert plane.wait(DEADLINE_S) == 0
        assert list(events) == []
    served.end_all()
