"""The engine on DBOS, on SQLite and PostgreSQL: the laws of `engine`, and the limits that it has to make good."""

import logging
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builders import environment
from rescind.errors import EngineUnavailable, UsageError
from rescind.recovery.engine import Job, JobState
from servers import Postgres

pytest.importorskip("dbos")

from rescind.recovery.engine_dbos import DbosEngine, DbosReports

DEADLINE_S = 20.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'workers.db'}"
    database: str = request.getfixturevalue("postgres").new_database()
    return database


@pytest.fixture
def engine(url: str) -> Iterator[DbosEngine]:
    opened = DbosEngine(url, "worker-here")
    yield opened
    opened.close()


def a_job(job_id: str = "plan-1.1", queue: str = "plans", **payload: Any) -> Job:
    return Job(job_id=job_id, kind="test", queue=queue, payload=payload)


def noting(done: list[str]) -> Callable[[Job], dict[str, Any]]:
    """Carries out a job by noting its id."""

    def note(job: Job) -> dict[str, Any]:
        done.append(job.job_id)
        return {}

    return note


def until(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.005)


def test_a_job_that_was_started_before_anybody_listens_is_carried_out(engine: DbosEngine) -> None:
    engine.start([a_job(amount=7)])
    engine.listen({"plans": 1}, lambda job: {"twice": job.payload["amount"] * 2})

    until(lambda: engine.reports("plan-1")["plan-1.1"].state is JobState.ENDED, "EN1")
    report = engine.reports("plan-1")["plan-1.1"]
    assert (report.result, report.worker_id, report.problem) == ({"twice": 14}, "worker-here", "")


def test_a_second_start_of_the_same_id_does_nothing(engine: DbosEngine) -> None:
    done: list[Any] = []

    def note(job: Job) -> dict[str, Any]:
        done.append(job.payload)
        return {}

    engine.listen({"plans": 4}, note)
    for number in range(5):
        engine.start([a_job(number=number)])  # EN2
    until(lambda: done, "the first one")
    time.sleep(0.1)
    assert done == [{"number": 0}]


def test_a_worker_takes_so_many_jobs_of_a_queue_at_once_and_the_next_ones_follow_without_a_pause(
    engine: DbosEngine,
) -> None:
    lock, at_once, most = threading.Lock(), 0, 0

    def work(job: Job) -> dict[str, Any]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return {}

    engine.start([a_job(f"plan-1.{number}") for number in range(12)])
    begun_s = time.monotonic()
    engine.listen({"plans": 2}, work)
    until(lambda: all(each.is_over for each in engine.reports("plan-1.").values()), "all have ended")
    assert most == 2
    assert time.monotonic() - begun_s < 2.0, "polling alone would take as many seconds as there are pairs"


def test_a_job_begins_within_100_ms_of_its_start(engine: DbosEngine) -> None:
    begun_s: dict[str, float] = {}

    def note(job: Job) -> dict[str, Any]:
        begun_s[job.job_id] = time.monotonic()
        return {}

    engine.listen({"plans": 1}, note)
    waited: list[float] = []
    for number in range(11):
        time.sleep(0.05)
        job = a_job(f"plan-{number}.1")
        start_s = time.monotonic()
        engine.start([job])
        until(partial(begun_s.__contains__, job.job_id), "it begins")
        waited.append(begun_s[job.job_id] - start_s)
    assert sorted(waited)[5] < 0.1, waited


def test_what_a_job_raises_ends_the_job_and_not_the_worker(engine: DbosEngine) -> None:
    def work(job: Job) -> dict[str, Any]:
        if job.payload.get("bad"):
            raise ValueError("no such plan")
        return {"fine": True}

    engine.listen({"plans": 1}, work)
    engine.start([a_job("plan-1.1", bad=True), a_job("plan-1.2")])
    until(lambda: all(each.is_over for each in engine.reports("plan-1.").values()), "both end")
    first, second = engine.reports("plan-1.").values()
    assert (first.problem, first.result) == ("ValueError: no such plan", {})
    assert second.result == {"fine": True}


def test_a_cancelled_job_is_not_begun(engine: DbosEngine) -> None:
    engine.start([a_job()])
    engine.cancel("plan-1.1")
    done: list[str] = []
    engine.listen({"plans": 1}, noting(done))
    engine.start([a_job("plan-2.1")])
    until(lambda: done, "the other one")
    assert done == ["plan-2.1"]
    assert engine.reports("plan-1.")["plan-1.1"].state is JobState.CANCELLED


def test_who_waits_is_told_by_a_ring(engine: DbosEngine) -> None:

    def work(job: Job) -> dict[str, Any]:
        time.sleep(0.2)
        return {}

    engine.listen({"plans": 1}, work)
    engine.start([a_job()])
    begun_s, reports = time.monotonic(), engine.reports("plan-1.")
    while not reports["plan-1.1"].is_over:
        reports = engine.wait("plan-1.", {name: each.state for name, each in reports.items()}, timeout_s=10.0)
    assert time.monotonic() - begun_s < 2.0


HANGING = """
import sys, time
from rescind.recovery.engine_dbos import DbosEngine, DbosReports

engine = DbosEngine(sys.argv[1], sys.argv[2])

def hang(job):
    print("begun", job.job_id, flush=True)
    time.sleep(60)

engine.listen({"plans": 1}, hang)
time.sleep(60)
"""


