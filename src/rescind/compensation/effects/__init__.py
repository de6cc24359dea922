"""Ready-made effects: SQL tables and rows, files, resources and keys of servers, branches, graphs of objects.

Each takes its own snapshots.

    from rescind.compensation.effects import SqlRows

    @guard.write("subscription.reactivate", effect=SqlRows(engine, "subscriptions", rows=lambda id: {"id": id}))
    def reactivate(id: str) -> None: ...

Each also has `target(arguments)`, the target of a call whose declaration names none, and `parameters`, the names of the
tool's parameters that it cannot do without.

A version is the content: somebody who changes a target and changes it back has, for an undo, changed nothing. Effects
whose attribute `sees_aba` is true see that too.

Nothing is imported before it is used: `SqlRows`, and `SqlChanges` on PostgreSQL, need SQLAlchemy, and `SqlChanges` on
SQLite needs apsw; these and the clients of servers are extras.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescind.compensation.effects.changes import SqlChanges
    from rescind.compensation.effects.files import Files
    from rescind.compensation.effects.git import GitBranch
    from rescind.compensation.effects.http_resource import HttpResource
    from rescind.compensation.effects.mapping import MappingKey
    from rescind.compensation.effects.objects import ObjectGraph
    from rescind.compensation.effects.redis_keys import RedisKeys
    from rescind.compensation.effects.s3_objects import S3Objects
    from rescind.compensation.effects.sql import SqlRows

__all__ = [
    "Files",
    "GitBranch",
    "HttpResource",
    "MappingKey",
    "ObjectGraph",
    "RedisKeys",
    "S3Objects",
    "SqlChanges",
    "SqlRows",
]

_HOME = {
    "Files": "files",
    "GitBranch": "git",
    "HttpResource": "http_resource",
    "MappingKey": "mapping",
    "ObjectGraph": "objects",
    "RedisKeys": "redis_keys",
    "S3Objects": "s3_objects",
    "SqlChanges": "changes",
    "SqlRows": "sql",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
