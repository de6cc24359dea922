from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from effects.worlds import an_engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = an_engine(tmp_path)
    yield engine
    engine.dispose()
