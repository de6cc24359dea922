"""What the agent did until it was stopped, found in the world: the books as they are against what they ought to be.

Neither the journal nor whoever stopped it is asked: how much was prevented is not for them to say.
"""

from dataclasses import dataclass

from rescind.demo.opening import Opening
from rescind.demo.truth import Truth, differing
from rescind.demo.world import World


@dataclass(frozen=True)
class Damage:
    """What is wrong with the world. An agent that is stopped in the middle of a customer leaves unequal numbers.

    Attributes:
        changed: Subscriptions that are not as they ought to be, and the one that a person has edited since.
        charges: Charges that it made.
        cents: Their sum.
        mails: Mails that it sent.
        customers: Who has had any of this done to them.
    """

    changed: int
    charges: int
    cents: int
    mails: int
    customers: frozenset[str]


def find_damage(world: World, truth: Truth, opening: Opening, agent: str) -> Damage:
    """The damage that the agent has done to acme: asked between the stop and the undo, and after the person's edit."""
    changed = {*differing(truth.acme_subscriptions, world.acme_subscriptions()), opening.edit.customer_id}
    charges, cents = world.charged_by(agent)
    customers = changed | world.customers_charged(agent) | world.customers_mailed(agent)
    return Damage(len(changed), charges, cents, len(world.mails(agent)), frozenset(customers))
