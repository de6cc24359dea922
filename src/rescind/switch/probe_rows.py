"""The rows of probes beside those of the orders, in either store. The stores decide when, this module knows how."""

from collections.abc import Iterable, Sequence

from rescind.model.order import Lift
from rescind.switch import order_rows
from rescind.switch.order_rows import Rows
from rescind.switch.probes import Claim, Claimable, Decision, Part, Seen, decide, lift_if_recovered
from rescind.triggers.probing import Probe, ProbeRule, Round, Wait

_TRIP = """
SELECT placed_at_us, EXISTS (SELECT 1 FROM lifted WHERE lifted.order_id = orders.order_id)
FROM orders WHERE order_id = ? AND measure = 'trip'"""
_PROBES = """
SELECT round, number, claimed_by, claimed_at_us, ended_at_us, outcome
FROM probes LEFT JOIN probe_ends USING (order_id, round, number)
WHERE order_id = ? AND round = (SELECT max(round) FROM probes WHERE order_id = ?) ORDER BY number"""
_CLAIM = "INSERT INTO probes (order_id, round, number, claimed_by, claimed_at_us) VALUES (?, ?, ?, ?, ?)"
_ENDED = "SELECT 1 FROM probe_ends WHERE (order_id, round, number) = (?, ?, ?)"
_END = "INSERT INTO probe_ends (order_id, round, number, outcome, ended_at_us) VALUES (?, ?, ?, ?, ?)"

_OUTCOMES = {True: "succeeded", False: "failed", None: "void"}
_MEANINGS = {word: succeeded for succeeded, word in _OUTCOMES.items()}


def see(connection: Rows, order_id: str) -> Seen:
    """A trip and its latest round."""
    trip = connection.execute(_TRIP, (order_id,)).fetchone()
    if trip is None:
        return Seen(order_id, None)
    placed_at_us, is_lifted = trip
    latest = Round(1, placed_at_us)
    for number_of_round, number, by, claimed_at_us, ended_at_us, outcome in connection.execute(
        _PROBES, (order_id, order_id)
    ):
        probe = Probe(number, by, claimed_at_us, ended_at_us, _MEANINGS.get(outcome))
        latest = Round(number_of_round, placed_at_us, (*latest.probes, probe))
    return Seen(order_id, latest, bool(is_lifted))


def ask(connection: Rows, order_ids: Iterable[str], now_us: int, rule: ProbeRule) -> Decision:
    """Whether a call may go through all of these trips; see `decide`."""
    return decide((see(connection, order_id) for order_id in order_ids), now_us, rule)


def claim(connection: Rows, order_ids: Sequence[str], *, by: str, now_us: int, rule: ProbeRule) -> Claim | Wait:
    """Claim a probe of each trip, if it may still be had. Call it in a transaction that keeps others from writing."""
    decision = ask(connection, order_ids, now_us, rule)
    if not isinstance(decision, Claimable):
        return decision if isinstance(decision, Wait) else Wait(0.0)
    parts = tuple(Part(order_id, may.round.number, may.number) for order_id, may in decision.ready)
    connection.executemany(_CLAIM, [(*part, by, now_us) for part in parts])
    return Claim(parts, rule)


def end(connection: Rows, parts: Iterable[Part], *, succeeded: bool | None, now_us: int) -> None:
    """Add how it went; what was said first stays. Call it in a transaction."""
    for part in parts:
        if connection.execute(_ENDED, part).fetchone() is None:
            connection.execute(_END, (*part, _OUTCOMES[succeeded], now_us))


def close_recovered(
    connection: Rows, order_ids: Iterable[str], *, now_us: int, rule: ProbeRule, stamp: int
) -> tuple[Lift, ...]:
    """Lift those of the trips whose round is complete. Call it in a transaction."""
    lifts = [lift_if_recovered(see(connection, order_id), now_us, rule) for order_id in order_ids]
    for lift in filter(None, lifts):
        order_rows.add_lift(connection, lift, stamp=stamp)
    return tuple(filter(None, lifts))
