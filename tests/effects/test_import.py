"""Importing the effects is cheap, and says what is missing."""

import subprocess
import sys

import pytest

from rescind.compensation import effects

NAMES = (
    "Files",
    "GitBranch",
    "HttpResource",
    "MappingKey",
    "ObjectGraph",
    "RedisKeys",
    "S3Objects",
    "SqlChanges",
    "SqlRows",
)

WITHOUT_SQLALCHEMY = """
import sys
import rescind.compensation.effects as effects
effects.Files, effects.MappingKey
assert "sqlalchemy" not in sys.modules
sys.modules["sqlalchemy"] = None
try:
    effects.SqlRows
except ModuleNotFoundError as error:
    assert "pip install 'rescind[sql]'" in str(error), error
else:
    raise AssertionError
"""


def test_sqlalchemy_is_loaded_only_for_sql() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_SQLALCHEMY], check=True)


def test_the_names_are_there() -> None:
    assert dir(effects) == sorted(effects.__all__) == list(NAMES)
    for name in effects.__all__:
        assert getattr(effects, name).__name__ == name
    with pytest.raises(AttributeError, match="Sql"):
        effects.Sql  # noqa: B018  # the access is the test
