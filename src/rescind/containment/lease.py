"""Leases for whoever stands between a run and the world: a gateway, a proxy, a tool that asks.

A run acts under a fencing number. Who lets it act compares that number with the lease as it is now, or, where asking
is too slow, with the highest number that it has ever seen of this run (see `fence`). Both refuse the worker that slept
through a revocation and wakes up afterwards.

Numbers are no secrets and prove nothing: who could make one up could as well call without a gateway. They protect from
stale actors, and tokens from false ones.
"""

from rescind.model.lease import DETAILS, RunLease, fencing_number, lease_among, lease_of
from rescind.model.order import why

__all__ = ["DETAILS", "RunLease", "check", "fencing_number", "lease_among", "lease_of"]


def check(lease_number: int, current: RunLease) -> str:
    """Why a run may not act under this number; empty if it may.

    A number higher than the current one comes from a place that has heard of a revocation which has not come here yet;
    it is newer, and may act.

    Args:
        lease_number: The number that the run acts under, from when its lease was last asked for.
        current: The lease as it is now, by the orders that are known here.
    """
    if current.revoked_by:
        return f"the lease of {current.run_id} is revoked: {why(current.revoked_by[:1])}"
    if current.held_by:
        return f"{current.run_id} is held at {current.level.label}: {why(current.held_by[:1])}"
    if lease_number < current.fencing_number:
        return (
            f"fencing number {lease_number} of {current.run_id} is stale, the current one is {current.fencing_number}: "
            "the lease was revoked since. A run that was given its right back asks for its lease again"
        )
    return ""
