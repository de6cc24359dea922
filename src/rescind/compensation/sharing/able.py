"""Who of the workers can carry out what: by what each declares, and by what its rescind knows of. Pure."""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import msgspec

from rescind.errors import UsageError
from rescind.model.entry import PlanShare
from rescind.recovery.workers import WorkerInfo


class Demand(msgspec.Struct, frozen=True):
    """What a plan asks of workers.

    Attributes:
        signatures: What was declared of its actions where it was made.
        needs: What their rescind has to know of: see `workers.KNOWS`.
    """

    signatures: Mapping[str, str]
    needs: tuple[str, ...] = ()

    def is_met_by(self, worker: WorkerInfo, actions: Iterable[str]) -> bool:
        """Whether this worker declares all these actions as the plan's maker did, and knows what is to be known."""
        has = {tool.action: tool.signature for tool in worker.tools}
        declared = all(has.get(action) == self.signatures.get(action) for action in actions)
        return declared and not self.unknown_to(worker)

    def unknown_to(self, worker: WorkerInfo) -> list[str]:
        """What this worker's rescind would have to know of, and does not."""
        return [need for need in self.needs if need not in worker.knows]

    def able(self, actions: frozenset[str], workers: Sequence[WorkerInfo]) -> Hashable:
        """Equal for actions that the same of these workers can carry out."""
        return frozenset(worker.queue for worker in workers if self.is_met_by(worker, actions))


def refuse_unable(shares: Iterable[PlanShare], demand: Demand, workers: Sequence[WorkerInfo]) -> None:
    """Check that each of these shares can be carried out by one of the workers.

    Raises: UsageError, which names the actions, and what the workers have instead.
    """
    if not workers:
        raise UsageError(
            "no worker lives here; start one where the tools and their credentials are: `rescind worker MODULE`. "
            "Nothing was changed"
        )
    problems: dict[str, None] = {}
    for share in shares:
        if not any(demand.is_met_by(worker, share.actions) for worker in workers):
            problems |= dict.fromkeys(_why_unable(share.actions, demand, workers))
    if problems:
        there = ", ".join(f"{worker.worker_id} ({worker.module})" for worker in workers)
        raise UsageError(
            "no live worker can execute this plan; nothing was changed:\n  "
            + "\n  ".join(problems)
            + f"\nLive workers: {there}. `rescind worker --list` shows what each can do"
        )


def _why_unable(actions: Sequence[str], demand: Demand, workers: Sequence[WorkerInfo]) -> Iterable[str]:
    older = [worker for worker in workers if demand.unknown_to(worker)]
    if older:
        unknown = " and ".join(demand.needs)
        yield f"{_named(older)}: of an older rescind, whose workers know nothing of {unknown}; start newer ones"
    workers = [worker for worker in workers if worker not in older]
    if not workers:
        return
    alone = [action for action in actions if not any(demand.is_met_by(worker, [action]) for worker in workers)]
    for action in alone:
        other = [worker for worker in workers if any(tool.action == action for tool in worker.tools)]
        if other:
            version = "that is another version of the tools than the plan's"
            yield f"{action}: declared otherwise by {_named(other)}; {version}"
        else:
            yield f"{action}: declared by none of them"
    if not alone:
        yield f"{', '.join(actions)}: their steps depend on each other, and no one worker has all of these actions"


def _named(workers: Iterable[WorkerInfo]) -> str:
    return ", ".join(f"{worker.worker_id} ({worker.module} {worker.version}".rstrip() + ")" for worker in workers)
