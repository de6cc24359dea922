"""Where the workers of a store register, what keeps them apart, and where their engine keeps its jobs."""

from pathlib import Path
from typing import TYPE_CHECKING

from rescind.clock import Clock
from rescind.recovery.appliers import Appliers, FolderAppliers
from rescind.recovery.locks import Locks, UndoLocks
from rescind.recovery.workers import Workers, WorkersFolder

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

ENGINE_NAME = "workers.db"
"""The engine's file in a folder."""


def register_of(store: "StoreAt") -> Workers:
    """The register of a store's workers."""
    if isinstance(store, Path):
        return WorkersFolder(store)
    from rescind.recovery.postgres.register import DatabaseWorkers  # and with it a driver that folders do not need

    return DatabaseWorkers(store)


def locks_of(store: "StoreAt", clock: Clock) -> Locks:
    """What keeps the undos of a store apart."""
    if isinstance(store, Path):
        return UndoLocks(store, clock)
    from rescind.recovery.postgres.register import DatabaseLocks

    return DatabaseLocks(store, clock)


def appliers_of(store: "StoreAt") -> Appliers:
    """Who applies plans of a store."""
    if isinstance(store, Path):
        return FolderAppliers(store)
    from rescind.recovery.postgres.appliers import DatabaseAppliers

    return DatabaseAppliers(store)


def engine_url(store: "StoreAt") -> str:
    """Where the engine of a store's workers keeps its jobs. Holds the password, if the address does."""
    return f"sqlite:///{store / ENGINE_NAME}" if isinstance(store, Path) else store.url