def test_the_jobs_of_a_killed_worker_wait_again_once_they_are_handed_over(url: str, engine: DbosEngine) -> None:
    engine.start([a_job(), a_job("plan-1.2")])
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, url, "worker-dead"], stdout=subprocess.PIPE, text=True, env=environment()
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun plan-1.1\n"
        other.kill()
    done: list[str] = []
    engine.listen({"plans": 1}, noting(done))
    until(lambda: done == ["plan-1.2"], "what nobody had begun")
    assert engine.reports("plan-1.")["plan-1.1"].worker_id == "worker-dead"
    assert engine.reports("plan-1.")["plan-1.1"].state is JobState.RUNNING, "nobody else may take it yet (EN3)"

    assert engine.hand_over("worker-dead") == 1  # EN4
    until(lambda: done == ["plan-1.2", "plan-1.1"], "from the beginning (EN5)")
    assert engine.hand_over("worker-dead") == 0
    until(lambda: engine.reports("plan-1.")["plan-1.1"].is_over, "it ends")


def test_jobs_outlive_the_engine_and_are_found_by_the_next(url: str) -> None:
    first = DbosEngine(url, "worker-1")
    first.start([a_job()])
    first.close()
    second = DbosEngine(url, "worker-2")
    try:
        second.listen({"plans": 1}, lambda job: {"by": "worker-2"})
        until(lambda: second.reports("plan-1.")["plan-1.1"].is_over, "EN1")
    finally:
        second.close()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_pickle_in_the_file_is_not_opened(url: str, engine: DbosEngine, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "opened",))

    import base64

    engine.start([a_job()])
    with sqlite3.connect(tmp_path / "workers.db") as file:
        planted = base64.b64encode(pickle.dumps(Evil())).decode()
        assert file.execute("UPDATE workflow_status SET inputs = ?", (planted,)).rowcount == 1
    engine.listen({"plans": 1}, lambda job: {})
    engine.start([a_job("plan-2.1")])
    until(lambda: engine.reports("plan-2.")["plan-2.1"].is_over, "the engine goes on")
    assert not (tmp_path / "opened").exists()


def test_a_job_without_a_state_is_one_that_nobody_carries_out(tmp_path: Path) -> None:
    engine = DbosEngine(f"sqlite:///{tmp_path / 'workers.db'}", "worker-here")
    engine.start([a_job(), a_job("plan-1.2")])
    with sqlite3.connect(tmp_path / "workers.db") as file:
        file.execute("UPDATE workflow_status SET status = NULL WHERE workflow_uuid = 'plan-1.1'")
    states = {name: report.state for name, report in engine.reports("plan-").items()}
    assert states == {"plan-1.1": JobState.GIVEN_UP, "plan-1.2": JobState.WAITING}
    engine.close()


def test_an_idle_worker_costs_next_to_nothing(engine: DbosEngine) -> None:
    engine.listen({"plans": 16, "tools-1": 1}, lambda job: {})
    time.sleep(0.5)  # the quick looks of the beginning
    before_s = time.process_time()
    time.sleep(2.0)
    assert time.process_time() - before_s < 0.1, "5 % of a core"


def test_it_logs_nothing_to_the_terminal_and_reports_to_nobody(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBOS__CLOUD", "true")
    monkeypatch.setenv("DBOS__VMID", "somebody-elses")
    engine = DbosEngine(url, "worker-here")
    engine.listen({"plans": 1}, lambda job: {})
    engine.start([a_job()])
    until(lambda: engine.reports("plan-1.")["plan-1.1"].is_over, "it works")
    assert engine.reports("plan-1.")["plan-1.1"].worker_id == "worker-here"
    engine.close()
    assert capfd.readouterr() == ("", "")
    assert not any(isinstance(each, logging.StreamHandler) for each in logging.getLogger("dbos").handlers)


def test_a_program_that_runs_dbos_itself_is_told_so(url: str, engine: DbosEngine) -> None:
    with pytest.raises(UsageError, match="DBOS object of its own"):
        DbosEngine(url, "worker-2")


def place(url: str) -> tuple[str, str, str, str]:
    """User, host, port and database of an address of these tests."""
    credentials, _, rest = url.removeprefix("postgresql://").rpartition("@")
    where, _, database = rest.partition("/")
    host, _, port = where.partition(":")
    return credentials, host, port, database


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://{user}:s3cr%40t@{host}:{port}/{database}",
        "postgresql://{user}@{host}:{port}/{database}?password=s3cr%40t&sslmode=disable",
        "postgresql://{user}:s3cr%40t@{host}:1,{host}:{port}/{database}",
        "postgresql://{user}:s3cr%40t@/{database}?host={host}&port={port}",
        "postgres://{host}:{port}?user={user}&dbname={database}",
    ],
)
def test_an_address_is_read_as_by_the_journal_and_no_password_comes_into_a_log(
    postgres: Postgres, caplog: pytest.LogCaptureFixture, written: str
) -> None:
    user, host, port, database = place(postgres.new_database())
    caplog.set_level(logging.DEBUG)
    reports = DbosReports(written.format(user=user, host=host, port=port, database=database))
    assert reports.reports("plan-") == {}, "no worker has ever run here"
    reports.close()
    assert "s3cr" not in caplog.text


def test_several_hosts_and_a_word_of_options_do_for_an_engine(postgres: Postgres) -> None:
    user, host, port, database = place(postgres.new_database())
    engine = DbosEngine(f"postgresql://{user}@{host}:1,{host}:{port}/{database}?connect_timeout=3", "worker-here")
    done: list[str] = []
    engine.listen({"plans": 1}, noting(done))
    engine.start([a_job()])
    until(lambda: done == ["plan-1.1"], "the job is carried out")
    engine.close()


def test_what_the_database_says_is_told_in_one_line_without_statements() -> None:
    reports = DbosReports("postgresql://nobody:s3cr%40t@127.0.0.1:1/nothing")
    with pytest.raises(EngineUnavailable) as told:
        reports.reports("plan-")
    assert "Connection refused" in str(told.value)
    assert not [part for part in ("\n", "[SQL", "s3cr", "sqlalche.me") if part in str(told.value)]
