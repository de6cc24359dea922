"""Which worker holds which share: asked of the workers' engine, if it is installed here."""

import threading
from typing import TYPE_CHECKING

from rescind.database.address import StoreAt
from rescind.recovery.engine import JobReport
from rescind.recovery.places import engine_url

if TYPE_CHECKING:
    from rescind.recovery.engine_dbos import DbosReports


class Jobs:
    """The jobs of a store's workers, seen from outside."""

    def __init__(self, store: StoreAt) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._reports: DbosReports | None = None

    def reports(self, prefix: str) -> dict[str, JobReport]:
        """The jobs whose ids begin so, by id.

        Raises: UsageError, if the engine is not installed here; EngineUnavailable.
        """
        with self._lock:
            if self._reports is None:
                from rescind.recovery.engine_dbos import DbosReports  # takes a second, and an extra

                self._reports = DbosReports(engine_url(self._store))
        return self._reports.reports(prefix)

    def close(self) -> None:
        """Let go of what is open."""
        if self._reports is not None:
            self._reports.close()
