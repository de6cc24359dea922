"""A small bank, an agent that pays in it, and the command line, all as real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.bank import Bank


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    bank = Bank(tmp_path)
    yield bank
    bank.end_all()
