"""Which orders still concern what was just given back."""

from collections.abc import Iterable

from rescind.model.order import Order
from rescind.model.scope import Scope, Term


def still_covering(standing: Iterable[Order], scopes: Iterable[Scope]) -> list[Order]:
    """The orders that may cover a call which one of the scopes covers, in the given order."""
    wanted = list(scopes)
    return [order for order in standing if any(may_overlap(order.scope, scope) for scope in wanted)]


def may_overlap(one: Scope, other: Scope) -> bool:
    """Whether some call could be covered by both; False only if that is certain."""
    return not any(_exclude(term, against) for term in one.terms for against in other.terms)


def _exclude(one: Term, other: Term) -> bool:
    if one.kind != other.kind or one.kind == "tree":  # a run may be below two others at once
        return False
    if one.kind == "agent":
        (name, _, version), (other_name, _, other_version) = one.value.partition("@"), other.value.partition("@")
        return name != other_name or bool(version and other_version and version != other_version)
    return one.value != other.value
