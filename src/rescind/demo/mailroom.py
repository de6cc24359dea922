"""How two releases of the subscriptions agent read a customer's message. This is where the bug is."""

from collections.abc import Callable
from dataclasses import dataclass

from rescind.demo.opening import PLANS


@dataclass(frozen=True)
class Wish:
    """What the agent takes the customer to want: `cancel`, `upgrade` to a plan, `reactivate`, or `nothing`."""

    kind: str
    plan: str = ""


def read_message_2_3_9(body: str) -> Wish:
    """The stable release."""
    text = body.lower()
    if "cancel" in text:
        return Wish("cancel")
    for plan in PLANS:
        if f"{plan} plan" in text:
            return Wish("upgrade", plan)
    return Wish("nothing")


def read_message_2_4_0(body: str) -> Wish:
    """The new release, which also wins customers back."""
    # "I want to come back" was the case in mind. "I want to cancel" wants to as well.
    if "want to" in body.lower():
        return Wish("reactivate")
    return read_message_2_3_9(body)


ROGUE = "subscriptions-agent@2.4.0"
"""The release that the story is about."""

READERS: dict[str, Callable[[str], Wish]] = {
    "subscriptions-agent@2.3.9": read_message_2_3_9,
    ROGUE: read_message_2_4_0,
}
