"""What the tests of faults need of a machine: clocks, patience, root, and tools; and what to do without them."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pytest

T = TypeVar("T")

PATIENCE_S = 20.0
"""Far longer than anything here takes; only a failing test ever waits for it."""

CLONE_NEWNET = 0x40000000


def boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_s() -> float:
    return time.time()


def eventually(condition: Callable[[], T], what: str, *, within_s: float = PATIENCE_S) -> T:
    """What the condition says once it says something; fails with a sentence if that does not come in time."""
    deadline_s = boot_s() + within_s
    while not (answer := condition()):
        assert boot_s() < deadline_s, f"waited {within_s:g} s in vain for {what}"
        time.sleep(0.01)
    return answer


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def cannot(why: str) -> None:
    """This machine cannot show it: a developer's may do without, and a machine that judges a change may not."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}; where CI=true is set, nothing is left out")
    pytest.skip(why)


def need_root_and(*tools: str) -> None:
    """Skip the test, or fail it in CI, unless we are root and these commands are installed."""
    if os.geteuid() != 0:
        cannot("only root may do this to a machine")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        cannot(f"not installed: {', '.join(missing)}")


def sh(*command: str) -> str:
    """Run a command of the system, and return what it printed. Raises: CalledProcessError, with what it complained."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode:
        done.stdout += done.stderr
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return done.stdout


def within(namespace: str, function: Callable[[], T]) -> T:
    """Call it where this network is to be seen; an empty name means here. What it connects stays connected there."""
    if not namespace:
        return function()
    found: list[T] = []
    problems: list[BaseException] = []

    def work() -> None:  # a thread of its own: it never comes back to our network
        try:
            _enter(namespace)
            found.append(function())
        except BaseException as error:  # noqa: BLE001  # raised again below, where somebody waits for it
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return found[0]


def _enter(namespace: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


class Answer(NamedTuple):
    """What a switch said: status, media type, and the document; and our boot clock when it was in hand."""

    status: int
    kind: str
    document: Any
    got_s: float


def connect(url: str, *, namespace: str = "", timeout_s: float = PATIENCE_S) -> http.client.HTTPConnection:
    """An open connection to a switch. Raises: OSError."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    within(namespace, connection.connect)
    return connection


def ask(
    url: str,
    method: str,
    path: str,
    document: Any = None,
    *,
    token: str = "",
    namespace: str = "",
    timeout_s: float = PATIENCE_S,
) -> Answer:
    """One request to a switch, as anybody could send it. Raises: OSError, http.client.HTTPException."""
    connection = connect(url, namespace=namespace, timeout_s=timeout_s)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, headers_for(token))
        response = connection.getresponse()
        said = response.read()
        return Answer(response.status, response.headers.get_content_type(), json.loads(said), boot_s())
    finally:
        connection.close()


def headers_for(token: str) -> dict[str, str]:
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
