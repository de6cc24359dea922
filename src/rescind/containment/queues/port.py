"""The port of a queue: jobs that have not begun are held back, and given free again.

QU1. `hold` holds back every job that the scope covers and that has not begun, and no other. A job that a worker has
    begun is not touched.
QU2. What comes in after `hold` and is covered is held too: at the latest by the next `hold` of the same order, which a
    keeper repeats; and at once where workers ask (each adapter says how).
QU3. Nothing is lost and nothing runs twice that would not have without us.
QU4. A job that several orders hold is given free by the release of the last of them.
QU5. `hold` and `release` may be repeated, by several keepers at once, and then change nothing more.
QU6. A process that dies anywhere in them leaves a state from which doing it again goes on.
QU7. Jobs that were held come out in the order in which they went in, as far as the queue keeps one; and before what
    came in after them.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from rescind.errors import RescindError
from rescind.model.scope import Scope, Subject


class CannotHold(RescindError):
    """This queue cannot tell which jobs the scope covers; none was held.

    Holding all of them would stop whoever is not meant, so a person decides: another scope, or a queue that knows more.
    """

    def __init__(self, *, queue: str, scope: Scope, why: str) -> None:
        super().__init__(f"queue {queue} cannot hold {scope}: {why}")
        self.queue, self.scope, self.why = queue, scope, why


class QueueUnavailable(RescindError):
    """The queue cannot be reached, or refuses. What was held before is held still."""


class QueuePort(Protocol):
    """One queue. All methods are safe to call from several processes."""

    @property
    def name(self) -> str:
        """Its name, for people; unique among the ports of one keeper."""
        ...

    def hold(self, scope: Scope, order_id: str) -> int:
        """Hold back the jobs that the scope covers, in the name of this order.

        Returns: How many jobs it newly holds. They are held durably, as far as the queue keeps anything durably.
        Raises: CannotHold; QueueUnavailable.
        """
        ...

    def release(self, order_id: str) -> int:
        """Give free what only this order holds. An order that holds nothing, or is not known here, is no mistake.

        Returns: How many jobs may run now.
        Raises: QueueUnavailable.
        """
        ...

    def held(self) -> Mapping[str, int]:
        """By order id: how many jobs it holds, 0 included. A job that several hold counts for each.

        Raises: QueueUnavailable.
        """
        ...


class JobOwner(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose job it is, as it travels with the job; unknown things are empty."""

    run_id: str = ""
    agent: str = ""
    tenant: str = ""
    workflow: str = ""
    ancestors: tuple[str, ...] = ()

    @property
    def subject(self) -> Subject:
        """The owner as orders see it."""
        name, _, version = self.agent.partition("@")
        return Subject(
            run_id=self.run_id,
            agent_name=name,
            agent_version=version,
            tenant=self.tenant,
            workflow=self.workflow,
            lineage=frozenset((self.run_id, *self.ancestors)) - {""},
        )
