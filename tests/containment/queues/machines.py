"""Real servers for tests: Redis and PostgreSQL, each in a folder of its own, on a free port, ended by its pid."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import redis

PATIENCE_S = 30.0


def needed(program: str) -> str:
    """Where a program is. Without it a test is skipped; on CI it is a fault of the machine."""
    debian = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *debian]))
    if found is None:
        reason = f"{program} is not installed on this machine"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(folder: Path) -> Generator[str]:
    """The URL of a Redis that keeps what it is told on disk."""
    port = free_port()
    command = [needed("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline_s, "redis-server does not answer"
                time.sleep(0.02)
        client.close()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.contextmanager
def postgres_server(folder: Path) -> Generator[str]:
    """The URL of a PostgreSQL for SQLAlchemy. It refuses to run as root, so root lends it another user's name."""
    initdb, postgres, ready = needed("initdb"), needed("postgres"), needed("pg_isready")
    data, sockets = folder / "data", folder / "s"
    user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    for each in (folder, sockets):
        each.mkdir(exist_ok=True)
    if user:
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(parent.stat().st_mode | 0o755)
        shutil.chown(folder, "nobody")
        shutil.chown(sockets, "nobody")
    subprocess.run(
        [initdb, "-D", str(data), "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        **user,
    )
    port = free_port()
    command = [postgres, "-D", str(data), "-p", str(port), "-k", str(sockets), "-c", "listen_addresses=127.0.0.1"]
    process = subprocess.Popen(
        [*command, "-c", "fsync=off"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
    )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
            assert time.monotonic() < deadline_s, "postgres does not answer"
            time.sleep(0.05)
        yield f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown: it does not wait for whoever is connected still
        process.wait(PATIENCE_S)
