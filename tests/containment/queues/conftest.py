from collections.abc import Iterator
from pathlib import Path

import pytest

from containment.queues.machines import postgres_server, redis_server
from containment.queues.worlds import CeleryWorld, SqlWorld, World


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("pg")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "celery"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made: World
    if request.param == "celery":
        made = CeleryWorld(request.getfixturevalue("redis_url"))
    elif request.param == "postgresql":
        made = SqlWorld(request.getfixturevalue("postgres_url"))
    else:
        made = SqlWorld(f"sqlite:///{tmp_path}/jobs.db")
    yield made
    made.close()
