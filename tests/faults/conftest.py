from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.world import Charter, World


@pytest.fixture(scope="session")
def charter(tmp_path_factory: pytest.TempPathFactory) -> Charter:
    pytest.importorskip("litestar")
    return Charter.make(tmp_path_factory.mktemp("charter"))


@pytest.fixture
def world(tmp_path: Path, charter: Charter) -> Iterator[World]:
    with World(tmp_path, charter) as world:
        yield world
