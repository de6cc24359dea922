from collections.abc import Iterator
from pathlib import Path

import pytest

from containment.queues.worlds import CeleryWorld, SqlWorld, World
from servers import Postgres, redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "celery"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made: World
    if request.param == "celery":
        made = CeleryWorld(request.getfixturevalue("redis_url"))
    elif request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        made = SqlWorld(server.url(scheme="postgresql+psycopg"))
    else:
        made = SqlWorld(f"sqlite:///{tmp_path}/jobs.db")
    yield made
    made.close()
