"""What one process remembers of the incidents that it has to do with: what was only counted, and who is owed a digest.

All of it may be lost: a count that dies with its process was of signals beyond the hundred that are written down.
"""

import threading
from collections import OrderedDict

from rescind.clock import Clock
from rescind.containment.incident import Joined, digest, open_or_join, scope_of
from rescind.errors import EntryUnreadable
from rescind.journal.port import Journal
from rescind.model.signal import Signal

REMEMBERED_MAX = 1_000
"""Incidents that are remembered. Of one that is forgotten, the next digest counts a few signals less."""


class IncidentDesk:
    """Opens and joins incidents for one process. For many threads: one signal at a time, and no call waits for it."""

    def __init__(self, journal: Journal, *, clock: Clock, guard_id: str) -> None:
        self._journal, self._clock, self._guard_id = journal, clock, guard_id
        self._lock = threading.RLock()  # a signal's handler may come by here in the middle of it
        self._uncounted: OrderedDict[str, int] = OrderedDict()
        self._ids: dict[str, str] = {}

    def open_or_join(self, signal: Signal, *, tenant: str = "", agent: str = "") -> Joined:
        """See `incident.open_or_join`. Raises: JournalUnavailable."""
        cause = signal.cause_in(scope_of(signal, agent))
        with self._lock:
            joined = open_or_join(
                self._journal,
                signal,
                clock=self._clock,
                guard_id=self._guard_id,
                tenant=tenant,
                agent=agent,
                uncounted=self._uncounted.get(cause, 0),
            )
            self._remember(cause, joined)
        return joined

    def digests(self) -> tuple[Joined, ...]:
        """The digests that are due now, of incidents that this process has joined. Ask now and then, once a minute.

        Raises: JournalUnavailable.
        """
        said: list[Joined] = []
        with self._lock:
            for cause, incident_id in list(self._ids.items()):
                try:
                    text = digest(self._journal, incident_id, clock=self._clock, uncounted=self._uncounted[cause])
                except EntryUnreadable:  # its further signals are another incident's (I6)
                    del self._ids[cause], self._uncounted[cause]
                    continue
                if text:
                    self._uncounted[cause] = 0
                    said.append(Joined(incident_id=incident_id, alert=text))
        return tuple(said)

    def _remember(self, cause: str, joined: Joined) -> None:
        if self._ids.get(cause) != joined.incident_id or joined.alert:
            self._uncounted[cause] = 0
        self._uncounted[cause] = self._uncounted.get(cause, 0) + (not joined.noted)
        self._uncounted.move_to_end(cause)
        self._ids[cause] = joined.incident_id
        if len(self._uncounted) > REMEMBERED_MAX:
            forgotten, _ = self._uncounted.popitem(last=False)
            del self._ids[forgotten]
